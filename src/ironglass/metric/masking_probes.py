"""What a model does around its inputs, without an attack: each probe gives one figure or answer a sample ``(N,)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ironglass.core.access import Loss, Model
from ironglass.core.draws import Draws

TINY, FAINT, SMALL = 1e-5, 1 / 255, 8 / 255
"""Sizes of changes, of the input range: too small to round away honestly, of one level of a picture, and of eight."""
ROUNDING = 1e-5
"""Changes of the scores, relative to the largest, that float32 may make by itself along a path."""
PIECES = 16
"""Parts of a path whose changes are compared: a straight line's are all alike."""


def spread(calls: Sequence[Tensor]) -> Tensor:
    """Returns how far repeated scores differ, relative to the largest score; 0 for a deterministic model."""
    stacked = torch.stack(list(calls)).double()
    size = stacked.abs().amax((0, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    return (stacked.amax(0) - stacked.amin(0)).amax(1) / size


def batch_dependence(model: Model, x: Tensor) -> Tensor:
    """Returns how far scores differ, relative to the largest, when a sample's neighbours are black and then white."""
    rows = torch.arange(len(x), device=x.device).repeat_interleave(2)
    calls = []
    for value in (model.bounds.low, model.bounds.high):
        mixed = torch.stack([x, torch.full_like(x, value)], 1).flatten(0, 1)
        calls.append(model.scores(mixed, rows)[::2])
    return spread(calls)


def probabilities(scores: Tensor) -> Tensor:
    """Returns whether each row is a probability vector."""
    inside = ((scores >= 0) & (scores <= 1)).all(1)
    return inside & ((scores.double().sum(1) - 1).abs() < 1e-3)


class _Backward(TorchFunctionMode):
    """Counts the gradients that are computed meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: int = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += function in (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
        return function(*args, **(kwargs or {}))


def backward_calls(predict: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """Returns a prediction, and how many gradients it computes on the way; a plain network computes none."""
    watch = _Backward()
    with watch:
        return predict(), watch.calls


def gradient(model: Model, x: Tensor, loss: Loss) -> Tensor | None:
    """Returns the gradient of a loss ``(N, *shape)``, or None where the model's operators have none."""
    try:
        return model.value_and_grad(x, loss).grad
    except (RuntimeError, TypeError, NotImplementedError):
        return None


def textbook(y: Tensor) -> Loss:
    """Returns cross-entropy as everyone computes it, whose gradient underflows where a decision is too sure."""
    return lambda scores, rows: F.cross_entropy(scores, y[rows], reduction="none")


def vanishes(grad: Tensor | None, x: Tensor) -> Tensor:
    """Returns whether a gradient is zero, not finite or missing."""
    if grad is None:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    flat = grad.flatten(1)
    return (flat == 0).all(1) | ~flat.isfinite().all(1)


def unchanged(model: Model, x: Tensor, scores: Tensor, draws: Draws) -> Tensor:
    """Returns whether the scores stay exactly the same under a tiny change of every value."""
    return (model.scores(_moved(model, x, draws.signs(x.shape[1:]).to(x), TINY)) == scores).all(1)


def jump(model: Model, x: Tensor, loss: Loss, draws: Draws, paths: int) -> Tensor:
    r"""Returns the largest part of a path's total change that falls on one of its 16 pieces, the most of all paths.

    .. math:: \max_k |L_k - L_{k-1}| \Big/ \sum_k |L_k - L_{k-1}|, \qquad L_k = L(x + \tfrac{k}{16}\, u)

    It is 1/16 for a linear loss and 1 for a step, at any scale; :math:`u` is uniform within 8/255 of the range. A total
    that rounding may explain counts as none.
    """
    most = x.new_zeros(len(x), dtype=torch.float64)
    for _ in range(paths):
        end = _moved(model, x, draws.uniform(x.shape[1:]).to(x) * 2 - 1, SMALL)
        scores = [model.scores(x + (end - x) * (k / PIECES)) for k in range(PIECES + 1)]
        path = torch.stack([loss(each, slice(None)) for each in scores])
        most = most.maximum(largest_part(path, ROUNDING * scores[0].abs().amax(1)))
    return most


def largest_part(path: Tensor, least: Tensor | float = 0.0) -> Tensor:
    """Returns the largest step's part of a column's total variation ``(steps, N) -> (N,)``; 0 where that is small."""
    steps = path.double().diff(dim=0).abs()
    total = steps.sum(0)
    return torch.where(total > least, steps.amax(0) / total.clamp(min=1e-300), 0)


def instability(model: Model, x: Tensor, loss: Loss, scores: Tensor, draws: Draws, probes: int) -> Tensor:
    r"""Returns the mean relative change of the loss under noise of one level in 255 of the range, each at most 1.

    .. math:: \frac{1}{\gamma} \sum_{j=1}^{\gamma} \min\Bigl(1, \frac{|L(x) - L(x + u_j)|}{|L(x)|}\Bigr)

    The published indicator takes eight levels. There a deep network is sensitive without being random or broken, while
    at one level only those that are remain.
    """
    start = loss(scores, slice(None)).double()
    total = torch.zeros_like(start)
    for _ in range(probes):
        noisy = _moved(model, x, draws.uniform(x.shape[1:]).to(x) - 0.5, FAINT)
        total += relative_change(start, loss(model.scores(noisy), slice(None)).double())
    return total / probes


def relative_change(start: Tensor, end: Tensor) -> Tensor:
    """Returns ``|end - start| / |start|``, at most 1."""
    change = (end - start).abs()
    return (change / start.abs().clamp(min=1e-300)).clamp(max=1)


def incomplete(trace: Tensor, most: float = 0.05) -> Tensor:
    """Returns whether an attack's best loss rose by more than 5 % of its whole rise in the last quarter of its steps.

    Args:
        trace: the loss at each step ``(steps, N)``; to ascend.
        most: the part of the rise that may be left.
    """
    best = trace.double().cummax(0).values
    rise = best[-1] - best[0]
    left = best[-1] - best[-1 - max(1, len(best) // 4)]
    return (rise > 0) & (left > most * rise)


def _moved(model: Model, x: Tensor, direction: Tensor, size: float) -> Tensor:
    """Returns ``x`` moved by a part of the input range, within the bounds."""
    return (x + direction * (size * model.bounds.span)).clamp(model.bounds.low, model.bounds.high)
