"""Tables of numbers: CSV files, and the sets that ship with scikit-learn."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ironglass.core.errors import InputError, extra, suggest

Array = np.ndarray[Any, Any]
_SETS = ("digits", "breast_cancer", "wine", "iris")


def read_csv(path: Path) -> tuple[Array, Array]:
    """Reads a table whose column ``label`` (else the last) is the class and whose others are numbers.

    Args:
        path: ``.csv`` or ``.csv.gz``, with or without a header.

    Returns:
        The numbers ``(N, d)`` in the file's units, and the classes ``(N,)`` as written.

    Raises:
        InputError: naming the first cell that is no number.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as file
        ):
            rows = [
                (number, row) for number, row in enumerate(csv.reader(file), 1) if any(cell.strip() for cell in row)
            ]
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}", "give a table of comma-separated numbers in UTF-8") from error
    width = len(rows[0][1]) if rows else 0
    ragged = [number for number, row in rows if len(row) != width]
    if ragged:
        raise InputError(f"{path.name}: line {ragged[0]} has not {width} cells as the first", "repair that line")
    if width < 2:
        raise InputError(
            f"{path.name} has {width} columns, numbers and a class are expected", "separate cells by commas"
        )
    header = [cell.strip() for cell in rows[0][1]]
    if any(_is_number(cell) for cell in header[:-1]):
        header = [f"column {column}" for column in range(1, width + 1)]
    else:
        rows = rows[1:]
    lowered = [name.lower() for name in header]
    label = lowered.index("label") if "label" in lowered else width - 1
    features = [column for column in range(width) if column != label]
    x = np.empty((len(rows), len(features)), dtype=np.float32)
    for row, (number, cells) in enumerate(rows):
        for place, column in enumerate(features):
            if not _is_number(cells[column]):
                raise InputError(
                    f"{path.name}, line {number}: {header[column]} is '{cells[column]}', a number is expected",
                    "encode categories as numbers (e.g. 0 and 1 a category) and fill gaps",
                )
            x[row, place] = float(cells[column])
    classes = np.array([cells[label].strip() for _, cells in rows], dtype=np.str_)
    if classes.size and all(_is_number(cell) for cell in classes):
        return x, classes.astype(np.float64)
    return x, classes


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def from_sklearn(name: str) -> tuple[Array, Array, tuple[str, ...], tuple[Tensor, Tensor]]:
    """Loads a set that ships with scikit-learn, scaled to [0, 1].

    Args:
        name: ``digits`` (pictures ``(1, 8, 8)``), ``breast_cancer``, ``wine`` or ``iris`` (each column by its range).

    Returns:
        Samples, labels, class names, and the ``(mean, std)`` that bring the samples back to raw units.

    Raises:
        InputError: if there is no such set.
        MissingExtra: if scikit-learn is not installed.
    """
    if name not in _SETS:
        raise InputError(f"no set sklearn:{name} ships with scikit-learn", suggest(name, _SETS))
    try:
        from sklearn import datasets
    except ImportError:
        raise extra("sklearn", "scikit-learn") from None
    bunch = getattr(datasets, f"load_{name}")()
    names = tuple(str(target) for target in bunch.target_names)
    if name == "digits":
        return bunch.images[:, None] / 16, bunch.target, names, (torch.zeros(1), torch.full((1,), 1 / 16))
    low, span = bunch.data.min(0), np.ptp(bunch.data, axis=0)
    scale = torch.from_numpy(-low / span), torch.from_numpy(1 / span)
    return (bunch.data - low) / span, bunch.target, names, scale
