"""Input randomization: a random size at a random place, another for every query."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Query
from ironglass.core.errors import InputError
from ironglass.core.method import defence


@defence(
    title="Input randomization",
    paper="xie2018",
    access="labels",
    differentiable=True,
    stochastic=True,
    cost="passes",
    lecture="defences: randomization",
    inputs=("image",),
)
def input_randomization(
    x: Tensor,
    query: Query,
    *,
    smallest: float = 1.0,
    largest: float = 1.107,
    flips: bool = False,
    fill: float = 0.0,
    passes: int = 1,
    samples: int = 30,
    seed: int = 0,
) -> Tensor:
    r"""Resize each sample to a random size by nearest neighbours, and pad it to a fixed size at a random place.

    .. math:: s \sim U\{s_0, \dots, S - 1\}, \qquad (i, j) \sim U\{0, \dots, S - s\}^2, \qquad
        x'_{i + a,\, j + b} = x_{\lfloor aH/s \rfloor,\, \lfloor bW/s \rfloor}

    With pictures of 299 pixels these are the paper's 12,528 patterns: sizes from 299 to 330, padded to 331. The model
    must take pictures of the new size; for one that does not, ``smallest=0.9, largest=1`` keeps the size.

    Args:
        smallest: the smallest size, as a multiple of the sample's height and width.
        largest: the size that comes out, as a multiple; it is not drawn itself, unless it is the smallest too.
        flips: whether half of the draws are mirrored left to right.
        fill: what stands around the picture, input units.
        passes: draws that one answer is the mean of; the authors' contest entry took 30, with flips.
        samples: draws that an attack's gradient is the mean of (expectation over transformation).
        seed: of every draw.

    Returns:
        Pictures ``(N, C, S, S')``.

    Raises:
        InputError: if samples are no pictures, or the sizes are out of order.
    """
    if x.ndim != 4:
        raise InputError(f"samples are {tuple(x.shape)}", "input_randomization is for pictures (N, C, H, W)")
    height, width = x.shape[2:]
    if (
        not 0 < smallest <= largest
        or min(_sizes(height, smallest, largest)[0], _sizes(width, smallest, largest)[0]) < 1
    ):
        raise InputError(f"sizes from {smallest:g} to {largest:g}", "0 < smallest ≤ largest, e.g. 1 and 1.107")
    part, down, right, turn = query.draws.uniform((4,), dtype=torch.float64).to(x.device).T
    rows, above = _places(height, smallest, largest, part, down, x)
    columns, beside = _places(width, smallest, largest, part, right, x)
    if flips:
        columns = torch.where((turn < 0.5)[:, None], width - 1 - columns, columns)
    n, c, _, _ = x.shape
    tall = x.gather(2, rows[:, None, :, None].expand(n, c, -1, width))
    full = tall.gather(3, columns[:, None, None, :].expand(n, c, tall.shape[2], -1))
    return torch.where(above[:, None, :, None] & beside[:, None, None, :], full, fill)


def _sizes(side: int, smallest: float, largest: float) -> tuple[int, int]:
    """Returns the smallest size and the size that comes out, pixels."""
    return round(side * smallest), round(side * largest)


def _places(
    side: int, smallest: float, largest: float, part: Tensor, place: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns which row of its sample each new row shows ``(N, S)``, and whether it shows any."""
    low, full = _sizes(side, smallest, largest)
    size = low + (part * max(full - low, 1)).floor().long()
    start = (place * (full - size + 1)).floor().long()
    inside = torch.arange(full, device=x.device) - start[:, None]
    shown = (inside >= 0) & (inside < size[:, None])
    return (inside.clamp(min=0) * side // size[:, None]).clamp(max=side - 1), shown


def patterns(side: int, smallest: float = 1.0, largest: float = 1.107) -> int:
    """Returns how many different patterns there are of a square picture, flips aside."""
    low, full = _sizes(side, smallest, largest)
    return sum((full - size + 1) ** 2 for size in range(low, max(full, low + 1)))
