"""Regions of images: a grid, and superpixels that follow the colours (SLIC, Achanta et al. 2012)."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 6
COLOUR = 0.3
"""The step in a channel, of a range of 1, that weighs as much as the distance between two centres."""


def grid(x: Tensor, count: int) -> Tensor:
    """Returns the cell of each pixel in a grid of about ``count`` cells, long ``(1, H, W)``.

    Args:
        x: images ``(N, C, H, W)``.
        count: cells, about; no more than pixels.
    """
    rows, columns = _shape(x, count)
    down, across = (torch.arange(side, device=x.device) for side in x.shape[2:])
    return ((down * rows // x.shape[2])[:, None] * columns + across * columns // x.shape[3])[None]


def superpixels(x: Tensor, count: int) -> Tensor:
    """Returns the superpixel of each pixel, long ``(N, H, W)``: as many in every image as cells in the grid.

    Each pixel goes to the nearest in colour and place of the nine centres around its cell, and each centre to the
    mean of its pixels, in turn. A superpixel may fall apart, or end up empty.

    Args:
        x: images ``(N, C, H, W)``, each channel over a range of 1.
        count: superpixels, about; no more than pixels.
    """
    rows, columns = _shape(x, count)
    height, width = x.shape[2:]
    home = grid(x, count)[0]
    step = (height * width / (rows * columns)) ** 0.5
    place = torch.stack(torch.meshgrid(*(torch.arange(s, device=x.device) for s in (height, width)), indexing="ij"))
    features = torch.cat([x.float() / COLOUR, (place / step).float().expand(len(x), -1, -1, -1)], 1).flatten(2)
    labels = home.flatten().expand(len(x), -1)
    near = [(home // columns + dy, home % columns + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    inside = [((y >= 0) & (y < rows) & (x_ >= 0) & (x_ < columns)).flatten() for y, x_ in near]
    candidates = [(y.clamp(0, rows - 1) * columns + x_.clamp(0, columns - 1)).flatten() for y, x_ in near]
    for _ in range(ROUNDS):
        centres = _centres(features, labels, rows * columns)
        best = torch.full_like(features[:, 0], torch.inf)
        for which, valid in zip(candidates, inside, strict=True):
            distance = (features - centres[:, :, which]).square_().sum(1).where(valid, torch.inf)
            closer = distance < best
            best, labels = torch.where(closer, distance, best), torch.where(closer, which, labels)
    return labels.reshape(len(x), height, width)


def _centres(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Returns the mean features ``(N, F, count)`` of each superpixel; an empty one is nowhere, near to no pixel."""
    index = labels[:, None].expand_as(features)
    sums, sizes = (features.new_zeros(*features.shape[:2], count) for _ in range(2))
    sums.scatter_add_(2, index, features)
    sizes.scatter_add_(2, index, torch.ones_like(features))
    return torch.where(sizes > 0, sums / sizes, torch.inf)


def _shape(x: Tensor, count: int) -> tuple[int, int]:
    height, width = x.shape[2:]
    rows = min(max(round((count * height / width) ** 0.5), 1), height)
    columns = min(max(round(count / rows), 1), width)
    return min(max(round(count / columns), 1), height), columns
