"""Adversarial training."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.core.method import Attack, train
from ironglass.core.training import Batch, Recipe, ScheduleName, Student
from ironglass.core.values import Threat
from ironglass.ops.training.inner import maximizer

Objective = Literal["worst", "mix", "sum"]


@train(
    title="Adversarial training",
    paper="madry2018",
    access="training",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="epochs * (2 * steps + 4)",
    lecture="defence: proactive",
)
def adversarial_training(
    threat: Threat | None,
    *,
    attack: str | Attack[Any] = "pgd",
    objective: Objective = "worst",
    alpha: float = 0.5,
    steps: int = 7,
    step_size: float | None = None,
    epochs: int = 10,
    batch: int = 128,
    lr: float = 1e-3,
    schedule: ScheduleName = "cosine",
    ramp: float = 0.3,
    seed: int = 0,
) -> Recipe:
    r"""Minimize the loss at the worst point that an attack finds in each sample's ball.

    .. math:: \min_\theta\; \mathbb{E}\, \max_{\|\delta\| \le \varepsilon} \mathrm{CE}(f_\theta(x + \delta), y)

    The objective may be ``worst``, as above (Madry et al.); ``mix``, the losses
    :math:`\alpha L(x) + (1 - \alpha) L(x + \delta)` (Goodfellow et al. 2015, with ``attack="fgsm"``); or ``sum``,
    :math:`L(x) + L(x + \delta)`, so that what is hard is not traded for what is easy.

    The attack may be ``pgd``; ``n_fgsm`` or ``fgsm_rs``, which take one gradient and are several times faster; or any
    attack of the catalogue. The radius grows along a ramp, since a network that begins at a large radius may never
    learn. One-step attacks can be learned by heart. That is noted in the history where the accuracy under one step is
    20 points above that under Auto-PGD, with 95 % intervals apart; and where that under Auto-PGD has fallen as far
    below the best, the training is stopped, and the best epoch is what comes out.

    Args:
        attack: ``pgd``, ``n_fgsm``, ``fgsm_rs``, ``fgsm``, an attack's name, or ``ig.attack.momentum_pgd.with_(…)``.
        objective: ``worst``, ``mix`` or ``sum``.
        alpha: the weight of the clean loss in ``mix``.
        steps: of ``pgd``.
        step_size: of the fast attacks, in the threat's norm; if None 2.5 eps / steps for ``pgd``, eps for ``n_fgsm``,
            1.25 eps for ``fgsm_rs``.
        epochs: rounds over the samples.
        batch: samples a step.
        lr: the largest step size of the weights.
        schedule: of that: ``cosine``, ``triangular``, ``steps`` or ``constant``.
        ramp: the share of the training in which the radius grows from 0.
        seed: of the order of the samples and of all random starts.

    Returns:
        The recipe, which the runner carries out.

    Raises:
        InputError: if an option is out of range, or the attack does not fit the threat.
    Example:
        >>> import torch, ironglass as ig
        >>> x, y = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> strong = ig.defend.adversarial_training(torch.nn.Linear(4, 2), (x, y), ig.Linf(0.05), epochs=2)
        >>> len(strong.history), strong.table().columns
        (3, ('accuracy', 'before', 'after'))
    """
    if objective not in ("worst", "mix", "sum") or not 0 <= alpha <= 1:
        raise InputError(f"objective='{objective}', alpha={alpha}", "worst, mix or sum, and 0 ≤ alpha ≤ 1")
    assert threat is not None
    inner = maximizer(attack, threat, steps, step_size)

    def loss(student: Student, batch: Batch) -> Tensor:
        changed = inner(student, batch)
        if objective == "worst":
            return F.cross_entropy(student(changed), batch.y)
        clean, attacked = student(torch.cat([batch.x, changed])).chunk(2)
        first, second = F.cross_entropy(clean, batch.y), F.cross_entropy(attacked, batch.y)
        return first + second if objective == "sum" else alpha * first + (1 - alpha) * second

    return Recipe(
        loss=loss, epochs=epochs, batch=batch, lr=lr, schedule=schedule, ramp=ramp, watch=0.2, seed=seed
    )  # fmt: skip
