"""ONNX operators as PyTorch modules, each beside ONNX Runtime."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironglass.core.errors import InputError, IronglassWarning
from ironglass.models.onnx_model import OnnxFunction
from ironglass.models.sources import load_model

onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from ironglass.models.onnx import OnnxNetwork, onnx_network  # noqa: E402
from ironglass.models.onnx import rules as onnx_rules  # noqa: E402
from ironglass.models.onnx.node import Node, Refused  # noqa: E402
from ironglass.models.onnx.windows import conv  # noqa: E402

RANDOM = np.random.default_rng(0)
Consts = dict[str, Any]


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.normal(size=shape).astype(np.float32)


def save(path: Path, nodes: list[Any], shape: list[Any], constants: Consts, opset: int = 17) -> Path:
    """Writes a graph whose input is ``x`` and whose output is ``y``."""
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    out = helper.make_empty_tensor_value_info("y")
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [entry], [out], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def node(op: str, *names: str, **attributes: Any) -> Any:
    return helper.make_node(op, ["x", *names], ["y"], **attributes)


def runtime(path: Path, x: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])


ints = lambda *values: np.array(values, dtype=np.int64)  # noqa: E731
IMAGE, ROW, LINE = [4, 7, 6], [6], [4, 9]
W2, W1 = {"w": floats(6, 4, 3, 2), "b": floats(6)}, {"w": floats(6, 4, 3), "b": floats(6)}
GROUPED = {"w": floats(6, 2, 3, 2), "b": floats(6)}
BACK = {"w": floats(4, 3, 3, 2), "b": floats(3)}
NORM = {"s": floats(4), "b": floats(4), "m": floats(4), "v": np.abs(floats(4)) + 0.1}
CASES: dict[str, tuple[Any, list[int], Consts, int]] = {
    "gemm": (node("Gemm", "w", "b", alpha=0.5, beta=2.0, transB=1), ROW, {"w": floats(5, 6), "b": floats(5)}, 17),
    "gemm scalar bias": (node("Gemm", "w", "b"), ROW, {"w": floats(6, 5), "b": floats(1)}, 17),
    "gemm row bias": (node("Gemm", "w", "b"), ROW, {"w": floats(6, 5), "b": floats(1, 5)}, 17),
    "matmul": (node("MatMul", "w"), [3, 6], {"w": floats(6, 5)}, 17),
    "conv": (node("Conv", "w", "b", pads=[1, 0, 1, 0], strides=[2, 1]), IMAGE, W2, 17),
    "conv uneven": (node("Conv", "w", "b", pads=[0, 1, 2, 0], strides=[2, 2]), IMAGE, W2, 17),
    "conv dilated": (node("Conv", "w", pads=[1, 1, 1, 1], dilations=[2, 3]), IMAGE, {"w": W2["w"]}, 17),
    "conv groups": (node("Conv", "w", "b", group=2), IMAGE, GROUPED, 17),
    "conv same upper": (node("Conv", "w", "b", auto_pad="SAME_UPPER", strides=[2, 2]), IMAGE, W2, 17),
    "conv same lower": (node("Conv", "w", "b", auto_pad="SAME_LOWER", strides=[2, 3]), IMAGE, W2, 17),
    "conv valid": (node("Conv", "w", "b", auto_pad="VALID"), IMAGE, W2, 17),
    "conv 1d": (node("Conv", "w", "b", pads=[2, 1], strides=[2], dilations=[2]), LINE, W1, 17),
    "transposed": (
        node("ConvTranspose", "w", "b", pads=[1, 0, 1, 0], strides=[2, 3], output_padding=[1, 2]), IMAGE, BACK, 17,
    ),
    "transposed uneven": (node("ConvTranspose", "w", "b", pads=[0, 1, 2, 0], strides=[2, 2]), IMAGE, BACK, 17),
    "transposed groups": (
        node("ConvTranspose", "w", "b", group=2, dilations=[1, 2]), IMAGE, {"w": floats(4, 2, 2, 2), "b": floats(4)},
        17,
    ),
    "batch norm": (node("BatchNormalization", "s", "b", "m", "v", epsilon=0.01, momentum=0.8), IMAGE, NORM, 17),
    "max": (node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 1]), IMAGE, {}, 17),
    "max uneven": (node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 2]), IMAGE, {}, 17),
    "max ceil": (node("MaxPool", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1), IMAGE, {}, 17),
    "max ceil uneven": (
        node("MaxPool", kernel_shape=[3, 3], strides=[3, 2], pads=[1, 0, 0, 2], ceil_mode=1), IMAGE, {}, 17,
    ),
    "max dilated": (node("MaxPool", kernel_shape=[2, 2], dilations=[2, 3]), IMAGE, {}, 17),
    "max same": (node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"), IMAGE, {}, 17),
    "max 1d": (node("MaxPool", kernel_shape=[3], strides=[2], pads=[0, 1]), LINE, {}, 17),
    "average": (node("AveragePool", kernel_shape=[3, 2], strides=[2, 2]), IMAGE, {}, 17),
    "average padded": (node("AveragePool", kernel_shape=[3, 2], pads=[1, 1, 1, 0]), IMAGE, {}, 17),
    "average pads counted": (
        node("AveragePool", kernel_shape=[3, 2], pads=[1, 1, 0, 1], count_include_pad=1), IMAGE, {}, 17,
    ),
    "average ceil": (node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), IMAGE, {}, 19),
    "average ceil counted": (
        node("AveragePool", kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1),
        IMAGE, {}, 19,
    ),
    "global average": (node("GlobalAveragePool"), IMAGE, {}, 17),
    "global max": (node("GlobalMaxPool"), IMAGE, {}, 17),
    "mean": (node("ReduceMean", axes=[2, -1], keepdims=0), IMAGE, {}, 17),
    "mean of inputs": (node("ReduceMean", "a", keepdims=1), IMAGE, {"a": ints(-1)}, 18),
    "sum": (node("ReduceSum", "a", keepdims=0), IMAGE, {"a": ints(1)}, 17),
    "relu": (node("Relu"), ROW, {}, 17),
    "leaky": (node("LeakyRelu", alpha=0.3), ROW, {}, 17),
    "prelu": (node("PRelu", "a"), IMAGE, {"a": floats(4, 1, 1)}, 17),
    "elu": (node("Elu", alpha=0.7), ROW, {}, 17),
    "selu": (node("Selu"), ROW, {}, 17),
    "hard sigmoid": (node("HardSigmoid", alpha=0.3, beta=0.4), ROW, {}, 17),
    "hard swish": (node("HardSwish"), ROW, {}, 17),
    "sigmoid": (node("Sigmoid"), ROW, {}, 17),
    "tanh": (node("Tanh"), ROW, {}, 17),
    "softplus": (node("Softplus"), ROW, {}, 17),
    "gelu": (node("Gelu", approximate="tanh"), ROW, {}, 20),
    "clip": (node("Clip", "lo", "hi"), ROW, {"lo": np.float32(-0.5), "hi": np.float32(0.3)}, 17),
    "clip above": (node("Clip", "", "hi"), ROW, {"hi": np.float32(0.3)}, 17),
    "clip of old": (node("Clip", min=-0.2, max=0.4), ROW, {}, 7),
    "softmax": (node("Softmax", axis=2), IMAGE, {}, 17),
    "log softmax": (node("LogSoftmax", axis=-1), IMAGE, {}, 11),
    "power": (node("Pow", "a"), ROW, {"a": np.float32(2)}, 17),
    "add": (node("Add", "a"), IMAGE, {"a": floats(4, 1, 1)}, 17),
    "subtract from": (helper.make_node("Sub", ["a", "x"], ["y"]), IMAGE, {"a": floats(1, 4, 7, 6)}, 17),
    "multiply": (node("Mul", "a"), IMAGE, {"a": floats(6)}, 17),
    "divide": (node("Div", "a"), IMAGE, {"a": np.float32(3)}, 17),
    "add itself": (node("Add", "x"), IMAGE, {}, 17),
    "flatten": (node("Flatten"), IMAGE, {}, 17),
    "reshape": (node("Reshape", "s"), IMAGE, {"s": ints(0, -1, 6)}, 17),
    "reshape free": (node("Reshape", "s"), IMAGE, {"s": ints(-1, 28, 6)}, 17),
    "transpose": (node("Transpose", perm=[0, 2, 3, 1]), IMAGE, {}, 17),
    "squeeze": (node("Squeeze", "a"), [1, 5], {"a": ints(1)}, 17),
    "squeeze of old": (node("Squeeze", axes=[1]), [1, 5], {}, 11),
    "unsqueeze": (node("Unsqueeze", "a"), ROW, {"a": ints(1, -1)}, 17),
    "concat": (helper.make_node("Concat", ["x", "c", "x"], ["y"], axis=-1), IMAGE, {"c": floats(1, 4, 7, 2)}, 17),
    "slice": (
        node("Slice", "s", "e", "a", "t"), IMAGE,
        {"s": ints(1, -5), "e": ints(2**40, -1), "a": ints(1, 3), "t": ints(2, 1)}, 17,
    ),
    "slice of old": (node("Slice", starts=[1], ends=[3], axes=[2]), IMAGE, {}, 9),
    "gather": (node("Gather", "i", axis=1), IMAGE, {"i": ints(2, 0)}, 17),
    "gather one": (node("Gather", "i", axis=-1), IMAGE, {"i": np.int64(2)}, 17),
    "pad": (node("Pad", "p", "v"), IMAGE, {"p": ints(0, 1, 0, 2, 0, 0, 1, 3), "v": np.float32(0.5)}, 17),
    "pad edge": (node("Pad", "p", mode="edge"), IMAGE, {"p": ints(0, 0, 0, 2, 0, 0, 1, 3)}, 17),
    "pad reflect": (node("Pad", "p", mode="reflect"), IMAGE, {"p": ints(0, 0, 1, 2, 0, 0, 1, 3)}, 17),
    "pad of old": (node("Pad", pads=[0, 0, 1, 0, 0, 0, 0, 2], value=1.5), IMAGE, {}, 9),
    "pad of some axes": (node("Pad", "p", "v", "a"), IMAGE, {"p": ints(1, 2), "v": np.float32(0), "a": ints(-1)}, 18),
    "dropout": (node("Dropout"), ROW, {}, 17),
    "cast": (node("Cast", to=1), ROW, {}, 17),
    "identity": (node("Identity"), ROW, {}, 17),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators_give_what_the_runtime_gives(tmp_path: Path, name: str) -> None:
    made, shape, constants, opset = CASES[name]
    path = save(tmp_path / "net.onnx", [made], list(shape), constants, opset)
    x = torch.from_numpy(floats(1 if name == "concat" else 3, *shape))
    torch.testing.assert_close(_net(path)(x), runtime(path, x), rtol=1e-5, atol=1e-5)


def _net(path: Path) -> OnnxNetwork:
    return onnx_network(path)


REFUSED: dict[str, tuple[Any, list[int], Consts, int, str]] = {
    "operator": (node("Einsum", equation="ij->ij"), ROW, {}, 17, "Einsum at 'y': this operator is not known"),
    "live weight": (node("Conv", "x"), [4, 3, 3], {}, 17, "Conv at 'y': its weight is not a constant"),
    "axis of samples": (node("Concat", "x", axis=0), ROW, {}, 17, "joins samples"),
    "flatten all": (node("Flatten", axis=0), ROW, {}, 17, "mixes the samples"),
    "transposed samples": (node("Transpose", perm=[1, 0]), ROW, {}, 17, "mixes the samples"),
    "reshape": (node("Reshape", "s"), IMAGE, {"s": ints(4, -1)}, 17, "mixes the samples"),
    "transA": (node("Gemm", "w", transA=1), ROW, {"w": floats(3, 3)}, 17, "mixes the samples"),
    "constant a sample": (node("Add", "a"), ROW, {"a": floats(3, 6)}, 17, "differs from sample to sample"),
    "average dilated": (
        node("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]), IMAGE, {}, 19, "AveragePool at 'y': dilations",
    ),
    "max dilated uneven": (
        node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2], pads=[0, 0, 1, 1]), IMAGE, {}, 17, "uneven padding",
    ),
    "output shape": (
        node("ConvTranspose", "w", output_shape=[9, 9]), IMAGE, {"w": BACK["w"]}, 17, r"output_shape=\[9, 9\]",
    ),
    "backward slice": (
        node("Slice", "s", "e", "a", "t"), ROW, {"s": ints(4), "e": ints(0), "a": ints(1), "t": ints(-1)}, 17,
        "go backward",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_uses_are_refused_by_name(tmp_path: Path, name: str) -> None:
    made, shape, constants, opset, message = REFUSED[name]
    path = save(tmp_path / "net.onnx", [made], list(shape), constants, opset)
    with pytest.raises(Refused, match=message):
        _net(path)


def test_an_attribute_that_no_rule_reads_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("Relu", alpha=0.5)], ROW, {})
    with pytest.raises(Refused, match="Relu at 'y': its attribute alpha is not known"):
        _net(path)


def _classifier(path: Path) -> Path:
    """Constants that are computed, a shape that is asked for, a product from the left, a split and a shared value."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 0, 2, 0], strides=[2, 1], name="first"),
        helper.make_node("Relu", ["c"], ["r"], name="first/"),
        helper.make_node("Split", ["r", "parts"], ["r0", "r1"], axis=1),
        helper.make_node("Add", ["r0", "r1"], ["sum"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "zeros"], ["batches"]),
        helper.make_node("Concat", ["batches", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["sum", "target"], ["flat"]),
        helper.make_node("Mul", ["half", "m"], ["weight"]),
        helper.make_node("MatMul", ["flat", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["hidden"]),
        helper.make_node("Reshape", ["hidden", "column"], ["columns"]),
        helper.make_node("MatMul", ["left", "columns"], ["more"]),
        helper.make_node("Flatten", ["more"], ["y"]),
    ]
    constants = W2 | {
        "parts": ints(3, 3), "zero": np.int64(0), "zeros": ints(0), "minus": ints(-1), "half": np.float32(0.5),
        "m": floats(3 * 4 * 5, 8), "bias": floats(8), "column": ints(-1, 8, 1), "left": floats(3, 8),
    }  # fmt: skip
    return save(path, nodes, [4, 6, 6], constants)


def test_a_whole_graph_gives_gradients_and_its_layers(tmp_path: Path) -> None:
    path = _classifier(tmp_path / "net.onnx")
    model, x = load_model(path), torch.from_numpy(RANDOM.random((4, 4, 6, 6)).astype(np.float32))
    assert (model.access, model.shape) == ("training", (4, 6, 6))
    torch.testing.assert_close(model.scores(x), runtime(path, x), rtol=1e-5, atol=1e-5)
    net = _net(path)
    assert type(net.first).__name__ == "Sequential"
    assert type(net.first_1) is torch.nn.ReLU
    assert net(x.requires_grad_()).sum().backward() is None
    assert bool(x.grad is not None and x.grad.abs().sum() > 0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(other(x), net(x))


@pytest.mark.parametrize("name", ["output", "training", "forward", "wires", "1", "a.b/c", ""])
def test_any_name_of_a_node_will_do(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"], name=name)], ROW, {})
    x = torch.from_numpy(floats(2, *ROW))
    assert torch.equal(_net(path)(x), x.relu())


def test_loading_draws_no_random_numbers(tmp_path: Path) -> None:
    path = _classifier(tmp_path / "net.onnx")
    before = torch.random.get_rng_state()
    _net(path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_operators_leave_the_scores(tmp_path: Path) -> None:
    path = save(tmp_path / "net.onnx", [node("Einsum", equation="ij->ij")], ROW, {})
    with pytest.warns(IronglassWarning, match="net.onnx gives scores alone, through ONNX Runtime: Einsum at 'y'"):
        model = load_model(path)
    x = torch.rand(2, 6)
    assert model.access == "scores"
    torch.testing.assert_close(model.scores(x), x)


def test_canary_a_rule_that_ignores_padding_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(item: Node) -> torch.nn.Module:
        item.read.update(item.attributes)
        plain = Node(item.op, item.place, item.opset, item.values, item.live, {}, item.outputs)
        return conv(plain)

    path = save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 0, 0, 0], strides=[2, 1], kernel_shape=[3, 2]),
            helper.make_node("GlobalMaxPool", ["c"], ["g"]),
            helper.make_node("Flatten", ["g"], ["y"]),
        ],
        [4, 7, 6],
        W2,
    )
    assert load_model(path).access == "training"
    monkeypatch.setitem(onnx_rules.RULES, "Conv", careless)
    with pytest.warns(IronglassWarning, match="gives other scores than ONNX Runtime"):
        assert load_model(path).access == "scores"


def test_a_function_has_the_same_network(tmp_path: Path) -> None:
    function = OnnxFunction(_classifier(tmp_path / "net.onnx"))
    x = function.points()
    np.testing.assert_allclose(function.network()(torch.from_numpy(x)).detach().numpy(), function(x), atol=1e-4)


def test_a_file_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch"):
        load_model(save(tmp_path / "net.onnx", [node("Relu")], [], {}))
