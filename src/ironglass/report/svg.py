"""A matplotlib figure as an inline SVG element: small, deterministic, without ids that clash or anything to fetch."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from .palette import as_variables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, drawn in the reader's fonts
    "svg.hashsalt": "ironglass",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12.5,
    "hatch.linewidth": 0.8,
    "path.simplify": False,
}
"""What matplotlib must be set to while it builds a figure and while :func:`inline` writes it."""

_NAMELESS = {"Creator": None, "Date": None, "Format": None, "Type": None}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_FOLLOWED = re.compile(r'(?:href="|url\()#([^")]+)')
_SHORTHAND, _FAMILY = re.compile(r"font: ([\d.]+px) [^;]*"), re.compile(r"font-family: [^;]*;? ?")
_DECIMAL = re.compile(r"-?\d+\.\d+")


def inline(figure: Figure, prefix: str) -> str:
    """Returns the figure as one ``<svg>`` element for an HTML page.

    It has no size of its own beyond its ``viewBox``, is hidden from screen readers (its wrapper speaks for it), and
    takes the page's font and, through CSS variables, the page's colours.

    Args:
        figure: 72 dots an inch, so that one unit is one CSS pixel.
        prefix: put before the ids that the element needs, such as clip paths; unique in the page.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NAMELESS, transparent=True)
    drawn = buffer.getvalue()
    root = ElementTree.fromstring(drawn)
    followed = set(_FOLLOWED.findall(drawn))
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in (f"{_SVG}metadata", f"{_SVG}style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        attributes = dict(element.attrib)
        element.attrib.clear()
        for name, value in attributes.items():
            if name != "id" or value in followed:
                element.set(name.removeprefix(_XLINK), _rewritten(name, value, prefix))
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    root.attrib.clear()
    root.attrib.update({"viewBox": f"0 0 {math.ceil(width)} {math.ceil(height)}", "aria-hidden": "true"})
    return ElementTree.tostring(root, encoding="unicode")


def _rewritten(name: str, value: str, prefix: str) -> str:
    """Returns one attribute with ids prefixed, colours as variables, fonts dropped and numbers to a hundredth."""
    if name == "id":
        return f"{prefix}-{value}"
    if name == f"{_XLINK}href":
        return f"#{prefix}-{value[1:]}"
    if name in ("style", "fill", "stroke", "clip-path"):
        value = value.replace("url(#", f"url(#{prefix}-")
        return as_variables(_FAMILY.sub("", _SHORTHAND.sub(r"font-size: \1", value)))
    if name in ("d", "x", "y", "transform"):
        return _DECIMAL.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
    return value
