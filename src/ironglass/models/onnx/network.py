"""An ONNX file as one PyTorch network: every node a module, run in the file's order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ironglass.core.errors import extra

from .node import BATCH, Node, Refused
from .rules import RULES

FLOATS = (torch.float32, torch.float64)
RESERVED = {"wires", "entry", "output", *vars(nn.Module())}
"""Names that a network's own attributes have."""


@dataclass(frozen=True, slots=True)
class Wire:
    """Which values a module reads and which it gives, by their names in the file."""

    module: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OnnxNetwork(nn.Module):
    """The nodes of a file as modules. It takes a batch ``(n, *shape)`` and returns the output ``(n, …)``.

    Args:
        parts: the modules by name.
        wires: of each module in the order they run.
        entry: the input's name.
        output: the output's.
    """

    def __init__(self, parts: dict[str, nn.Module], wires: Sequence[Wire], entry: str, output: str) -> None:
        super().__init__()
        self.wires, self.entry, self.output = tuple(wires), entry, output
        for name, part in parts.items():
            self.add_module(name, part)
        last = {name: i for i, wire in enumerate(self.wires) for name in wire.inputs}
        self._done = [tuple(name for name in set(w.inputs) if last[name] == i) for i, w in enumerate(self.wires)]

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output."""
        values: dict[str, Tensor] = {self.entry: x}
        for wire, done in zip(self.wires, self._done, strict=True):
            out = getattr(self, wire.module)(*(values[name] for name in wire.inputs))
            values.update(zip(wire.outputs, out if isinstance(out, tuple) else (out,), strict=False))
            for name in done:
                if name != self.output:
                    del values[name]
        return values[self.output]


def onnx_network(
    path: str | Path, shape: Sequence[int] | None = None, output: str | None = None, logits: bool = True
) -> OnnxNetwork:
    """Reads an ONNX file as a PyTorch network, for a batch of any size.

    Args:
        path: the file.
        shape: of one sample as the file orders it; the file's own where None.
        output: the name of the output; the first where None.
        logits: leave out a softmax that gives the output.

    Raises:
        Refused: if an operator, or an attribute of one, is not known; names it.
        MissingExtra: if the library that reads ONNX files is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise extra("onnx", "onnx") from None
    model = onnx.load(str(path))
    return _Reader(onnx, model).network(shape, output, logits)


class _Reader:
    """Writes nodes as modules one by one, and runs each on two probes at once."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self._onnx, self._graph = onnx, model.graph
        self._versions = list(model.opset_import)
        self._opset = next((item.version for item in self._versions if item.domain in ("", "ai.onnx")), 1)
        self._values: dict[str, Tensor] = {
            item.name: _tensor(onnx.numpy_helper.to_array(item)) for item in self._graph.initializer
        }
        self._live: set[str] = set()
        self._parts: dict[str, nn.Module] = {}
        self._wires: list[Wire] = []

    def network(self, shape: Sequence[int] | None, output: str | None, logits: bool) -> OnnxNetwork:
        """Returns the network that leads to an output."""
        entry = next((item for item in self._graph.input if item.name not in self._values), None)
        if entry is None:
            raise Refused("the file's graph has no input", "export it anew")
        end = output or self._graph.output[0].name
        nodes = self._needed(end)
        self._probe(entry, shape)
        for node in nodes:
            last = node.op_type == "Softmax" and end in node.output
            if last and logits and self._values[node.input[0]].ndim == 2:
                end = node.input[0]
            else:
                self._write(node)
        if end not in self._live:
            raise Refused("the output does not depend on the input", "export it anew")
        return OnnxNetwork(self._parts, self._wires, entry.name, end).eval()

    def _needed(self, end: str) -> list[Any]:
        wanted, kept = {end}, []
        for node in reversed(self._graph.node):
            if wanted & set(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1]

    def _probe(self, entry: Any, shape: Sequence[int] | None) -> None:
        kind = self._onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        own = [item.dim_value for item in entry.type.tensor_type.shape.dim][1:]
        sample = list(shape if shape is not None else own)
        if not own or 0 in sample:
            raise Refused(f"its input has shape {own} after the batch's size", "give shape=")
        generator = torch.Generator().manual_seed(0)
        probe = torch.rand(2, *sample, generator=generator, dtype=torch.float64).to(_tensor(np.zeros((), kind)).dtype)
        if probe.dtype not in FLOATS:
            raise Refused(f"its input is {kind}", "export it in float32 or float64")
        self._values[entry.name], self._live = probe, {entry.name}

    def _write(self, item: Any) -> None:
        names = list(item.input)
        attributes = {a.name: self._attribute(a) for a in item.attribute}
        live = [name in self._live for name in names]
        used = [name for name in item.output if name]
        node = Node(
            item.op_type, item.name or used[0], self._opset,
            [self._values.get(name) if name else None for name in names], live, attributes, len(used),
        )  # fmt: skip
        if item.domain not in ("", "ai.onnx"):
            raise node.refuse(f"the operators of {item.domain} are not known")
        if not any(live):
            self._fold(node, item, used)
            return
        if item.op_type == "Shape":
            sizes = torch.tensor([BATCH, *node.x.shape[1:]])
            self._values[used[0]] = sizes[node.get("start", 0) : node.get("end", len(sizes))]
            return
        if item.op_type not in RULES:
            raise node.refuse("this operator is not known")
        module = RULES[item.op_type](node).eval()
        if node.unread():
            raise node.refuse(f"its attribute {', '.join(node.unread())} is not known")
        inputs = tuple(name for name, alive in zip(names, live, strict=True) if alive)
        with torch.no_grad():
            try:
                out = module(*(self._values[name] for name in inputs))
            except (RuntimeError, IndexError, ValueError) as error:
                raise node.refuse(str(error).splitlines()[0]) from error
        outs = out if isinstance(out, tuple) else (out,)
        if any(len(value) != 2 for value in outs):
            raise node.refuse("it mixes the samples of a batch")
        self._values.update(zip(used, outs, strict=False))
        self._live.update(used)
        self._keep(item, module, inputs, tuple(used))

    def _keep(self, item: Any, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        """Adds a module; a constant that is added to a product of a matrix becomes its bias."""
        if item.op_type == "Add" and len(inputs) == 1 and self._wires and self._wires[-1].outputs == inputs:
            before: Any = self._parts[self._wires[-1].module]
            bias = next(iter(module.buffers()))
            if type(before) is nn.Linear and getattr(before, "bias", 0) is None and self._readers(inputs[0]) == 1:
                flat = bias.reshape(-1)
                if flat.numel() in (1, before.out_features) and flat.numel() == bias.shape[-1:].numel():
                    before.bias = nn.Parameter(flat.expand(before.out_features).clone())
                    self._wires[-1] = Wire(self._wires[-1].module, self._wires[-1].inputs, outputs)
                    return
        name = _name(item.name or outputs[0], self._parts)
        self._parts[name] = module
        self._wires.append(Wire(name, inputs, outputs))

    def _readers(self, name: str) -> int:
        names = [each for node in self._graph.node for each in node.input]
        return [*names, *(item.name for item in self._graph.output)].count(name)

    def _fold(self, node: Node, item: Any, used: list[str]) -> None:
        """Computes what does not depend on the input, as the format's own reference does."""
        from onnx.reference import ReferenceEvaluator

        helper, feeds = self._onnx.helper, {}
        for name, value in zip(item.input, node.values, strict=True):
            if name and value is None:
                raise node.refuse(f"its input {name} is missing")
            if name and value is not None:
                feeds[name] = value.numpy()
        entries = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in feeds.items()
        ]
        outs = [helper.make_empty_tensor_value_info(name) for name in used]
        graph = helper.make_graph([item], "constant", entries, outs)
        try:
            found = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._versions)).run(None, feeds)
        except Exception as error:  # the reference's errors have no common base
            raise node.refuse(f"a constant cannot be computed ({type(error).__name__}: {error})") from error
        self._values.update({name: _tensor(np.asarray(value)) for name, value in zip(used, found, strict=True)})

    def _attribute(self, attribute: Any) -> Any:
        value = self._onnx.helper.get_attribute_value(attribute)
        kinds = self._onnx.AttributeProto
        return _tensor(self._onnx.numpy_helper.to_array(value)) if attribute.type == kinds.TENSOR else value


def _tensor(array: Any) -> Tensor:
    try:
        return torch.from_numpy(np.array(array))
    except TypeError as error:
        raise Refused(f"a constant is {array.dtype}", "export it in float32 or float64") from error


def _name(text: str, taken: dict[str, nn.Module]) -> str:
    """Returns a module's name: letters and digits, and one more where two nodes share a name."""
    plain = re.sub(r"\W+", "_", text).strip("_") or "node"
    name, count = plain, 1
    while name in taken or name in RESERVED or hasattr(OnnxNetwork, name):
        name, count = f"{plain}_{count}", count + 1
    return name
