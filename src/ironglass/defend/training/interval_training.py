"""Training on interval bounds."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.method import train
from ironglass.core.training import Batch, RampName, Recipe, ScheduleName, Student
from ironglass.core.values import Threat
from ironglass.ops.training.bounds import interval_margins
from ironglass.ops.training.proven import mixed


@train(
    title="Interval bound training",
    paper="gowal2018",
    access="training",
    norms=("linf",),
    finite=True,
    cost="6 * epochs",
    lecture="defence: provable training",
)
def interval_training(
    threat: Threat | None,
    *,
    kappa: float = 0.5,
    train_eps: float | None = None,
    epochs: int = 30,
    batch: int = 128,
    lr: float = 1e-3,
    schedule: ScheduleName = "steps",
    warm: float = 0.03,
    ramp: float = 0.4,
    shape: RampName = "linear",
    clip: float | None = None,
    seed: int = 0,
) -> Recipe:
    r"""Minimize the loss at the worst scores that interval bounds allow, so that the network can be proven.

    .. math:: \min_\theta\; \kappa_t\,\mathrm{CE}(f_\theta(x), y)
        + (1 - \kappa_t)\,\mathrm{CE}\bigl(-\underline m_\theta(x, \varepsilon_t), y\bigr)

    Here :math:`\underline m_j` is the lower bound of the margin :math:`z_y - z_j` over the ball, the last affine layer
    taken together with the difference. The radius grows from 0 along a ramp, and the weight of the clean loss falls
    from 1 to ``kappa`` with it. The best epoch goes by the accuracy that `interval` proves.

    Args:
        kappa: the weight κ of the clean loss at the end.
        train_eps: the radius trained at, input units; the threat's if None. A little more than that proves more.
        epochs: rounds over the samples.
        batch: samples a step.
        lr: the largest step size.
        schedule: of that: ``cosine``, ``triangular``, ``steps`` or ``constant``.
        warm: the share of the training before the radius grows.
        ramp: the share in which it grows.
        shape: how it grows, ``linear`` or ``smooth``.
        clip: the largest norm of the gradient; None for no limit.
        seed: of the order of the samples.

    Returns:
        The recipe, which the runner carries out.

    Raises:
        InputError: if an option is out of range.
    Example:
        >>> import torch, ironglass as ig
        >>> x, y = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> strong = ig.defend.interval_training(torch.nn.Linear(4, 2), (x, y), ig.Linf(0.05), epochs=2)
        >>> len(strong.history), strong.table().columns
        (3, ('accuracy', 'before', 'after'))
    """
    if not 0 <= kappa <= 1:
        raise InputError(f"kappa={kappa}", "0 ≤ kappa ≤ 1")

    def margins(student: Student, batch: Batch) -> Tensor:
        return interval_margins(student, batch.x, batch.y, batch.allowed())

    return Recipe(
        loss=mixed(kappa, margins), epochs=epochs, batch=batch, lr=lr, schedule=schedule, warm=warm, ramp=ramp,
        shape=shape, train_eps=train_eps, clip=clip, by="certified", certificate="interval", seed=seed,
    )  # fmt: skip
