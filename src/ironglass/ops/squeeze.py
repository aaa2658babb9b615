"""Squeezers: coarser pictures in which small changes drown. Bit depth, the median of a window, non-local means."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.core.values import Bounds

from .colour import from_lab, to_lab

ROOM = 1 << 24
"""Values of one block of pictures while windows are compared."""


NETWORKS = {
    2: ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2)),
    3: (
        *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
        *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
    ),
}
"""Exchanges that bring the median of a small window to its place, whole pictures at once."""


def reduce_bits(x: Tensor, bits: int, bounds: Bounds) -> Tensor:
    r"""Returns inputs on :math:`2^b` evenly spaced levels: :math:`\mathrm{round}(u (2^b - 1)) / (2^b - 1)`.

    Args:
        x: inputs, within the bounds.
        bits: b; a half is rounded to the even level.
        bounds: that ``u`` runs over from 0 to 1.

    Raises:
        InputError: if there are no bits.
    """
    if bits < 1:
        raise InputError(f"bits={bits}", "give at least 1")
    levels = 2**bits - 1
    unit = (x - bounds.low) / bounds.span
    rounded: Tensor = (unit * levels).round() / levels
    return rounded * bounds.span + bounds.low


def median(x: Tensor, size: int) -> Tensor:
    """Returns the median of the window around each pixel, in SciPy's convention.

    A window of an even side lies above and left of the pixel, which is its lower right; of an even number of values the
    larger middle one is taken. Beyond the edge the picture is mirrored, its edge pixels twice.

    Args:
        x: pictures ``(N, C, H, W)``.
        size: the window's side, pixels.

    Raises:
        InputError: if samples are no pictures, or no such window fits.
    """
    pictures(x, size)
    before = size // 2
    wide = mirrored(x, before, size - 1 - before)
    height, width = x.shape[2:]
    shifted = [wide[..., i : i + height, j : j + width] for i in range(size) for j in range(size)]
    if size in NETWORKS:
        for low, high in NETWORKS[size]:
            shifted[low], shifted[high] = shifted[low].minimum(shifted[high]), shifted[low].maximum(shifted[high])
        return shifted[size * size // 2]
    block = max(1, ROOM // (x[0].numel() * size * size))
    parts = [
        torch.stack([window[at : at + block] for window in shifted]).kthvalue(size * size // 2 + 1, 0).values
        for at in range(0, len(x), block)
    ]
    return torch.cat(parts)


def denoise(x: Tensor, search: int, block: int, strength: float, bounds: Bounds) -> Tensor:
    """Returns pictures after `non_local_means`; of three channels in CIELAB, lightness and colours apart.

    Args:
        x: pictures ``(N, C, H, W)`` within the bounds.
        search: the side of the search window, odd, pixels.
        block: the side of the blocks that are compared, odd, pixels.
        strength: in 255ths of the bounds' span, of lightness, and of a unit of colour.
        bounds: of the inputs.

    Raises:
        InputError: if samples are no pictures, a side is even, or a window is larger than the picture.
    """
    unit = (x - bounds.low) / bounds.span
    if x.ndim == 4 and x.shape[1] == 3:
        lab = to_lab(unit)
        light = non_local_means(lab[:, :1], search, block, strength / 255)
        colours = non_local_means(lab[:, 1:], search, block, strength / 100)  # eight bits hold their 100ths as they are
        unit = from_lab(torch.cat([light, colours], 1))
    else:
        unit = non_local_means(unit, search, block, strength / 255)
    return unit.clamp(0, 1) * bounds.span + bounds.low


def non_local_means(x: Tensor, search: int, block: int, strength: float) -> Tensor:
    r"""Returns each pixel as the mean of those near it whose surroundings look alike, all channels together.

    .. math:: \hat x_p = \frac{\sum_q w_{pq}\, x_q}{\sum_q w_{pq}}, \qquad
        w_{pq} = \exp\Bigl(-\frac{\operatorname{mean}_{B} (x_{p + b} - x_{q + b})^2}{h^2}\Bigr)

    ``q`` runs over the search window, ``b`` over a block and the channels. Beyond the edge the picture is reflected at
    its edge pixels.

    Args:
        x: pictures ``(N, C, H, W)``.
        search: the side of the search window, odd, pixels.
        block: the side of the blocks that are compared, odd, pixels.
        strength: h, input units.

    Raises:
        InputError: if samples are no pictures, a side is even, or a window is larger than the picture.
    """
    if search % 2 == 0 or block % 2 == 0 or not strength > 0:
        raise InputError(f"windows of {search} and {block}, strength {strength}", "odd windows, strength above 0")
    far, half = search // 2, block // 2
    edge = far + half
    pictures(x, edge + 1)
    rows = max(1, ROOM // (8 * x[0].numel()))
    return torch.cat([_averaged(part, far, half, edge, strength) for part in torch.split(x, rows)])


def _averaged(x: Tensor, far: int, half: int, edge: int, strength: float) -> Tensor:
    """Takes each pair of pixels once: what p is to q, q is to p."""
    height, width = x.shape[2:]
    wide = F.pad(x, (edge,) * 4, mode="reflect")

    def window(top: int, left: int, rows: int, columns: int) -> Tensor:
        return wide[..., edge + top : edge + top + rows, edge + left : edge + left + columns]

    total, weight = x.clone(), torch.ones_like(x[:, :1])
    for down in range(far + 1):
        for right in range(-far if down else 1, far + 1):
            left, size = max(right, 0), (height + down + 2 * half, width + abs(right) + 2 * half)
            here = window(-half - down, -half - left, *size)
            apart = (here - window(-half, right - half - left, *size)).square_().mean(1, keepdim=True)
            alike = F.avg_pool2d(apart, 2 * half + 1, 1).mul_(-1 / strength**2).exp_()
            ahead = alike[..., down:, left : left + width]
            behind = alike[..., :height, left - right : left - right + width]
            total.addcmul_(ahead, window(down, right, height, width))
            total.addcmul_(behind, window(-down, -right, height, width))
            weight += ahead
            weight += behind
    return total.div_(weight)


def mirrored(x: Tensor, before: int, after: int) -> Tensor:
    """Returns pictures with so many rows and columns more on either side, mirrored, the edge itself twice."""
    for axis in (2, 3):
        size = x.shape[axis]
        place = torch.arange(-before, size + after, device=x.device)
        place = torch.where(place < 0, -1 - place, place)
        x = x.index_select(axis, torch.where(place >= size, 2 * size - 1 - place, place))
    return x


def pictures(x: Tensor, side: int) -> None:
    """Checks that samples are pictures at least so large.

    Raises:
        InputError: if not.
    """
    if x.ndim != 4 or side < 1 or min(x.shape[2:]) < side:
        raise InputError(
            f"samples are {tuple(x.shape)}, and windows of {side} pixels are laid on pictures (N, C, H, W)",
            "give pictures, or a smaller window",
        )
