"""The ledger: what each sample has paid, what it may still pay, and when its goal was first reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch
from torch import Tensor

from ironglass.core.errors import BudgetExceeded
from ironglass.core.results import Cost
from ironglass.core.values import Goal

UNLIMITED = 1 << 62


class Meter:
    """Counts per sample. One query is one sample through the model forward, whatever it is for.

    Args:
        x: the samples ``(N, *shape)``.
        goal: if given, the ledger notes per sample the first query that reached it, and by which input.
        budget: queries a sample may make; None for no limit.

    ``within(x, ids)``, if set, says which inputs are near enough to their samples to count as a success.
    """

    def __init__(self, x: Tensor, goal: Goal | None = None, budget: int | None = None) -> None:
        self.goal = goal
        self.budget = UNLIMITED if budget is None else budget
        self.queries = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self._one = torch.ones((), dtype=torch.long, device=x.device)
        self.first_success = torch.full_like(self.queries, -1)
        self.best = x if goal is None else x.clone()
        self.within: Callable[[Tensor, Tensor], Tensor] | None = None
        self.forward = self.backward = 0
        self.seconds = 0.0

    @property
    def cost(self) -> Cost:
        """What has been spent so far; the seconds are those inside the model."""
        return Cost(self.forward, self.backward, self.seconds)

    def charge(self, ids: Tensor, backward: int = 0) -> None:
        """Charges a forward pass, and ``backward`` backward passes, to each of these samples; ids may repeat.

        Raises:
            BudgetExceeded: before anything is charged, if a sample's budget would be exceeded.
        """
        queries = self.queries.scatter_add(0, ids, self._one.expand(len(ids)))
        if self.budget < UNLIMITED and bool((queries > self.budget).any()):
            raise BudgetExceeded(f"the budget of {self.budget} queries a sample is spent", "raise max_queries")
        self.queries = queries
        self.forward += len(ids)
        self.backward += backward * len(ids)

    def watch(self, x: Tensor, hits: Tensor, ids: Tensor) -> None:
        """Notes the samples that the inputs ``hits (k,)`` bring to the goal for the first time, if near enough."""
        if not len(hits):
            return
        hits = hits[self.first_success[ids[hits]] < 0]
        if self.within is not None and len(hits):
            hits = hits[self.within(x[hits], ids[hits])]
        if len(hits):
            self.best[ids[hits]] = x[hits].detach().to(self.best.dtype)
            self.first_success[ids[hits]] = self.queries[ids[hits]]

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Adds the time inside to the bill."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - start
