"""A private copy of a network, made for speed and checked against the original."""

from __future__ import annotations

import copy
import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from ironglass.core.access import Rows

from .folding import HOOKS, Untraceable, fold, fuse, trace

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
"""How far outputs may be from the original's, relative to the largest; networks of other types are copied as is."""

LARGEST_VALUE = 20 << 20
"""Bytes that one value inside a network may take in a pass on a CPU, for each thread."""

SMALL = 1 << 20
"""Bytes that all values inside a network take for a sample, up to which packed layouts cost more than they save."""

Level = Literal["fused", "folded", "copied"]


@dataclass(frozen=True, eq=False)
class FastNet:
    """A network's private copy: in eval mode, frozen, fast.

    Args:
        net: for gradients to the input; its layers need not be those of the original.
        scorer: for scores alone.
        level: ``copied``: as the original is; ``folded``: batch norms are part of the layers before them; ``fused``:
            folded, and the scorer runs a convolution and its activation as one primitive.
        difference: the largest difference of an output from the original's, on the example.
        why: what stood in the way of a higher level.
    """

    net: nn.Module
    scorer: nn.Module
    level: Level
    difference: float = 0.0
    why: str = ""

    def scores(self, x: Tensor) -> Tensor:
        """Returns the network's output for ``x (n, *shape)``, without a graph."""
        with torch.no_grad():
            return cast(Tensor, self.scorer(x))


def private_copy(net: nn.Module, example: Tensor) -> FastNet | None:
    """Copies a network for speed, and goes only as far as its outputs on the example stay the original's.

    The original is neither run nor changed: outputs are compared with those of a plain copy. The global random state
    stays as it is.

    Args:
        net: a network that returns a tensor.
        example: inputs ``(n, *shape)`` as it takes them, on its device.

    Returns:
        The copy, or None for a network that Python cannot copy.
    """
    try:
        plain = copy.deepcopy(net).eval().requires_grad_(False)
    except Exception:  # a network may hold anything: locks, open files, tensors with a graph
        return None
    with torch.random.fork_rng([example.device] if example.is_cuda else []), torch.no_grad():
        before = _random_states(example)
        wanted = plain(example)
        if wanted.dtype not in TOLERANCE:
            return FastNet(plain, plain, "copied", why=f"outputs are {wanted.dtype}")
        drawn = _random_states(example) != before
        try:
            difference(plain(example), wanted)  # the network may have a generator of its own
        except Untraceable:
            drawn = True
        if drawn:
            return FastNet(plain, plain, "copied", why="it draws random numbers, which a graph would draw once for all")
        return _faster(plain, example, wanted)


def _random_states(example: Tensor) -> tuple[object, ...]:
    """Returns where the generators stand that a network may draw from."""
    on_device = torch.cuda.get_rng_state(example.device) if example.is_cuda else torch.empty(0)
    states = (torch.get_rng_state(), on_device)
    _, words, place, *_ = np.random.get_state()  # noqa: NPY002 - the global generator, which a network may use
    return random.getstate(), cast(Any, words).tobytes(), place, *(state.numpy().tobytes() for state in states)


def _faster(plain: nn.Module, example: Tensor, wanted: Tensor) -> FastNet:
    """Returns the fastest copy that passes the checks; whatever raises on the way is why it is not faster."""
    base: nn.Module = plain
    level: Level = "copied"
    why = []
    try:
        graph = trace(plain)
        difference(_gradient(graph, example), _gradient(plain, example))  # a custom backward pass is not traced
        base, level = graph, "folded"
    except Exception as error:
        why.append(f"not traced: {error}")
    on_cpu = example.device.type == "cpu" and example.dtype == torch.float32
    on_cpu = on_cpu and _sizes(plain, example).total > SMALL  # the rest is there for large networks on a CPU
    layouts = (torch.channels_last, torch.preserve_format) if on_cpu and example.ndim == 4 else (torch.preserve_format,)
    fast = FastNet(plain, plain, "copied")
    for layout in layouts:
        try:
            made = copy.deepcopy(base) if level == "copied" else fold(cast(fx.GraphModule, copy.deepcopy(base)))
            cast(Any, made).to(memory_format=layout)
            fast = FastNet(made, made, level, difference(made(example), wanted))
            break
        except Exception as error:
            why.append(f"not {level} as {layout}: {error}")
    if isinstance(fast.net, fx.GraphModule) and fast.level == "folded" and on_cpu:
        try:
            scorer = fuse(fast.net)
            fast = replace(fast, scorer=scorer, level="fused", difference=difference(scorer(example), wanted))
        except Exception as error:
            why.append(f"not fused: {error}")
    return replace(fast, why="; ".join(why))


def _gradient(net: nn.Module, example: Tensor) -> Tensor:
    """Returns the gradient of a mix of the outputs to the first input; zeros where there is none."""
    if not example.is_floating_point():
        return torch.zeros(1)
    with torch.enable_grad():
        leaf = example[:1].detach().clone().requires_grad_()
        out = net(leaf)
        if not out.requires_grad:
            return torch.zeros_like(leaf)
        return torch.autograd.grad(mixed(out).sum(), leaf, materialize_grads=True)[0]


def mixed(out: Tensor, rows: Rows = slice(None)) -> Tensor:
    """Returns a sum of each sample's outputs ``(n,)``, each with a weight of its own: to compare gradients of it."""
    flat = out.flatten(1)
    return flat @ torch.linspace(1, 2, flat.shape[1], dtype=out.dtype, device=out.device)


def difference(given: Tensor, wanted: Tensor) -> float:
    """Returns the largest difference, and raises `Untraceable` if it is too large."""
    if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
        raise Untraceable(f"{given.dtype} {tuple(given.shape)} where {wanted.dtype} {tuple(wanted.shape)} is expected")
    difference, largest = float((given - wanted).abs().max()), float(wanted.abs().max())
    if not difference <= TOLERANCE[wanted.dtype] * largest:  # so that NaN is too large
        raise Untraceable(f"a difference of {difference:.2g} where the largest value is {largest:.2g}")
    return difference


class _Sizes(TorchFunctionMode):
    """Measures the values that functions return meanwhile, in bytes: the largest, and their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.total = 1

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            size = out.numel() * out.element_size()
            self.largest, self.total = max(self.largest, size), self.total + size
        return out


def _sizes(net: nn.Module, example: Tensor) -> _Sizes:
    sizes = _Sizes()
    with torch.no_grad(), sizes:
        net(example[:1])
    return sizes


def rows_per_pass(net: nn.Module, example: Tensor) -> int:
    """Returns how many rows to push through a network at once.

    On a CPU, as many as keep the largest value under 20 MiB a thread: small networks need many rows to hide what a call
    costs, the values of large ones should stay in the caches. On a GPU, as many as half of its free memory holds with
    every value kept for a gradient.

    Args:
        net: a network in eval mode.
        example: inputs ``(n, *shape)``; the first is run.
    """
    sizes = _sizes(net, example)
    if example.is_cuda:
        return max(1, min(512, torch.cuda.mem_get_info(example.device)[0] // (2 * sizes.total)))
    return max(1, min(256, LARGEST_VALUE * torch.get_num_threads() // sizes.largest))


class Snapshot:
    """What a network computes with, as it is now: `matches` says whether a network is that still.

    It covers every bit of each parameter, buffer and other tensor attribute, however it is written; the type, the
    plain settings, the functions, the hooks and the parts of every module. It does not look into other objects that a
    module holds, and ignores train mode, ``requires_grad`` and the order of values in memory.

    It keeps a copy of all tensors: to compare with a copy is exact, and faster than any good hash of the content.

    Args:
        net: is not changed.
    """

    def __init__(self, net: nn.Module) -> None:
        self._parts = [_Part(module) for module in _parts(net)]

    def matches(self, net: nn.Module) -> bool:
        """Returns whether a network computes what that one did."""
        modules = list(_parts(net))
        return len(modules) == len(self._parts) and all(map(_Part.matches, self._parts, modules))


def _parts(net: nn.Module) -> Iterator[nn.Module]:
    """Yields a network and the modules in it, as often as they stand in it."""
    yield net
    for child in net._modules.values():
        if child is not None:
            yield from _parts(child)


_TENSORS = ("_parameters", "_buffers")
_BOOKKEEPING = vars(nn.Module()).keys() - {*_TENSORS, *HOOKS}


class _Part:
    """One module of a `Snapshot`, without the modules in it."""

    def __init__(self, module: nn.Module) -> None:
        own = vars(module)
        self._type, self._names = type(module), own.keys() - _BOOKKEEPING
        self._children = tuple(module._modules.keys())
        self._groups = []
        for name in _TENSORS:
            held = _held(module, name)
            self._groups.append((name, tuple(held.keys()), [_Bits(tensor) for tensor in held.values()]))
        rest = self._names - set(_TENSORS)
        self._tensors = [(name, _Bits(own[name])) for name in rest if isinstance(own[name], Tensor)]
        rest -= {name for name, _ in self._tensors}
        self._settings = [(name, own[name], _unchanging(own[name]), _state(own[name])) for name in rest]

    def matches(self, module: nn.Module) -> bool:
        """Returns whether a module computes what that one did, if the modules in it do."""
        own = vars(module)
        if type(module) is not self._type or tuple(module._modules.keys()) != self._children:
            return False
        if own.keys() - _BOOKKEEPING != self._names:
            return False
        for name, value, unchanging, state in self._settings:
            now = own[name]
            same = now is value and (unchanging or not (state or now))  # nothing is in a dictionary or list, as then
            if not same and _state(now) != state:
                return False
        for name, keys, kept in self._groups:
            now = _held(module, name)
            if tuple(now.keys()) != keys or not all(map(_Bits.match, kept, now.values())):
                return False
        return all(kept.match(own[name]) for name, kept in self._tensors)


def _held(module: nn.Module, name: str) -> Any:
    """Returns a module's own parameters or buffers by name; one that is scripted may keep them elsewhere."""
    return vars(module)[name] if name in vars(module) else dict(getattr(module, f"named{name}")(recurse=False))


def _unchanging(value: Any) -> bool:
    """Whether an object stays as it is."""
    if type(value) is tuple:
        return all(map(_unchanging, value))
    return type(value) in (type(None), bool, int, float, str)


def _state(value: Any) -> Any:
    """Returns a value that stays as it is and compares by content."""
    match value:
        case Tensor():
            content = _content(value).cpu().view(torch.uint8).numpy()
            return value.dtype, value.device, tuple(value.shape), zlib.crc32(content.data)
        case dict():
            return [(key, _state(item)) for key, item in value.items()]
        case list() | tuple():
            return [_state(item) for item in value]
        case None | bool() | int() | float() | str() | FunctionType() | BuiltinFunctionType() | MethodType() | type():
            return value
    return type(value)


def _content(tensor: Tensor) -> Tensor:
    """Returns the values in the order of their indices, flat."""
    data = tensor.detach()
    return (data if data.layout is torch.strided else data.to_dense()).contiguous().flatten()


class _Bits:
    """The content of a tensor, bit by bit, beside a view on where it lies.

    As long as it lies there, both are read in the order of memory; the view keeps that memory from another tensor.
    """

    def __init__(self, tensor: Tensor | None) -> None:
        self._copy: Tensor | None = None
        self._place: tuple[Any, ...] | None = None
        if tensor is not None:
            self._keep(tensor)

    def _keep(self, tensor: Tensor) -> None:
        live, kept = tensor.detach(), tensor.detach().clone()
        self._copy, self._place = kept, None
        if live.layout is torch.strided and live.stride() == kept.stride():  # a clone has no gaps
            self._place = _place(live)
            self._live, self._bits = _integers(live, kept)

    def match(self, now: Any) -> bool:
        """Returns whether a tensor, or None, has that type, shape and content."""
        then = self._copy
        if then is None or not isinstance(now, Tensor):
            return then is now
        if self._place is not None and now.layout is torch.strided and self._place == _place(now):
            return torch.equal(self._live, self._bits)
        same = (now.dtype, now.device, now.shape) == (then.dtype, then.device, then.shape)
        same = same and torch.equal(*(_content(each).view(torch.uint8) for each in (now, then)))
        if same:
            self._keep(now)
        return same


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _integers(*tensors: Tensor) -> list[Tensor]:
    """Returns tensors without gaps as integers, as wide as all of them allow, in the order of memory."""
    flat = [tensor.as_strided((tensor.numel(),), (1,)) for tensor in tensors]
    odd = math.gcd(*(part.element_size() * place for part in flat for place in (part.numel(), part.storage_offset())))
    wide = next(kind for kind in (torch.int64, torch.int32, torch.int16, torch.uint8) if odd % kind.itemsize == 0)
    return [part.view(wide) for part in flat]
