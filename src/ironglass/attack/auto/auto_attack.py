"""AutoAttack: an ensemble of attacks, each on what the ones before have left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ironglass.attack.blackbox.square import square
from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import attack
from ironglass.core.values import Goal, LossName, Threat

from . import auto_pgd, fab

Part = Callable[[Model, Tensor, Goal, Threat], tuple[Tensor, Tensor]]
"""Returns points, and whether they reach the goal."""
TARGETS_L1, RESTARTS_L1 = 5, 5
"""In l1, at most so many targets of Auto-PGD, and its starts on cross-entropy."""
RESTARTS_PLUS = 5
"""In ``plus``, the starts of every part without targets."""
PATIENCE = 15
"""Steps of FAB that bring a sample no nearer, after which its search towards a target ends, except in l1."""


@attack(
    title="AutoAttack",
    paper="croce2020autoattack",
    access="gradient",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="max(1 + min(targets, classes - 1), 5 + min(targets, classes - 1, 5)) * (2 * steps + 4) + 2"
    " + min(targets, classes - 1) * (2 * max(fab_steps, (1 - min(fab_steps, 1)) * steps) + 11) + max_queries",
    lecture="white-box evasion: parameter-free, ensemble",
)
def auto_attack(
    model: Model,
    x: Tensor,
    goal: Goal,
    threat: Threat,
    *,
    version: Literal["standard", "plus"] = "standard",
    steps: int = 100,
    targets: int = 9,
    fab_steps: int | None = None,
    max_queries: int = 5000,
    seed: int = 0,
) -> Tensor:
    r"""Try four attacks that have no parameters to tune, one after other, and keep the worst of them for each sample.

    ``standard`` is Auto-PGD on cross-entropy, Auto-PGD on the difference of logits ratio towards each of the most
    likely other classes, FAB towards each of them, and the Square attack. ``plus`` begins with five starts on
    cross-entropy and five on the untargeted ratio, and adds FAB without targets, at about twice the cost. For a goal
    that names a class there is nothing to rank: Auto-PGD climbs its two losses and FAB walks along its boundary.

    A sample is done as soon as one attack succeeds, so the robust accuracy is never above that under any of the parts.
    Any number of classes from 2 on and any shape of input will do.

    Args:
        version: ``standard`` or ``plus``.
        steps: of a start of Auto-PGD.
        targets: how many of the most likely other classes; Auto-PGD takes 5 of them in l1, and 5 starts there.
        fab_steps: of FAB; as ``steps`` if None.
        max_queries: of Square.
        seed: of all random draws.

    Returns:
        Adversarial samples ``(N, *shape)`` within ball and bounds.

    Raises:
        InputError: if the threat's eps is infinite, or an option is out of range.
    """
    if min(steps, targets, max_queries, 1 if fab_steps is None else fab_steps) < 1:
        raise InputError(
            f"steps={steps}, targets={targets}, fab_steps={fab_steps}, max_queries={max_queries}: at least 1 each",
            "for a quick run, e.g. steps=20, targets=3, max_queries=500",
        )
    best, active = x.clone(), torch.arange(len(x), device=x.device)
    for part in _parts(version, goal, threat, steps, targets, fab_steps or steps, seed):
        found, reached = part(model.take(active), x[active], goal.take(active), threat.take(active))
        best[active], active = found, active[~reached]
        if not len(active):
            return best
    rest = (model.take(active), x[active], goal.take(active), threat.take(active))
    best[active] = square.raw(*rest, max_queries=max_queries, seed=seed)
    return best


def _parts(version: str, goal: Goal, threat: Threat, steps: int, targets: int, fab_steps: int, seed: int) -> list[Part]:
    """Returns the attacks that use gradients, the cheapest first."""
    l1, plus = threat.norm == "l1", version == "plus"
    aims = min(targets, TARGETS_L1) if l1 else targets
    starts = RESTARTS_PLUS if plus else RESTARTS_L1 if l1 else 1
    parts = [_climb(steps, "ce", 0, starts, seed)]
    if plus or goal.targeted:
        parts.append(_climb(steps, "dlr", 0, RESTARTS_PLUS if plus else 1, seed + 1))
    if not goal.targeted:
        parts.append(_climb(steps, "dlr", targets if plus else aims, 1, seed + 2))
        parts.append(_walk(fab_steps, targets, True, 1, seed))
    if plus or goal.targeted:
        parts.append(_walk(fab_steps, targets, False, RESTARTS_PLUS if plus else 1, seed))
    return parts


def _climb(steps: int, loss: LossName, targets: int, restarts: int, seed: int) -> Part:
    def part(model: Model, x: Tensor, goal: Goal, threat: Threat) -> tuple[Tensor, Tensor]:
        climb = auto_pgd.search(
            model, x, goal, threat, steps=steps, restarts=restarts, loss=loss, targets=targets, seed=seed
        )
        return climb.point, climb.margin == torch.inf

    return part


def _walk(steps: int, targets: int, each: bool, restarts: int, seed: int) -> Part:
    def part(model: Model, x: Tensor, goal: Goal, threat: Threat) -> tuple[Tensor, Tensor]:
        near = fab.search(
            model, x, goal, threat, fab.Walk(steps, patience=None if threat.norm == "l1" else PATIENCE),
            restarts=restarts, targets=targets, each=each, seed=seed, enough=threat.eps,
        )  # fmt: skip
        return near.point, near.distance <= threat.eps

    return part
