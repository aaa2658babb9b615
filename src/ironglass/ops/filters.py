"""Gaussian windows on images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian(sigma: float, radius: int, like: Tensor) -> Tensor:
    """Returns the weights ``(2 * radius + 1,)`` of a Gaussian window that sum to 1.

    Args:
        sigma: its spread, in pixels.
        radius: where it is cut off, in pixels.
        like: a tensor of the wanted precision and device.
    """
    distance = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    weights = (-0.5 * (distance / sigma) ** 2).exp()
    return weights / weights.sum()


def smooth(images: Tensor, window: Tensor) -> Tensor:
    """Returns images ``(N, C, H, W)`` weighted by a window along both sides; borders that it overhangs are cut off."""
    flat = images.reshape(-1, 1, *images.shape[2:])
    flat = F.conv2d(F.conv2d(flat, window.reshape(1, 1, -1, 1)), window.reshape(1, 1, 1, -1))
    return flat.reshape(*images.shape[:2], *flat.shape[2:])


def blur(images: Tensor, sigma: float) -> Tensor:
    """Returns images ``(N, C, H, W)`` under a Gaussian of that spread in pixels, the border values going on outside."""
    radius = math.ceil(3 * sigma)
    return smooth(F.pad(images, (radius,) * 4, mode="replicate"), gaussian(sigma, radius, images))
