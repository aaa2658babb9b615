"""Free adversarial training: the gradient to the weights gives that to the input as well."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.core.method import train
from ironglass.core.training import Batch, Recipe, ScheduleName, Student
from ironglass.core.values import Bounds, Threat
from ironglass.ops import lp


@train(
    title="Free adversarial training",
    paper="shafahi2019",
    access="training",
    norms=("linf", "l2", "l1"),
    finite=True,
    cost="2 * epochs",
    lecture="defence: proactive",
)
def free_adversarial_training(
    threat: Threat | None,
    *,
    replays: int = 8,
    epochs: int = 40,
    batch: int = 128,
    lr: float = 1e-3,
    schedule: ScheduleName = "cosine",
    ramp: float = 0.3,
    seed: int = 0,
) -> Recipe:
    r"""Learn from each batch several times in a row, while the change to it follows the same backward pass.

    .. math:: \theta \leftarrow \theta - \alpha\,\nabla_\theta L(x + \delta),\qquad
        \delta \leftarrow \Pi_\varepsilon\bigl(\delta
        + \arg\max_{\|u\| \le \varepsilon} \langle \nabla_x L, u\rangle\bigr)

    Both come from one backward pass, so an attack costs nothing beyond standard training. The change goes on from one
    batch to the next. There are ``epochs / replays`` rounds over the samples.

    Args:
        replays: steps on each batch in a row.
        epochs: how often each sample is learned from, in all.
        batch: samples a step.
        lr: the largest step size of the weights.
        schedule: of that: ``cosine``, ``triangular``, ``steps`` or ``constant``.
        ramp: the share of the training in which the radius grows from 0.
        seed: of the order of the samples.

    Returns:
        The recipe, which the runner carries out.

    Raises:
        InputError: if an option is out of range.
    Example:
        >>> import torch, ironglass as ig
        >>> x, y = torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
        >>> net, options = torch.nn.Linear(4, 2), dict(replays=2, epochs=4)
        >>> strong = ig.defend.free_adversarial_training(net, (x, y), ig.Linf(0.05), **options)
        >>> len(strong.history), strong.table().columns
        (3, ('accuracy', 'before', 'after'))
    """
    if replays < 1:
        raise InputError(f"replays={replays}", "at least 1")

    def loss(student: Student, batch: Batch) -> Tensor:
        now, memory, size = batch.allowed(), student.memory, len(batch.x)
        change = _moved(memory, now, student.bounds.span) if "slope" in memory else batch.x[:0]
        if len(change) < size:
            change = torch.cat([change, torch.zeros_like(batch.x[len(change) :])])
        memory["change"] = change
        leaf = change[:size].clone().requires_grad_()

        def keep(grad: Tensor) -> None:
            memory["slope"] = grad.detach()

        leaf.register_hook(keep)  # type: ignore[no-untyped-call]
        return F.cross_entropy(student(lp.inside(batch.x + leaf, batch.x, now, student.bounds)), batch.y)

    return Recipe(
        loss=loss, epochs=-(-epochs // replays), batch=batch, lr=lr, schedule=schedule, ramp=ramp,
        replays=replays, watch=0.2, seed=seed,
    )  # fmt: skip


def _moved(memory: dict[str, Tensor], now: Threat, span: float) -> Tensor:
    """Returns the change, its rows that were used last moved along their slope and projected on the ball."""
    change, slope = memory["change"], memory["slope"]
    used, origin = change[: len(slope)], torch.zeros_like(slope)
    anywhere = Bounds(-span, span)
    step = lp.maximize(slope, origin, now, anywhere)
    return torch.cat([lp.project(used + step, origin, now, anywhere), change[len(slope) :]])
