from __future__ import annotations

import gzip
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ironglass.core.errors import InputError
from ironglass.models.vnnlib import parse_vnnlib, read_vnnlib

HEAD = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)\n"
BOX = (
    "(assert (>= X_0 0.25))(assert (<= X_0 0.5)) ; a comment (with brackets\n(assert (>= X_1 -1))(assert (<= X_1 2e0))"
)


def test_a_box_and_one_row() -> None:
    (case,) = parse_vnnlib(HEAD + BOX + "(assert (<= Y_0 Y_1))", "p").cases
    assert (case.lower.tolist(), case.upper.tolist()) == ([0.25, -1.0], [0.5, 2.0])
    assert (case.weights.tolist(), case.limits.tolist()) == ([[1.0, -1.0]], [0.0])
    assert case.lower.dtype == case.weights.dtype == torch.float64


@pytest.mark.parametrize(
    ("formula", "row", "limit"),
    [
        ("(>= Y_0 3.5)", [-1, 0], -3.5),
        ("(<= 3.5 Y_0)", [-1, 0], -3.5),
        ("(<= (+ Y_0 (* 2 Y_1)) 1)", [1, 2], 1),
        ("(>= (- Y_0 Y_1 1) (- Y_1))", [-1, 0], -1),
        ("(<= (* Y_1 -0.5) (- Y_0 2))", [-1, -0.5], -2),
    ],
)
def test_rows_are_linear_terms(formula: str, row: list[float], limit: float) -> None:
    (case,) = parse_vnnlib(f"{HEAD}{BOX}(assert {formula})").cases
    assert (case.weights.tolist(), case.limits.tolist()) == ([row], [limit])


def test_choices_multiply_and_conjunctions_gather() -> None:
    text = "(assert (or (and (<= Y_0 0) (<= Y_1 0)) (>= Y_0 5)))(assert (or (<= Y_1 7) (<= Y_1 8)))"
    cases = parse_vnnlib(HEAD + BOX + text).cases
    assert [case.limits.tolist() for case in cases] == [[0, 0, 7], [0, 0, 8], [-5, 7], [-5, 8]]


def test_choices_of_inputs_are_boxes_of_their_own() -> None:
    text = """
    (assert (or (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 0)) (and (<= X_0 3) (>= X_0 2) (<= X_1 1) (>= X_1 0.5))))
    (assert (or (<= Y_0 Y_1) (<= Y_1 0)))"""
    found = parse_vnnlib(HEAD + text)
    assert [case.lower.tolist() for case in found.cases] == [[0, 0], [0, 0], [2, 0.5], [2, 0.5]]
    assert [group for _, group in found.boxes()] == [(0, 1), (2, 3)]


def test_the_tightest_of_two_ends_counts_and_empty_boxes_leave() -> None:
    (case,) = parse_vnnlib(HEAD + BOX + "(assert (<= X_0 0.4))(assert (<= Y_0 0))").cases
    assert case.upper.tolist() == [0.4, 2.0]
    assert parse_vnnlib(HEAD + BOX + "(assert (<= X_0 0.1))(assert (<= Y_0 0))").cases == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + BOX + "(assert (< Y_0 1))", r"\(< Y_0 1\) is not known"),
        (HEAD + BOX + "(assert (not (<= Y_0 1)))", "not"),
        (HEAD + BOX + "(assert (<= (* Y_0 Y_1) 1))", "is not linear"),
        (HEAD + BOX + "(assert (<= X_0 X_1))", "ties several inputs"),
        (HEAD + BOX + "(assert (<= X_0 Y_1))", "ties several inputs"),
        (HEAD + BOX + "(assert (<= Y_2 1))", "Y_2 is not declared"),
        (HEAD + "(assert (<= X_0 1))(assert (<= Y_0 1))", "X_0 has no bounds on both sides"),
        ("(declare-const X_1 Real)(declare-const Y_0 Real)", "not X_0, X_1"),
        ("(declare-const Z_0 Real)", "a variable is called 'Z_0'"),
        ("(declare-const X_0 Int)", "is not known"),
        (HEAD + "(assert (<= X_0 1)", "is not closed"),
        (HEAD + ")", "closed that was not opened"),
        (HEAD + "(assert (<= Y_0 many))", "neither a variable nor a number"),
        (HEAD + "(push 1)", r"\(push 1\) is not known"),
    ],
)
def test_other_formulas_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_vnnlib(text)


def test_packed_and_plain_files_are_read(tmp_path: Path) -> None:
    text = HEAD + BOX + "(assert (<= Y_0 Y_1))"
    (tmp_path / "a.vnnlib").write_text(text)
    (tmp_path / "b.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    assert [read_vnnlib(tmp_path / name).name for name in ("a.vnnlib", "b.vnnlib.gz")] == ["a", "b"]
    (tmp_path / "bad.gz").write_bytes(gzip.compress(text.encode())[:40])
    for name in ("bad.gz", "missing.vnnlib"):
        with pytest.raises(InputError, match=f"cannot read .*{name}"):
            read_vnnlib(tmp_path / name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the other reader leaves files open
def test_published_properties_are_read_as_another_reader_does(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(shared_data / "loaders"))
    other = importlib.import_module("cert_nets")
    sys.modules.pop("cert_nets")
    folder = shared_data / "cert" / "dev" / "specs"
    files = [*sorted(folder.glob("acasxu/**/*.gz")), *sorted(folder.glob("*/**/*.gz"))[::25]]
    assert len(files) > 10
    for file in files:
        found = read_vnnlib(file)
        if file.name.startswith("prop_6"):  # two boxes, which the other reader does not know
            assert len(list(found.boxes())) == 2
            continue
        low, high, rows = other.vnnlib(str(file.relative_to(shared_data / "cert")))
        assert len(rows) == len(found.cases)
        for case, (weights, limits) in zip(found.cases, rows, strict=True):
            assert np.array_equal(case.lower, low)
            assert np.array_equal(case.upper, high)
            assert np.array_equal(case.weights, weights)
            assert np.array_equal(case.limits, limits)
