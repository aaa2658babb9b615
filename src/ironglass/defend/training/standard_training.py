"""Training on samples as they are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ironglass.core.method import train
from ironglass.core.training import Batch, Recipe, ScheduleName, Student
from ironglass.core.values import Threat


@train(
    title="Standard training",
    paper="kingma2015",
    access="training",
    norms=(),
    cost="2 * epochs",
    lecture="defence: the baseline",
)
def standard_training(
    threat: Threat | None,
    *,
    epochs: int = 10,
    batch: int = 128,
    lr: float = 1e-3,
    schedule: ScheduleName = "cosine",
    seed: int = 0,
) -> Recipe:
    r"""Minimize cross-entropy with Adam: the baseline that stronger training is measured against.

    .. math:: \min_\theta\; \mathbb{E}\; \mathrm{CE}(f_\theta(x), y)

    A threat, if one is given, is not trained against: the figures are told under it, and the best epoch goes by the
    clean accuracy.

    Args:
        epochs: rounds over the samples.
        batch: samples a step.
        lr: the largest step size.
        schedule: of the step size: ``cosine``, ``triangular``, ``steps`` or ``constant``.
        seed: of the order of the samples and of dropout.

    Returns:
        The recipe, which the runner carries out.
    Example:
        >>> import torch, ironglass as ig
        >>> x, y = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> strong = ig.defend.standard_training(torch.nn.Linear(4, 2), (x, y), epochs=2)
        >>> len(strong.history), strong.table().columns
        (3, ('accuracy', 'before', 'after'))
    """

    def loss(student: Student, batch: Batch) -> Tensor:
        return F.cross_entropy(student(batch.x), batch.y)

    return Recipe(loss=loss, epochs=epochs, batch=batch, lr=lr, schedule=schedule, seed=seed, by="clean")
