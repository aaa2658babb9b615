"""DeepFool."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Bounds, Goal, Threat
from ironglass.ops import lp
from ironglass.ops.halfspace import shortest
from ironglass.ops.polish import Aim, descend


@attack(
    title="DeepFool",
    paper="moosavi2016deepfool",
    access="gradient",
    norms=("linf", "l2", "l1"),
    cost="steps * (2 + min(classes, candidates)) + 15",
    lecture="white-box evasion: minimum norm",
)
def deepfool(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
) -> Tensor:
    r"""Step across the nearest of the linearised boundaries, until one is crossed.

    .. math:: x_{t+1} = x_t + \arg\min_\delta \bigl\{\|\delta\|_p : \langle \nabla (f_k - f_y)(x_t), \delta\rangle
        \ge (1 + \eta) (f_y - f_k)(x_t)\bigr\}

    Of the classes k the one whose boundary is nearest is crossed, or the target's where there is one. Each step is
    exact within the box, and a sample leaves once it is across. Then the overshoot
    is taken back, by a few looks along the boundary (`ops.polish`).

    Args:
        steps: steps a sample, at most.
        overshoot: how far past the linearised boundary a step goes, as a part of the way.
        candidates: logits that are followed, the label's own among them: those largest at x.

    Returns:
        The points across the boundary ``(N, *shape)``; of a sample that never got there, the last one.

    Raises:
        InputError: if an option is out of range.
    """
    if steps < 1 or overshoot < 0 or candidates < 2:
        raise InputError(
            f"steps={steps}, overshoot={overshoot:g}, candidates={candidates}",
            "give steps of at least 1, an overshoot of at least 0 and 2 candidates or more, e.g. 50, 0.02 and 10",
        )
    aim, point = Aim(goal), x.clone()
    rows = (model.left() > 0).nonzero()[:, 0]
    classes = _followed(model, x, goal, candidates, rows)
    for _ in range(steps):
        rows = rows[model.left(rows) > 0]
        if not len(rows):
            break
        here, part = point[rows], threat.take(rows)
        if classes is None:
            value, grad, _ = model.value_and_grad(here, aim.margin, rows)
            normals, gaps = grad[:, None], -value[:, None]
        else:
            normals, gaps = _linearised(model, here, rows, classes[rows])
        nearest, _ = Boundaries(normals, gaps * (1 + overshoot)).nearest(here, part, model.bounds)
        point[rows] = lp.inside(here + nearest, x[rows], part, model.bounds)
        rows = rows[(point[rows] != here).flatten(1).any(1) & (model.left(rows) > 0)]
        if not len(rows):
            break
        rows = rows[~aim.reached(model.scores(point[rows], rows), rows)]
    return descend(model, x, point, aim, threat, steps=4)


def nearest_class(
    model: Model, x: Tensor, goal: Goal, threat: Threat, besides: Tensor, rows: Tensor, candidates: int = 10
) -> Tensor:
    """Returns the class whose linearised boundary is nearest to each of the rows ``(n,)``, besides one ``(n,)``."""
    classes = _followed(model, x, goal, candidates, rows)
    assert classes is not None, "an untargeted goal"
    followed = classes[rows]
    normals, gaps = _linearised(model, x[rows], rows, followed)
    gaps = torch.where(followed[:, 1:] == besides[:, None], torch.inf, gaps)
    _, which = Boundaries(normals, gaps).nearest(x[rows], threat.take(rows), model.bounds)
    return followed[:, 1:].gather(1, which[:, None])[:, 0]


def _linearised(model: Model, x: Tensor, rows: Tensor, classes: Tensor) -> Boundaries:
    """The linearised boundaries between the first of the classes and each of the others."""
    scores, jacobian = model.jacobian(x, rows, classes)
    followed = scores.gather(1, classes)
    return Boundaries(jacobian[:, 1:] - jacobian[:, :1], followed[:, :1] - followed[:, 1:])


def _followed(model: Model, x: Tensor, goal: Goal, candidates: int, rows: Tensor) -> Tensor | None:
    """The logits that are followed ``(N, k)``, the label's own first; None for a target, whose margin is followed."""
    if goal.targeted:
        return None
    if model.classes <= candidates:
        others = torch.arange(model.classes - 1, device=x.device).expand(len(x), -1)
        return torch.cat([goal.labels[:, None], others + (others >= goal.labels[:, None])], 1)
    top = torch.zeros(len(x), candidates, dtype=torch.long, device=x.device)
    if len(rows):
        scores = model.scores(x[rows], rows).scatter(1, goal.labels[rows, None], torch.inf)
        top[rows] = scores.topk(candidates, dim=1).indices
    return top


class Boundaries(NamedTuple):
    """Hyperplanes to be crossed, any one of them: normals ``(n, k, *shape)`` and gaps ``(n, k)``."""

    normals: Tensor
    gaps: Tensor

    def nearest(self, x: Tensor, threat: Threat, bounds: Bounds) -> tuple[Tensor, Tensor]:
        """Returns the shortest step across one of each sample's hyperplanes, within box and mask, and which it is.

        Without the box a distance is the gap over the dual norm: no more than the true one. So the hyperplanes are
        tried in that order, until the next cannot be nearer than the best.
        """
        count, k = self.gaps.shape
        length = lp.norm(self.normals.flatten(0, 1), lp.dual(threat.norm)).reshape(count, k)
        least = torch.where(length > 0, self.gaps / length, torch.inf)
        order = least.argsort(dim=1, stable=True)
        best, distance = torch.zeros_like(x), torch.full_like(least[:, 0], torch.inf)
        rows, which = torch.arange(count, device=x.device), order[:, 0].clone()
        for column in order.unbind(1):
            rows = rows[least[rows, column[rows]] < distance[rows]]
            if not len(rows):
                break
            own, part = column[rows], threat.take(rows)
            gap, normal = self.gaps[rows, own], self.normals[rows, own]
            step = shortest(normal, gap, x[rows], part, bounds)
            won = (normal * step).flatten(1).sum(1)
            size = torch.where(won >= gap * (1 - 1e-4), lp.norm(step, threat.norm), torch.finfo(x.dtype).max)
            better = size < distance[rows]
            best[rows[better]], distance[rows[better]] = step[better], size[better].to(distance.dtype)
            which[rows[better]] = own[better]
        return best, which
