"""FAB: the fast adaptive boundary attack."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Bounds, Goal, Threat
from ironglass.ops import halfspace, lp
from ironglass.ops.losses import difference, likely

LAST = 4
"""Steps at the end that go straight from the sample to the plane."""
BEYOND = 1e-3
"""How much farther than the plane they go."""
CUTS = 3
"""Queries of the search for the boundary between the sample and what was found."""
CLOSE = 1.2
"""That search is made for samples within so many times the distance that is enough."""


class Found(NamedTuple):
    """The nearest points that reach the goal and their distances; the sample itself and inf where there are none."""

    point: Tensor
    distance: Tensor


@attack(
    title="FAB (fast adaptive boundary)",
    paper="croce2020fab",
    access="gradient",
    norms=("linf", "l2", "l1"),
    cost="1 + restarts * ((1 - each) * ((steps + 4) * (2 + min(targets, classes - 1)) + 3)"
    " + each * min(targets, classes - 1) * (2 * steps + 11))",
    lecture="white-box evasion: minimum norm",
)
def fab(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    each: bool = False,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    seed: int = 0,
) -> Tensor:
    r"""Walk along the decision boundary towards the sample, by projections on the boundary's tangent planes.

    With :math:`d_t` and :math:`d` the shortest ways within the box from :math:`x_t` and from :math:`x` to the plane
    that is the boundary to first order at :math:`x_t`,

    .. math:: x_{t+1} = (1 - \alpha)(x_t + \eta d_t) + \alpha (x + \eta d), \qquad
        \alpha = \min\Bigl(\frac{\|d_t\|}{\|d_t\| + \|d\|}, \alpha_{\max}\Bigr)

    and where :math:`x_{t+1}` reaches the goal, the walk goes on from :math:`x + \beta (x_{t+1} - x)`. One pass gives
    both the verdict on a point and the plane there; so after a success the plane is in turn that of the point that
    succeeded, and that of the point drawn back from it. At last come a few steps with :math:`\alpha = 1`, hardly
    beyond the plane, and a search between x and the best point.

    The plane is the nearest of those that part the label from the ``targets`` most likely other classes or, with
    ``each``, that of one class after the other (FAB-T); for a goal that names a class, that of its margin.

    Args:
        steps: steps a start.
        restarts: the first from x, the others from points at half the radius known to be enough.
        targets: how many of the most likely other classes to consider.
        each: search towards each in turn, with one gradient a step, not a gradient a class.
        alpha_max: most that a step is drawn towards x.
        eta: how far to go, in ways to the plane.
        beta: what is left of a perturbation that reaches the goal.
        seed: of the restarts.

    Returns:
        The nearest adversarial samples found ``(N, *shape)``; x itself where there are none.

    Raises:
        InputError: if an option is out of range.
    """
    if steps < 1 or restarts < 1 or targets < 1:
        raise InputError(
            f"steps={steps}, restarts={restarts}, targets={targets}: each must be at least 1", "e.g. 100, 1 and 9"
        )
    walk = Walk(steps, alpha_max, eta, beta)
    return search(model, x, goal, threat, walk, restarts=restarts, targets=targets, each=each, seed=seed).point


class Walk(NamedTuple):
    """How to walk."""

    steps: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    patience: int | None = None
    """Steps without one that is 1 % nearer after which a sample leaves; None: none leaves."""


def search(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    walk: Walk,
    *,
    restarts: int,
    targets: int,
    each: bool,
    seed: int,
    enough: float = 0.0,
) -> Found:
    """Returns the nearest points of all starts and targets; a sample leaves at one that is near ``enough``."""
    clean = model.scores(x)
    depth = -goal.loss("margin")(clean, slice(None)).to(x.dtype)
    ranks = None if goal.targeted else likely(goal, clean, targets)
    rounds = [ranks] if ranks is None or not each else [ranks[:, k, None] for k in range(ranks.shape[1])]
    draws = model.draws(seed) if restarts > 1 else None
    found = Found(x.clone(), x.new_full((len(x),), torch.inf))
    for restart in range(restarts):
        for classes in rounds:
            active = (found.distance > enough).nonzero()[:, 0]
            if not len(active):
                break
            origin, part = x[active], threat.take(active)
            start = origin
            if restart and draws is not None:
                away = draws.normal(x.shape[1:], active, x.dtype)
                start = _start(away, origin, found.distance[active], part, model.bounds)
            now = _walk(
                model.take(active), origin, goal.take(active), part, walk, start,
                None if classes is None else classes[active], depth[active], enough,
            )  # fmt: skip
            nearer = now.distance < found.distance[active]
            found.point[active[nearer]] = now.point[nearer]
            found.distance[active[nearer]] = now.distance[nearer]
    return found


def _start(away: Tensor, x: Tensor, distance: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    """Returns a point at half the distance, or half of eps if that is less; at x where neither is finite."""
    away = away if threat.mask is None else away * threat.mask
    length = distance.clamp(max=threat.eps) / 2 / lp.norm(away, threat.norm).clamp(min=1e-12)
    length = torch.where(length.isfinite(), length, 0)
    return lp.inside(x + away * lp.column(length, x), x, threat, bounds)


def _walk(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    walk: Walk,
    start: Tensor,
    classes: Tensor | None,
    depth: Tensor,
    enough: float,
) -> Found:
    """Walks once from ``start``; ``classes (n, k)`` are the other sides of the planes, ``depth`` the clean margin."""
    found = Found(x.clone(), x.new_full((len(x),), torch.inf))
    height = torch.zeros_like(found.distance)
    mark, last_mark = found.distance.clone(), torch.zeros_like(found.distance)
    margin_of = goal.loss("margin")
    rows, point = torch.arange(len(x), device=x.device), start
    for step in range(walk.steps + LAST):
        value, normal, scores = _plane(model, point, goal, threat, classes, rows)
        reached = goal.reached(scores, rows)
        distance = torch.where(reached, lp.norm(point - x[rows], threat.norm), torch.inf)
        nearer = distance < found.distance[rows]
        if bool(nearer.any()):
            to = rows[nearer]
            found.point[to], found.distance[to] = point[nearer], distance[nearer]
            height[to] = margin_of(scores, rows)[nearer].to(height.dtype)
            marked = to[found.distance[to] < 0.99 * mark[to]]
            mark[marked], last_mark[marked] = found.distance[marked], step
        on = (found.distance[rows] > enough) & (model.left(rows) > 0)
        if walk.patience is not None:
            on &= step - last_mark[rows] < walk.patience
        if not bool(on.all()):
            rows, point, value, normal, reached = (t[on] for t in (rows, point, value, normal, reached))
            if not len(rows):
                break
        origin, part = x[rows], threat.take(rows)
        straight = step >= walk.steps
        here = torch.where(lp.column(reached, x), origin + walk.beta * (point - origin), point)
        base = ((point - origin) * normal).flatten(1).sum(1) - value
        home = _across(normal, base, origin, part, model.bounds)
        if straight:
            moved = origin + (1 + BEYOND) * home
        else:
            gap = ((point - here) * normal).flatten(1).sum(1) - value
            way = _across(normal, gap, here, part, model.bounds)
            near, far = lp.norm(way, threat.norm), lp.norm(home, threat.norm)
            alpha = lp.column((near / (near + far).clamp(min=1e-12)).clamp(max=walk.alpha_max), x)
            moved = (1 - alpha) * (here + walk.eta * way) + alpha * (origin + walk.eta * home)
            moved = torch.where(lp.column(reached & (step % 2 == 1), x), here, moved)
        point = lp.inside(moved, origin, part, model.bounds)
    return _cut(model, x, goal, threat, found, height, depth, enough)


def _plane(
    model: Model, x: Tensor, goal: Goal, threat: Threat, classes: Tensor | None, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns how far beyond the nearest plane each point is, in logits; the plane's normal; and the scores."""
    if classes is None or classes.shape[1] == 1:
        loss = goal.loss("margin") if classes is None else difference(goal.labels, classes[:, 0])
        value, normal, scores = model.value_and_grad(x, loss, rows)
        return value.to(x.dtype), normal, scores
    wanted = torch.cat([goal.labels[rows][:, None], classes[rows]], 1)
    scores, jacobian = model.jacobian(x, rows, wanted)
    picked = scores.gather(1, wanted).to(x.dtype)
    values, normals = picked[:, 1:] - picked[:, :1], jacobian[:, 1:] - jacobian[:, :1]
    slopes = normals if threat.mask is None else normals * threat.take(rows).mask[:, None]  # type: ignore[index]
    steep = lp.norm(slopes.flatten(0, 1), lp.dual(threat.norm)).reshape(values.shape)
    nearest = (values.abs() / steep.clamp(min=1e-12)).argmin(1, keepdim=True)
    picks = torch.arange(len(x), device=x.device), nearest[:, 0]
    return values[picks], normals[picks], scores


def _across(normal: Tensor, gap: Tensor, x: Tensor, threat: Threat, bounds: Bounds) -> Tensor:
    """Returns the shortest way to the plane ``<normal, way> = gap`` within the box, from either side."""
    side = torch.where(gap < 0, -1.0, 1.0).to(gap.dtype)
    return halfspace.shortest(normal * lp.column(side, x), gap * side, x, threat, bounds)


def _cut(
    model: Model, x: Tensor, goal: Goal, threat: Threat, found: Found, high: Tensor, depth: Tensor, enough: float
) -> Found:
    """Searches between each sample and what was found, by the secant of the margin: of ``-depth`` and ``high``."""
    margin_of = goal.loss("margin")
    worth = found.distance.isfinite() if enough == 0 else found.distance < CLOSE * enough
    rows = (worth & (found.distance > enough)).nonzero()[:, 0]
    bottom, top, low, high = torch.zeros_like(high), torch.ones_like(high), -depth, high.clone()
    way = found.point - x
    for _ in range(CUTS):
        rows = rows[(model.left(rows) > 0) & (high[rows] > 0)]
        if not len(rows):
            break
        part = low[rows] / (low[rows] - high[rows])
        at = bottom[rows] + (top[rows] - bottom[rows]) * part
        point = lp.inside(x[rows] + way[rows] * lp.column(at, x), x[rows], threat.take(rows), model.bounds)
        scores = model.scores(point, rows)
        reached, margin = goal.reached(scores, rows), margin_of(scores, rows).to(high.dtype)
        distance = torch.where(reached, lp.norm(point - x[rows], threat.norm), torch.inf)
        nearer = distance < found.distance[rows]
        found.point[rows[nearer]], found.distance[rows[nearer]] = point[nearer], distance[nearer]
        top[rows], high[rows] = torch.where(reached, at, top[rows]), torch.where(reached, margin, high[rows])
        bottom[rows], low[rows] = torch.where(reached, bottom[rows], at), torch.where(reached, low[rows], margin)
    return found
