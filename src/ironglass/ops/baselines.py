"""Inputs that stand for "nothing there", and how well an explanation adds up to the change from them."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.errors import InputError, suggest
from ironglass.core.values import Bounds

from .filters import blur

NAMES = ("black", "mid", "white", "mean", "blur")


def baseline(x: Tensor, bounds: Bounds, which: str | float) -> Tensor:
    """Returns the baseline of each sample ``(N, *shape)``, in input units.

    Args:
        x: samples ``(N, *shape)``.
        bounds: the range of the input.
        which: ``black``, ``mid`` or ``white`` for the low end, middle or high end of the bounds; ``mean`` for the
            image's mean colour; ``blur`` for the image blurred by a tenth of its shorter side; or a number, the value
            of every input.

    Raises:
        InputError: if there is no such baseline, or it needs an image.
    """
    constants = {"black": bounds.low, "mid": bounds.low + bounds.span / 2, "white": bounds.high}
    if not isinstance(which, str):
        return torch.full_like(x, which)
    if which in constants:
        return torch.full_like(x, constants[which])
    if which not in NAMES:
        raise InputError(f"no baseline is called '{which}'", f"{suggest(which, NAMES)}, or give a number")
    if x.ndim != 4:
        raise InputError(
            f"the baseline '{which}' is for images, samples here have shape {tuple(x.shape[1:])}",
            "take 'black', 'mid', 'white' or a number",
        )
    if which == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    return blur(x, min(x.shape[2:]) / 10)


def incompleteness(total: Tensor, start: Tensor, end: Tensor) -> Tensor:
    r"""Returns what an explanation leaves unexplained, as a share of the change: :math:`|\sum R - \Delta| / |\Delta|`.

    A change too small to be told from rounding counts as the smallest that can be.

    Args:
        total: the sum of each sample's map ``(N,)``.
        start: the target's logit at the baseline ``(N,)``.
        end: the target's logit at the sample ``(N,)``.
    """
    change = end - start
    least = torch.finfo(change.dtype).eps * (start.abs() + end.abs()).clamp_min(1)
    return (total - change).abs() / torch.maximum(change.abs(), least)
