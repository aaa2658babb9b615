"""ZO-NES: natural evolution strategies, with full scores, a few of them, or labels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model, Rows
from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.estimators import Ask, Kind, Probe, RandomDirections, tile_of
from ironglass.ops.zeroth import BlackBox, climb, steepest

Setting = Literal["full", "partial", "labels"]
KEPT = 0.9
"""Part of the last direction that is kept."""
WINDOW, DROP, LEAST = 5, 2.0, 200.0
"""The step size is divided by DROP when the margin has fallen over WINDOW steps, down to 1 / LEAST of the first."""
SHRINK, LOOKS = 0.5, 6
"""By what part the distance is to shrink, and how often step and part are halved before the next estimate."""


@attack(
    title="Natural evolution strategies",
    paper="ilyas2018nes",
    access="scores",
    norms=("linf", "l2"),
    finite=True,
    less=(("setting", "labels", "labels"),),
    cost="max_queries",
    lecture="black-box evasion: scores, partial scores, labels",
)
def zo_nes(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    max_queries: int = 5000,
    setting: Setting = "full",
    samples: int = 10,
    radius: float = 0.1,
    step_size: float | None = None,
    pictures: Tensor | None = None,
    top: int = 1,
    jitters: int = 20,
    jitter: float = 0.01,
    tile: int | None = None,
    directions: Kind = "signs",
    seed: int = 0,
) -> Tensor:
    r"""Step along the sign of a running mean of antithetic estimates.

    .. math:: g \leftarrow 0.9\,g + 0.1\,\hat g, \quad x \leftarrow \Pi(x + \eta\,\mathrm{sign}\,g), \qquad
        \hat g = \frac{d}{2q\mu} \sum_j \bigl(m(x + \mu u_j) - m(x - \mu u_j)\bigr) u_j

    The step is halved when the margin has fallen over five steps. Where the model tells less than all scores, the
    search starts at a picture of another class and shrinks its distance while the goal stays reached: with the
    ``partial`` setting from the ``top`` probabilities alone, with ``labels`` from how often jittered copies reach the
    goal. Both are in linf. A step costs ``2 * samples`` queries, with labels ``jitters`` times as many, and some looks.

    Args:
        max_queries: queries a sample, beside the runner's first.
        setting: what is used of the scores: all, the ``top`` largest, or the label.
        samples: pairs of directions a step.
        radius: length of a difference, in spans of the bounds.
        step_size: of a step in the threat's norm, input units; if None eps / 10, or a hundredth of the span at first
            where the search starts at a picture.
        pictures: one of each class ``(classes, *shape)``, where a search that is told less starts.
        top: how many probabilities the ``partial`` setting sees.
        jitters: copies a point with ``labels``.
        jitter: how far their values move, in spans of the bounds.
        tile: side of the squares of values that move alike; 1 for single values, a fourteenth of a picture if None.
        directions: ``sphere``, ``gaussian``, or ``signs``: corners of a cube, cheap to draw.
        seed: of the directions.

    Returns:
        The best samples asked ``(N, *shape)``, within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, an option is out of range, or there are no pictures to start at.
    """
    if min(samples, top, jitters) < 1:
        raise InputError(f"samples={samples}, top={top}, jitters={jitters}", "give at least 1 of each")
    span = model.bounds.span
    estimate = RandomDirections(samples, radius * span, directions, tile_of(x.shape[1:], tile), antithetic=True)
    draws = model.draws(seed)
    if setting != "full":
        if threat.norm != "linf":
            raise InputError(f"setting='{setting}' works in linf, not in {threat.norm}", "give Linf(eps)")
        if pictures is None or pictures.shape[1:] != x.shape[1:] or len(pictures) != model.classes:
            given = "no pictures" if pictures is None else f"pictures of shape {tuple(pictures.shape)}"
            raise InputError(
                f"setting='{setting}' got {given} for {model.classes} classes of shape {tuple(x.shape[1:])}",
                "give pictures=, one of each class, in the order of the classes",
            )
        start, target = _starts(x, goal, pictures)
        also = [_seen(target, top)] if setting == "partial" else []
        apart, blind = replace(threat, eps=float("inf")), setting == "labels"
        box = BlackBox(model, x, goal, apart, max_queries=max_queries, also=also, labels=blind)
        ask = _by_label(box, draws, jitters, jitter * span) if blind else box.ask
        size = 0.01 * span if step_size is None else step_size
        return _approach(box, draws, estimate, ask, start, threat.eps, size)
    box = BlackBox(model, x, goal, threat, max_queries=max_queries)
    level = torch.zeros_like(box.margin)

    def ask_and_note(points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        values = box.ask(points, rows, count)
        level[rows] = torch.where(count > 0, values.sum(1) / count.clamp(min=1), level[rows])
        return values

    size = threat.eps / 10 if step_size is None else step_size
    running, factor = torch.zeros_like(x), torch.ones_like(level)
    levels, seen = x.new_zeros(len(x), WINDOW), torch.zeros(len(x), dtype=torch.long, device=x.device)
    step_to = steepest(box, size)

    def rule(grad: Tensor, here: Tensor, rows: Tensor, step: int) -> Tensor:
        running[rows] = g = KEPT * running[rows] + (1 - KEPT) * grad
        history = levels[rows] = torch.cat([levels[rows, 1:], level[rows, None]], 1)
        seen[rows] += 1
        worse = (seen[rows] >= WINDOW) & (history[:, -1] < history[:, 0])
        factor[rows] = torch.where(worse, (factor[rows] / DROP).clamp(min=1 / LEAST), factor[rows])
        seen[rows] = torch.where(worse, 0, seen[rows])
        move = step_to(g, here, rows, step) - here
        return box.project(here + move * lp.column(factor[rows], x), rows)

    climb(box, draws, estimate, rule, ask=ask_and_note)
    return box.best


def _starts(x: Tensor, goal: Goal, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The target's picture or, to avoid a label, the nearest one of another class; and whose picture it is."""
    pictures, target = pictures.to(x), goal.labels
    if not goal.targeted:
        apart = torch.cdist(x.flatten(1), pictures.flatten(1))
        target = apart.scatter(1, goal.labels[:, None], torch.inf).argmin(1)
    return pictures[target], target


def _approach(
    box: BlackBox, draws: Draws, estimate: RandomDirections, ask: Ask, start: Tensor, eps: float, size: float
) -> Tensor:
    """Shrinks the distance from pictures that reach the goal down to eps, and keeps them at the goal meanwhile."""
    x = box.x
    rows = torch.arange(len(x), device=x.device)
    rows = rows[box.open(rows)]
    box.ask(start[rows, None], rows)
    point, radius = box.best.clone(), box.length.clone()
    shrink = torch.full_like(radius, SHRINK)
    step = torch.full_like(radius, size)
    running = torch.zeros_like(x)
    rows = rows[box.found[rows]]

    def open_rows(rows: Tensor, least: int) -> Tensor:
        return rows[(box.length[rows] > eps * (1 + 1e-6)) & box.open(rows, least)]

    while len(rows := open_rows(rows, estimate.least + 1)):
        at = Probe(ask, box.place, point[rows], rows, box.left(rows) - 1, draws, None, box.mask(rows))
        grad = estimate(at)
        if grad.ndim > x.ndim:
            grad = grad[:, 1]
        running[rows] = KEPT * running[rows] + (1 - KEPT) * grad
        trying = open_rows(rows, 1)
        for _ in range(LOOKS):
            if not len(trying):
                break
            aim = (radius[trying] * (1 - shrink[trying])).clamp(min=eps)
            wide = lp.column(aim, x)
            moved = point[trying] + lp.column(step[trying], x) * running[trying].sign()
            moved = x[trying] + (moved - x[trying]).maximum(-wide).minimum(wide)
            moved = box.place(moved[:, None], trying)
            values = box.ask(moved, trying)
            kept = (values[:, 0] if values.ndim == 2 else values[:, 0, 0]) > 0
            good, bad = trying[kept], trying[~kept]
            point[good], radius[good] = moved[kept, 0], aim[kept]
            shrink[good] = (shrink[good] * 1.5).clamp(max=SHRINK)
            step[good] = (step[good] * 1.5).clamp(max=size)
            shrink[bad] /= 2
            step[bad] = (step[bad] / 2).clamp(min=size / LEAST)
            trying = open_rows(bad, 1)
    return box.best


def _seen(target: Tensor, top: int) -> Loss:
    """The log-probability of the target where it is among the top ones; else of what they leave, shared alike."""

    def loss(scores: Tensor, rows: Rows) -> Tensor:
        known = scores.log_softmax(1)
        count = min(top, known.shape[1] - 1)
        largest = known.topk(count, 1).values
        share = torch.log1p(-largest.exp().sum(1).clamp(max=1 - 1e-6)) - math.log(known.shape[1] - count)
        chance = known.gather(1, target[rows][:, None])[:, 0]
        return torch.where(chance >= largest[:, -1], chance, share.minimum(largest[:, -1]))

    return loss


def _by_label(box: BlackBox, draws: Draws, jitters: int, jitter: float) -> Ask:
    """The part of jittered copies that reach the goal, from labels alone; at each point as many as can be paid."""

    def ask(points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        shape = (points.shape[1], jitters, *points.shape[2:])
        noise = draws.uniform(shape, rows, points.dtype).mul_(2).sub_(1).mul_(jitter)
        copies = (points[:, :, None] + noise).flatten(1, 2)
        afford = (box.left(rows) - 1).clamp(min=0) // jitters
        values = box.ask(copies, rows, count.minimum(afford) * jitters)
        return (values > 0).to(points.dtype).reshape(len(rows), *shape[:2]).mean(2)

    return ask
