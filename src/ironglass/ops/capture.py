r"""Reads a network's graph from one run of it.

`capture` runs the network on two probes that write down what is done to them. So it sees what really runs: functions
and modules alike, shared modules, hooks, parametrizations, shapes that steer the code, tensors changed in place.
Three checks stand between a run and a wrong graph, and each ends in an error:

* an operator that is not in the table of `operators`, or not in this use of it, is refused by name;
* each step is repeated from its written form at once, and has to give what the network gave;
* the whole graph is compared with the network on other points, in a batch of another size: a value that was lost on
  the way, a decision that depended on the data, or samples that mix show there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError

from .bounds import Interval, propagate
from .composite import PARTED, RULES, Wired, written_out
from .graph import Graph, Input, Step
from .operators import ALIASES, Call, Refused


class _Live(Tensor):
    """A probe on its way through the network. Every function that torch applies to it comes to `_Recorder.call`."""

    recorder: _Recorder
    step: int
    version: int

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        live = next(_lives((args, kwargs or {})))
        return live.recorder.call(func, args, dict(kwargs or {}))


def _lives(value: Any) -> Iterator[_Live]:
    if isinstance(value, _Live):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _lives(item)
    elif isinstance(value, dict):
        yield from _lives(list(value.values()))


def _replaced(value: Any, change: Callable[[_Live], Tensor]) -> Any:
    if isinstance(value, _Live):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(_replaced(item, change) for item in value)
    if isinstance(value, dict):
        return {name: _replaced(item, change) for name, item in value.items()}
    return value


class _Recorder:
    """Writes down the steps of one run.

    Args:
        names: of the network's modules, by id.
        probe: a batch of two inputs, in the network's dtype.
        dtype: that the graph's constants get.
    """

    def __init__(self, names: Mapping[int, str], probe: Tensor, dtype: torch.dtype) -> None:
        self.names, self.like, self.finest = names, probe.new_zeros((), dtype=dtype), torch.finfo(dtype).eps
        self.grad = torch.is_grad_enabled()
        self.steps = [Step("input", Input(), (), tuple(probe.shape[1:]), probe.dtype)]
        self.values = [probe.to(dtype)]
        self.probe = self._live(probe.clone(), 0)

    def _live(self, tensor: Tensor, index: int) -> _Live:
        live = tensor.as_subclass(Tensor).as_subclass(_Live)
        live.recorder, live.step, live.version = self, index, tensor._version
        return live

    def call(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs the operator and writes it down.

        Raises:
            InputError: if no rule knows it.
        """
        name = _name(func)
        lives = list(_lives((args, kwargs)))
        if name in PARTED:
            return self._parted(name, func, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            if name in _ASKS or (name in _LIKE and not isinstance(args[0], _Live)):
                return func(*args, **kwargs)
            if any(live._version != live.version for live in lives):
                self._refuse(name, "an input was changed in place, through a view of it")
            if name not in RULES:
                self._refuse(name, "no bound is known for it")
            out = func(*args, **kwargs)
            changed = [live for live in lives if live._version != live.version]
            if not isinstance(out, Tensor) or out.ndim == 0 or any(live is not out for live in changed):
                self._refuse(name, "only calls that return one tensor a sample are known")
            if out.dtype not in (torch.float32, torch.float64) or torch.finfo(out.dtype).eps < self.finest:
                self._refuse(name, f"its result is {out.dtype}; bounds are proven in float32, or wholly in float64")
            index = self._write(name, func, args, kwargs, lives, out.as_subclass(Tensor))
            for live in changed:
                live.step, live.version = index, live._version
                return live
            return self._live(out, index)

    def _parted(self, name: str, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
        """Returns the parts of a tensor, each written down on its own."""
        live = args[0]
        with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            parts = func(*args, **kwargs)
        if not isinstance(live, _Live) or len(list(_lives((args, kwargs)))) > 1:
            self._refuse(name, "only its first argument may depend on the network's input")
        given = kwargs.get("dim", args[-1] if len(args) > (1 if name == "unbind" else 2) else 0)
        dim = int(given) % live.ndim
        if name == "unbind":
            return tuple(live.select(dim, i) for i in range(len(parts)))
        ends = [0]
        for part in parts:
            ends.append(ends[-1] + part.shape[dim])
        return tuple(live.narrow(dim, start, end - start) for start, end in pairwise(ends))

    def _write(
        self, name: str, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], lives: list[_Live], out: Tensor
    ) -> int:
        """Appends the steps of a call and repeats them on the probes; returns the last one's index."""
        call = Call(name, func, out, [self.values[live.step] for live in lives], self.like)
        rule, many = RULES[name]
        values = _replaced((args, kwargs), lambda live: self.values[live.step])
        index, inputs = lives[0].step, tuple(live.step for live in lives)
        try:
            if not many and (len(lives) != 1 or not isinstance(args[0], _Live)):
                raise Refused("only its first argument may depend on the network's input")
            with torch.set_grad_enabled(self.grad):
                ops = rule(call, *values[0], **values[1])
            known = list(inputs)  # the steps that a wired one may name
            for part in ops:
                op, inputs = (
                    (part.op, tuple(known[i] for i in part.inputs)) if isinstance(part, Wired) else (part, inputs)
                )
                value = op(*(self.values[i] for i in inputs))
                if len(value) != len(self.values[0]):
                    raise Refused("it mixes the samples of a batch")
                self.values.append(value)
                self.steps.append(Step(self._place(name), op, inputs, tuple(value.shape[1:]), out.dtype))
                index, inputs = len(self.steps) - 1, (len(self.steps) - 1,)
                known.append(index)
            if not _same(self.values[index], out) and not self._near(index, out):
                raise Refused("this use of it is not understood: its result could not be reproduced")
        except Refused as reason:
            self._refuse(name, str(reason))
        except TypeError as error:
            self._refuse(name, f"it is called in an unusual way ({error})")
        return index

    def _near(self, index: int, out: Tensor) -> bool:
        """Whether rounding alone may explain the difference, where sums cancel."""
        return _rounded(Graph(_reached(self.steps, index)), self.values[0], out)

    def _place(self, name: str) -> str:
        """The operator's name and the module it runs in: the innermost frame that belongs to one."""
        frame = sys._getframe(1)
        while frame.f_back is not None:
            frame = frame.f_back
            module = self.names.get(id(frame.f_locals.get("self")))
            if module is not None:
                return f"{name} at '{module}'" if module else name
        return name

    def _refuse(self, name: str, reason: str) -> NoReturn:
        raise InputError(
            f"bounds cannot pass the operator {self._place(name)}: {reason}",
            "use a method that does not look inside the network, such as randomized smoothing or an attack; or build "
            "the network, in eval mode, of these: " + ", ".join(sorted({re.sub("[123]d$", "", n) for n in RULES})),
        )


_ASKS = frozenset(
    (
        *("shape", "size", "dim", "ndim", "ndimension", "numel", "nelement", "len", "stride", "is_contiguous", "hash"),
        *("dtype", "is_floating_point", "is_complex", "requires_grad", "layout", "is_sparse", "is_quantized"),
        *("device", "get_device", "is_cuda", "is_mps", "is_nested"),
        *("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_tensor"),
    )
)
"""Questions whose answers do not depend on a tensor's values."""
_LIKE = frozenset(("to", "type_as", "expand_as", "view_as", "reshape_as"))
"""What makes a constant like a probe."""


def _name(func: Callable[..., Any]) -> str:
    name = func.__name__
    if name == "__get__":
        name = func.__self__.__name__  # type: ignore[attr-defined]
    return ALIASES.get(name.strip("_"), name.strip("_"))


def _same(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    ours, theirs = ours.double(), theirs.double()
    scale = float(theirs.abs().nan_to_num(0.0, posinf=0.0).amax()) if theirs.numel() else 0.0
    return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * scale + 1e-30, equal_nan=True)


def capture(module: nn.Module, x: Tensor, dtype: torch.dtype) -> Graph:
    """Returns the graph of a network.

    Args:
        module: in eval mode; takes ``(N, *shape)`` and returns scores ``(N, classes)``.
        x: some inputs in the network's dtype and on its device ``(n, *shape)``: the probes.
        dtype: that the graph's constants get, at least as precise as the network's.

    Raises:
        InputError: if an operator cannot be bounded, with its name, or if the graph does not repeat the network.
    """
    names = {id(part): name for name, part in module.named_modules()}
    with torch.inference_mode(False):
        recorder = _Recorder(names, torch.stack([x[0], x[-1]]), dtype)
        with written_out(module):
            end = module(recorder.probe)
        if not isinstance(end, _Live) or end.ndim != 2:
            given = f"shape {tuple(end.shape)}" if isinstance(end, Tensor) else type(end).__name__
            raise InputError(
                f"the network's output ({given}) does not come from its input by operators that can be followed",
                "return logits (N, classes), and compute them with PyTorch operators outside TorchScript and compile",
            )
        graph = Graph(_reached(recorder.steps, end.step))
        low, span = x.amin(), (x.amax() - x.amin()).clamp(min=0.1)
        others = torch.stack([x[0].flip(-1), low + span - (x[-1] - low), (x[0] + low) / 2])
        with torch.no_grad():
            ours, theirs = others[:2].to(dtype), module(others)[:2]
            agree = _same(graph(ours), theirs) or _rounded(graph, ours, theirs)
    if not agree:
        raise InputError(
            "the network's graph depends on the data or on the batch: it does not repeat the network on other inputs",
            "compute the scores of a sample from that sample alone, without branches on its values",
        )
    return graph


def _rounded(graph: Graph, x: Tensor, out: Tensor) -> bool:
    """Whether the output lies in the interval that rounding alone leaves of the graph's."""
    last = len(graph.steps) - 1
    value = propagate(graph, Interval(x, x), [last])[last]
    return value.lower.shape == out.shape and bool(((value.lower <= out) & (out <= value.upper)).all())


def _reached(steps: list[Step], end: int) -> tuple[Step, ...]:
    """The steps that lead to the output, numbered anew."""
    needed = {0, end}
    for index in range(end, 0, -1):
        if index in needed:
            needed.update(steps[index].inputs)
    order = {index: new for new, index in enumerate(sorted(needed))}
    return tuple(replace(steps[i], inputs=tuple(order[j] for j in steps[i].inputs)) for i in sorted(needed))
