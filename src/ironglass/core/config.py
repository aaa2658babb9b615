"""What a run was asked for: flags, ``ironglass.toml`` and defaults, in one checked value. No torch."""

from __future__ import annotations

import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import msgspec

from .errors import InputError


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An audit's options; an unknown name or a wrong type is an error that says where.

    ``norm`` and ``eps`` set the threat that the verdicts are about; ``time`` is a budget in seconds; ``max_queries`` is
    that of the attacks with fewer rights; ``threads`` is for one pass of the model.
    """

    suite: Literal["quick", "standard", "full"] = "quick"
    norm: Literal["linf", "l2", "l1", "wasserstein"] = "linf"
    eps: float | None = None
    samples: int | None = None
    seed: int = 0
    workers: int = 1
    time: float | None = None
    max_queries: int | None = None
    fail_on: Literal["low", "medium", "high", "critical", "never"] = "never"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    options: dict[str, dict[str, Any]] = {}

    def __post_init__(self) -> None:
        for name in ("eps", "samples", "workers", "time", "max_queries"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}", f"give a {name} above 0")


def _fraction(text: str) -> float | str:
    """Returns the number that ``8/255`` stands for, or the text where it is none."""
    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        return text


def read_config(path: Path | None, flags: dict[str, Any]) -> Config:
    """Returns the options: defaults, then the file's ``[audit]`` table, then the flags that were given.

    Args:
        path: a TOML file; None for none. ``[audit.options.pgd]`` sets options of one method.
        flags: those given on the command line; None means not given.

    Raises:
        InputError: naming the place and what was expected there.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8")).get("audit", {})
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}", "give a TOML file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not TOML: {error}", "correct it, e.g. eps = 0.03") from error
    given = {name: value for name, value in flags.items() if value is not None}
    if isinstance(table.get("eps"), str):
        table["eps"] = _fraction(table["eps"])
    try:
        return msgspec.convert(table | given, Config)
    except msgspec.ValidationError as error:
        where = path if path is not None and not given else "options"
        raise InputError(f"{where}: {error}", "see `ironglass audit --help`") from error
