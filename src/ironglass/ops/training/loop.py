"""Training a network: one loop, whatever the loss. The global random generators are left as they were."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError, MethodFailed
from ironglass.core.training import ScheduleName

from .schedules import factor

BatchLoss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
"""``loss(net, rows, generator) -> scalar``, of the samples ``rows``; it draws from the generator alone."""
Progress = Callable[[int, int, float], None]
"""Is told the epochs done, the epochs in all, and the mean loss of the last one."""


class Loop:
    r"""Trains a network in place with Adam, an epoch a call; between epochs it can be saved, and taken up again.

    .. math:: \alpha_t = \alpha\, \mathrm{factor}(t / T)

    The order of the samples, what the loss draws, and dropout come from the seed. A loop that is restored from its
    `state` goes on to the same bits, with the same number of threads.

    Args:
        net: is changed; between epochs it is in eval mode without gradients.
        samples: how many there are; an epoch sees each once.
        loss: of a batch.
        epochs: in all; they set the course of the step size.
        batch: samples a step. A lone last sample joins the batch before it, for layers that normalize over batches.
        lr: the largest step size α.
        schedule: how it changes.
        replays: steps on each batch in a row.
        clip: the largest norm of the gradient, if not None.
        seed: of all that is random.

    Raises:
        InputError: if a number is out of range, or no parameter may change.
    """

    def __init__(
        self,
        net: nn.Module,
        samples: int,
        loss: BatchLoss,
        *,
        epochs: int,
        batch: int = 64,
        lr: float = 1e-3,
        schedule: ScheduleName = "cosine",
        replays: int = 1,
        clip: float | None = None,
        seed: int = 0,
    ) -> None:
        if samples < 1 or epochs < 0 or batch < 1 or not 0 < lr < math.inf or replays < 1:
            raise InputError(
                f"samples={samples}, epochs={epochs}, batch={batch}, lr={lr}, replays={replays}",
                "give positive numbers",
            )
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        if not trained:
            raise InputError("no parameter of the network may change", "net.requires_grad_(True)")
        self.net, self.samples, self.epochs, self.seed = net, samples, epochs, seed
        self._loss, self._batch, self._lr, self._schedule = loss, batch, lr, schedule
        self._replays, self._clip, self._trained = replays, clip, trained
        self._optimizer = torch.optim.Adam(trained, lr)
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = max(epochs * len(self._cut(torch.arange(samples))) * replays, 1)
        self.done = self.step = 0
        self._device = trained[0].device
        self._random: list[Tensor] = []

    @property
    def share(self) -> float:
        """The share of all steps that are done."""
        return self.step / self.steps

    @property
    def lr(self) -> float:
        """The size of the next step."""
        return self._lr * factor(self._schedule, self.share)

    def epoch(self) -> float:
        """Trains on every sample once, and returns the mean loss.

        Raises:
            MethodFailed: if the loss is no longer finite.
        """
        total = 0.0
        with _own_random(self), torch.enable_grad():
            self.net.train()
            try:
                for rows in self._cut(torch.randperm(self.samples, generator=self.generator)):
                    for _ in range(self._replays):
                        total += self._learn(rows) * len(rows) / self._replays
            finally:
                self._optimizer.zero_grad(set_to_none=True)
                self.net.eval()
        self.done += 1
        return total / self.samples

    def _learn(self, rows: Tensor) -> float:
        value = self._loss(self.net, rows, self.generator)
        if not bool(value.isfinite()):
            raise MethodFailed(
                f"the loss is {value.item()} in epoch {self.done + 1}", f"a smaller lr than {self._lr:g}"
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr
        self._optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
        self._optimizer.step()
        self.step += 1
        return value.item()

    def _cut(self, order: Tensor) -> list[Tensor]:
        parts = list(torch.split(order, self._batch))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    def state(self) -> dict[str, Tensor]:
        """Returns all that the next epoch depends on, as tensors by name."""
        state = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        state |= {f"random.{index}": each for index, each in enumerate(self._random)}
        return state | {"generator": self.generator.get_state(), "done": torch.tensor([self.done, self.step])}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes back to where the loop was when it gave this state."""
        self.net.load_state_dict({n.removeprefix("net."): t for n, t in state.items() if n.startswith("net.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = tensor.clone()
        whole = self._optimizer.state_dict()
        self._optimizer.load_state_dict(whole | {"state": moments})
        self._random = [state[f"random.{index}"] for index in range(2) if f"random.{index}" in state]
        self.generator.set_state(state["generator"])
        self.done, self.step = state["done"].tolist()


class _own_random:
    """In this context the global generators are the loop's own, for dropout; then they are as they were."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._cuda = loop, loop._device.type == "cuda"
        self._fork = torch.random.fork_rng([loop._device] if self._cuda else [])

    def __enter__(self) -> None:
        self._fork.__enter__()
        states = self._loop._random
        if not states:
            torch.manual_seed(self._loop.seed)
            return
        torch.set_rng_state(states[0])
        if self._cuda:
            torch.cuda.set_rng_state(states[1], self._loop._device)

    def __exit__(self, *error: Any) -> None:
        device = self._loop._device
        self._loop._random = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if self._cuda else [])]
        self._fork.__exit__(*error)


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
    """Trains a network in place from start to end, the step size falling along a half cosine.

    Args:
        net: is changed; left in eval mode without gradients.
        samples: how many there are; an epoch sees each once.
        loss: of a batch.
        epochs: passes over the samples; 0 trains nothing.
        batch: samples a step.
        lr: the first step size.
        seed: of all that is random.
        progress: is called after each epoch.

    Returns:
        The mean loss of each epoch.

    Raises:
        InputError: if a number is out of range, or no parameter may change.
        MethodFailed: if the loss is no longer finite.
    """
    loop = Loop(net, samples, loss, epochs=epochs, batch=batch, lr=lr, seed=seed)
    losses = []
    for epoch in range(epochs):
        losses.append(loop.epoch())
        if progress is not None:
            progress(epoch + 1, epochs, losses[-1])
    net.eval()
    return losses
