from __future__ import annotations

import math
from typing import Any

import click
import pytest

from ironglass.cli.kinds import Many, duration, kind_of, number, rows

PGD = "ironglass.attack.gradient.pgd"


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.1", 0.1), ("1e-3", 1e-3), ("-1/2", -0.5), ("inf", math.inf), ("3", 3.0)]
)
def test_numbers_and_fractions(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize("text", ["8/0", "a", "", "1/2/3", "nan", "/255", "8/"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        number(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("1h30m", 5400), ("1.5m", 90), ("45", 45)]
)
def test_times(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10x", "m", "-5s", "0s", "1h30", "1 h", "inf"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        duration(text)


def test_rows() -> None:
    assert rows("0:8") == (slice(0, 8),)
    assert rows("5") == (slice(5, 6),)
    assert rows("0:3, 7") == (slice(0, 3), slice(7, 8))
    assert rows("2:") == (slice(2, None),)
    for wrong in ("", "a", "1-3", "-1", "1:2:3"):
        with pytest.raises(ValueError, match="names no samples"):
            rows(wrong)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("int", "4", 4),
        ("float", "8/255", 8 / 255),
        ("str", "conv1", "conv1"),
        ("bool", "no", False),
        ("int | None", "4", 4),
        ("int | None", "none", None),
        ("float | None", "1/4", 0.25),
        ("Optional[int]", "none", None),
        ('Literal["ce", "margin"]', "margin", "margin"),
        ('Literal["ce"] | None', "none", None),
        ("Literal[1, 2]", "2", 2),
        ("LossName", "margin", "margin"),
        ("int | str", "4", 4),
        ("str | int", "four", "four"),
        ("tuple[int, ...]", "1,2,3", (1, 2, 3)),
        ("tuple[float, float]", "0,1/2", (0.0, 0.5)),
        ("Sequence[str]", "a,b", ("a", "b")),
        ("Tensor | float", "0.5", 0.5),
    ],
)
def test_an_annotation_says_what_a_text_may_be(annotation: str, text: str, value: Any) -> None:
    kind = kind_of(annotation, PGD)
    assert kind is not None
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("int", "4.5"),
        ("int | None", "four"),
        ("LossName", "hinge"),
        ("tuple[float, float]", "1"),
        ("tuple[int, ...]", "1,a"),
        ("tuple[int, ...]", ","),
        ("float", "8/0"),
    ],
)
def test_what_an_annotation_rejects(annotation: str, text: str) -> None:
    kind = kind_of(annotation, PGD)
    assert kind is not None
    with pytest.raises(click.UsageError):
        kind.convert(text, None, None)


@pytest.mark.parametrize("annotation", ["Tensor", "Callable[[int], int]", "Attack[Any] | None", "", "tuple[int, str]"])
def test_what_only_python_can_give(annotation: str) -> None:
    assert kind_of(annotation, PGD) is None


def test_an_alias_is_found_where_it_is_defined() -> None:
    kind = kind_of("LossName", PGD)
    assert isinstance(kind, click.Choice)
    assert list(kind.choices) == ["ce", "margin", "dlr"]
    assert kind_of("LossName", "ironglass.core.errors") is None


def test_defaults_pass_as_they_are() -> None:
    assert Many(click.INT).convert((1, 2), None, None) == (1, 2)
