"""Composites: which rule is whose, by the kind of a layer and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ironglass.core.errors import InputError, suggest

from .linear import AlphaBeta, Box, Epsilon, Flat, Gamma, Rule


@dataclass(frozen=True, slots=True)
class Composite:
    """Rules for the layers of a network.

    Args:
        dense: of fully connected layers.
        conv: of convolutions.
        first: of a convolution that sees the input itself, moved or normalized at most; None for that of the others.
            A dense first layer keeps its rule: its inputs are features, which must not share alike.
    """

    dense: Rule
    conv: Rule
    first: Rule | None = None

    def __post_init__(self) -> None:
        if self.dense.direct or self.conv.direct:
            raise InputError("the flat and the box rule are for the first layer", "give them as first=")

    def pick(self, kind: Literal["dense", "conv"], *, first: bool) -> Rule:
        """Returns the rule of a layer."""
        if kind == "dense":
            return self.dense
        return self.first if first and self.first is not None else self.conv


NAMES = (
    "epsilon",
    "gamma",
    "z_plus",
    "alpha2_beta1",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
)


def composite(name: str, epsilon: float = 1e-6, gamma: float = 0.25) -> Composite:
    """Returns a composite by name: the rule of dense layers, of convolutions, and of the first convolution.

    Args:
        name: one of `NAMES`; a single rule is everybody's.
        epsilon: of the ε rule.
        gamma: of the γ rule.

    Raises:
        InputError: if there is none of that name, or a number is negative.
    """
    if epsilon < 0 or gamma < 0:
        raise InputError(
            f"epsilon={epsilon}, gamma={gamma}: a negative one shares out more than there is", "at least 0"
        )
    small, large, plus, both = Epsilon(epsilon), Gamma(gamma), AlphaBeta(1, 0), AlphaBeta(2, 1)
    known: dict[str, tuple[Rule, Rule, Rule | None]] = {
        "epsilon": (small, small, None),
        "gamma": (large, large, None),
        "z_plus": (plus, plus, None),
        "alpha2_beta1": (both, both, None),
        "epsilon_plus": (small, plus, None),
        "epsilon_plus_flat": (small, plus, Flat()),
        "epsilon_gamma_box": (small, large, Box()),
        "epsilon_alpha2_beta1": (small, both, None),
        "epsilon_alpha2_beta1_flat": (small, both, Flat()),
    }
    if name not in known:
        raise InputError(f"no composite is called '{name}'", suggest(name, NAMES))
    return Composite(*known[name])
