"""TRADES: accuracy on clean samples, and agreement around them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.core.method import train
from ironglass.core.training import Batch, Recipe, ScheduleName, Student
from ironglass.core.values import Threat
from ironglass.ops import lp
from ironglass.ops.training.inner import climb

JITTER = 1e-3
"""How far from the sample the ascent begins: at the sample itself the divergence has no slope."""


@train(
    title="TRADES",
    paper="zhang2019trades",
    access="training",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="epochs * (2 * steps + 5)",
    lecture="defence: proactive",
)
def trades(
    threat: Threat | None,
    *,
    beta: float = 6.0,
    steps: int = 7,
    step_size: float | None = None,
    epochs: int = 10,
    batch: int = 128,
    lr: float = 1e-3,
    schedule: ScheduleName = "cosine",
    ramp: float = 0.3,
    seed: int = 0,
) -> Recipe:
    r"""Trade accuracy on clean samples for agreement with them in their balls.

    .. math:: \min_\theta\; \mathbb{E}\; \mathrm{CE}(f_\theta(x), y)
        + \beta \max_{\|\delta\| \le \varepsilon} \mathrm{KL}\bigl(p_\theta(x) \,\|\, p_\theta(x + \delta)\bigr)

    The labels play no part in the second term, so ``beta`` sets how much the one is worth in the other. The ascent on
    the divergence begins a little beside the sample.

    Args:
        beta: β; 1 to 6 are usual, 0 is standard training.
        steps: of the ascent.
        step_size: of the ascent, in the threat's norm; if None 2.5 eps / steps.
        epochs: rounds over the samples.
        batch: samples a step.
        lr: the largest step size of the weights.
        schedule: of that: ``cosine``, ``triangular``, ``steps`` or ``constant``.
        ramp: the share of the training in which the radius grows from 0.
        seed: of the order of the samples and of the starts.

    Returns:
        The recipe, which the runner carries out.

    Raises:
        InputError: if an option is out of range.
    Example:
        >>> import torch, ironglass as ig
        >>> x, y = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> strong = ig.defend.trades(torch.nn.Linear(4, 2), (x, y), ig.Linf(0.05), epochs=2)
        >>> len(strong.history), strong.table().columns
        (3, ('accuracy', 'before', 'after'))
    """
    if beta < 0 or steps < 1 or (step_size is not None and not step_size > 0):
        raise InputError(f"beta={beta}, steps={steps}, step_size={step_size}", "beta ≥ 0, steps ≥ 1, step_size > 0")

    def loss(student: Student, batch: Batch) -> Tensor:
        now = batch.allowed()
        with student.still(), torch.no_grad():
            student.pay(len(batch.x))
            wanted = student.net(batch.x).softmax(1)

        def divergence(scores: Tensor) -> Tensor:
            return F.kl_div(scores.log_softmax(1), wanted, reduction="none").sum(1)

        size = 2.5 * now.eps / steps if step_size is None else step_size * batch.grown
        noise = JITTER * torch.randn(batch.x.shape, generator=student.generator).to(batch.x)
        begin = lp.project(batch.x + noise, batch.x, now, student.bounds)
        changed = climb(student, batch.x, now, divergence, [size] * steps, begin)
        clean, attacked = student(torch.cat([batch.x, changed])).chunk(2)
        apart = F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
        return F.cross_entropy(clean, batch.y) + beta * apart

    return Recipe(
        loss=loss, epochs=epochs, batch=batch, lr=lr, schedule=schedule, ramp=ramp, watch=0.2, seed=seed
    )  # fmt: skip
