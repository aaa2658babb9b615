"""Linear bounds of a graph: lines for its nonlinear steps, rows pulled back, intervals and margins from them."""

from .backward import lower
from .engine import How, bounded, differences, intervals, margins
from .relaxations import Lines, Planes, Slopes
from .relaxed import Relaxed, relax
from .sharpening import sharpened
from .slopes import climbed

__all__ = [
    "How", "Lines", "Planes", "Relaxed", "Slopes", "bounded", "climbed", "differences", "intervals", "lower", "margins",
    "relax", "sharpened",
]  # fmt: skip
