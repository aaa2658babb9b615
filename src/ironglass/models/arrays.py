"""Arrays as samples and labels: files read without unpickling, axes put channel first, class names put in order."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ironglass.core.errors import InputError, suggest

Array = np.ndarray[Any, Any]
X_NAMES, Y_NAMES = ("x", "images", "X", "data"), ("y", "labels", "label", "target")


def read_npz(path: Path) -> dict[str, Array]:
    """Returns the arrays of an ``.npz`` file; pickled ones are refused.

    Raises:
        InputError: if it cannot be read without unpickling.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {error}", "save plain arrays: np.savez(path, x=x, y=y)") from error


def read_safetensors(path: Path) -> dict[str, Array]:
    """Returns the tensors of a ``.safetensors`` file as arrays.

    Raises:
        InputError: if it cannot be read.
    """
    from .weights import read

    return {name: (value.float() if value.is_floating_point() else value).numpy() for name, value in read(path).items()}


def pick(stored: Mapping[str, Array], names: Sequence[str], where: str) -> Array:
    """Returns the first array that goes by one of these names.

    Raises:
        InputError: if there is none.
    """
    for name in names:
        if name in stored:
            return stored[name]
    raise InputError(
        f"{where} holds {', '.join(sorted(stored)) or 'nothing'}, but no {names[0]}",
        f"name it one of: {', '.join(names)}",
    )


def samples(x: Array, shape: tuple[int, ...] | None, where: str) -> Tensor:
    """Returns samples ``(N, *shape)`` as float32: bytes over 255, pictures channel first.

    Raises:
        InputError: if they are no numbers, or do not fit the shape.
    """
    if x.dtype.kind not in "buif" or x.ndim < 1:
        raise InputError(
            f"{where}: x holds {x.dtype} of shape {x.shape}, numbers (N, *shape) are expected", "convert them"
        )
    if x.dtype == np.uint8:
        x = _channel(x, shape).astype(np.float32) / 255
    if len(x) == 0:
        raise InputError(f"{where}: holds no samples", "give at least one")
    if x.ndim == 1:
        raise InputError(f"{where}: x has shape {x.shape}, (N, *shape) is expected", "give each sample its own row")
    return torch.from_numpy(np.ascontiguousarray(_fitted(x, shape, where), dtype=np.float32))


def _channel(x: Array, shape: tuple[int, ...] | None) -> Array:
    """Gives grey 8-bit pictures ``(N, H, W)`` their channel."""
    return x[:, None] if x.ndim == 3 and shape is None else x


def _fitted(x: Array, shape: tuple[int, ...] | None, where: str) -> Array:
    given = x.shape[1:]
    if shape is None:
        return _channel_first(x, where)
    last = len(given) == 3 and (given[2], *given[:2]) == shape
    if last and given == shape and shape[0] > 1:
        raise InputError(
            f"{where}: samples of shape {given} may be (C, H, W) or (H, W, C)",
            "save them as (N, C, H, W) with C unlike H and W",
        )
    if given == shape:
        return x
    if last:
        return x.transpose(0, 3, 1, 2)
    if given == shape[1:] and shape[0] == 1:
        return x[:, None]
    if np.prod(given) == np.prod(shape) and 1 in (len(given), len(shape)):
        return x.reshape(len(x), *shape)
    raise InputError(
        f"{where}: samples have shape {given}, the model takes {shape}",
        "resize them, or load the model with their shape=",
    )


def _channel_first(x: Array, where: str) -> Array:
    """Finds the channels of ``(N, a, b, c)``: 1 or 3 of them, in front or at the end."""
    if x.ndim != 4:
        return x
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first and last:
        raise InputError(
            f"{where}: in samples of shape {x.shape[1:]} the channels may be first or last", "give shape=(C, H, W)"
        )
    return x.transpose(0, 3, 1, 2) if last else x


def classes(
    y: Array | Sequence[Any], labels: Sequence[str] | None, where: str
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Returns labels as numbers ``(N,)``, and the class names.

    Names are matched to ``labels`` where given, else numbered in their sorted order; whole numbers are class numbers,
    unless they are names of the model's classes.

    Raises:
        InputError: if they are neither names nor whole numbers, or the model has no class of that name.
    """
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(
            f"{where}: y has shape {values.shape}, (N,) is expected", "give one class a sample: y.argmax(1)"
        )
    if values.dtype.kind == "f":
        if not (values == np.round(values)).all():
            raise InputError(f"{where}: y holds fractions, classes are expected", "give class names or whole numbers")
        values = values.astype(np.int64)
    if values.dtype.kind in "bui":
        return torch.from_numpy(values.astype(np.int64)), tuple(labels) if labels else None
    if values.dtype.kind != "U":
        raise InputError(f"{where}: y holds {values.dtype}, classes are expected", "give class names or whole numbers")
    words = [str(word).strip() for word in values]
    known = {_key(name): number for number, name in reversed(list(enumerate(labels or ())))}
    if not all(_key(word) in known for word in words) and all(word.lstrip("-").isdecimal() for word in words):
        return torch.tensor([int(word) for word in words]), tuple(labels) if labels else None
    if labels is None:
        labels = sorted(set(words))
        known = {_key(name): number for number, name in enumerate(labels)}
        if len(known) < len(labels):
            known = {}
            raise InputError(f"{where}: class names differ in case alone: {labels}", "spell each class in one way")
    for word in words:
        if _key(word) not in known:
            raise InputError(f"{where}: the model has no class '{word}'", suggest(word, labels))
    return torch.tensor([known[_key(word)] for word in words]), tuple(labels)


def _key(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()
