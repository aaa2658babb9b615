"""A model whose defence draws, at work: every query of a sample draws anew, and attacks average over draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ironglass.core.access import Loss, Pass
from ironglass.core.draws import branch, keys

from .backend import Backend
from .session import Session

if TYPE_CHECKING:
    from ironglass.core.values import Goal

    from .adapter import Adapter


JUDGED = 20
"""Fresh draws that judge an input of a stochastic model."""


class Drawn(Session):
    r"""A session of a stochastic model.

    A query draws from the sample's own stream of that query's number, so that results depend neither on the batch nor
    on its order. A gradient is the mean over ``samples`` draws (expectation over transformation, athalye2018):

    .. math:: \nabla_x\, \frac1T \sum_{t=1}^{T} L\bigl(f(d_t(x))\bigr)

    One lucky draw makes no success. In an attack, the scores that come with a gradient are those of the draw at the
    lower quartile of the goal's margin: they reach the goal where three of four draws do. A single query that reaches
    it is asked again, ``samples`` draws in all, and what then counts is again the lower quartile. Without a goal, one
    query is one draw. All are charged.
    """

    _number: Tensor
    _table: Tensor | None = None

    @property
    def _samples(self) -> int:
        return self._adapter.samples

    def labels(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns the predicted labels, each of one draw; in an attack, one that reaches the goal is confirmed."""
        labels, goal = super().labels(x, rows), self._meter.goal
        if goal is None:
            return labels
        ids, place = self._places(x, rows)
        hits = goal.reached_by(labels, ids).nonzero()[:, 0]
        if len(hits) and self._samples > 1:
            again = super().labels
            found = [labels[hits], *(again(x[hits], place[hits]) for _ in range(self._samples - 1))]
            labels[hits] = _at_quartile(torch.stack(found), lambda each: goal.reached_by(each, ids[hits]).double())
        self._note(x, goal.reached_by(labels, ids), ids)
        return labels

    def scores(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Returns the scores, each of one draw; in an attack, those that reach the goal are confirmed."""
        scores, goal = super().scores(x, rows), self._meter.goal
        if goal is None:
            return scores
        ids, place = self._places(x, rows)
        hits = goal.reached(scores, ids).nonzero()[:, 0]
        if len(hits) and self._samples > 1:
            again = super().scores
            found = [scores[hits], *(again(x[hits], place[hits]) for _ in range(self._samples - 1))]
            scores[hits] = self._typical(torch.stack(found), ids[hits])
        self._note(x, goal.reached(scores, ids), ids)
        return scores

    def value_and_grad(self, x: Tensor, loss: Loss, rows: Tensor | None = None, layer: str | None = None) -> Pass:
        """Returns the mean loss and gradient over draws, and the scores that most draws are at least as good as."""
        once = super().value_and_grad
        found = [once(x, loss, rows, layer) for _ in range(self._samples)]
        value, grad, scores = (torch.stack(each) for each in zip(*found, strict=True))
        return Pass(value.mean(0), grad.mean(0), self._typical_noted(x, scores, rows))

    def jacobian(self, x: Tensor, rows: Tensor | None = None, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the scores as `value_and_grad` does, and the mean gradients of the logits ``classes (n, k)``."""
        once = super().jacobian
        found = [once(x, rows, classes) for _ in range(self._samples)]
        scores, grads = (torch.stack(each) for each in zip(*found, strict=True))
        return self._typical_noted(x, scores, rows), grads.mean(0)

    def left(self, rows: Tensor | None = None) -> Tensor:
        """Returns how many queries each sample may still make, each of as many draws as it may take ``(n,)``."""
        return super().left(rows) // self._samples

    def _places(self, x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the rows of the ledger and of this session that a batch belongs to."""
        place = torch.arange(len(x), device=x.device) if rows is None else rows
        return self._ids[place], place

    def _charge(self, access: str, x: Tensor, rows: Tensor | None, backward: int = 0) -> Tensor:
        ids, _ = self._places(x, rows)
        number = self._meter.queries[ids] + _occurrence(ids)
        super()._charge(access, x, rows, backward)
        self._number = number
        return ids

    def _engine(self, ids: Tensor) -> Backend:
        return self._backend.drawn(branch(self._sample_keys(ids), self._number))

    def _watched(self, x: Tensor, scores: Tensor, ids: Tensor) -> Tensor:
        return scores  # one draw is no success

    def _watched_labels(self, x: Tensor, labels: Tensor, ids: Tensor) -> Tensor:
        return labels

    def _typical_noted(self, x: Tensor, scores: Tensor, rows: Tensor | None) -> Tensor:
        ids, _ = self._places(x, rows)
        typical, goal = self._typical(scores, ids), self._meter.goal
        if goal is not None:
            self._note(x, goal.reached(typical, ids), ids)
        return typical

    def _sample_keys(self, ids: Tensor) -> Tensor:
        """Returns the keys of the ledger's rows, from the samples' content."""
        if self._table is None:
            self._table = torch.zeros(len(self._meter.queries), dtype=torch.int64, device=self._x.device)
            self._table[self._ids] = keys(self._x).to(self._x.device)
        return self._table[ids]

    def _typical(self, scores: Tensor, ids: Tensor) -> Tensor:
        """Returns one draw's scores a row ``(draws, n, classes)``: at the margin's lower quartile, or all together."""
        goal = self._meter.goal
        if len(scores) == 1 or goal is None:
            return together(scores)
        margin = goal.loss("margin")
        return _at_quartile(scores, lambda each: margin(each, ids))

    def _note(self, x: Tensor, reached: Tensor, ids: Tensor) -> None:
        if self._backend is self._adapter.backend:
            self._meter.watch(x, reached.nonzero()[:, 0], ids)


def votes(model: Adapter, x: Tensor, points: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """Returns the outputs of points over fresh draws, together, and at which share of the draws each reaches its goal.

    The draws are the samples' own, and none that a session makes.

    Args:
        model: a stochastic one.
        x: the samples ``(n, *shape)``.
        points: what came of them ``(n, *shape)``.
        goal: of the n samples.
    """
    base = keys(x).to(x.device)
    found = torch.stack(
        [model.outputs(points, model.backend.drawn(branch(base, torch.full_like(base, -1 - k)))) for k in range(JUDGED)]
    )
    share = torch.stack([goal.reached(each) for each in found]).double().mean(0)
    return (found.mean(0) if model.access == "labels" else together(found)), share


def together(scores: Tensor) -> Tensor:
    """Returns one score of several draws' ``(draws, n, classes)``: the logarithm of the mean probability."""
    if len(scores) == 1:
        return scores[0]
    return scores.log_softmax(2).logsumexp(0) - torch.tensor(float(len(scores))).log().item()


def _at_quartile(found: Tensor, worth: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns of several draws ``(draws, n, …)`` the one that three of four are at least as good as, a row."""
    value = torch.stack([worth(each) for each in found])
    place = value.argsort(dim=0, stable=True)[len(found) // 4]
    return found[place, torch.arange(found.shape[1], device=found.device)]


def _occurrence(ids: Tensor) -> Tensor:
    """Returns how often each id stands before in the batch: a sample's rows are queries of their own."""
    order = ids.argsort(stable=True)
    ordered = ids[order]
    rank = torch.empty_like(ids)
    rank[order] = torch.arange(len(ids), device=ids.device) - torch.searchsorted(ordered, ordered)
    return rank
