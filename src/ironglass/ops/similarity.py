"""How alike two maps are, a figure a sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ironglass.core.errors import InputError, extra

from .filters import gaussian, smooth

ROWS = 16
"""Maps ranked at a time, so that ranks in double precision stay small beside the maps."""


def ranks(values: Tensor) -> Tensor:
    """Returns each row's ranks ``(N, d)`` from 0, as float64; equal values share the mean of their ranks."""
    ordered, order = values.sort(1)
    place = torch.arange(values.shape[1], device=values.device).expand(values.shape)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = place.where(fresh, 0).cummax(1).values
    ends = torch.ones_like(fresh)
    ends[:, :-1] = fresh[:, 1:]
    last = place.where(ends, values.shape[1]).flip(1).cummin(1).values.flip(1)
    shared = (first + last).double() / 2
    return torch.empty_like(shared).scatter_(1, order, shared)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Returns Spearman's rank correlation of each pair of maps ``(N,)``; 0 where one of them is constant.

    Args:
        a: maps ``(N, *shape)``.
        b: maps of the same shape.
    """

    def correlation(one: Tensor, other: Tensor) -> Tensor:
        p, q = (ranks(side.flatten(1)) for side in (one, other))
        p, q = p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)
        scale = p.norm(dim=1) * q.norm(dim=1)
        return torch.div((p * q).sum(1), scale.where(scale > 0, 1))

    parts = [correlation(a[start : start + ROWS], b[start : start + ROWS]) for start in range(0, len(a), ROWS)]
    return torch.cat(parts).to(a.dtype)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    r"""Returns the structural similarity (Wang 2004) of each pair of maps ``(N,)``; 0 where one of them is constant.

    Channels are summed and each map divided by its greatest absolute value before; the range in the constants is that
    of the pair, 1 for maps without negative values. The window is a Gaussian of 1.5 pixels over 11 x 11, or over the
    largest odd square that fits the map.

    Args:
        a: maps ``(N, H, W)`` or ``(N, C, H, W)``.
        b: maps of the same shape.

    Raises:
        InputError: if the maps are no images.
    """
    if a.ndim not in (3, 4):
        raise InputError(f"maps of shape {tuple(a.shape[1:])} are no images", "take similarity='spearman'")
    planes = [_unit(side.sum(1) if side.ndim == 4 else side) for side in (a, b)]
    flat = torch.stack(planes, 1).flatten(1)
    reach = (flat.amax(1) - flat.amin(1))[:, None, None]
    p, q = (plane[:, None] for plane in planes)
    window = gaussian(1.5, min(5, (min(p.shape[2:]) - 1) // 2), p)
    p1, q1, p2, q2, pq = smooth(torch.cat([p, q, p * p, q * q, p * q], 1), window).unbind(1)
    c1, c2 = (0.01 * reach) ** 2, (0.03 * reach) ** 2
    varied = _varies(planes[0]) & _varies(planes[1])
    map_ = (2 * p1 * q1 + c1) * (2 * (pq - p1 * q1) + c2)
    scale = (p1 * p1 + q1 * q1 + c1) * (p2 - p1 * p1 + q2 - q1 * q1 + c2)
    return torch.where(varied, (map_ / scale.where(scale > 0, 1)).mean((1, 2)), 0)


def hog(a: Tensor, b: Tensor) -> Tensor:
    """Returns the correlation of the histograms of oriented gradients of each pair of maps ``(N,)``.

    Channels are summed and each map divided by its greatest absolute value before. Cells are 16 pixels wide, or a
    quarter of the map's shorter side where that is less; nine orientations. 0 where a map is constant.

    Args:
        a: maps ``(N, H, W)`` or ``(N, C, H, W)``.
        b: maps of the same shape.

    Raises:
        InputError: if the maps are no images.
        MissingExtra: if scikit-image is not installed.
    """
    if a.ndim not in (3, 4):
        raise InputError(f"maps of shape {tuple(a.shape[1:])} are no images", "take similarity='spearman'")
    try:
        from skimage.feature import hog as histogram
    except ImportError as error:
        raise extra("images", "scikit-image") from error

    cell = max(2, min(16, min(a.shape[-2:]) // 4))
    planes = [_unit(side.sum(1) if side.ndim == 4 else side).double().cpu() for side in (a, b)]
    found = []
    for pair in zip(*planes, strict=True):
        one, other = (
            torch.from_numpy(histogram(plane.numpy(), 9, (cell, cell), cells_per_block=(1, 1))) for plane in pair
        )
        one, other = one - one.mean(), other - other.mean()
        scale = float(one.norm() * other.norm())
        found.append(float(one @ other) / scale if scale else 0.0)
    varied = _varies(planes[0]) & _varies(planes[1])
    return torch.where(varied, torch.tensor(found, dtype=torch.double), 0).to(a)


def _unit(maps: Tensor) -> Tensor:
    """Divides each map by its greatest absolute value."""
    top = maps.abs().amax((1, 2), keepdim=True)
    return maps / top.where(top > 0, 1)


def _varies(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    return flat.amax(1) > flat.amin(1)


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spearman": spearman,
    "spearman_abs": lambda a, b: spearman(a.abs(), b.abs()),
    "ssim": ssim,
    "hog": hog,
}
"""The similarities by the names that options give."""
