"""Extremal perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Loss, Model
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import lp
from ironglass.ops.filters import blur
from ironglass.ops.observe import blocks
from ironglass.ops.smooth_max import SmoothMax
from ironglass.ops.targets import logit

CELLS = 32
"""Cells of the grid along the shorter side of an image."""
BLUR = 0.09
"""Spread of the blur, as a share of the shorter side."""
PRESSURE, GROWTH = 0.3, 300.0
"""Weight of the area at first, and how much it grows until the end."""
MOMENTUM = 0.9
STARTS = 8
"""Images on the way from blurred to sharp, whose gradients say where the search begins."""
SPREAD = 1.5
"""Of the blur of a map before a mask is cut out of it, in cells."""
STEEP = 10.0
"""How fast a mask falls from 1 to 0 where it is cut out of a map."""


@explain(
    title="Extremal perturbations",
    paper="fong2019",
    access="gradient",
    cost="2 * len(areas) * steps + len(areas) * (len(areas) + 2) + 18",
    kind="specific",
    lecture="perturbation explanations: extremal perturbations",
)
def extremal_perturbation(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    areas: tuple[float, ...] = (0.025, 0.05, 0.1, 0.2),
    mode: Literal["preserve", "delete"] = "preserve",
    steps: int = 200,
    step_size: float = 0.5,
) -> Map:
    r"""Find the smooth mask of a given area that, left sharp in a blurred image, raises the target's logit the most.

    .. math:: m_a = \arg\max_m \; f_t(m \otimes x) - \lambda\, \|\operatorname{vecsort}(m) - r_a\|^2

    r_a is zero but for a share a of ones: the mask is driven to be black and white, and to that area. The perturbation
    fades each pixel into a blurred image by how little of the mask it has. All areas of an image are sought in one
    batch, by steps with momentum of a size that falls to 0.

    The search begins where the logit gains most as the whole image fades in: at the gradients on that way, smoothed,
    and cut at the area. At the end each area takes the best of what was found for it, where it began, and what was
    found for each other area, grown or shrunk to it; all brought to the area exactly. So a larger area hardly holds
    less.

    Args:
        areas: shares of the image.
        mode: ``preserve`` to keep what is in the mask, ``delete`` to blur it so that the logit falls the most.
        steps: gradient steps.
        step_size: the first step of the cell that moves most, in units of the grid's values, which lie in [0, 1].

    Returns:
        The mean of the masks ``(N, H, W)``, in [0, 1]. Extras: ``masks (N, areas, H, W)`` and ``energy (N, areas)``,
        the target's logit under each mask.

    Raises:
        InputError: if an option is out of range, or the samples are no images.
    """
    if x.ndim != 4:
        raise InputError(f"this is for images, samples have shape {tuple(x.shape[1:])}", "take lime or kernel_shap")
    if not areas or not all(0 < area < 1 for area in areas) or steps < 1 or step_size <= 0:
        raise InputError(f"areas={areas}, steps={steps}, step_size={step_size}", "e.g. areas=(0.05, 0.1), steps=200")
    if mode not in ("preserve", "delete"):
        raise InputError(f"mode='{mode}'", "preserve or delete")
    everyone = torch.arange(len(x), device=x.device)
    values = (2 + 8 * len(areas)) * x[0].numel()
    found = [
        _search(model.take(rows), x[rows], target[rows], areas, mode == "delete", steps, step_size)
        for rows in (everyone[block] for block in blocks(len(x), values))
    ]
    masks, energy = (torch.cat(part) for part in zip(*found, strict=True))
    return Map(masks.mean(1), extras={"masks": masks, "energy": energy})


def _search(
    model: Model, x: Tensor, target: Tensor, areas: Sequence[float], delete: bool, steps: int, step_size: float
) -> tuple[Tensor, Tensor]:
    """Returns the masks ``(n, areas, H, W)`` and the logits under them ``(n, areas)``."""
    height, width = x.shape[2:]
    renderer = SmoothMax(height, width, max(min(height, width) // CELLS, 1))
    soft = blur(x, BLUR * min(height, width))
    rows = torch.arange(len(x), device=x.device).repeat_interleave(len(areas))
    of, sign = logit(target), -1.0 if delete else 1.0
    ends = [of(model.scores(end), slice(None)) for end in (x, soft)]
    scale = (ends[0] - ends[1]).abs().clamp_min(1e-3).to(x.dtype)
    loss: Loss = lambda scores, which: sign * of(scores, which) / scale[which]  # noqa: E731
    share = x.new_tensor(areas).repeat(len(x))
    evidence = _evidence(model, x, soft, of, renderer).repeat_interleave(len(areas), 0)
    first = _to_area(renderer, STEEP * evidence, share)
    grid, speed, slope = first, torch.zeros_like(first), (x - soft).repeat_interleave(len(areas), 0)
    for step in range(steps):
        drawn = renderer.draw(grid)
        mask = drawn.mask
        shown = _shown(x, soft, 1 - mask if delete else mask)
        gain = (model.value_and_grad(shown, loss, rows).grad * slope).sum(1) * sign
        pressure = PRESSURE * GROWTH ** (step / steps) / mask[0].numel()
        push = renderer.pull(grid, drawn, gain - 2 * pressure * (mask - _ideal(mask, areas)))
        speed = MOMENTUM * speed + (1 - MOMENTUM) * push
        reach = speed.abs().amax((1, 2), keepdim=True).clamp_min(1e-12)
        grid = (grid + step_size * (1 - step / steps) * speed / reach).clamp_(0, 1)
    grown = blur(grid[:, None], SPREAD)[:, 0] + evidence / STEEP
    best, energy = first, grid.new_full((len(grid),), torch.inf)
    every = torch.arange(len(grid), device=x.device).reshape(len(x), -1)
    others = [grown[every[:, [i]].expand_as(every).flatten()] for i in range(len(areas))]
    for found in (grid, first, *(STEEP * other for other in others)):
        found = _to_area(renderer, found, share)
        mask = renderer.draw(found).mask
        reached = of(model.scores(_shown(x, soft, 1 - mask if delete else mask), rows), rows) * -sign
        better = reached < energy
        best, energy = torch.where(lp.column(better, best), found, best), torch.where(better, reached, energy)
    mask = renderer.draw(best).mask
    return mask.reshape(len(x), -1, height, width), (energy * -sign).reshape(len(x), -1)


def _evidence(model: Model, x: Tensor, soft: Tensor, of: Loss, renderer: SmoothMax) -> Tensor:
    """Returns the rank, from 0 to 1, of what the logit gains at each cell of the grid as the whole image fades in."""
    total = torch.zeros_like(x[:, 0])
    for step in range(STARTS):
        faded = torch.lerp(soft, x, (step + 0.5) / STARTS)
        total += (model.value_and_grad(faded, of).grad * (x - soft)).sum(1)
    cells = blur(F.adaptive_avg_pool2d(total[:, None], renderer.grid), SPREAD).flatten(1)
    return (cells.argsort(1).argsort(1) / (cells.shape[1] - 1)).to(total).reshape(len(total), *renderer.grid)


def _shown(x: Tensor, soft: Tensor, masks: Tensor) -> Tensor:
    """Returns the images faded into the soft ones where masks are low ``(n * areas, C, H, W)``."""
    share = masks.reshape(len(x), -1, 1, *masks.shape[1:])
    return torch.lerp(soft[:, None], x[:, None], share).flatten(0, 1)


def _ideal(masks: Tensor, areas: Sequence[float]) -> Tensor:
    """Returns one at the highest share of each mask's pixels, its area, else zero; pixels level at the edge share."""
    flat = masks.reshape(-1, len(areas), masks[0].numel())
    pixels = flat.shape[2]
    ones = [min(max(round(area * pixels), 1), pixels) for area in areas]
    edge = torch.stack([flat[:, i].kthvalue(pixels - k + 1, 1).values for i, k in enumerate(ones)], 1)[..., None]
    above, level = flat > edge, flat == edge
    left = flat.new_tensor(ones)[:, None] - above.sum(2, keepdim=True)
    return torch.where(level, left / level.sum(2, keepdim=True), above.to(flat.dtype)).reshape(masks.shape)


def _to_area(renderer: SmoothMax, grid: Tensor, area: Tensor) -> Tensor:
    """Returns the grids shifted, and kept within [0, 1], so that their masks have that area."""
    low, high = -grid.flatten(1).amax(1), 1 - grid.flatten(1).amin(1)
    for _ in range(24):
        middle = (low + high) / 2
        over = renderer.draw((grid + middle[:, None, None]).clamp(0, 1)).mask.flatten(1).mean(1) > area
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (grid + ((low + high) / 2)[:, None, None]).clamp(0, 1)
