"""Training a network: one loop, whatever the loss. The global random generators are left as they were."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError, MethodFailed

BatchLoss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
"""``loss(net, rows, generator) -> scalar``, of the samples ``rows``; it draws from the generator alone."""
Progress = Callable[[int, int, float], None]
"""Is told the epochs done, the epochs in all, and the mean loss of the last one."""


def fit(
    net: nn.Module,
    samples: int,
    loss: BatchLoss,
    *,
    epochs: int,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[float]:
    r"""Trains a network in place with Adam, the step size falling to 0 along a half cosine.

    .. math:: \alpha_t = \tfrac{\alpha}{2}\,\bigl(1 + \cos(\pi t / T)\bigr)

    The order of the samples, what the loss draws, and dropout come from the seed.

    Args:
        net: is changed; left in eval mode without gradients.
        samples: how many there are; an epoch sees each once.
        loss: of a batch.
        epochs: passes over the samples; 0 trains nothing.
        batch: samples a step.
        lr: the first step size α.
        seed: of all that is random.
        progress: is called after each epoch.

    Returns:
        The mean loss of each epoch.

    Raises:
        InputError: if a number is out of range, or no parameter may change.
        MethodFailed: if the loss is no longer finite.
    """
    if samples < 1 or epochs < 0 or batch < 1 or not lr > 0:
        raise InputError(f"samples={samples}, epochs={epochs}, batch={batch}, lr={lr}", "give positive numbers")
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("no parameter of the network may change", "net.requires_grad_(True)")
    optimizer = torch.optim.Adam(trained, lr)
    steps = max(epochs * -(-samples // batch), 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    device = trained[0].device
    history = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)  # of dropout
        net.train()
        for epoch in range(epochs):
            total = 0.0
            order = torch.randperm(samples, generator=generator)
            for start in range(0, samples, batch):
                rows = order[start : start + batch]
                value = loss(net, rows, generator)
                if not bool(value.isfinite()):
                    raise MethodFailed(f"the loss is {value.item()} in epoch {epoch + 1}", f"a smaller lr than {lr:g}")
                optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += value.item() * len(rows)
            history.append(total / samples)
            if progress is not None:
                progress(epoch + 1, epochs, history[-1])
        net.eval()
    optimizer.zero_grad(set_to_none=True)
    return history
