"""Properties of a network, and what came of trying to prove them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .errors import InputError
from .results import Result

Outcome = Literal["verified", "falsified", "unknown", "timeout"]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    r"""One way to break a property: an input in the box whose outputs y meet :math:`A y \le b`, every row of it.

    Args:
        lower: of the box, float64 ``(inputs,)``.
        upper: of the box.
        weights: the rows A, float64 ``(rows, outputs)``; without rows every input of the box breaks the property.
        limits: b, float64 ``(rows,)``.
    """

    lower: Tensor
    upper: Tensor
    weights: Tensor
    limits: Tensor

    def excess(self, y: Tensor) -> Tensor:
        r"""Returns how far outputs ``(n, outputs)`` are from breaking it, :math:`\max_i (A y - b)_i`, float64.

        It is broken where this is 0 or less. An output that is not finite breaks nothing.
        """
        y = y.double()
        if not len(self.weights):
            least = y.new_full((len(y),), -torch.inf)
        else:
            least = (y @ self.weights.T - self.limits).amax(1)
        return torch.where(y.isfinite().all(1), least, torch.inf)

    def holds(self, x: Tensor) -> Tensor:
        """Returns whether inputs ``(n, inputs)`` lie in the box as their dtype has it; see `rounded`."""
        low, high = self.rounded(x.dtype)
        return ((x >= low) & (x <= high)).all(1)

    def rounded(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Returns the ends of the box in a dtype: rounded inward, so that what lies between lies in the exact box.

        Where the dtype has no number between two ends, both become the one next to them: a file that fixes an input to
        0.1 means the network's 0.1.
        """
        low, high = self.lower.to(dtype), self.upper.to(dtype)
        up, down = torch.full_like(low, torch.inf), torch.full_like(high, -torch.inf)
        inner_low = torch.where(low.double() < self.lower, torch.nextafter(low, up), low)
        inner_high = torch.where(high.double() > self.upper, torch.nextafter(high, down), high)
        empty = inner_low > inner_high
        middle = ((self.lower + self.upper) / 2).to(dtype)
        return torch.where(empty, middle, inner_low), torch.where(empty, middle, inner_high)


@dataclass(frozen=True, slots=True, eq=False)
class Property:
    """What must not happen, as the cases of which none may.

    Args:
        cases: each a box and a polytope of outputs.
        inputs: how many.
        outputs: how many.
        name: for reports.
    """

    cases: tuple[Case, ...]
    inputs: int
    outputs: int
    name: str = ""

    def boxes(self) -> Iterator[tuple[Case, tuple[int, ...]]]:
        """Yields a case of each box, and which cases share that box."""
        groups: dict[bytes, list[int]] = {}
        for index, case in enumerate(self.cases):
            groups.setdefault(torch.stack([case.lower, case.upper]).numpy().tobytes(), []).append(index)
        for group in groups.values():
            yield self.cases[group[0]], tuple(group)


def margin_property(label: int, classes: int, lower: Tensor, upper: Tensor) -> Property:
    """Returns the property that no other class's score reaches the label's, a case a class.

    Args:
        label: the class that has to win.
        classes: how many.
        lower: of the box ``(inputs,)``.
        upper: of the box.
    """
    if not 0 <= label < classes:
        raise InputError(f"label {label} of {classes} classes", f"give 0 to {classes - 1}")
    cases = []
    for other in range(classes):
        if other != label:
            row = torch.zeros(1, classes, dtype=torch.float64)
            row[0, label], row[0, other] = 1, -1
            cases.append(Case(lower.double(), upper.double(), row, torch.zeros(1, dtype=torch.float64)))
    return Property(tuple(cases), len(lower), classes)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Verdict(Result):
    """What came of a property: ``verified``, ``falsified`` with a counterexample, ``unknown`` or ``timeout``.

    ``x`` holds the counterexample ``(1, *shape)`` and ``outputs`` what the network makes of it; both are empty where
    there is none. ``bound`` is the least that was proven of how far the outputs are from breaking the property:
    positive where it is verified. ``domains`` counts the parts that the search looked at; ``reason`` says in words what
    decided.
    """

    outcome: Outcome
    outputs: Tensor
    bound: float
    domains: int
    reason: str
    name: str = ""

    @property
    def sentence(self) -> str:
        """The verdict in a sentence."""
        name = self.name or "the property"
        said = {
            "verified": f"{name} is proven",
            "falsified": f"{name} does not hold: a counterexample was found and checked",
            "unknown": f"{name} is neither proven nor refuted",
            "timeout": f"{name} is neither proven nor refuted within the time",
        }[self.outcome]
        return f"{said} ({self.reason})"


OUTCOMES: Sequence[Outcome] = ("verified", "falsified", "unknown", "timeout")
