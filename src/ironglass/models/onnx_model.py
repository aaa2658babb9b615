"""ONNX files as models: as networks where all operators are known, else scores through ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError, IronglassWarning, extra

from .onnx import OnnxNetwork, onnx_network
from .onnx.parts import LIVE, Call, Reshape

if TYPE_CHECKING:
    from .adapter import Adapter

Array = np.ndarray[Any, Any]
_TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_FLOOR = 1e-12


class OnnxFunction:
    """A graph of one input and scores ``(n, classes)``, run on the CPU.

    Args:
        path: the file.
        shape: of one sample; the graph's own where None.
        mean: subtracted first, a number or one a channel (or a feature).
        std: divided by then.

    Raises:
        InputError: if the file is damaged, or its input is not one float tensor of known shape.
        MissingExtra: if ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: Path,
        shape: Sequence[int] | None = None,
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        self.path = path
        self._open()
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise InputError(
                f"{path.name} takes {len(inputs)} inputs: {', '.join(item.name for item in inputs)}",
                "export one of a batch alone",
            )
        (entry,) = inputs
        if entry.type not in _TYPES:
            raise InputError(f"{path.name} takes {entry.type}, floats are expected", "export it with a float input")
        self._input, self._type = entry.name, _TYPES[entry.type]
        self._batch, inner = _split(entry.shape, path.name)
        self.last = len(inner) == 3 and inner[2] in (1, 3) and inner[0] not in (1, 3)  # channels last
        own = (inner[2], inner[0], inner[1]) if self.last else inner
        self.shape = _settled(own, tuple(shape) if shape else None, path.name)
        self.normal = tuple(_spread(value, len(self.shape)) for value in (mean, std))
        outputs = [item.name for item in self._session.get_outputs() if item.type in _TYPES]
        if not outputs:
            raise InputError(f"{path.name} gives no float output", "export scores (n, classes)")
        self._output = "logits" if "logits" in outputs else outputs[0]
        self.softmax = _ends_in_softmax(path, self._output)

    def __call__(self, batch: Array) -> Array:
        """Returns the scores ``(n, classes)``; the logarithm of them where the graph ends in a softmax."""
        mean, std = self.normal
        x = batch if mean is None else batch - mean
        return self.bare(x if std is None else x / std)

    def bare(self, x: Array) -> Array:
        """Returns the scores of inputs that are normalized already."""
        out = self.given(x.transpose(0, 2, 3, 1) if self.last else x)
        out = out.astype(np.float32) if out.dtype == np.float16 else out
        return np.log(np.maximum(out, _FLOOR)) if self.softmax else out

    def given(self, x: Array) -> Array:
        """Returns the file's own outputs, flat, for inputs as the file orders them."""
        x = np.ascontiguousarray(x, dtype=self._type)
        size = self._batch or len(x)
        return np.concatenate([self._run(x[start : start + size], size) for start in range(0, len(x), size)])

    @property
    def own(self) -> tuple[int, ...]:
        """The shape of one sample as the file orders it."""
        return (*self.shape[1:], self.shape[0]) if self.last else self.shape

    def network(self, logits: bool = True) -> OnnxNetwork:
        """Returns the graph as a network that takes inputs as the file orders them."""
        return onnx_network(self.path, self.own, self._output, logits)

    def points(self) -> Array:
        """Returns random inputs: half from [0, 1], half normal."""
        random = np.random.default_rng(0)
        points = np.concatenate([random.random((3, *self.shape)), random.normal(size=(3, *self.shape))])
        return points.astype(self._type)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise extra("onnx", "onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common base
            raise InputError(
                f"ONNX Runtime cannot load {self.path.name}: {(str(error).splitlines() or [''])[0]}",
                "export the network anew",
            ) from error

    def _run(self, part: Array, size: int) -> Array:
        """Runs a part of at most ``size`` samples, filled up where the graph has a fixed batch."""
        missing = size - len(part)
        full = np.concatenate([part, np.repeat(part[-1:], missing, 0)]) if missing else part
        out: Array = self._session.run([self._output], {self._input: full})[0]
        if out.shape[0] != size and out.size % size:
            raise InputError(
                f"{self.path.name} gives shape {out.shape} for a batch of {size}", "export scores (n, classes)"
            )
        return out.reshape(size, -1)[: len(part)]


def onnx_model(
    path: Path,
    *,
    shape: Sequence[int] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    device: str | None = None,
    **options: Any,
) -> Adapter:
    """Wraps an ONNX file; arguments as of `OnnxFunction`, the others are passed on to `wrap`.

    Where every operator is known the model is a PyTorch network, compared with ONNX Runtime on random points, that
    gives all access. Else it gives scores alone, and a warning says why.
    """
    from .adapter import wrap

    function = OnnxFunction(path, shape, mean, std)
    try:
        net = _network(function)
    except InputError as reason:
        warnings.warn(
            f"{path.name} gives scores alone, through ONNX Runtime: {reason.message}", IronglassWarning, stacklevel=2
        )
        name = path.stem + (" (log-probabilities)" if function.softmax else "")
        return wrap(function, arrays="numpy", shape=function.shape, **({"name": name} | options))
    name = path.stem + (" (before its softmax)" if function.softmax else "")
    found: dict[str, Any] = {"name": name, "mean": mean, "std": std, "device": device, "shape": function.shape}
    return wrap(net, **(found | options))


def exact_network(path: Path) -> tuple[nn.Module, tuple[int, ...], Callable[[Tensor], Tensor]]:
    """Returns a file's network, the shape of its input, and ONNX Runtime as a function beside it.

    Both take and give values as the file orders them, and nothing is left out, so that properties of the file are
    properties of the network. It is frozen.

    Raises:
        InputError: if an operator is not known, or ONNX Runtime gives other values.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}", "give an ONNX file")
    function = OnnxFunction(path)
    points = function.points()
    points = points.transpose(0, 2, 3, 1) if function.last else points
    net = _compared(function.network(logits=False), points, function.given(points)).requires_grad_(False)
    return net, function.own, lambda x: torch.as_tensor(function.given(x.numpy()))


def _network(function: OnnxFunction) -> nn.Module:
    """The file as a network that takes what the function takes, and gives its scores.

    Raises:
        InputError: if it cannot be had, or ONNX Runtime gives other scores.
    """
    if len(function.shape) == 2 and any(isinstance(value, np.ndarray) and value.ndim for value in function.normal):
        raise InputError("one mean a row is not known for networks", "give numbers")
    net: nn.Module = function.network()
    if function.last:
        net = nn.Sequential(Call(torch.permute, LIVE, (0, 2, 3, 1)), net).eval()
    points = function.points()
    return _compared(net, points, function.bare(points), softmax=function.softmax)


def _compared(net: nn.Module, points: Array, theirs: Array, softmax: bool = False) -> nn.Module:
    """The network with a flat output, once it is known to repeat ONNX Runtime."""
    with torch.no_grad():
        out = net(torch.as_tensor(np.ascontiguousarray(points)))
    if out.ndim != 2:
        net, out = nn.Sequential(net, Reshape((out[0].numel(),))).eval(), out.flatten(1)
    ours, given = out.log_softmax(1) if softmax else out, torch.as_tensor(theirs).to(out)
    scale = float(given.abs().nan_to_num(0, 0, 0).amax())
    if ours.shape != given.shape or not torch.allclose(ours, given, rtol=1e-3, atol=1e-4 * scale + 1e-6):
        raise InputError("as a network it gives other scores than ONNX Runtime", "report it with the file")
    return net


def _split(dims: Sequence[int | str | None], where: str) -> tuple[int | None, tuple[int | None, ...]]:
    """Returns the fixed batch, or None, and a sample's sizes, None where they are open."""
    if len(dims) < 2:
        raise InputError(
            f"the input of {where} has shape {list(dims)}, (batch, …) is expected", "export it with a batch axis"
        )
    batch, *inner = (size if isinstance(size, int) and size > 0 else None for size in dims)
    return batch, tuple(inner)


def _settled(own: tuple[int | None, ...], wanted: tuple[int, ...] | None, where: str) -> tuple[int, ...]:
    if wanted is None:
        if None in own:
            raise InputError(f"{where} leaves the sizes of its input open: {own}", "give shape=, e.g. (3, 224, 224)")
        return tuple(size for size in own if size is not None)
    if len(wanted) != len(own) or any(size not in (None, given) for size, given in zip(own, wanted, strict=True)):
        raise InputError(f"{where} takes samples of shape {own}, {wanted} was given", "leave shape out, or correct it")
    return wanted


def _spread(value: Sequence[float] | float | None, axes: int) -> Array | None:
    """Brings one value a channel, or a feature, to broadcast over samples."""
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float64)
    return array if array.ndim == 0 else array.reshape(-1, *(1,) * (axes - 1))


def _ends_in_softmax(path: Path, output: str) -> bool:
    try:
        import onnx
    except ImportError:
        raise extra("onnx", "onnx") from None
    graph = onnx.load(str(path), load_external_data=False).graph
    return any(node.op_type == "Softmax" and output in node.output for node in graph.node)
