"""Backward rules: what flows back through a network in place of its gradient."""

from .composites import NAMES, Composite, composite
from .head import Head
from .linear import AlphaBeta, Box, Epsilon, Flat, Gamma
from .rectified import Rectified
from .relevance import Relevance
from .rescale import Rescale

__all__ = [
    "NAMES",
    "AlphaBeta",
    "Box",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "Head",
    "Rectified",
    "Relevance",
    "Rescale",
    "composite",
]
