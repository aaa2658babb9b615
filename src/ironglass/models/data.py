"""Data by one string: a folder of pictures, an array file, a table, a Python file, a set of scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ironglass.core.errors import InputError

from . import arrays, folder, python_file, table

Scale = tuple[Tensor, Tensor]
Choose = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled samples, checked: finite, one label each, labels within the names.

    Args:
        x: samples ``(N, *shape)``, float32.
        y: labels ``(N,)``, long.
        ids: a name a sample.
        labels: class names, where the data or the model knows them.
        credits: author and licence a sample, where known.
        name: of the set, for reports.
        scale: ``(mean, std)`` that bring ``x`` back to raw units: ``raw = (x - mean) / std``, as `wrap` takes them.
    """

    x: Tensor
    y: Tensor
    ids: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    credits: tuple[str, ...] = ()
    name: str = ""
    scale: Scale | None = None

    def __post_init__(self) -> None:
        where = self.name or "the data"
        if len(self.x) == 0:
            raise InputError(f"{where}: holds no samples", "give at least one")
        if len(self.y) != len(self.x) or len(self.ids) != len(self.x):
            raise InputError(f"{where}: {len(self.y)} labels for {len(self.x)} samples", "give one label a sample")
        bad = (~self.x.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
        if bad:
            names = ", ".join(self.ids[row] for row in bad[:5])
            raise InputError(
                f"{where}: {len(bad)} samples hold NaN or infinity, the first: {names}", "drop or repair them"
            )
        top = len(self.labels) if self.labels else None
        wrong = (self.y < 0) | (self.y >= top) if top else self.y < 0
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            allowed = f"0 to {top - 1}" if top else "0 and up"
            raise InputError(
                f"{where}: the label of {self.ids[row]} is {int(self.y[row])}, {allowed} is expected",
                "number the classes from 0, in the order of the model's logits",
            )

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Data:
        """Returns those samples."""
        chosen = rows.tolist()
        return Data(
            self.x[rows],
            self.y[rows],
            tuple(self.ids[row] for row in chosen),
            self.labels,
            tuple(self.credits[row] for row in chosen) if self.credits else (),
            self.name,
            self.scale,
        )


def load_data(
    spec: str | Path,
    *,
    shape: Sequence[int] | None = None,
    labels: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> Data:
    """Loads labelled samples.

    Args:
        spec: ``demo``; a folder of pictures (a subfolder a class, or ``labels.csv``, ``labels.txt`` or ``labels.json``
            in it); ``set.npz`` or ``set.safetensors`` with ``x`` and ``y``; ``set.csv`` of numbers whose ``label`` or
            last column is the class; ``sklearn:digits``, ``:breast_cancer``, ``:wine``, ``:iris``; or ``file.py:name``,
            a pair ``(x, y)`` or a function that returns one.
        shape: of one sample as the model takes it, ``(C, H, W)`` or ``(d,)``; pictures are cropped and resized to it.
        labels: the model's class names; the data's own are matched to them.
        samples: at most so many, drawn in proportion to the classes; all where None.
        seed: of that draw. A larger draw of the same seed holds the smaller one, and the order stays.

    Returns:
        The data.

    Raises:
        InputError: if it cannot be read, or is not what the model takes.
        MissingExtra: if a library is missing.
    """
    wanted, names = tuple(shape) if shape else None, tuple(labels) if labels else None
    if samples is not None and samples < 1:
        raise InputError(f"{samples} samples were asked for", "ask for at least 1, or leave samples out for all")

    def choose(y: Tensor) -> Tensor:
        return subset(y, samples, seed)

    data = _load(str(spec), wanted, names, choose)
    return data if samples is None or len(data) <= samples else data.take(choose(data.y))


def subset(y: Tensor, samples: int | None, seed: int = 0) -> Tensor:
    """Returns rows of a draw in proportion to the classes, in their order.

    Row :math:`r` of a class's :math:`n` gets the key :math:`(r + u) / n`, rows shuffled and :math:`u` uniform by class;
    the smallest keys are drawn.

    Args:
        y: labels ``(N,)``.
        samples: how many; all where None or more than there are.
        seed: of the shuffle.
    """
    if samples is None or samples >= len(y):
        return torch.arange(len(y))
    rng = np.random.default_rng(seed)
    keys = np.empty(len(y))
    for label in torch.unique(y):
        rows = (y == label).nonzero()[:, 0].numpy()
        keys[rng.permutation(rows)] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return torch.from_numpy(np.sort(np.argsort(keys, kind="stable")[:samples]))


def _load(spec: str, shape: tuple[int, ...] | None, labels: tuple[str, ...] | None, choose: Choose) -> Data:
    if spec == "demo":
        from .demo import demo_data

        photos = demo_data(shape)
        if labels is not None and len(labels) != len(photos.labels or ()):
            raise InputError(
                f"the demo photographs have ImageNet's 1000 classes, the model has {len(labels)}",
                "give data of its classes",
            )
        return photos
    if spec.startswith("sklearn:"):
        x, y, names, scale = table.from_sklearn(spec.removeprefix("sklearn:"))
        return _data(x, y, shape, labels or names, spec, scale=scale)
    if python_file.is_spec(spec):
        return _from_python(spec, shape, labels)
    path = Path(spec)
    if not path.exists():
        known = "demo, a folder, .npz, .safetensors, .csv, sklearn:digits, file.py:name"
        raise InputError(f"{path} is neither a file nor a folder", f"give one of: {known}")
    if path.is_dir():
        images, numbers, ids, found = folder.read(path, shape, labels, choose)
        return Data(images, numbers, ids, found, name=path.resolve().name)
    if path.suffix == ".npz":
        return _from_mapping(arrays.read_npz(path), shape, labels, path.stem)
    if path.suffix == ".safetensors":
        return _from_mapping(arrays.read_safetensors(path), shape, labels, path.stem)
    if path.name.endswith((".csv", ".csv.gz")):
        return _data(*table.read_csv(path), shape, labels, path.name.split(".")[0])
    raise InputError(
        f"{path.name} is of no known kind of data", "give a folder, .npz, .safetensors, .csv or file.py:name"
    )


def _from_python(spec: str, shape: tuple[int, ...] | None, labels: tuple[str, ...] | None) -> Data:
    value = python_file.load(spec)
    if callable(value):
        value = python_file.run(spec, value)
    if isinstance(value, Data):
        return value
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise InputError(f"{spec} gives {type(value).__name__}, not a pair", "give (x, y): samples and their labels")
    try:
        samples, numbers = (
            part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in value
        )
    except (ValueError, RuntimeError, TypeError) as error:
        raise InputError(f"{spec}: x or y is no array: {error}", "give arrays or tensors (x, y)") from error
    return _data(samples, numbers, shape, labels, spec.rpartition(":")[2])


def _from_mapping(
    stored: Mapping[str, Any], shape: tuple[int, ...] | None, labels: tuple[str, ...] | None, name: str
) -> Data:
    x, y = arrays.pick(stored, arrays.X_NAMES, name), arrays.pick(stored, arrays.Y_NAMES, name)
    names = stored.get("classes")
    if labels is None and names is not None and names.dtype.kind == "U" and names.ndim == 1:
        labels = tuple(names.tolist())
    return _data(x, y, shape, labels, name)


def _data(
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    shape: tuple[int, ...] | None,
    labels: tuple[str, ...] | None,
    name: str,
    scale: Scale | None = None,
) -> Data:
    """Brings arrays to the shape and the classes of the model."""
    samples = arrays.samples(x, shape, name)
    numbers, names = arrays.classes(y, labels, name)
    return Data(samples, numbers, tuple(f"{name}[{row}]" for row in range(len(samples))), names, (), name, scale)
