"""Families load their methods on first use: ``ironglass.attack.pgd`` imports one file."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from .catalogue import catalogue, functions
from .errors import suggest


class Family(ModuleType):
    """A package whose methods are attributes, though none is imported before it is asked for."""

    def __getattr__(self, name: str) -> object:
        family = self.__name__.rpartition(".")[2]
        card = catalogue().get(name)
        module = card.module if card is not None and card.family == family else functions(family).get(name)
        if module is None:
            near = suggest(name, [card.name for card in catalogue().values() if card.family == family])
            raise AttributeError(f"{self.__name__} has no method '{name}': {near}")
        method = getattr(importlib.import_module(module), name)
        setattr(self, name, method)
        return method

    def __setattr__(self, name: str, value: object) -> None:
        # importing the file explain/saliency.py would put the module where the method of that name belongs
        if isinstance(value, ModuleType) and (
            name in catalogue() or name in functions(self.__name__.rpartition(".")[2])
        ):
            value = getattr(value, name, value)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        family = self.__name__.rpartition(".")[2]
        return sorted({*super().__dir__(), *(card.name for card in catalogue().values() if card.family == family)})


def make(module: str) -> None:
    """Makes the package of that name a family; called at the top of its ``__init__``."""
    sys.modules[module].__class__ = Family
