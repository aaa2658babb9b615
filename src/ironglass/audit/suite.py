"""Suites: how much to run, and from which value a fact has which level. Data, not code: ``suites/*.toml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from ironglass.core.findings import Severity
from ironglass.core.values import Norm

FOLDER = Path(__file__).parent / "suites"


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One suite; `levels` maps a rule to the value below which each severity begins."""

    max_passes: float
    curve: tuple[str, ...]
    control: str
    skip: tuple[str, ...] = ()
    minimum: tuple[str, ...]
    norms: tuple[Norm, ...]
    radii: tuple[float, ...]
    explained: int
    examined: int
    shown: int
    options: dict[str, dict[str, Any]]
    levels: dict[str, dict[Severity, float]]

    def level(self, rule: str, value: float) -> tuple[Severity, str]:
        """Returns the severity of a value under a rule, and the threshold in words."""
        steps = sorted(self.levels[rule].items(), key=lambda item: item[1])
        for severity, below in steps:
            if value < below:
                return severity, f"below {below:.0%}"
        return "ok", f"at least {steps[-1][1]:.0%}"


@cache
def read_suite(name: str) -> Suite:
    """Returns the suite of that name."""
    return msgspec.toml.decode((FOLDER / f"{name}.toml").read_bytes(), type=Suite)
