"""Anchors."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import views
from ironglass.ops.observe import VALUES
from ironglass.ops.views import Parts, View

Array = np.ndarray[Any, Any]
Rule = frozenset[int]
Ask = list[tuple[Rule, int]]
BATCH, FIRST = 32, 8
"""Draws that a rule gets at a time, and at first."""
SLACK = 0.15
"""A rule that may be this much less precise than the best may stand in its place in the beam."""
SHARE = 8
"""Of the draws that are left, one in so many at most goes into the choice of a length's best rules."""


@explain(
    title="Anchors",
    paper="ribeiro2018",
    access="labels",
    cost="samples",
    kind="agnostic",
    lecture="surrogates: anchors",
)
def anchors(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    threshold: float = 0.95,
    tolerance: float = 0.05,
    delta: float = 0.1,
    beam: int = 4,
    samples: int = 20000,
    view: View | str | None = None,
    baseline: str | float | None = None,
    seed: int = 0,
) -> Map:
    r"""Find the few parts of a sample that hold the decision in place, whatever stands in place of the others.

    .. math:: \max_A \operatorname{cov}(A) \quad \text{with} \quad
        P\big(P_{z \sim D(\cdot \mid A)}(f(z) = t) \ge \tau\big) \ge 1 - \delta

    Rules grow part by part, the best few of each length kept. Which are best, and whether one is precise enough, is
    told from as few draws as confidence allows (KL-LUCB), with the bounds of the Bernoulli law solved exactly. Draws of
    all rules and all samples go through the model together. In a table a column of the rule keeps values of its own
    bin, and the others come from a row of the background; elsewhere a part outside the rule stays or goes by chance.

    Args:
        threshold: the precision τ that is wanted.
        tolerance: a rule is taken once its precision is measured at τ or more and proven to be no less than τ by more
            than this.
        delta: the chance that a rule is taken wrongly.
        beam: rules of each length that are extended.
        samples: draws a sample, at most; if they are spent before a rule is proven, the one with the best bound comes
            back.
        view: what the parts are: ``superpixels``, ``grid``, ``table``, ``text``, ``audio`` or a view of your own (a
            background and bins, for a table); None to tell by the sample's shape.
        baseline: what stands where parts are gone: ``black``, ``mid``, ``white``, ``mean``, ``blur`` or a number; None
            for the view's own: a region's mean colour, other rows of a table, 0 in text and sound.
        seed: of the draws.

    Returns:
        1 at each cell of the rule's parts, else 0. Extras ``(N,)``: ``precision`` as measured, its lower ``bound``, and
        ``coverage``, how much of the background (of a table), or of random masks, the rule applies to.

    Raises:
        InputError: if an option is out of range.
    """
    if not (0 < threshold < 1 and 0 <= tolerance < threshold and 0 < delta < 1 and beam >= 1 and samples >= 1):
        raise InputError(
            f"threshold={threshold}, tolerance={tolerance}, delta={delta}, beam={beam}, samples={samples}",
            "e.g. threshold=0.95, tolerance=0.05, delta=0.1, beam=4, samples=20000",
        )
    if target.ndim != 1:
        raise InputError("an anchor holds a decision fast, and a pair of classes is none", "give one target class")
    parts, draws = views.cut(x, model.bounds, view, baseline), model.draws(seed)
    filled = (parts.sizes() > 0).cpu().numpy()
    wanted = Wanted(threshold, tolerance, delta, beam, samples)
    searches = [_search(wanted, np.flatnonzero(filled[i]).tolist(), _coverage(parts, i)) for i in range(len(x))]
    found = _answer(model, parts, target, searches, draws)
    weights = torch.zeros(len(x), parts.count, dtype=x.dtype, device=x.device)
    for row, best in enumerate(found):
        weights[row, sorted(best.rule)] = 1
    facts = torch.tensor([(best.precision, best.bound, best.coverage) for best in found], dtype=torch.float64)
    extras = dict(zip(("precision", "bound", "coverage"), facts.to(x.device).unbind(1), strict=True))
    labels = parts.labels.expand(len(x), *parts.labels.shape[1:])
    return Map(parts.spread(weights), extras={**extras, "parts": labels})


class Wanted(NamedTuple):
    """What is asked of a rule, and what may be spent on it."""

    threshold: float
    tolerance: float
    delta: float
    beam: int
    budget: int


class Found(NamedTuple):
    """A rule: the parts it fixes, its measured precision, the proven bound on it, and its coverage."""

    rule: Rule
    precision: float
    bound: float
    coverage: float


class _Arms:
    """Rules and what is known of each: how often it was drawn, and how often the decision held."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self.drawn, self.held = np.zeros(len(rules)), np.zeros(len(rules))

    @property
    def mean(self) -> Array:
        """The measured precisions."""
        return self.held / np.maximum(self.drawn, 1)

    def draw(self, which: Array | list[int], count: int) -> Generator[Ask, Array, int]:
        """Asks for draws of some rules; returns how many."""
        held = yield [(self.rules[i], count) for i in which]
        self.held[which] += held
        self.drawn[which] += count
        return count * len(which)


def _search(wanted: Wanted, parts: list[int], coverage: Callable[[Rule], float]) -> Generator[Ask, Array, Found]:
    """Searches one sample's rule by length; yields draws that it wants, is sent how often the decision held."""
    trials = 1 + (wanted.beam - 1) * len(parts)
    proof = math.log(trials / wanted.delta)
    left = wanted.budget
    beam: list[Rule] = []
    best: Found | None = None
    fallback = Found(frozenset(), 0.0, 0.0, 1.0)
    for length in range(len(parts) + 1):
        rules = sorted(
            {rule | {part} for rule in beam for part in parts if part not in rule} or {frozenset[int]()}, key=sorted
        )
        if length and best is not None:
            rules = [rule for rule in rules if coverage(rule) > best.coverage]
        if not rules:
            break
        arms = _Arms(rules)
        first = min(FIRST, left // len(rules))
        if not first:
            break
        left -= yield from arms.draw(list(range(len(rules))), first)
        top, spent = yield from _top(arms, min(wanted.beam, len(rules)), wanted.delta, left // SHARE)
        left -= spent
        for i in top:
            while left >= BATCH:
                low, high = bounds(arms.mean[i : i + 1], arms.drawn[i : i + 1], proof)
                above = arms.mean[i] >= wanted.threshold
                if (
                    low[0] >= wanted.threshold - wanted.tolerance
                    if above
                    else high[0] < wanted.threshold + wanted.tolerance
                ):
                    break
                left -= yield from arms.draw([i], BATCH)
            low, _ = bounds(arms.mean[i : i + 1], arms.drawn[i : i + 1], proof)
            this = Found(rules[i], float(arms.mean[i]), float(low[0]), coverage(rules[i]))
            fallback = max(fallback, this, key=lambda found: found.bound)
            holds = this.precision >= wanted.threshold and this.bound >= wanted.threshold - wanted.tolerance
            if holds and (best is None or this.coverage > best.coverage):
                best = this
        if best is not None and not best.rule:
            break
        beam = [rules[i] for i in top]
    return best or fallback


def _top(arms: _Arms, count: int, delta: float, budget: int) -> Generator[Ask, Array, tuple[list[int], int]]:
    """Finds the most precise rules but for the slack (KL-LUCB); returns them, best first, and the draws it took."""
    spent, turn = 0, 1
    while True:
        order = np.argsort(-arms.mean, kind="stable")
        chosen, others = order[:count], order[count:]
        if not len(others) or spent + 2 * BATCH > budget:
            return chosen.tolist(), spent
        low, high = bounds(arms.mean, arms.drawn, math.log(1 / delta))
        weakest, rival = chosen[low[chosen].argmin()], others[high[others].argmax()]
        if high[rival] - low[weakest] < SLACK:
            return chosen.tolist(), spent
        spent += yield from arms.draw([int(weakest), int(rival)], BATCH)
        turn += 1


def bounds(mean: Array, drawn: Array, level: float) -> tuple[Array, Array]:
    r"""Returns the least and the greatest q with :math:`n\,\mathrm{KL}(\hat p \,\|\, q) \le \beta`, by bisection.

    Args:
        mean: measured shares.
        drawn: draws n of each.
        level: β.
    """
    limit = level / np.maximum(drawn, 1e-9)

    def solve(inside: Array, outside: Array) -> Array:
        for _ in range(40):
            middle = (inside + outside) / 2
            near = _divergence(mean, middle) <= limit
            inside, outside = np.where(near, middle, inside), np.where(near, outside, middle)
        return (inside + outside) / 2

    return solve(mean, np.zeros_like(mean)), solve(mean, np.ones_like(mean))


def _divergence(p: Array, q: Array) -> Array:
    """Returns the Kullback-Leibler divergence between two Bernoulli laws."""
    p, q = np.clip(p, 1e-15, 1 - 1e-15), np.clip(q, 1e-15, 1 - 1e-15)
    return np.asarray(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def _coverage(parts: Parts, row: int) -> Callable[[Rule], float]:
    """Returns the share of the background, or of masks that keep each part by chance, that a rule applies to."""
    if not parts.drawn:
        return lambda rule: 0.5 ** len(rule)
    table = parts.alike(row).cpu().numpy()
    return lambda rule: float(table[:, sorted(rule)].all(1).mean())


def _answer(
    model: Model, parts: Parts, target: Tensor, searches: list[Generator[Ask, Array, Found]], draws: Draws
) -> list[Found]:
    """Runs the searches side by side: what they all want goes through the model together."""
    found: dict[int, Found] = {}
    asked = {row: next(search) for row, search in enumerate(searches)}
    size = parts.x[0].numel()
    while asked:
        held: dict[int, Array] = {}
        for group in _groups({row: sum(count for _, count in ask) * size for row, ask in asked.items()}):
            held |= _held(model, parts, target, {row: asked[row] for row in group}, draws)
        for row, answer in held.items():
            try:
                asked[row] = searches[row].send(answer)
            except StopIteration as end:
                found[row] = end.value
                del asked[row]
    return [found[row] for row in range(len(searches))]


def _groups(values: dict[int, int]) -> Iterator[list[int]]:
    """Yields the samples in groups whose inputs are made at a time."""
    group: list[int] = []
    total = 0
    for row, own in values.items():
        group.append(row)
        total += own
        if total >= VALUES:
            yield group
            group, total = [], 0
    if group:
        yield group


def _held(model: Model, parts: Parts, target: Tensor, asked: dict[int, Ask], draws: Draws) -> dict[int, Array]:
    """Returns for each sample how often the decision held under each of its rules."""
    device = parts.x.device
    inputs, rows = [], []
    for row, ask in asked.items():
        only = torch.tensor([row], device=device)
        fixed = torch.zeros(len(ask), parts.count, dtype=torch.bool)
        for line, (rule, _) in zip(fixed, ask, strict=True):
            line[sorted(rule)] = True
        keep = fixed.repeat_interleave(torch.tensor([count for _, count in ask]), 0).to(device)[None]
        draw = None
        if parts.drawn:
            draw = draws.below(1 << 30, (keep.shape[1],), only)
        else:
            keep = keep | (draws.uniform(keep.shape[1:], only) < 0.5)
        inputs.append(parts.masked(keep, only, draw))
        rows.append(only.expand(keep.shape[1]))
    which = torch.cat(rows)
    hits = (model.labels(torch.cat(inputs), which) == target[which]).cpu().numpy()
    ends = np.cumsum([len(part) for part in rows])[:-1]
    return {
        row: np.add.reduceat(part, np.cumsum([0, *(count for _, count in ask[:-1])]), dtype=float)
        for (row, ask), part in zip(asked.items(), np.split(hits, ends), strict=True)
    }
