"""Small networks as ONNX files, and properties as VNN-LIB files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn


def save_mlp(path: Path, net: nn.Sequential, *, softmax: bool = False) -> Path:
    """Writes linear layers with ReLUs between, for a batch of one."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []
    last = "x"
    for number, layer in enumerate(net):
        if isinstance(layer, nn.Linear):
            for name in ("weight", "bias"):
                value = getattr(layer, name).detach().float().numpy()
                constants.append(numpy_helper.from_array(value, f"{name}{number}"))
            inputs = [last, f"weight{number}", f"bias{number}"]
            nodes.append(helper.make_node("Gemm", inputs, [f"v{number}"], transB=1))
        else:
            nodes.append(helper.make_node("Relu", [last], [f"v{number}"]))
        last = f"v{number}"
    nodes.append(helper.make_node("Softmax" if softmax else "Identity", [last], ["y"]))
    first, end = net[0].in_features, net[-1].out_features
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, first])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, end])
    graph = helper.make_graph(nodes, "mlp", [entry], [out], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def save_property(path: Path, low: Tensor, high: Tensor, outputs: int, asserts: Sequence[str]) -> Path:
    """Writes a box and assertions of the outputs."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(low))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        lines.append(f"(assert (>= X_{i} {a!r}))(assert (<= X_{i} {b!r}))")
    lines += [f"(assert {text})" for text in asserts]
    path.write_text("\n".join(lines))
    return path
