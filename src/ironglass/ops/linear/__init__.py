"""Linear bounds of a graph: lines for its nonlinear steps, rows pulled back, intervals and margins from them."""

from .backward import Relaxed, lower, relax
from .engine import How, differences, intervals, margins
from .relaxations import Lines, Planes, Slopes

__all__ = ["How", "Lines", "Planes", "Relaxed", "Slopes", "differences", "intervals", "lower", "margins", "relax"]
