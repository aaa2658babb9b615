"""Errors that say what was given, what was expected, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IronglassError(Exception):
    """Any error of ours: one sentence of what is wrong, and one of what to do.

    Args:
        message: what was given and what was expected.
        fix: what the user can do about it.
    """

    exit_code = 3

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  Fix: {self.fix}" if self.fix else self.message

    def __reduce__(self) -> tuple[type[IronglassError], tuple[str, str]]:
        return type(self), (self.message, self.fix)  # a worker's error reaches its parent whole


class InputError(IronglassError, ValueError):
    """The request is wrong: arguments, files, shapes, ranges."""

    exit_code = 2


class AccessError(InputError):
    """A method asks the model for more than the model gives."""


class MissingExtra(InputError, ImportError):
    """An optional library is needed for this request and is not installed."""

    def __init__(self, message: str, fix: str = "") -> None:
        InputError.__init__(self, message, fix)


class MethodFailed(IronglassError):
    """A method raised, or broke its contract."""


class BudgetExceeded(IronglassError):
    """A query or time budget is spent."""

    exit_code = 4


class IronglassWarning(UserWarning):
    """Something that is probably a mistake but may be meant."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns ``did you mean …?`` for the nearest known word, or the list of known words."""
    words = sorted(known)
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(words[:20]) + ", …" * (len(words) > 20)


def extra(name: str, library: str) -> MissingExtra:
    """Returns the error for a library that an extra brings."""
    return MissingExtra(f"{library} is not installed", f"pip install 'ironglass[{name}]'")
