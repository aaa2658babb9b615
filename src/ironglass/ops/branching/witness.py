"""Counterexamples: what is one, and who has to agree."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ironglass.core.properties import Case

Runs = Callable[[Tensor], Tensor]


class Witness:
    """Judges points: inside the exact box, and breaking the case on the network itself.

    A point counts where the network in its own precision, the same network in float64, and every other judge give
    finite outputs that break the case: so no rounding makes a counterexample.

    Args:
        net: takes ``(n, *shape)``.
        others: more judges, such as the runtime of the file that the network was read from.
    """

    def __init__(self, net: nn.Module, others: Sequence[Runs] = ()) -> None:
        self.net, self.others = net, others
        self._finer: nn.Module | None = None

    def first(self, case: Case, x: Tensor) -> int | None:
        """Returns the first of the points ``(n, *shape)`` that is a counterexample."""
        with torch.no_grad():
            likely = case.holds(x.flatten(1)) & (case.excess(self.net(x)) <= 0)
            for index in likely.nonzero()[:, 0].tolist():
                if self.judges(case, x[index : index + 1]):
                    return int(index)
        return None

    def judges(self, case: Case, x: Tensor) -> bool:
        """Returns whether every judge finds that one point ``(1, *shape)`` breaks the case."""
        if self._finer is None:
            self._finer = copy.deepcopy(self.net).double()
        finer = self._finer
        runs: list[Runs] = [self.net, lambda point: finer(point.double()), *self.others]
        with torch.no_grad():
            return bool(case.holds(x.flatten(1))) and all(bool(case.excess(run(x)) <= 0) for run in runs)
