r"""How the step size and the radius change over a training, as functions of the share of its steps that are done."""

from __future__ import annotations

import math
from typing import get_args

from ironglass.core.errors import InputError, suggest
from ironglass.core.training import RampName, ScheduleName

PEAK = 0.4
"""Where the triangle is highest."""
FALLS = (0.65, 0.9)
"""Where ``steps`` divides the step size by ten."""
SMOOTH = 0.25
"""The part of a smooth ramp that grows as a fourth power, before it goes on along a line."""


def factor(name: ScheduleName, share: float) -> float:
    r"""Returns what the step size is multiplied by.

    ``cosine`` is :math:`\tfrac12(1 + \cos \pi s)`; ``triangular`` rises from 0 to 1 at 0.4 and falls to 0 (wong2020);
    ``steps`` is 1, then 0.1 from 0.65 on and 0.01 from 0.9 on; ``constant`` is 1.

    Args:
        name: of the schedule.
        share: of all steps that are done, in [0, 1].
    """
    if name == "cosine":
        return (1 + math.cos(math.pi * share)) / 2
    if name == "triangular":
        return share / PEAK if share < PEAK else (1 - share) / (1 - PEAK)
    if name == "steps":
        return float(0.1 ** sum(share >= fall for fall in FALLS))
    return 1.0


def grown(share: float, warm: float = 0.0, ramp: float = 0.0, shape: RampName = "linear") -> float:
    r"""Returns the part of the radius that is reached: 0 while warm, then growing, then 1.

    With :math:`t = (s - \text{warm}) / \text{ramp}` the ramp is t itself, or ``smooth``: :math:`a t^4` on the first
    quarter and a line from there to 1, with a slope that does not jump (shi2021).

    Args:
        share: of all steps that are done, in [0, 1].
        warm: the share before the ramp.
        ramp: the share of the ramp; 0 for a jump.
        shape: of the ramp.
    """
    if share < warm:
        return 0.0
    if share >= warm + ramp:
        return 1.0
    t = (share - warm) / ramp
    if shape == "linear":
        return t
    # a m^4 + 4 a m^3 (1 - m) = 1 joins value and slope at m
    a = 1 / (SMOOTH**4 + 4 * SMOOTH**3 * (1 - SMOOTH))
    return a * t**4 if t < SMOOTH else a * SMOOTH**4 + 4 * a * SMOOTH**3 * (t - SMOOTH)


def check(schedule: str, shape: str, warm: float, ramp: float) -> None:
    """Checks the course of a training.

    Raises:
        InputError: if a name is unknown, or the shares are not shares.
    """
    for name, known in ((schedule, get_args(ScheduleName)), (shape, get_args(RampName))):
        if name not in known:
            raise InputError(f"schedule '{name}' is unknown", suggest(name, known))
    if not (warm >= 0 and ramp >= 0 and warm + ramp <= 1):
        raise InputError(f"warm={warm}, ramp={ramp} are no shares of the training", "0 ≤ warm, 0 ≤ ramp, sum ≤ 1")
