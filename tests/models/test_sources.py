from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ironglass.core.errors import InputError
from ironglass.models import weights
from ironglass.models.adapter import Adapter
from ironglass.models.sources import load_model

SOURCE = """
import numpy as np
import torch
from torch import nn
import ironglass.models.adapter as adapter
from beside import CLASSES

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.layer(x)

class Wide(nn.Module):
    def __init__(self, width):
        super().__init__()

def make(): return Net()
def make_wrapped(): return adapter.wrap(Net().eval(), bounds=(-1, 1), labels=("a", "b", "c"))
net = Net()
def predict(batch): return np.stack([batch.sum(axis=1), -batch.sum(axis=1), np.zeros(len(batch))], 1)
def predict_typed(batch: np.ndarray): return predict(batch)
def predict_torch(batch: torch.Tensor): return torch.stack([batch.sum(1), -batch.sum(1), batch.sum(1) * 0], 1)
def predict_numpy_alone(batch):
    assert type(batch) is np.ndarray
    return predict(batch)
def make_function(): return predict_torch
def broken(batch): raise KeyError("no such thing")
def failing(): raise OSError("no disk")
def nothing(): return None
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("CLASSES = 3\n")
    sys.modules.pop("beside", None)
    path = tmp_path / "my-net.py"
    path.write_text(SOURCE)
    return path


def fresh() -> dict[str, Tensor]:
    return nn.Linear(4, 3).state_dict()


@pytest.mark.parametrize("name", ["make", "Net", "net"])
def test_networks_of_a_file(file: Path, name: str) -> None:
    before = list(sys.path)
    model = load_model(f"{file}:{name}", labels=("a", "b", "c"), shape=(4,), max_queries=7)
    assert model.scores(torch.rand(5, 4)).shape == (5, 3)
    assert (model.access, model.names, model.shape, model.max_queries) == ("training", ("a", "b", "c"), (4,), 7)
    assert sys.path == before


@pytest.mark.parametrize("name", ["predict", "predict_typed", "predict_torch", "predict_numpy_alone", "make_function"])
def test_functions_of_a_file_take_tensors_or_arrays(file: Path, name: str) -> None:
    model = load_model(f"{file}:{name}")
    x = torch.rand(5, 4)
    total = x.sum(1)
    torch.testing.assert_close(model.scores(x).float(), torch.stack([total, -total, 0 * total], 1))
    assert model.access == "scores"


def test_a_function_that_fails_shows_its_own_error(file: Path) -> None:
    with pytest.raises(InputError, match="KeyError: 'no such thing'"):
        load_model(f"{file}:broken").scores(torch.rand(2, 4))


def test_wrapped_models_are_taken_as_they_are(file: Path) -> None:
    model = load_model(f"{file}:make_wrapped")
    assert isinstance(model, Adapter)
    assert model.names == ("a", "b", "c")
    with pytest.raises(InputError, match="is already wrapped, bounds would be ignored"):
        load_model(f"{file}:make_wrapped", bounds=(0, 2))


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("form", ["plain", "checkpoint", "parallel"])
def test_weights_are_loaded(file: Path, tmp_path: Path, suffix: str, form: str) -> None:
    state = {f"layer.{name}": value for name, value in fresh().items()}
    saved = {f"module.{name}": value for name, value in state.items()} if form == "parallel" else state
    path = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        save_file(saved, path)
    else:
        torch.save({"epoch": 3, "state_dict": saved} if form == "checkpoint" else saved, path)
    x = torch.rand(2, 4)
    expected = x @ state["layer.weight"].T + state["layer.bias"]
    torch.testing.assert_close(load_model(f"{file}:make", weights=path).scores(x), expected)


def test_weights_that_do_not_fit_are_told(file: Path, tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(10, 4), "head.bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError) as caught:
        load_model(f"{file}:make", weights=tmp_path / "w.safetensors")
    assert "1 missing in it: layer.bias; 1 unknown to the network: head.bias; 1 of other shape" in str(caught.value)
    assert "layer.weight (10, 4) in the file, (3, 4) in the network" in str(caught.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("damage", ["empty", "text", "half", "start", "other"])
def test_damaged_weights_are_errors(file: Path, tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"w.{suffix}"
    state = {f"layer.{name}": value for name, value in fresh().items()}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    start = b"\xff" * 40 + whole[40:]
    path.write_bytes(
        {"empty": b"", "text": b"hello\n" * 9, "half": whole[: len(whole) // 2], "start": start}.get(
            damage, b"PK\x03\x04"
        )
    )
    with pytest.raises(InputError, match=rf"w\.{suffix} is damaged or no .* file.*"):
        load_model(f"{file}:make", weights=path)


def test_weights_are_not_unpickled(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(Boom(), path)
    with pytest.raises(InputError, match="which could run code when it is unpickled"):
        load_model(f"{file}:make", weights=path)
    torch.save([torch.zeros(3)], path)
    with pytest.raises(InputError, match="holds list, not tensors by name"):
        load_model(f"{file}:make", weights=path)


def test_whole_networks_are_unpickled_only_when_trusted(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(nn.Linear(4, 3), path)
    with pytest.raises(
        InputError, match=r"holds torch\.nn\.modules\.linear\.Linear, which could run code.*\n.*--trust-pickle"
    ):
        load_model(path)
    assert load_model(path, trust_pickle=True).scores(torch.rand(2, 4)).shape == (2, 3)
    torch.save(nn.Linear(4, 3).state_dict(), path)
    for trust in (False, True):
        with pytest.raises(InputError, match=r"holds weights, not the network\n.*file\.py:factory"):
            load_model(path, trust_pickle=trust)
    path.write_bytes(b"text")
    with pytest.raises(InputError, match="cannot unpickle"):
        load_model(path, trust_pickle=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maker", "did you mean make"),
        ("failing", "raised OSError: no disk"),
        ("Wide", r"needs arguments \(width\)"),
        ("nothing", "gives NoneType"),
        ("number", "gives int"),
    ],
)
def test_wrong_factories_are_errors(file: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(f"{file}:{name}")


def test_files_that_cannot_be_run_are_errors(tmp_path: Path, file: Path) -> None:
    with pytest.raises(InputError, match=r"does not say what to take from the file\n.*:name"):
        load_model(str(file))
    with pytest.raises(InputError, match=r"there is no file .*none\.py"):
        load_model(tmp_path / "none.py:make")
    for source, message in (
        ("x = 1\nimport nosuchmodule\n", "raised ModuleNotFoundError at line 2"),
        ("def f(:\n", "raised SyntaxError"),
    ):
        (tmp_path / "bad.py").write_text(source)
        with pytest.raises(InputError, match=message):
            load_model(f"{tmp_path / 'bad.py'}:make")


def test_weights_and_sources_must_go_together(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(fresh(), path)
    with pytest.raises(InputError, match=r"w\.safetensors holds weights, not the network"):
        load_model(path)
    with pytest.raises(InputError, match="brings its own"):
        load_model("demo", weights=path)
    with pytest.raises(InputError, match="which is function"):
        load_model(f"{file}:predict", weights=path)
    with pytest.raises(InputError, match="there is no file"):
        load_model(f"{file}:make", weights=tmp_path / "none.pt")
    with pytest.raises(InputError, match="is no file of weights"):
        load_model(f"{file}:make", weights=file)
    with pytest.raises(InputError, match="gives 3 classes, 5 were declared"):
        load_model(f"{file}:make", classes=5).scores(torch.rand(2, 4))


@pytest.mark.parametrize("spec", ["", "nowhere.onnx", "nowhere.pt", "resnet18", "picture.png"])
def test_unknown_sources_say_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"file\.py:factory, hf:FOLDER"):
        load_model(spec)


def test_a_state_dict_is_read_alone(tmp_path: Path) -> None:
    state = fresh()
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pt")
    assert weights.read(tmp_path / "w.pt").keys() == state.keys()


class Boom:
    """Would show, if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("unpickled",)
