"""``--defence``: what is put before a model, written as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click

from ironglass.cli.kinds import Kind, kind_of
from ironglass.core.catalogue import find
from ironglass.core.errors import InputError

if TYPE_CHECKING:
    from ironglass.core.method import Defence
    from ironglass.models.adapter import Adapter


class Guard(NamedTuple):
    """A defence with its options, and how it was written."""

    text: str
    name: str
    options: Mapping[str, Any]


def guard(text: str) -> Guard:
    """Returns the defence that ``feature_squeezing`` or ``feature_squeezing:bits=1:median=2`` stands for.

    Raises:
        ValueError: if there is none of that name, it needs more than a model, or an option does not fit.
    """
    name, *given = text.split(":")
    try:
        card = find(name, "defend")
        if card.decorator != "defence":
            raise ValueError(f"{name} is not put before a model by a flag; `ironglass show {name}` says how it is used")
        options = {}
        for part in given:
            key, _, value = part.partition("=")
            card.filled({key: value})
            kind = kind_of(next(option.type for option in card.options if option.name == key), card.module)
            if kind is None:
                raise ValueError(f"{key} of {name} can be given in Python only")
            options[key] = kind.convert(value, None, None)
    except InputError as error:
        raise ValueError(f"{error.message}; {error.fix}") from None
    except click.UsageError as error:
        raise ValueError(error.message.rstrip(".")) from None
    return Guard(text, name, options)


def behind(model: Adapter, guards: Iterable[Guard]) -> Adapter:
    """Returns the model behind defences; inputs go through the first of them first.

    Raises:
        InputError: if an option is out of range.
    """
    from ironglass.core.method import get

    for each in reversed(list(guards)):
        model = cast("Defence[Any]", get(each.name))(model, **each.options)
    return model


GUARD = Kind("defence", guard)
