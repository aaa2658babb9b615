"""Type stubs of the families, made from the catalogue: editors and mypy see every method and option.

Families load their methods lazily, which a type checker cannot follow. ``python -m ironglass.core.stubs`` writes an
``__init__.pyi`` beside each family's ``__init__.py``; the build does so for the wheel, ``make types`` for a checkout.
They are never edited and never committed.
"""

from __future__ import annotations

from pathlib import Path

from .catalogue import FAMILIES, PACKAGE, catalogue, functions


def stub(family: str, root: Path = PACKAGE) -> str:
    """Returns the stub of one family."""
    cards = [card for card in catalogue(root).values() if card.family == family]
    named = {card.name: card.module for card in cards} | functions(family, root)
    lines = [f"from {module} import {name} as {name}" for name, module in named.items()]
    return "\n".join(["# Made by ironglass.core.stubs from the catalogue.", *sorted(lines), ""])


def write(root: Path = PACKAGE) -> list[Path]:
    """Writes the stubs of the families that exist, and returns their paths."""
    paths = []
    for family in FAMILIES:
        if (root / family / "__init__.py").exists():
            path = root / family / "__init__.pyi"
            path.write_text(stub(family, root), encoding="utf-8")
            paths.append(path)
    return paths


if __name__ == "__main__":
    write()
