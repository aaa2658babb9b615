from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ironglass.core.errors import InputError, MissingExtra
from ironglass.models.onnx_model import OnnxFunction
from ironglass.models.sources import load_model

onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WEIGHT = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def save(
    path: Path,
    dims: list[Any],
    *,
    softmax: bool = False,
    flat: bool = True,
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
) -> Path:
    """Writes flatten, matrix product (and softmax) with the ONNX helpers."""
    nodes = [
        helper.make_node("Flatten" if flat else "Identity", ["x0"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["product" if softmax else "out"]),
        *([helper.make_node("Softmax", ["product"], ["out"])] if softmax else []),
    ]
    entries = [helper.make_tensor_value_info(f"x{number}", kind, dims) for number in range(inputs)]
    weight = numpy_helper.from_array(WEIGHT.astype(helper.tensor_dtype_to_np_dtype(kind)), "w")
    out = helper.make_tensor_value_info("out", kind, [None, 3] if flat else [3])
    graph = helper.make_graph(nodes, "net", entries, [out], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("batch", [None, "N", 1, 4])
def test_any_batch_runs_through_a_free_or_fixed_one(tmp_path: Path, batch: Any) -> None:
    model = load_model(save(tmp_path / "net.onnx", [batch, 3, 2, 2]))
    x = torch.rand(7, 3, 2, 2)
    torch.testing.assert_close(model.scores(x), x.flatten(1) @ torch.from_numpy(WEIGHT))
    assert (model.shape, model.classes, model.access, model.name) == ((3, 2, 2), 3, "training", "net")


def test_channels_last_are_found_and_turned(tmp_path: Path) -> None:
    model = load_model(save(tmp_path / "net.onnx", ["N", 2, 2, 3]))
    x = torch.rand(5, 3, 2, 2)
    assert model.shape == (3, 2, 2)
    torch.testing.assert_close(model.scores(x), x.permute(0, 2, 3, 1).flatten(1) @ torch.from_numpy(WEIGHT))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_types_are_converted(tmp_path: Path, kind: int) -> None:
    x = torch.rand(4, 12)
    scores = load_model(save(tmp_path / "net.onnx", ["N", 12], kind=kind)).scores(x)
    torch.testing.assert_close(scores.float(), x @ torch.from_numpy(WEIGHT))


@pytest.mark.parametrize("dims", [["N", 3, 2, 2], ["N", 2, 2, 3]])
def test_normalization_is_per_channel(tmp_path: Path, dims: list[Any]) -> None:
    save(tmp_path / "net.onnx", dims)
    x, mean, std = torch.rand(4, 3, 2, 2), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    model = load_model(tmp_path / "net.onnx", mean=mean.tolist(), std=std.tolist())
    normal = (x - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(model.scores(x), load_model(tmp_path / "net.onnx").scores(normal))


def test_a_softmax_at_the_end_is_undone(tmp_path: Path) -> None:
    x = torch.rand(4, 12)
    model = load_model(save(tmp_path / "net.onnx", ["N", 12], softmax=True))
    torch.testing.assert_close(model.scores(x), x @ torch.from_numpy(WEIGHT))
    assert (model.name, model.access) == ("net (before its softmax)", "training")


def test_open_sizes_want_a_shape(tmp_path: Path) -> None:
    save(tmp_path / "net.onnx", ["N", 3, "H", "W"])
    with pytest.raises(InputError, match=r"leaves the sizes of its input open.*\n.*shape="):
        load_model(tmp_path / "net.onnx")
    x = torch.rand(2, 3, 2, 2)
    model = load_model(tmp_path / "net.onnx", shape=(3, 2, 2))
    torch.testing.assert_close(model.scores(x), x.flatten(1) @ torch.from_numpy(WEIGHT))
    with pytest.raises(InputError, match=r"takes samples of shape \(3, None, None\), \(1, 2, 2\) was given"):
        load_model(tmp_path / "net.onnx", shape=(1, 2, 2))


def test_a_function_survives_pickling(tmp_path: Path) -> None:
    function = OnnxFunction(save(tmp_path / "net.onnx", ["N", 12]))
    x = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
    assert np.array_equal(pickle.loads(pickle.dumps(function))(x), function(x))


@pytest.mark.parametrize("content", [b"", b"hello, this is no graph", None])
def test_damaged_files_are_errors(tmp_path: Path, content: bytes | None) -> None:
    path = save(tmp_path / "net.onnx", ["N", 12])
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(InputError, match=r"cannot load net\.onnx|leaves the sizes|float"):
        load_model(path)


def test_other_graphs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes 2 inputs: x0, x1"):
        load_model(save(tmp_path / "two.onnx", ["N", 12], inputs=2))
    with pytest.raises(InputError, match=r"has shape \[12\], \(batch, …\) is expected"):
        load_model(save(tmp_path / "flat.onnx", [12], flat=False))
    with pytest.raises(InputError, match=r"takes tensor\(int32\), floats are expected"):
        load_model(save(tmp_path / "int.onnx", ["N", 12], kind=TensorProto.INT32))
    with pytest.raises(InputError, match="gives 3 classes, 5 were declared"):
        load_model(save(tmp_path / "net.onnx", ["N", 12]), classes=5).probe(torch.rand(2, 12))


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "net.onnx", ["N", 12])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=r"ironglass\[onnx\]"):
        load_model(tmp_path / "net.onnx")


def test_published_networks_run(shared_data: Path) -> None:
    folder = shared_data / "cert" / "dev" / "models"
    for name, shape in (("acasxu_1_1", (1, 1, 5)), ("mnistfc_256x2", (784, 1)), ("resnet_2b", (3, 32, 32))):
        model = load_model(folder / f"{name}.onnx")
        assert model.shape == shape
        x = torch.rand(3, *shape)
        together, alone = model.scores(x), torch.cat([model.scores(row[None]) for row in x])
        assert together.shape[1] == (5 if "acasxu" in name else 10)
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
