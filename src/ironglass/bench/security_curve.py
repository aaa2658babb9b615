"""Security evaluation curves: accuracy against the size of the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.findings import Chart, Curve, Series
from ironglass.core.method import Method, study
from ironglass.core.statistics import wilson
from ironglass.core.values import Threat
from ironglass.ops import lp
from ironglass.ops.breaking import attacks_of, broken_by

INFINITE = float("inf")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SecurityCurve(Study):
    """Accuracy of each model under each attack at each radius: a row a line, a column a radius.

    ``broken (rows, N)`` is the smallest radius tried at which a sample falls, infinity where none; 0 where it is wrong
    without attack. Of a minimum-norm attack it is the length of what it found, so that its line is exact between the
    radii too. ``whole`` says which lines are of that kind.
    """

    radii: Tensor
    broken: Tensor
    whole: Sequence[bool]

    def half(self, row: int) -> float:
        """Returns the radius at which a line has lost half of its clean accuracy; inf if it never does."""
        broken = self.broken[row].double()
        right = broken[broken > 0].sort().values
        return float(right[(len(right) - 1) // 2]) if len(right) else 0.0

    def charts(self) -> tuple[Chart, ...]:
        """Returns the lines with their 95 % bands."""
        assert self.threat is not None
        radii = self.radii.tolist()
        series = tuple(
            Series(
                label=name,
                x=tuple(radii),
                y=tuple(values.tolist()),
                low=tuple(low.tolist()),
                high=tuple(high.tolist()),
                role="control" if name.endswith(", random_noise") else "attack",
            )
            for name, values, low, high in zip(self.row_names, self.values, self.low, self.high, strict=True)
        )
        curve = Curve(
            id=self.method,
            caption=f"{self.caption}. Bands are 95 % intervals",
            x_label=f"eps ({self.threat.norm}, input units)",
            y_label="Correct answers",
            series=series,
        )
        return (curve,)


@study(
    title="Security evaluation curve",
    paper="biggio2018",
    access="gradient",
    norms=("linf", "l2", "l1", "l0"),
    cost="len(attacks) * points * 45",
    scope="global",
    lecture="game-based evaluation: security curves",
)
def security_curve(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None,
    *,
    attacks: tuple[str | Method[...], ...] = ("pgd",),
    points: int = 8,
    radii: tuple[float, ...] | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> SecurityCurve:
    r"""Attack every model at radii from 0 to the threat's, and count what is still right.

    .. math:: A(\varepsilon) = \Pr\bigl[f(x + \delta^*_\varepsilon) = y\bigr]

    What falls at a radius falls at every larger one, and is not tried again: so a curve costs little more than its
    last point, and never rises. An attack that looks for the smallest change is run once, without a radius, and tells
    the whole curve: a sample is right up to the length of what was found. On the l0 grid radii count values.

    Args:
        attacks: by name, or with options fixed: ``pgd.with_(restarts=3)``.
        points: radii above 0, evenly spaced up to the threat's eps.
        radii: those above 0 instead, in input units.
        steps: of every attack that has steps which are not fixed; its own default if None.
        seed: of the attacks' draws.

    Returns:
        The accuracies with Wilson's intervals, a row a model and attack.

    Raises:
        InputError: if the radii are not above 0, or an attack is none in the threat's norm.
    """
    assert threat is not None  # the card has norms
    sizes = _radii(threat, points, radii)
    chosen = attacks_of(attacks, replace(threat, eps=sizes[-1]), steps, seed)
    names, broken, whole = [], [], []
    for name, model in models.items():
        right = model.right(x, y)
        for title, method in chosen.items():
            minimum = not method.card.finite
            find = _whole if minimum else _stepwise
            names.append(name if len(chosen) == 1 else title if len(models) == 1 else f"{name}, {title}")
            broken.append(find(method, model, x, y, threat, right, sizes))
            whole.append(minimum)
    grid = torch.tensor([0.0, *sizes], dtype=torch.double)
    fell = torch.stack(broken)
    kept = (fell[..., None] > grid).sum(1)
    bounds = torch.tensor([[wilson(count, len(x)) for count in row] for row in kept.tolist()], dtype=torch.double)
    return SecurityCurve(
        x=x,
        y=y,
        method="security_curve",
        row_names=tuple(names),
        column_names=tuple(f"{size:.4g}" for size in grid.tolist()),
        values=kept.double() / len(x),
        low=bounds[..., 0],
        high=bounds[..., 1],
        counts=torch.full_like(kept, len(x)),
        caption=f"Accuracy against eps in {threat.norm} on {len(x)} samples"
        + (f", under {next(iter(chosen))}" if len(chosen) == 1 else ""),
        row_head="line",
        threat=threat,
        seed=seed,
        notes=tuple(_notes(names, fell)),
        radii=grid,
        broken=fell,
        whole=tuple(whole),
    )


def _radii(threat: Threat, points: int, radii: tuple[float, ...] | None) -> list[float]:
    """Returns the radii above 0, rising."""
    if radii is None:
        if points < 1 or not 0 < threat.eps < INFINITE:
            raise InputError(f"points={points}, eps={threat.eps:g}", "give points ≥ 1 and a finite eps above 0")
        step = threat.eps / points
        sizes = [step * (i + 1) for i in range(points)]
        if threat.norm == "l0":
            sizes = sorted({float(max(1, round(size))) for size in sizes})
        return sizes
    if not radii or min(radii) <= 0 or max(radii) == INFINITE:
        raise InputError(f"radii={radii}", "give finite radii above 0, e.g. (2/255, 4/255, 8/255)")
    return sorted(set(map(float, radii)))


def _stepwise(
    method: Method[...], model: Model, x: Tensor, y: Tensor, threat: Threat, right: Tensor, sizes: Sequence[float]
) -> Tensor:
    """Returns the first radius at which each sample falls, smaller ones first, each on what is left."""
    fell = torch.where(right, INFINITE, 0.0).double()
    for size in sizes:
        rows = fell.isinf().nonzero()[:, 0]
        found = broken_by(method, model, x, y, replace(threat, eps=size), rows)
        fell[rows[_wrong(model, found, y, rows)]] = size
    return fell


def _whole(
    method: Method[...], model: Model, x: Tensor, y: Tensor, threat: Threat, right: Tensor, sizes: Sequence[float]
) -> Tensor:
    """Returns the length of the smallest change found for each sample."""
    fell = torch.where(right, INFINITE, 0.0).double()
    rows = right.nonzero()[:, 0]
    free = replace(threat, eps=INFINITE)
    found = broken_by(method, model, x, y, free, rows)
    length = lp.distance(found, x[rows], free.take(rows), model.bounds).double()
    wrong = _wrong(model, found, y, rows)
    fell[rows[wrong]] = length[wrong].clamp(min=torch.finfo(torch.float32).tiny)  # not 0, which is wrong from the start
    return fell


def _wrong(model: Model, found: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    if not len(rows):
        return torch.zeros(0, dtype=torch.bool, device=found.device)
    return ~model.right(found, y[rows], rows)


def _notes(names: Sequence[str], fell: Tensor) -> list[str]:
    """Returns where each line has lost half of what it had."""
    notes = []
    for name, row in zip(names, fell, strict=True):
        right = row[row > 0].sort().values
        at = float(right[(len(right) - 1) // 2]) if len(right) else 0.0
        lost = "never loses half of its right answers" if at == INFINITE else f"has lost half of them at eps {at:.3g}"
        notes.append(f"{name}: {len(right)} of {len(row)} right without attack; {lost}.")
    return notes
