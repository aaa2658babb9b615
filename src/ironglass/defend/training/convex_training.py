"""Training on the convex outer polytope."""

from __future__ import annotations

from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.method import train
from ironglass.core.training import Batch, RampName, Recipe, ScheduleName, Student
from ironglass.core.values import Threat
from ironglass.ops.training.lines import convex_margins
from ironglass.ops.training.proven import mixed


@train(
    title="Convex outer polytope training",
    paper="wong2018",
    access="training",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="500 * epochs",
    lecture="defence: provable training",
)
def convex_training(
    threat: Threat | None,
    *,
    kappa: float = 0.0,
    train_eps: float | None = None,
    epochs: int = 20,
    batch: int = 50,
    lr: float = 1e-3,
    schedule: ScheduleName = "cosine",
    warm: float = 0.0,
    ramp: float = 0.4,
    shape: RampName = "linear",
    clip: float | None = None,
    seed: int = 0,
) -> Recipe:
    r"""Minimize the loss at the worst scores in a convex polytope around all that the network can reach.

    .. math:: \min_\theta\; \mathbb{E}\; \mathrm{CE}(-J_\varepsilon(x, y), y),\qquad
        J = -\textstyle\sum_k \nu_{k+1}^\top b_k - x^\top \hat\nu_1 - \varepsilon \|\hat\nu_1\|_q
        + \sum_{k, j \in I} l_{kj} [\nu_{kj}]_+

    J is a feasible point of the dual of the linear program in which each unstable ReLU is a triangle, and so a sound
    bound of the margins; the bounds before each activation are of the same kind, a row for each value and sample. That
    is exact and costs as many passes as the network has values: for small networks. Activations must be piecewise
    linear. The best epoch goes by what `fast_lin` proves.

    Args:
        kappa: the weight of the clean loss at the end; 0 trains on the bound alone.
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
        >>> strong = ig.defend.convex_training(torch.nn.Linear(4, 2), (x, y), ig.Linf(0.05), epochs=2)
        >>> len(strong.history), strong.table().columns
        (3, ('accuracy', 'before', 'after'))
    """
    if not 0 <= kappa <= 1:
        raise InputError(f"kappa={kappa}", "0 ≤ kappa ≤ 1")

    def margins(student: Student, batch: Batch) -> Tensor:
        return convex_margins(student, batch.x, batch.y, batch.allowed())

    return Recipe(
        loss=mixed(kappa, margins), epochs=epochs, batch=batch, lr=lr, schedule=schedule, warm=warm, ramp=ramp,
        shape=shape, train_eps=train_eps, clip=clip, by="certified", certificate="fast_lin", seed=seed,
    )  # fmt: skip
