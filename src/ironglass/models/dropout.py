"""A network with its dropout at work: several thinned networks at once, and the user's is not touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ironglass.core.draws import Draws
from ironglass.core.errors import AccessError, InputError

from .adapter import Adapter
from .backend import Backend
from .fast import LARGEST_VALUE
from .joint import Views
from .network import Torch

_WHOLE_VALUES = (F.dropout, F.alpha_dropout)
_WHOLE_CHANNELS = (F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout)
_ALPHA = -1.7580993408473766
"""What a self-normalizing network's dropped values become."""


_Step = Callable[[Callable[[Tensor], Any], Tensor, slice], Any]


class _Unfolded(Exception):
    """The batch is not laid out as draws × samples."""


class _Masks(TorchFunctionMode):
    """Replaces every dropout by masks that are one a draw: a draw is one thinned network, the same for all samples.

    Args:
        draws: a stream a draw.
        count: how many draws.
        rows: samples in the batch.
        rate: takes the place of every layer's own, if given.
        fold: whether the batch has one row a sample until the first dropout, and one a draw and sample after it.
    """

    def __init__(self, draws: Draws, count: int, rows: int, rate: float | None, fold: bool) -> None:
        super().__init__()
        self._draws, self._count, self._rows, self._rate, self._fold = draws, count, rows, rate, fold
        self.first = 0
        """Values a sample that enter the first dropout; 0 where there was none."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _WHOLE_VALUES or function in _WHOLE_CHANNELS:
            rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            return self._drop(function, args[0] if args else kwargs["input"], rate)
        return function(*args, **kwargs)

    def _drop(self, function: Any, x: Tensor, own: float) -> Tensor:
        rate = own if self._rate is None else self._rate
        self.first = self.first or x.numel() // max(1, len(x))
        if len(x) == self._count * self._rows:
            laid = x.reshape(self._count, self._rows, *x.shape[1:])
        elif self._fold and len(x) == self._rows:
            laid = x[None]
        else:
            raise _Unfolded
        shape = (x.shape[1], *(1,) * (x.ndim - 2)) if function in _WHOLE_CHANNELS else tuple(x.shape[1:])
        kept = (self._draws.uniform(shape) >= rate).to(x.dtype)[:, None]
        if function in (F.alpha_dropout, F.feature_alpha_dropout):
            scale = ((1 - rate) * (1 + rate * _ALPHA**2)) ** -0.5 if rate < 1 else 0.0
            return ((laid * kept + _ALPHA * (1 - kept)) * scale - scale * _ALPHA * rate).flatten(0, 1)
        return (laid * (kept / (1 - rate if rate < 1 else 1))).flatten(0, 1)


class Thinned:
    """The views of a network under several dropout masks.

    A draw is one thinned network: the same units are off for every sample, so that a sample's result does not depend on
    its batch. Normalization stays in eval mode. What comes before the first dropout is run once for all draws, where
    that gives the same scores; dropout inside recurrent layers and attention kernels stays off.

    Args:
        backend: a network.
        samples: how many draws.
        seed: of the masks.
        rate: of every dropout, in place of its own.
    """

    def __init__(self, backend: Torch, samples: int, seed: int, rate: float | None = None) -> None:
        if samples < 1 or not (rate is None or 0 <= rate < 1):
            raise InputError(f"samples={samples}, rate={rate}", "at least one sample, 0 ≤ rate < 1")
        self.backend, self.samples, self.seed, self.rate = backend, samples, seed, rate
        self._folds: dict[tuple[int, ...], tuple[bool, int]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the output of each draw ``(samples, n, …)``."""
        with torch.no_grad():
            return torch.cat(self._each(x, lambda run, leaf, _: run(leaf)), 1)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns of each draw the output and the log-variance that the network gives with it."""
        with torch.no_grad():
            found = self._each(x, lambda run, leaf, _: run(leaf), both=True)
        mean, log_variance = (torch.cat(part, 1) for part in zip(*found, strict=True))
        return mean, log_variance

    def back(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the gradient to ``x`` of the outputs' weighted sum."""

        def step(run: Callable[[Tensor], Any], leaf: Tensor, part: slice) -> Tensor:
            leaf.requires_grad_()
            (grad,) = torch.autograd.grad((run(leaf) * weight[:, part]).sum(), leaf)
            return grad.to(x.dtype)

        with torch.enable_grad():
            return torch.cat(self._each(x, step))

    stochastic = False

    def drawn(self, sample_keys: Tensor) -> Thinned:
        """Returns itself: the masks are the same for every query."""
        return self

    def prepare(self, x: Tensor) -> None:
        """Renews what is known of the network, if it has changed."""
        self.backend.prepare(x)

    def identity(self) -> str:
        """Returns a hash of the network and the masks."""
        return f"{self.backend.identity()} {self.samples} {self.seed} {self.rate}"

    def _each(self, x: Tensor, step: _Step, both: bool = False) -> Any:
        fold, size = self._folding(x[:2])
        rows = self.backend.rows_at_once
        if fold:
            room = LARGEST_VALUE * torch.get_num_threads() // (4 * max(1, size) * self.samples)
            rows = max(1, min(rows, room))
        else:
            rows = max(1, rows // self.samples)

        def part(whole: nn.Module, leaf: Tensor, place: slice) -> Any:
            return step(lambda inputs: self._run(whole, inputs, self.samples, fold, both), leaf, place)

        return self.backend.plainly(x, part, rows)

    def _run(self, whole: nn.Module, x: Tensor, count: int, fold: bool, both: bool = False) -> Any:
        """Returns the outputs ``(count, n, …)`` of one batch."""
        masks = self._masks(count, x, fold)
        with masks:
            out = whole.both(x if fold else _repeated(x, count)) if both else whole(x if fold else _repeated(x, count))  # type: ignore[operator]
        return tuple(_laid(each, count, len(x)) for each in out) if both else _laid(out, count, len(x))

    def _masks(self, count: int, x: Tensor, fold: bool) -> _Masks:
        numbers = torch.arange(count, device=x.device)
        return _Masks(Draws(numbers, self.seed, x.device), count, len(x), self.rate, fold)

    def _folding(self, few: Tensor) -> tuple[bool, int]:
        """Returns whether the part before the first dropout can be run once, and how many values enter that."""
        shape = tuple(few.shape)
        if shape in self._folds:
            return self._folds[shape]

        def step(whole: nn.Module, leaf: Tensor, _: slice) -> tuple[bool, int]:
            with torch.no_grad():
                plain = self._masks(2, leaf, False)
                try:
                    with plain:
                        wanted = _laid(whole(_repeated(leaf, 2)), 2, len(leaf))
                except _Unfolded:
                    raise InputError("a dropout's first dimension does not go by samples", "batch first") from None
                if not plain.first:
                    raise InputError("the network has no dropout", "take an ensemble: deep_ensemble([net, net, …], x)")
                try:
                    folded = self._run(whole, leaf, 2, True)
                except Exception:  # a skip around the dropout, or a shape that was taken before it
                    return False, plain.first
                tiny = 1e-4 * float(wanted.abs().max())
                return bool(folded.shape == wanted.shape and (folded - wanted).abs().max() <= tiny), plain.first

        (self._folds[shape],) = self.backend.plainly(few, step, len(few))
        return self._folds[shape]


def _repeated(x: Tensor, count: int) -> Tensor:
    return x.repeat(count, *(1,) * (x.ndim - 1))


def _laid(out: Tensor, count: int, rows: int) -> Tensor:
    if len(out) == rows and count > 1:
        return out[None].expand(count, *out.shape)
    return out.reshape(count, rows, *out.shape[1:])


class Beside:
    """A model's own answer, and other views of the sample after it."""

    def __init__(self, own: Backend, others: Views) -> None:
        self.own, self.others = own, others

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the scores of all ``(1 + V, n, K)``."""
        return torch.cat([self.own.scores(x)[None], self.others(x)])

    def back(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the gradient of the weighted sum."""
        first = self.own.value_and_grad(x, lambda scores, rows: (scores * weight[0][rows]).sum(1)).grad
        return first + self.others.back(x, weight[1:])

    @property
    def stochastic(self) -> bool:
        """Whether a defence among them draws."""
        return self.own.stochastic or self.others.stochastic

    def drawn(self, sample_keys: Tensor) -> Beside:
        """Returns these views with the draws of one query."""
        return Beside(self.own.drawn(sample_keys), self.others.drawn(sample_keys))

    def prepare(self, x: Tensor) -> None:
        """Shows the samples to all."""
        self.own.prepare(x)
        self.others.prepare(x)

    def identity(self) -> str | None:
        """Returns the identities of all."""
        own, others = self.own.identity(), self.others.identity()
        return None if own is None or others is None else f"{own} {others}"


def thinned(model: Adapter, samples: int, seed: int, rate: float | None = None) -> Thinned:
    """Returns the views of a model under dropout.

    Raises:
        AccessError: if the model is no network whose layers can be reached.
    """
    if not isinstance(model.backend, Torch):
        raise AccessError("this needs the network itself, to switch its dropout on", "give the nn.Module, undefended")
    return Thinned(model.backend, samples, seed, rate)
