"""Where a network keeps a picture of its input: layers of channels on a grid, or of tokens that tile the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.errors import InputError

EXTRA_TOKENS = (0, 1, 2, 4, 5)
"""How many tokens may stand before the image's: none, a class, a class and a teacher, four registers, or five."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A layer whose output lies on a grid over the image.

    Args:
        layer: its name.
        height: of the grid.
        width: of the grid.
        extra: tokens that stand before the grid's; they see the whole image.
        last: whether channels come last, as in tokens ``(T, C)`` and ``(H, W, C)``.
    """

    layer: str
    height: int
    width: int
    extra: int = 0
    last: bool = False

    def images(self, activation: Tensor) -> Tensor:
        """Returns the layer's output as ``(N, C, H, W)``, without the extra tokens."""
        if not self.last:
            return activation
        tiles = activation.reshape(len(activation), -1, activation.shape[-1])[:, self.extra :]
        return tiles.transpose(1, 2).reshape(len(tiles), -1, self.height, self.width)

    def over(self, other: Grid) -> bool:
        """Returns whether both tile the image alike."""
        return (self.height, self.width) == (other.height, other.width)


def grid(layer: str, shape: Sequence[int], image: Sequence[int]) -> Grid | None:
    """Reads a layer's shape as a grid over the image, or returns None.

    Three dimensions are ``(C, H, W)``, or ``(H, W, C)`` where that alone has the image's proportions. Two are tokens
    ``(T, C)``, of which the last H · W tile the image. No grid is finer than the image.

    Args:
        layer: its name.
        shape: of one sample there.
        image: height and width of the input.
    """
    height, width = image

    def inside(h: int, w: int) -> bool:
        return h <= height and w <= width and h * w > 1

    def fits(h: int, w: int) -> bool:
        return inside(h, w) and abs(h * width - w * height) < max(height, width)

    if len(shape) == 3:
        a, b, c = shape
        if fits(a, b) and not fits(b, c):
            return Grid(layer, a, b, last=True)
        return Grid(layer, b, c) if inside(b, c) else None
    for extra in EXTRA_TOKENS if len(shape) == 2 else ():
        tiles = shape[0] - extra
        h = round(math.sqrt(max(tiles, 0) * height / width))
        if h and tiles % h == 0 and fits(h, tiles // h):
            return Grid(layer, h, tiles // h, extra, last=True)
    return None


def last_grid(model: Model, x: Tensor, loss: Loss) -> Grid:
    """Finds the last layer that still knows where in the image it is, and that the loss depends on.

    It is the end of the block that holds the last parameters on a grid: the activation, the sum with a shortcut, or
    the concatenation that follows the last convolution, not the pool behind it. Where a class token is read out, image
    tokens behind the last attention change nothing; then it is the last block before them.

    Args:
        model: with access to internals.
        x: images ``(N, C, H, W)``.
        loss: of the scores.

    Raises:
        InputError: if there is no such layer.
    """
    fix = "name one with layer=, or take a method that needs none, such as integrated_gradients"
    if x.ndim != 4:
        raise InputError(f"samples of shape {tuple(x.shape[1:])} are not images: no layer has a grid over them", fix)
    shapes = model.layers()
    holders, behind = set(model.parameter_layers()), []
    for name, shape in reversed(list(shapes.items())):
        found = grid(name, shape, x.shape[2:])
        if found is not None:
            behind.append(found)
            if name in holders:
                break
    else:
        raise InputError("no layer with parameters has a grid over the image", fix)
    *later, chosen = behind
    for end in reversed(later):
        if not end.over(chosen):
            break
        chosen = end
    if not chosen.extra:
        return chosen
    grids = [found for name, shape in shapes.items() if (found := grid(name, shape, x.shape[2:])) is not None]
    blocks = [found for found in grids if found.over(chosen) and any(n.startswith(found.layer + ".") for n in shapes)]
    for candidate in (chosen, *reversed(blocks)):
        if _matters(model, x, loss, candidate):
            return candidate
    raise InputError("the scores depend on no layer's image tokens", fix)


def named_grid(model: Model, x: Tensor, layer: str) -> Grid:
    """Returns the grid of the layer of that name.

    Raises:
        InputError: if there is no such layer, or it lies on no grid.
    """
    shapes = model.layers()
    if layer not in shapes:
        near = get_close_matches(layer, shapes, n=1, cutoff=0.5) or list(shapes)[-8:]
        raise InputError(f"the network has no layer '{layer}' that runs once", f"name one such as {', '.join(near)}")
    found = grid(layer, shapes[layer], x.shape[2:]) if x.ndim == 4 else None
    if found is None:
        raise InputError(
            f"layer '{layer}' gives {shapes[layer]} a sample, no grid over samples of shape {tuple(x.shape[1:])}",
            "name a layer that gives (C, H, W), (H, W, C) or image tokens (T, C)",
        )
    return found


def _matters(model: Model, x: Tensor, loss: Loss, candidate: Grid) -> bool:
    """Whether the first sample's loss depends on the candidate's grid; a class token of its own does not count."""
    first = torch.zeros(1, dtype=torch.long, device=x.device)
    grad = model.at(candidate.layer, x[:1], loss, first).grad
    return bool(candidate.images(grad).any())
