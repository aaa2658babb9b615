"""What is proven and what is broken, in one value: they never overlap, or we have a bug."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .errors import MethodFailed
from .findings import Curve, Series, Table
from .results import Result
from .statistics import wilson
from .values import Threat

UNITS = {"l0": "values", "wasserstein": "pixels"}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sandwich(Result):
    """For each sample the distance to the nearest change of label, from both sides.

    ``lower (N,)`` is the largest radius at which a certificate holds: 0 where none does, at most ``threat.eps``.
    ``upper (N,)`` is the smallest change that the network was seen to fall for: 0 where it is wrong already, infinite
    where none was found. The true distance lies between them. ``estimate (N,)`` is an estimate of it, no bound.
    ``notes`` say what was refused and why.

    Raises:
        MethodFailed: if something is both proven and broken: that is a bug of ours.
    """

    lower: Tensor
    upper: Tensor
    y: Tensor
    threat: Threat
    estimate: Tensor | None = None
    certificates: Sequence[str] = ()
    attacks: Sequence[str] = ()
    notes: Sequence[str] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        crossed = ((self.lower > 0) & (self.upper <= self.lower)).nonzero()[:, 0].tolist()
        if crossed:
            row = crossed[0]
            raise MethodFailed(
                f"samples {crossed[:5]} are proven and broken at once: sample {row} is proven up to "
                f"{float(self.lower[row]):.6g} ({', '.join(self.certificates)}) and broken at "
                f"{float(self.upper[row]):.6g} ({', '.join(self.attacks)}): that is a bug of Ironglass",
                "please report it with this model and these samples; trust neither result",
            )

    def shares(self, eps: float) -> tuple[float, float, float]:
        """Returns the shares of samples that are proven, open and broken at this radius."""
        proven, broken = int((self.lower >= eps).sum()), int((self.upper <= eps).sum())
        if eps == 0:
            proven = len(self) - broken
        return proven / len(self), (len(self) - proven - broken) / len(self), broken / len(self)

    @property
    def width(self) -> Tensor:
        """How much of the upper radius is open ``(N,)``: 0 where both sides meet, 1 where nothing is proven."""
        return (1 - self.lower / self.upper.clamp(min=1e-30)).where(self.upper > 0, 0.0)

    def curve(self) -> Curve:
        """Returns the share of samples that are right and proven, and that are right and not broken, over eps."""
        lines = [_steps("Proven: " + ", ".join(self.certificates), self.lower, self, "proof")]
        if self.estimate is not None:
            lines.append(_steps("Estimated, no guarantee", self.estimate, self, "estimate"))
        lines.append(_steps("Not broken: " + ", ".join(self.attacks), self.upper, self, "attack"))
        norm = self.threat.norm
        return Curve(
            id="sandwich",
            caption="Accuracy against the size of the change: the truth lies between what is proven and what is not "
            "broken, with 95 % intervals",
            x_label=f"eps ({norm}, {UNITS.get(norm, 'input units')})",
            y_label="accuracy",
            series=tuple(lines),
        )

    def table(self, radii: Sequence[float] = ()) -> Table:
        """Returns a row a radius: proven, open, broken. The radii are quarters of ``threat.eps`` if none are given."""
        given = radii or [self.threat.eps * part for part in (0.25, 0.5, 0.75, 1.0)]
        rows = []
        for eps in given:
            counts = [round(share * len(self)) for share in self.shares(eps)]
            intervals = [wilson(count, len(self)) for count in counts]
            cells = [f"{count} ({low:.0%} to {high:.0%})" for count, (low, high) in zip(counts, intervals, strict=True)]
            rows.append((f"{eps:.4g}", *cells))
        return Table(
            id="sandwich",
            caption=f"Samples proven, open and broken in {self.threat.norm}, of {len(self)}, with 95 % intervals",
            columns=("eps", "proven", "open", "broken"),
            rows=tuple(rows),
        )

    def each(self, names: Sequence[str] = (), most: int = 50) -> Table:
        """Returns a row a sample: the proven radius, the estimate, the smallest change that breaks it."""
        shown = range(min(len(self), most))
        said = [names[i] if names else f"sample {i}" for i in shown]
        guess = [None] * len(self) if self.estimate is None else self.estimate.tolist()
        rows = [
            (said[i], f"{float(self.lower[i]):.4g}", _number(guess[i]), _number(float(self.upper[i]))) for i in shown
        ]
        caption = f"The distance to another label in {self.threat.norm}, from both sides"
        return Table(
            id="sandwich-samples",
            caption=caption if len(shown) == len(self) else f"{caption} (the first {len(shown)} of {len(self)})",
            columns=("sample", "proven up to", "estimated", "broken at"),
            rows=tuple(rows),
        )


def _number(value: float | None) -> str:
    return "—" if value is None or value == float("inf") else f"{value:.4g}"


def _steps(label: str, radii: Tensor, whole: Sandwich, role: str) -> Series:
    """The share of samples that are right and whose radius is at least eps, as steps up to ``threat.eps``."""
    right, total = whole.upper > 0, len(whole)
    kept = radii[right].double()
    ends = sorted({0.0, whole.threat.eps, *(size for size in kept.tolist() if size < whole.threat.eps)})
    alive = [int((kept >= end).sum() if end else len(kept)) for end in ends]
    points = [(ends[0], alive[0])]
    for i in range(1, len(ends)):  # holds up to each end, falls behind it
        points += [(ends[i - 1], alive[i]), (ends[i], alive[i])]
    limits = [wilson(count, total) for _, count in points]
    return Series(
        label=label,
        x=tuple(x for x, _ in points),
        y=tuple(count / total for _, count in points),
        low=tuple(low for low, _ in limits),
        high=tuple(high for _, high in limits),
        role=role,  # type: ignore[arg-type]
    )
