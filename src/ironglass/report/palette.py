"""Colours by meaning, for light and dark: the page and its figures take them as CSS variables."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "paper": "#f6f7f8",
    "panel": "#ffffff",
    "ink": "#18212b",
    "muted": "#535f6c",
    "line": "#d9dee3",
    "rail": "#c3cad2",
    "accent": "#17597f",
    "critical": "#9a1b33",
    "high": "#a63f0a",
    "medium": "#6f5400",
    "low": "#2a5d8c",
    "info": "#545f6b",
    "ok": "#15675d",
    "attack-1": "#b0430d",
    "attack-2": "#6a3da3",
    "attack-3": "#a3256c",
    "attack-4": "#755a05",
    "proof": "#1c5ba6",
    "estimate": "#0f6b6b",
    "control": "#5a6571",
    "part-1": "#cfe0f2",
    "part-2": "#eceff2",
    "part-3": "#f7d9c8",
    "part-4": "#e4d9f2",
    "edge-1": "#2f6db3",
    "edge-2": "#8c97a3",
    "edge-3": "#b8501a",
    "edge-4": "#7a50b0",
}

DARK: Mapping[str, str] = {
    "paper": "#10151a",
    "panel": "#171d24",
    "ink": "#e8ecf0",
    "muted": "#a3aeb9",
    "line": "#2b343d",
    "rail": "#46525e",
    "accent": "#7cc3ec",
    "critical": "#ff9aa8",
    "high": "#ffa36f",
    "medium": "#e6c35c",
    "low": "#8fc1f2",
    "info": "#b0bac4",
    "ok": "#6fd0c0",
    "attack-1": "#ff9d66",
    "attack-2": "#c8abff",
    "attack-3": "#f796c9",
    "attack-4": "#e3bf55",
    "proof": "#7fb8ff",
    "estimate": "#62d2cc",
    "control": "#a7b1bc",
    "part-1": "#1f3d5e",
    "part-2": "#2a323b",
    "part-3": "#5a3120",
    "part-4": "#41305c",
    "edge-1": "#7fb8ff",
    "edge-2": "#8894a0",
    "edge-3": "#ff9d66",
    "edge-4": "#c8abff",
}


def variables(colours: Mapping[str, str]) -> str:
    """Returns the colours as CSS custom properties: ``--ink:#18212b;…``."""
    return "".join(f"--{name}:{colour};" for name, colour in colours.items())


def as_variables(text: str) -> str:
    """Replaces every light colour in the text by its CSS variable, with the light colour as the fallback."""
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name},{colour})")
    return text
