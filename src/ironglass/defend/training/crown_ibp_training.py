"""Training on linear bounds between intervals, then on intervals."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.method import train
from ironglass.core.training import Batch, RampName, Recipe, ScheduleName, Student
from ironglass.core.values import Threat
from ironglass.ops.training.bounds import interval_margins, least_margins
from ironglass.ops.training.lines import crown_ibp_margins
from ironglass.ops.training.proven import mixed


@train(
    title="CROWN-IBP training",
    paper="zhang2020crownibp",
    access="training",
    norms=("linf",),
    finite=True,
    cost="epochs * (6 + 2 * (warm + ramp) * (classes + 1))",
    lecture="defence: provable training",
)
def crown_ibp_training(
    threat: Threat | None,
    *,
    kappa: float = 0.5,
    beta: float = 0.0,
    train_eps: float | None = None,
    epochs: int = 30,
    batch: int = 128,
    lr: float = 5e-4,
    schedule: ScheduleName = "steps",
    warm: float = 0.05,
    ramp: float = 0.3,
    shape: RampName = "linear",
    clip: float | None = 8.0,
    seed: int = 0,
) -> Recipe:
    r"""Minimize the loss at the worst scores that CROWN-IBP allows, and hand over to intervals along the ramp.

    .. math:: \underline m = \beta_t\, \underline m^{\text{CROWN-IBP}} + (1 - \beta_t)\, \underline m^{\text{IBP}},
        \qquad \min_\theta\; \kappa_t\,\mathrm{CE}(f_\theta(x), y) + (1 - \kappa_t)\,\mathrm{CE}(-\underline m, y)

    Intervals alone are so loose at first that they train a network to be small; linear bounds of the margins guide it
    past that. While the radius grows, :math:`\beta_t` falls from 1 to ``beta`` and :math:`\kappa_t` from 1 to
    ``kappa``; with ``beta`` 0 the rest costs what `interval_training` does. Activations must be piecewise linear.

    Args:
        kappa: the weight κ of the clean loss at the end.
        beta: the weight β of the linear bounds at the end; 1 keeps them.
        train_eps: the radius trained at, input units; the threat's if None.
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
        >>> strong = ig.defend.crown_ibp_training(torch.nn.Linear(4, 2), (x, y), ig.Linf(0.05), epochs=2)
        >>> len(strong.history), strong.table().columns
        (3, ('accuracy', 'before', 'after'))
    """
    if not (0 <= kappa <= 1 and 0 <= beta <= 1):
        raise InputError(f"kappa={kappa}, beta={beta}", "both in [0, 1]")

    def margins(student: Student, batch: Batch) -> Tensor:
        share = 1 + (beta - 1) * batch.grown
        if not share:
            return interval_margins(student, batch.x, batch.y, batch.allowed())
        found, graph, values = crown_ibp_margins(student, batch.x, batch.y, batch.allowed())
        return found if share >= 1 else share * found + (1 - share) * least_margins(graph, values, batch.y)

    return Recipe(
        loss=mixed(kappa, margins), epochs=epochs, batch=batch, lr=lr, schedule=schedule, warm=warm, ramp=ramp,
        shape=shape, train_eps=train_eps, clip=clip, by="certified", certificate="crown_ibp", seed=seed,
    )  # fmt: skip
