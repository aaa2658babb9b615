"""A folder of pictures: a subfolder a class, or a list of labels beside the pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ironglass.core.errors import InputError

from . import arrays, pictures

LISTS = ("labels.csv", "labels.txt", "labels.json")
_FIX = "put each class into a subfolder, or add labels.csv with rows filename,label"


def read(
    root: Path, shape: tuple[int, ...] | None, labels: Sequence[str] | None, choose: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, tuple[str, ...], tuple[str, ...] | None]:
    """Reads the chosen pictures.

    Args:
        root: the folder.
        shape: ``(C, H, W)`` they are brought to; None wants pictures of one size.
        labels: the model's class names.
        choose: picks rows by all labels, before any picture is decoded.

    Returns:
        The pictures ``(N, C, H, W)`` in [0, 1], their labels ``(N,)``, their paths within the folder, the class names.

    Raises:
        InputError: if there are no labelled pictures, or one cannot be read; it is named.
    """
    shape = shape and pictures.checked(shape)
    paths, words = _listed(root)
    y, names = arrays.classes(words, labels, root.name)
    rows = choose(y)
    files = [paths[row] for row in rows.tolist()]
    images = [pictures.read(file, shape) for file in files]
    sizes = sorted({tuple(image.shape) for image in images})
    if len(sizes) > 1:
        raise InputError(
            f"{root.name}: the pictures have {len(sizes)} different shapes, such as {sizes[0]} and {sizes[-1]}",
            "give the model's shape=(3, H, W): they are then cropped and resized to it",
        )
    return torch.stack(images), y[rows], tuple(file.relative_to(root).as_posix() for file in files), names


def _listed(root: Path) -> tuple[list[Path], list[str]]:
    """Returns all labelled pictures and their classes as written."""
    for name in LISTS:
        if (root / name).is_file():
            return _from_list(root, root / name)
    loose = [path for path in root.iterdir() if _is_picture(path)]
    classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [(path, folder.name) for folder in classes for path in sorted(folder.rglob("*")) if _is_picture(path)]
    if loose:
        raise InputError(f"{root.name} holds {len(loose)} pictures without labels, such as {loose[0].name}", _FIX)
    if not found:
        raise InputError(f"{root.name} holds no pictures ({', '.join(sorted(pictures.SUFFIXES))})", _FIX)
    return [path for path, _ in found], [name for _, name in found]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in pictures.SUFFIXES and not path.name.startswith(".") and path.is_file()


def _from_list(root: Path, file: Path) -> tuple[list[Path], list[str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = _json_rows(json.loads(text)) if file.suffix == ".json" else _text_rows(text)
    except (ValueError, TypeError, KeyError, AttributeError, csv.Error) as error:
        raise InputError(f"{file.name}: rows of filename and label are expected: {error}", _FIX) from error
    missing = [name for name, _ in rows if not (root / name).is_file()]
    if missing:
        raise InputError(
            f"{file.name} names {len(missing)} pictures that are not there, such as {missing[0]}", "correct it"
        )
    if not rows:
        raise InputError(f"{file.name} names no pictures", "add rows filename,label")
    return [root / name for name, _ in rows], [label for _, label in rows]


def _json_rows(content: object) -> list[tuple[str, str]]:
    """Reads ``{filename: label}`` or ``[{"filename": …, "label": …}]``."""
    if isinstance(content, dict):
        return [(str(name), str(label)) for name, label in content.items()]
    if isinstance(content, list):
        return [(str(row["filename"]), str(row["label"])) for row in content]
    raise ValueError(f"{type(content).__name__} found")


def _text_rows(text: str) -> list[tuple[str, str]]:
    """Reads ``filename,label`` (or a tab, or a space before the last word), with or without a header."""
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        mark = next((mark for mark in ",\t" if mark in line), None)
        cells = next(csv.reader([line], delimiter=mark)) if mark else line.rsplit(None, 1)
        if len(cells) != 2:
            raise ValueError(f"line {number} has {len(cells)} cells")
        rows.append((cells[0].strip(), cells[1].strip()))
    has_header = rows and rows[0][0].lower() in ("filename", "file", "image", "path")
    return rows[1:] if has_header else rows
