"""Complete search: an attack first, then branch and bound over input boxes or over ReLU signs."""

from .problem import Budget, Problem, Settled
from .witness import Witness

__all__ = ["Budget", "Problem", "Settled", "Witness"]
