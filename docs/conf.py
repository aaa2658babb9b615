"""Sphinx configuration; the page of methods is made from the catalogue when the docs are built."""

from pathlib import Path

from ironglass import __version__
from ironglass.core.catalogue import catalogue

project = "Ironglass"
release = __version__
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]


def methods() -> str:
    """Returns the page of methods, as Markdown."""
    lines = ["# Methods", ""]
    for card in catalogue().values():
        lines += [f"## {card.name}", "", f"**{card.title}** ({card.family}; needs {card.access}). {card.summary}", ""]
        lines += ["| option | type | default | |", "|---|---|---|---|"] if card.options else []
        lines += [
            f"| `{o.name}` | `{o.type.replace('|', 'or')}` | `{o.default!r}` | {o.help.replace('|', '/')} |"
            for o in card.options
        ]
        lines += ["", f"Expected passes a sample: `{card.cost}`. Source: `{card.paper}`.", ""]
    return "\n".join(lines)


Path(__file__).with_name("methods.md").write_text(methods(), encoding="utf-8")
