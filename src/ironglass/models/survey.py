"""What one pass shows of a network's inside: the layers that run, their shapes, and where its parameters are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Survey(NamedTuple):
    """The shapes a sample has at the layers that run once, in the order they end; and who holds parameters.

    ``holders`` are in the order they begin. One that is never called stands behind the layer that is registered before
    it, and is left out if the scores do not depend on its parameters. The network itself has the empty name.
    """

    shapes: dict[str, tuple[int, ...]]
    holders: list[str]


def survey(whole: nn.Module, net: nn.Module, example: Tensor) -> Survey:
    """Watches samples pass through a network that is frozen and in eval mode.

    Args:
        whole: what is run: the network with its normalization.
        net: the network in it; layers are named as it names them.
        example: samples ``(n, *shape)``, in the network's precision.
    """
    named = dict(net.named_modules())
    began: dict[str, int] = {}
    ended: dict[str, list[tuple[int, ...] | None]] = {}

    def begin(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any) -> None:
            began.setdefault(name, len(began))

        return hook

    def end(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, out: Any) -> None:
            first = out[0] if isinstance(out, tuple) and out else out
            ended.setdefault(name, []).append(tuple(first.shape[1:]) if isinstance(first, Tensor) else None)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in named.items():
            stack.callback(module.register_forward_pre_hook(begin(name)).remove)
            stack.callback(module.register_forward_hook(end(name)).remove)
        whole(example)
    own = {name: list(module.parameters(recurse=False)) for name, module in named.items()}
    used = _used(whole, [p for name, parameters in own.items() if name not in began for p in parameters], example)
    place, last, holders = {}, 0, []
    for name, module in named.items():
        place[name] = last = began.get(name, last)
        tracks = isinstance(getattr(module, "running_mean", None), Tensor)
        if (name in began and (own[name] or tracks)) or any(id(p) in used for p in own[name]):
            holders.append(name)
    shapes = {name: seen[0] for name, seen in ended.items() if name and len(seen) == 1 and seen[0] is not None}
    return Survey(shapes, sorted(holders, key=place.__getitem__))


def _used(whole: nn.Module, parameters: Sequence[nn.Parameter], example: Tensor) -> set[int]:
    """Returns the ids of those parameters that the scores depend on."""
    free = [parameter for parameter in parameters if parameter.is_floating_point()]
    if not free:
        return set()
    with torch.enable_grad():
        for parameter in free:
            parameter.requires_grad_(True)
        scores = whole(example)
        grads = torch.autograd.grad(scores.sum(), free, allow_unused=True) if scores.requires_grad else ()
        for parameter in free:
            parameter.requires_grad_(False)
    return {id(parameter) for parameter, grad in zip(free, grads, strict=False) if grad is not None}


def redraw(module: nn.Module) -> None:
    """Draws a layer's own parameters anew by its initializer, and forgets its running statistics.

    A parameter that the initializer leaves as it was, or that has none, is drawn from a normal distribution of its own
    mean and spread. Draws come from the global generator.
    """
    before = [(parameter, parameter.clone()) for parameter in module.parameters(recurse=False)]
    getattr(module, "reset_parameters", lambda: None)()
    for statistic, value in (("running_mean", 0.0), ("running_var", 1.0)):
        if isinstance(buffer := getattr(module, statistic, None), Tensor):
            buffer.fill_(value)
    for parameter, old in before:
        if parameter.is_floating_point() and torch.equal(parameter, old):
            spread, mean = torch.std_mean(old, correction=0)
            parameter.copy_(torch.randn_like(old) * spread + mean)


def settle(whole: nn.Module, layers: Sequence[nn.Module], noise: Tensor) -> None:
    """Gives the batch norms among layers that were drawn anew the statistics of noise.

    With statistics of 0 and 1 the values of a deep network shrink layer by layer until they are denormal numbers, on
    which a processor is many times slower. Noise, and not the samples: a sample must not depend on its neighbours.
    """
    norms = [
        layer
        for layer in layers
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        whole(noise)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
