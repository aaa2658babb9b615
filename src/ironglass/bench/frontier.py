"""Accuracy against robustness over many models: is robustness the cost of accuracy?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.core.findings import Cell, Chart, Matrix, Point, Scatter, Series
from ironglass.core.method import Method, get, study
from ironglass.core.statistics import bootstrap, wilson
from ironglass.core.values import Norm, Threat
from ironglass.ops import lp
from ironglass.ops.breaking import attack_of, attacks_of, broken_by, crossed

NORMS: tuple[Norm, ...] = ("linf", "l2")
COLUMNS = ("error", "linf distance", "l2 distance", "broken at eps", "fools others", "is fooled by others")
UNITS = ("share", "", "", "share", "share", "share")
INFINITE = float("inf")
APART = 1.5
"""How much longer one attack's mean distance may be than another's before the distances are doubted."""


class Fit(NamedTuple):
    """A line ``distance = intercept + slope * log10(error)``, the slope's 95 % interval, and the models it is through.

    With two models there is a line and no interval; with fewer there is none.
    """

    slope: float
    low: float
    high: float
    intercept: float
    models: tuple[int, ...]

    def at(self, error: float) -> float:
        """Returns the distance that the line gives a model of this error."""
        return self.intercept + self.slope * math.log10(error)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frontier(Study):
    """Each model's error, its distance to adversarial examples, how it breaks at a fixed eps, and what transfers.

    ``distances (2, models, N)`` are the lengths of the smallest changes found in linf and l2: 0 where the model is
    wrong without, infinity where nothing was found. ``fooled (models, models)`` is the share of a row's adversarial
    examples that fool the column, with ``fooled_low`` and ``fooled_high``; ``pairs`` are what it is a share of.
    """

    distances: Tensor
    fooled: Tensor
    fooled_low: Tensor
    fooled_high: Tensor
    pairs: Tensor

    def on_frontier(self, norm: str = "linf") -> tuple[int, ...]:
        """Returns the models that no other beats: none has less error at no less distance, or the other way round."""
        error, far = self.values[:, 0].tolist(), self.values[:, 1 + NORMS.index(cast(Norm, norm))].tolist()
        kept = []
        for i in range(len(error)):
            beaten = any(
                error[j] <= error[i] and far[j] >= far[i] and (error[j], far[j]) != (error[i], far[i])
                for j in range(len(error))
            )
            if not beaten and not math.isnan(far[i]):
                kept.append(i)
        return tuple(kept)

    def fit(self, norm: str = "linf", every: bool = False) -> Fit | None:
        """Returns the line through the frontier, or through every model; those without error have no logarithm.

        Args:
            norm: of the distance, ``linf`` or ``l2``.
            every: whether all models are fitted, and not the frontier alone.
        """
        error, far = self.values[:, 0].tolist(), self.values[:, 1 + NORMS.index(cast(Norm, norm))].tolist()
        wanted = range(len(error)) if every else self.on_frontier(norm)
        return line_through(error, far, [i for i in wanted if error[i] > 0 and not math.isnan(far[i])])

    def charts(self) -> tuple[Chart, ...]:
        """Returns the distance in each norm against the error, and the transfer over all ordered pairs."""
        heat = Matrix(
            id="frontier-transfer",
            caption="Transfer: of the examples made on the row's model that break it, the share that fool the column's,"
            " among samples both label right. Brighter transfers more",
            row_label="made on",
            column_label="tried on",
            rows=tuple(self.row_names),
            columns=tuple(self.row_names),
            cells=tuple(
                tuple(
                    Cell(value=None) if not count else Cell(value=value, line=f"{100 * low:.0f}–{100 * high:.0f}")
                    for value, low, high, count in zip(*parts, strict=True)
                )
                for parts in zip(
                    *(part.tolist() for part in (self.fooled, self.fooled_low, self.fooled_high, self.pairs)),
                    strict=True,
                )
            ),
        )
        scatters = [self._scatter(norm) for norm in NORMS]
        return (*scatters, heat) if len(self.row_names) > 1 else tuple(scatters)

    def _scatter(self, norm: Norm) -> Scatter:
        column, fit, front = 1 + NORMS.index(norm), self.fit(norm), self.on_frontier(norm)
        points = [
            Point(label=name, x=error, y=value, low=low, high=high, chosen=i in front)
            for i, (name, error, value, low, high) in enumerate(
                zip(
                    self.row_names,
                    self.values[:, 0].tolist(),
                    *(part[:, column].tolist() for part in (self.values, self.low, self.high)),
                    strict=True,
                )
            )
            if not math.isnan(value)
        ]
        hidden = sum(point.x <= 0 for point in points)
        return Scatter(
            id=f"frontier-{norm}",
            caption=f"Mean distance to the nearest adversarial example found in {norm}, against the error. Filled: no "
            "other model has less error at no less distance. Whiskers are 95 % intervals"
            + (f". {_said(fit, norm)}" if fit is not None else "")
            + (f". {hidden} without error cannot be shown" if hidden else ""),
            x_label="error without attack (logarithmic)",
            y_label=f"mean distance in {norm}, input units",
            points=tuple(points),
            line=_line(fit, points, norm) if fit is not None else None,
            log_x=True,
        )


@study(
    title="Accuracy against robustness over many models",
    paper="su2018",
    access="gradient",
    norms=("linf", "l2"),
    cost="8 * steps + 140",
    scope="global",
    lecture="robustness is not free: accuracy against robustness over models",
)
def frontier(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    threat: Threat | None,
    *,
    nearest: tuple[str | Method[...], ...] = ("fmn", "ddn"),
    attack: str | Method[...] = "pgd",
    steps: int = 100,
    seed: int = 0,
) -> Frontier:
    r"""Measure how far each model's nearest adversarial examples are, and set that against its error.

    .. math:: \bar d_p(f) = \mathrm E\bigl[\min \{ \|\delta\|_p : f(x + \delta) \ne y \} \bigm| f(x) = y\bigr]
        \approx a + b \log_{10} \Pr[f(x) \ne y]

    The line is fitted through the models on the frontier, which no other beats in both; a positive slope says that
    there less error comes with nearer adversarial examples. All models see the same samples in the same units. A
    minimum-norm attack gives an upper bound of the distance: too few steps, or gradients that mislead, make a model
    look farther than it is, robust ones most. Where two attacks differ much, a note says so.

    Args:
        nearest: minimum-norm attacks; where several work in a norm, the shortest change counts.
        attack: for the threat's fixed eps and for the transfer over all ordered pairs.
        steps: of every attack that has steps which are not fixed.
        seed: of the attacks' draws, and of the resampling for the intervals of the distances.

    Returns:
        A row a model: error, mean distances in linf and l2, the share of right answers broken at the threat's eps, and
        how far its examples fool others, and others' examples it, on the mean over the other models.

    Raises:
        InputError: if no minimum-norm attack works in a norm, or the attack is none in the threat's norm.
    """
    assert threat is not None  # the card has norms
    fixed = attack_of(attack, threat, steps, seed)
    ways = {norm: _in_norm(nearest, norm, threat, steps, seed) for norm in NORMS}
    right = {name: model.right(x, y) for name, model in models.items()}
    lengths = {
        (norm, name): _lengths(ways[norm], model, x, y, threat, norm, right[name])
        for norm in NORMS
        for name, model in models.items()
    }
    far = torch.stack([torch.stack([lengths[norm, name].amin(0) for name in models]) for norm in NORMS])
    fooled, pairs = crossed(fixed, models, x, y, threat)
    spans = torch.tensor(
        [
            [wilson(count, pair) for count, pair in zip(*parts, strict=True)]
            for parts in zip(fooled.tolist(), pairs.tolist(), strict=True)
        ],
        dtype=torch.double,
    )
    rows = [_row(i, right[name], far, fooled, pairs, seed) for i, name in enumerate(models)]
    table = torch.tensor([[figures[:3] for figures in row] for row in rows], dtype=torch.double)
    found = Frontier(
        x=x,
        y=y,
        method="frontier",
        row_names=tuple(models),
        column_names=COLUMNS,
        units=UNITS,
        values=table[..., 0],
        low=table[..., 1],
        high=table[..., 2],
        counts=torch.tensor([[int(figures[3]) for figures in row] for row in rows]),
        caption=f"{len(models)} models on {len(x)} samples: error, mean distance to the nearest adversarial example "
        f"found, share broken and transfer under {threat}",
        row_head="model",
        threat=threat,
        seed=seed,
        distances=far,
        fooled=fooled.double() / pairs.clamp(min=1),
        fooled_low=spans[..., 0],
        fooled_high=spans[..., 1],
        pairs=pairs,
    )
    return replace(found, notes=(*_notes(found), *_apart(lengths, ways)))


def _in_norm(
    nearest: Sequence[str | Method[...]], norm: Norm, threat: Threat, steps: int, seed: int
) -> list[Method[...]]:
    """Returns the minimum-norm attacks of that norm."""
    methods = [get(each, "attack") if isinstance(each, str) else each for each in nearest]
    wanted = [method for method in methods if norm in method.card.norms and not method.card.finite]
    if not wanted:
        raise InputError(
            f"no minimum-norm attack in {norm} among {', '.join(method.card.name for method in methods)}",
            "nearest=('fmn',)",
        )
    return list(attacks_of(wanted, replace(threat, norm=norm, eps=INFINITE), steps, seed).values())


def _lengths(
    ways: Sequence[Method[...]], model: Model, x: Tensor, y: Tensor, threat: Threat, norm: Norm, right: Tensor
) -> Tensor:
    """Returns the length of the change that each attack found for each sample ``(attacks, N)``."""
    free = replace(threat, norm=norm, eps=INFINITE)
    rows = right.nonzero()[:, 0]
    lengths = torch.where(right, INFINITE, 0.0).double().repeat(len(ways), 1)
    for each, method in zip(lengths, ways if len(rows) else (), strict=False):
        found = broken_by(method, model, x, y, free, rows)
        wrong = ~model.right(found, y[rows], rows)
        length = lp.distance(found, x[rows], free.take(rows), model.bounds).double()
        each[rows] = torch.where(wrong, length, INFINITE)
    return lengths


def _apart(lengths: Mapping[tuple[Norm, str], Tensor], ways: Mapping[Norm, Sequence[Method[...]]]) -> list[str]:
    """Returns a warning for each model whose distances two attacks see very differently."""
    notes = []
    for (norm, name), found in lengths.items():
        both = found[:, (found > 0).all(0) & (found < INFINITE).all(0)]
        means = both.mean(1).tolist() if both.shape[1] else []
        if means and max(means) > APART * min(means):
            said = ", ".join(f"{method.card.name} {mean:.3g}" for method, mean in zip(ways[norm], means, strict=True))
            notes.append(f"{name} in {norm}: the attacks are far apart ({said}); the distance may be shorter still.")
    return notes


Figures = tuple[float, float, float, int]


def _row(i: int, right: Tensor, far: Tensor, fooled: Tensor, pairs: Tensor, seed: int) -> list[Figures]:
    """Returns a model's figures, each with its interval and what it is a mean of."""
    total, correct = len(right), int(right.sum())
    row = [_share(total - correct, total)]
    for lengths in far[:, i]:
        found = [length for length in lengths.tolist() if 0 < length < INFINITE]
        mean = sum(found) / len(found) if found else math.nan
        row.append((mean, *bootstrap(found, seed=seed), len(found)))
    row.append(_share(int(pairs[i, i]), correct))
    others = [j for j in range(len(pairs)) if j != i]
    row.append(_share(int(fooled[i, others].sum()), int(pairs[i, others].sum())))
    row.append(_share(int(fooled[others, i].sum()), int(pairs[others, i].sum())))
    return row


def _share(part: int, total: int) -> Figures:
    return (part / max(total, 1), *wilson(part, total), total)


def line_through(error: Sequence[float], far: Sequence[float], models: Sequence[int]) -> Fit | None:
    """Returns the least-squares line of the distance over the logarithm of the error; None for fewer than two models.

    Args:
        error: of each model, above 0 for those fitted.
        far: distance of each model.
        models: which are fitted.
    """
    logs, lengths = np.log10([error[i] for i in models]), np.array([far[i] for i in models])
    if len(set(logs.tolist())) < 2:
        return None
    fitted = stats.linregress(logs, lengths)
    half = INFINITE if len(models) < 3 else float(stats.t.ppf(0.975, len(models) - 2) * fitted.stderr)
    slope = float(fitted.slope)
    return Fit(slope, slope - half, slope + half, float(fitted.intercept), tuple(models))


def _line(fit: Fit, points: Sequence[Point], norm: str) -> Series | None:
    xs = [point.x for point in points if point.x > 0]
    ends = np.geomspace(min(xs), max(xs), 20).tolist()
    return Series(label=_said(fit, norm), x=tuple(ends), y=tuple(fit.at(end) for end in ends), role="estimate")


def _said(fit: Fit, norm: str) -> str:
    around = "" if math.isinf(fit.high) else f" [{fit.low:.3g}, {fit.high:.3g}]"
    return f"Fitted through {len(fit.models)} models: {fit.slope:+.3g}{around} in {norm} for each factor 10 of error"


def _notes(found: Frontier) -> list[str]:
    """Returns what the fits say, and which model's examples fool others most."""
    notes = []
    for norm in NORMS:
        fit = found.fit(norm)
        names = ", ".join(found.row_names[i] for i in found.on_frontier(norm))
        notes.append(f"On the frontier in {norm}: {names}.")
        if fit is not None:
            known = not math.isinf(fit.high)
            clear = known and (fit.low > 0 or fit.high < 0)
            word = "" if clear else "; the interval holds 0, so these models do not tell" if known else ""
            notes.append(_said(fit, norm) + (word or ("" if known else "; two models give no interval")) + ".")
    pairs = len(found.row_names) * (len(found.row_names) - 1)
    if pairs:
        best = int(found.values[:, COLUMNS.index("fools others")].argmax())
        notes.append(f"Transfer over {pairs} ordered pairs: {found.row_names[best]}'s examples fool others most.")
    missed = int(found.distances.isinf().sum())
    if missed:
        notes.append(f"For {missed} samples, models and norms no change was found; the mean distances leave them out.")
    return notes
