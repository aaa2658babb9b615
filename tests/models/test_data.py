from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from ironglass.core.errors import InputError
from ironglass.models.data import Data, load_data, subset


def picture(path: Path, level: int = 128, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Path:
    """Writes a flat picture, of size (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode == "L" else (level, 0, 255)).save(path)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_class_folders_are_read_in_order(tmp_path: Path) -> None:
    for name, level in (("dog/b.png", 51), ("cat/a.png", 255), ("dog/deep/c.png", 0), ("cat/.hidden.png", 9)):
        picture(tmp_path / "pets" / name, level)
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("no picture")
    data = load_data(tmp_path / "pets")
    assert data.ids == ("cat/a.png", "dog/b.png", "dog/deep/c.png")
    assert data.labels == ("cat", "dog")
    assert data.y.tolist() == [0, 1, 1]
    assert data.name == "pets"
    assert data.x.shape == (3, 3, 4, 6)
    torch.testing.assert_close(data.x[:, :, 0, 0], torch.tensor([[1.0, 0, 1], [0.2, 0, 1], [0, 0, 1]]))


def test_class_folders_are_matched_to_the_models_labels(tmp_path: Path) -> None:
    picture(tmp_path / "great_dane" / "a.png")
    picture(tmp_path / "Owl" / "b.png")
    data = load_data(tmp_path, labels=("owl", "cat", "Great Dane"))
    assert data.y.tolist() == [0, 2]
    assert data.labels == ("owl", "cat", "Great Dane")
    with pytest.raises(InputError, match=r"has no class 'Owl'\n.*known: cat, great dane"):
        load_data(tmp_path, labels=("cat", "great dane"))


def test_numbered_folders_are_class_numbers(tmp_path: Path) -> None:
    for number in (2, 10):
        picture(tmp_path / str(number) / "a.png")
    assert load_data(tmp_path).y.tolist() == [10, 2]
    assert load_data(tmp_path, labels=("10", "two", "2")).y.tolist() == [0, 2]
    with pytest.raises(InputError, match=r"the label of 10/a\.png is 10, 0 to 2 is expected"):
        load_data(tmp_path, labels=("a", "b", "c"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("labels.csv", "filename,label\na.png,dog\n\"b, c.png\",cat\n"),
        ("labels.csv", "a.png,1\n\"b, c.png\",0\n"),
        ("labels.txt", "a.png dog\nb, c.png\tcat\n".replace("b, c", "b c")),
        ("labels.json", json.dumps({"a.png": "dog", "b, c.png": "cat"})),
        ("labels.json", json.dumps([{"filename": "a.png", "label": 1}, {"filename": "b, c.png", "label": 0}])),
    ],
)  # fmt: skip
def test_lists_of_labels(tmp_path: Path, file: str, content: str) -> None:
    for name in ("a.png", "b, c.png", "b c.png"):
        picture(tmp_path / name)
    (tmp_path / file).write_text(content)
    assert load_data(tmp_path, labels=("cat", "dog")).y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels.csv", "a.png,dog,3\n", "line 1 has 3 cells"),
        ("labels.csv", "gone.png,dog\n", "names 1 pictures that are not there, such as gone.png"),
        ("labels.csv", "filename,label\n", "names no pictures"),
        ("labels.json", "{", "rows of filename and label are expected"),
        ("labels.json", "3", "int found"),
        ("labels.json", '[{"file": "a.png"}]', "rows of filename and label are expected"),
    ],
)
def test_bad_lists_are_errors(tmp_path: Path, file: str, content: str, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_data(tmp_path)


def test_pictures_are_cropped_to_the_aspect_and_resized(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 4:20] = 255  # white beyond the crop
    (tmp_path / "a").mkdir()
    Image.fromarray(wide).save(tmp_path / "a" / "wide.png")
    picture(tmp_path / "a" / "z.png", 255, (5, 5), "L")
    data = load_data(tmp_path, shape=(3, 4, 4))
    torch.testing.assert_close(data.x, torch.ones(2, 3, 4, 4))
    assert load_data(tmp_path, shape=(1, 4, 4)).x.shape == (2, 1, 4, 4)
    with pytest.raises(InputError, match="have 2 different shapes"):
        load_data(tmp_path)
    with pytest.raises(InputError, match=r"cannot be brought to shape \(784,\)"):
        load_data(tmp_path, shape=(784,))


def test_pictures_of_other_kinds_come_right(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    deep = np.full((2, 2), 32768, dtype=np.uint16)
    Image.fromarray(deep).save(folder / "1.png")
    turned = Image.new("RGB", (4, 2))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(folder / "2.jpg", exif=exif)
    Image.new("RGBA", (2, 2), (255, 0, 0, 255)).save(folder / "3.png")
    Image.new("1", (2, 2), 1).save(folder / "4.png")

    def read(name: str, shape: tuple[int, int, int] | None = None) -> torch.Tensor:
        (folder / "labels.csv").write_text(f"{name},0\n")
        return load_data(folder, shape=shape).x

    torch.testing.assert_close(read("1.png"), torch.full((1, 1, 2, 2), 32768 / 65535))
    assert read("2.jpg").shape == (1, 3, 4, 2)
    torch.testing.assert_close(read("3.png")[0, :, 0, 0], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(read("4.png", (3, 2, 2)), torch.ones(1, 3, 2, 2))


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    good = picture(tmp_path / "a" / "1.png", size=(40, 40))
    bad = tmp_path / "a" / "2.png"
    for content in (b"", b"not a picture", good.read_bytes()[:60]):
        bad.write_bytes(content)
        with pytest.raises(InputError, match=r"cannot read the picture .*2\.png"):
            load_data(tmp_path)


def test_folders_without_labelled_pictures_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        load_data(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match=r"holds no pictures.*\n.*labels\.csv"):
        load_data(tmp_path)
    picture(tmp_path / "loose.png")
    with pytest.raises(InputError, match=r"holds 1 pictures without labels, such as loose\.png"):
        load_data(tmp_path)


def test_only_the_drawn_pictures_are_decoded(tmp_path: Path) -> None:
    for number in range(8):
        picture(tmp_path / "a" / f"{number}.png")
    drawn = load_data(tmp_path, samples=3, seed=1).ids
    for number in range(8):
        if f"a/{number}.png" not in drawn:
            (tmp_path / "a" / f"{number}.png").write_bytes(b"damaged")
    assert load_data(tmp_path, samples=3, seed=1).ids == drawn


def test_draws_are_proportional_nested_and_in_order() -> None:
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    for seed in range(5):
        few, more = subset(y, 20, seed), subset(y, 50, seed)
        assert len(few) == 20
        assert (few.diff() > 0).all()
        assert set(few.tolist()) <= set(more.tolist())
        assert (torch.bincount(y[few], minlength=3) - torch.tensor([12, 6, 2])).abs().max() <= 1
    assert not torch.equal(subset(y, 20, 0), subset(y, 20, 1))
    assert torch.equal(subset(y, 20, 3), subset(y, 20, 3))
    assert torch.equal(subset(y, None), torch.arange(100))
    assert len(subset(y, 1000)) == 100


def test_each_class_is_drawn_as_often_as_it_is() -> None:
    y = torch.tensor([0] * 9 + [1])
    hits = sum(int((y[subset(y, 2, seed)] == 1).any()) for seed in range(400))
    assert 0.15 < hits / 400 < 0.25


def test_bytes_become_fractions_and_channels_come_first(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    path = npz(tmp_path / "set.npz", images=x, labels=np.arange(5) % 2, classes=np.array(["cat", "dog"]))
    expected = torch.from_numpy(x).permute(0, 3, 1, 2) / 255
    for shape in (None, (3, 8, 6)):
        data = load_data(path, shape=shape)
        torch.testing.assert_close(data.x, expected)
        assert data.x.dtype == torch.float32
        assert (data.y.tolist(), data.labels) == ([0, 1, 0, 1, 0], ("cat", "dog"))
        assert data.ids[3] == "set[3]"


@pytest.mark.parametrize(
    ("given", "shape", "expected"),
    [
        ((4, 3, 8, 8), None, (3, 8, 8)),
        ((4, 8, 8, 1), None, (1, 8, 8)),
        ((4, 16, 8, 8), None, (16, 8, 8)),
        ((4, 28, 28), None, (28, 28)),
        ((4, 28, 28), (1, 28, 28), (1, 28, 28)),
        ((4, 784), (1, 28, 28), (1, 28, 28)),
        ((4, 1, 28, 28), (784,), (784,)),
        ((4, 3, 8, 3), (3, 8, 3), (3, 8, 3)),
        ((4, 3, 8, 3), (3, 3, 8), (3, 3, 8)),
    ],
)
def test_shapes_are_brought_to_the_models(tmp_path: Path, given: Any, shape: Any, expected: Any) -> None:
    data = load_data(npz(tmp_path / "set.npz", x=np.zeros(given), y=np.zeros(len(np.zeros(given)))), shape=shape)
    assert tuple(data.x.shape) == (4, *expected)


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"x": np.zeros((4, 3, 8, 3)), "y": np.zeros(4)}, {}, r"the channels may be first or last\n.*shape="),
        ({"x": np.zeros((4, 3, 3, 3)), "y": np.zeros(4)}, {"shape": (3, 3, 3)}, r"may be \(C, H, W\) or \(H, W, C\)"),
        ({"x": np.zeros((4, 3, 8, 8)), "y": np.zeros(4)}, {"shape": (3, 9, 9)}, r"have shape \(3, 8, 8\), the model"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(5)}, {}, "5 labels for 4 samples"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0)}, {}, "holds no samples"),
        ({"x": np.zeros(4), "y": np.zeros(4)}, {}, r"x has shape \(4,\)"),
        ({"x": np.full((4, 3), np.nan), "y": np.zeros(4)}, {}, r"4 samples hold NaN or infinity, the first: set\[0\]"),
        ({"x": np.zeros((4, 3)), "y": np.array([0, 1, 2, 5])}, {"labels": tuple("abc")}, r"the label of set\[3\] is 5"),
        ({"x": np.zeros((4, 3)), "y": np.array([0, 1, -2, 5])}, {}, r"the label of set\[2\] is -2, 0 and up"),
        ({"x": np.zeros((4, 3)), "y": np.array([0, 1, 0.5, 1])}, {}, "y holds fractions"),
        ({"x": np.zeros((4, 3)), "y": np.array([0, 1, np.nan, 1])}, {}, "y holds fractions"),
        ({"x": np.zeros((4, 3)), "y": np.eye(4)}, {}, r"y has shape \(4, 4\).*\n.*argmax"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(4, dtype=complex)}, {}, "y holds complex128"),
        ({"x": np.array([["a"]]), "y": np.zeros(1)}, {}, "x holds <U1"),
        ({"x": np.zeros((4, 3))}, {}, "set holds x, but no y"),
        ({"data": np.zeros((4, 3)), "y": np.zeros(4)}, {"samples": 0}, "0 samples were asked for"),
        ({"x": np.zeros((2, 3)), "y": np.array(["a", "A"])}, {}, "differ in case alone"),
        ({"x": np.array([{}], dtype=object), "y": np.zeros(1)}, {}, "cannot read .*set.npz"),
    ],
)  # fmt: skip
def test_bad_arrays_are_errors(tmp_path: Path, arrays: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(npz(tmp_path / "set.npz", **arrays), **options)


@pytest.mark.parametrize("name", ["set.npz", "set.safetensors", "set.csv.gz"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\x13garbage", b"PK\x03\x04"])
def test_damaged_files_are_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"set|columns"):
        load_data(tmp_path / name)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({"x": np.ones((3, 2), dtype=np.float16), "y": np.array([2, 0, 1])}, str(tmp_path / "set.safetensors"))
    data = load_data(tmp_path / "set.safetensors", labels=("a", "b", "c"))
    assert data.y.tolist() == [2, 0, 1]
    torch.testing.assert_close(data.x, torch.ones(3, 2))


def test_tables_are_read(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text("a,label,b\n1,yes,2.5\n\n-3,no,1e2\n")
    data = load_data(path)
    torch.testing.assert_close(data.x, torch.tensor([[1, 2.5], [-3, 100]]))
    assert (data.y.tolist(), data.labels, data.name) == ([1, 0], ("no", "yes"), "set")
    path.write_text("1,2,0\n3,4,1\n")
    assert load_data(path).y.tolist() == [0, 1]
    (tmp_path / "set.csv.gz").write_bytes(gzip.compress(b"a,b\n1,3\n"))
    assert load_data(tmp_path / "set.csv.gz").y.tolist() == [3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("age,job,label\n30,baker,0\n", r"set\.csv, line 2: job is 'baker', a number is expected\n.*encode"),
        ("a,b\n1,\n,1\n", "line 3: a is '', a number"),
        ("a,b,c\n1,2\n", "line 2 has not 3 cells"),
        ("a\n1\n", "has 1 columns"),
        ("", "has 0 columns"),
        ("a,b\n", "holds no samples"),
        ("a,y\n1,0.5\n", "y holds fractions"),
        ("a,y\nnan,1\n", "hold NaN"),
    ],
)
def test_bad_tables_are_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "set.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load_data(tmp_path / "set.csv")


def test_sets_of_scikit_learn_come_scaled() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="needs the sklearn extra")
    digits = load_data("sklearn:digits")
    assert digits.x.shape == (1797, 1, 8, 8)
    assert digits.labels == tuple("0123456789")
    for name in ("digits", "breast_cancer", "wine", "iris"):
        data, raw = load_data(f"sklearn:{name}"), getattr(datasets, f"load_{name}")()
        assert (float(data.x.min()), float(data.x.max())) == (0, 1)
        assert data.scale is not None
        mean, std = data.scale
        np.testing.assert_allclose((data.x.flatten(1).double() - mean) / std, raw.data, rtol=1e-5, atol=1e-4)
        assert data.y.tolist() == raw.target.tolist()
    with pytest.raises(InputError, match="did you mean digits"):
        load_data("sklearn:digit")


def test_python_files_give_pairs(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "pair = (torch.zeros(2, 3, requires_grad=True), [1, 0])\n"
        "def make(n=4): return [[0.0, 1.0]] * n, ['a', 'b'] * 2\n"
        "def broken(): return 1 / 0\n"
        "def picky(path): return path\n"
        "three = (1, 2, 3)\n"
        "ragged = ([[1], [1, 2]], [0, 1])\n"
    )
    assert load_data(f"{file}:pair").y.tolist() == [1, 0]
    data = load_data(f"{file}:make", samples=3)
    assert (len(data), data.labels, data.name) == (3, ("a", "b"), "make")
    for name, message in (
        ("broken", "raised ZeroDivisionError"),
        ("picky", "needs arguments"),
        ("three", "gives tuple, not a pair"),
        ("ragged", "x or y is no array"),
        ("pear", "did you mean pair"),
    ):
        with pytest.raises(InputError, match=message):
            load_data(f"{file}:{name}")


@pytest.mark.parametrize("spec", ["nowhere", "nowhere.npz", "nowhere.py:x", "sklearn:", ""])
def test_missing_data_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\n  Fix: "):
        load_data(spec)


def test_unknown_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "set.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"set\.parquet is of no known kind of data"):
        load_data(tmp_path / "set.parquet")


def test_parts_keep_their_names() -> None:
    data = Data(torch.rand(3, 2), torch.tensor([0, 1, 0]), ("a", "b", "c"), credits=("x", "y", "z"), name="three")
    part = data.take(torch.tensor([2, 0]))
    assert (part.ids, part.credits, part.name, part.y.tolist()) == (("c", "a"), ("z", "x"), "three", [0, 0])
    assert torch.equal(part.x, data.x[[2, 0]])
