"""The repair of a Clever Hans: right for the right reasons."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.errors import InputError, suggest
from ironglass.core.findings import Table
from ironglass.core.statistics import wilson
from ironglass.models.adapter import Adapter
from ironglass.ops.training import Progress, fit

Pair = tuple[Tensor, Tensor]
Fill = Literal["swap", "inpaint"]


@dataclass(frozen=True, slots=True, eq=False)
class Repaired:
    """A network trained anew, and what came of it.

    Args:
        net: a copy, in eval mode; the one that was given is as it was.
        losses: the mean loss of each epoch.
        before: right answers and samples of each set, by the network that was given.
        after: the same by the new one.
        options: of the training.
    """

    net: nn.Module
    losses: tuple[float, ...]
    before: Mapping[str, tuple[int, int]]
    after: Mapping[str, tuple[int, int]]
    options: Mapping[str, object] = field(default_factory=dict)

    def accuracy(self, name: str) -> tuple[float, float]:
        """Returns the accuracy on a set before and after."""
        (right, count), (right_now, count_now) = self.before[name], self.after[name]
        return right / count, right_now / count_now

    def table(self) -> Table:
        """Returns the accuracy on each set before and after, with Wilson's intervals."""

        def cell(right: int, count: int) -> str:
            low, high = wilson(right, count)
            return f"{right / count:.1%} [{100 * low:.0f}, {100 * high:.0f}]"

        return Table(
            id="right_reasons",
            caption="Accuracy before and after the repair, with 95 % intervals",
            columns=("samples", "before", "after"),
            rows=tuple((name, cell(*self.before[name]), cell(*self.after[name])) for name in self.before),
        )


def right_reasons(
    net: nn.Module | Adapter,
    data: Pair,
    mask: Tensor,
    *,
    check: Mapping[str, Pair] | None = None,
    fill: Fill = "swap",
    masked: float = 1.0,
    penalty: float = 10.0,
    epochs: int = 10,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> Repaired:
    r"""Train on, so that a network no longer goes by what lies in the mask (ross2017).

    .. math:: L = \frac1n \sum_i \mathrm{CE}(f(\tilde x_i), y_i)
        + \lambda\, \frac1n \sum_i \frac{\| A_i \odot g_i \|^2}{\| g_i \|^2}, \qquad
        g_i = \frac{\partial}{\partial \tilde x_i} \sum_k \log p_k

    Two remedies at once. The pictures :math:`\tilde x` lose, with probability ``masked``, what lies in the mask ``A``;
    so the shortcut no longer tells the class. And the part of the gradient of the log-probabilities that lies inside
    the mask is penalized; so the network learns not to look there. Ross et al. have the second alone, and penalize the
    square of what lies inside, not its part of the whole: that has a unit, grows with the logits by orders of
    magnitude, and is made small by flat networks too, so that λ has to be found anew for each network.

    Args:
        net: gives logits ``(n, classes)`` for samples as they are in ``data``, or a wrapped network, whose copy has
            the normalization inside. It is copied and stays as it is; frozen parameters of a network stay frozen.
        data: samples ``(N, *shape)`` and labels ``(N,)`` to train on; the shortcut may be in them.
        mask: where the shortcut is, bool: one sample's shape or ``(N, *shape)``, or what broadcasts to that.
        check: labelled sets by name, such as held-out samples with and without the shortcut; if None the training set
            as it is, and with the mask inpainted.
        fill: what stands in the mask then: ``swap``, the same place of another sample of the batch, whatever its class,
            so that the network meets the shortcut with every label; or ``inpaint``, a smooth surface from the rim
            inwards (pictures only), so that it does not meet it.
        masked: the probability of that, a sample and an epoch; below 1 the shortcut still tells something of the class.
        penalty: λ; 0 for the first remedy alone.
        epochs: of the training.
        batch: samples a step.
        lr: the first step size.
        seed: of all that is random.
        progress: is called after each epoch with the epochs done, the epochs in all, and the mean loss.

    Returns:
        The new network, with the accuracies on each checked set before and after.

    Raises:
        InputError: if the shapes do not fit, the mask is empty, or an option is out of range.
    """
    x, y = data
    where = _broadcast(mask, x)
    if len(x) != len(y) or len(x) == 0:
        raise InputError(f"{len(y)} labels for {len(x)} samples", "give one label a sample")
    if fill not in get_args(Fill):
        raise InputError(f"fill '{fill}' is unknown", suggest(fill, get_args(Fill)))
    if not 0 <= masked <= 1 or penalty < 0:
        raise InputError(f"masked={masked}, penalty={penalty}", "0 ≤ masked ≤ 1, penalty ≥ 0")
    painted = inpainted(x, where) if fill == "inpaint" or check is None else x
    sets = {"as it is": data, "mask inpainted": (painted, y)} if check is None else dict(check)

    def loss(twin: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        area, clean = where[rows], x[rows]
        other = clean[torch.randperm(len(rows), generator=generator)] if fill == "swap" else painted[rows]
        chosen = torch.rand(len(rows), *(1,) * (x.ndim - 1), generator=generator).to(x.device) < masked
        seen = torch.where(area & chosen, other, clean).requires_grad_(penalty > 0)
        scores = twin(seen)
        value = F.cross_entropy(scores, y[rows])
        if penalty:
            (slope,) = torch.autograd.grad(F.log_softmax(scores, 1).sum(), seen, create_graph=True)
            size = slope.flatten(1).square().sum(1)
            inside = (slope * area).flatten(1).square().sum(1)
            value = value + penalty * (inside / size.clamp(min=1e-12)).mean()
        return value

    twin = _copied(net, x)
    before = {name: _right(twin, *pair) for name, pair in sets.items()}
    losses = fit(twin, len(x), loss, epochs=epochs, batch=batch, lr=lr, seed=seed, progress=progress)
    after = {name: _right(twin, *pair) for name, pair in sets.items()}
    options = {"fill": fill, "masked": masked, "penalty": penalty, "epochs": epochs, "batch": batch, "lr": lr}
    return Repaired(twin, tuple(losses), before, after, options | {"seed": seed})


def inpainted(x: Tensor, mask: Tensor, rounds: int = 500) -> Tensor:
    r"""Fills the mask with the harmonic surface between its rim, by rounds of Jacobi's mean of four neighbours.

    .. math:: u_p \leftarrow \tfrac14 \sum_{q \sim p} u_q \quad (p \in A)

    Beyond the picture's edge the nearest pixel stands.

    Args:
        x: pictures ``(N, C, H, W)``.
        mask: bool ``(N, C, H, W)``.
        rounds: of the mean.

    Raises:
        InputError: if samples are no pictures.
    """
    if x.ndim != 4:
        raise InputError(f"samples are {tuple(x.shape)}, pictures (N, C, H, W) can be inpainted", "fill='swap'")
    area = mask.flatten(2).any(2)
    mean = (x * ~mask).flatten(2).sum(2) / (~mask).flatten(2).sum(2).clamp(min=1)
    out = torch.where(mask, torch.where(area, mean, 0)[..., None, None], x)
    for _ in range(rounds):
        around = F.pad(out, (1, 1, 1, 1), mode="replicate")
        near = around[..., :-2, 1:-1] + around[..., 2:, 1:-1] + around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
        out = torch.where(mask, near / 4, out)
    return out


def _copied(net: nn.Module | Adapter, x: Tensor) -> nn.Module:
    """Returns a copy to train: of a wrapped network the whole of it, normalization inside."""
    if not isinstance(net, Adapter):
        return copy.deepcopy(net)
    net.probe(x[:1])
    return net.backend.module(x[:1]).requires_grad_(True)


def _broadcast(mask: Tensor, x: Tensor) -> Tensor:
    """Returns the mask, a value a value of ``x``."""
    if mask.dtype != torch.bool or not bool(mask.any()):
        raise InputError(f"the mask is {mask.dtype} and {int(mask.sum())} of it is set", "a bool mask, True somewhere")
    try:
        return mask.to(x.device).expand(x.shape)
    except RuntimeError:
        raise InputError(
            f"a mask of shape {tuple(mask.shape)} for samples of shape {tuple(x.shape)}", "e.g. (1, H, W)"
        ) from None


def _right(net: nn.Module, x: Tensor, y: Tensor) -> tuple[int, int]:
    """Returns how many samples a network labels right, in eval mode, and how many there are."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    with torch.no_grad():
        labels = torch.cat([net(x[at : at + 256]).argmax(1) for at in range(0, len(x), 256)])
    for module, mode in modes:
        module.training = mode
    return int((labels == y).sum()), len(y)
