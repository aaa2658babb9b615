"""Extremal perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ironglass.core.access import Loss, Model
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops.filters import blur
from ironglass.ops.observe import blocks
from ironglass.ops.smooth_max import SmoothMax
from ironglass.ops.targets import logit

CELLS = 32
"""Cells of the grid along the shorter side of an image."""
LEVELS, BLUR = 8, 0.09
"""Pictures from sharp to blurred, and the spread of the last as a share of the shorter side."""
PRESSURE, GROWTH = 10.0, 100.0
"""Weight of the area at first, and how much it grows until the end."""
MOMENTUM = 0.9


@explain(
    title="Extremal perturbations",
    paper="fong2019",
    access="gradient",
    cost="len(areas) * (2 * steps + 1) + 2",
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
    blurs each pixel by how little of the mask it has. All areas of an image are sought in one batch. At the end the
    mask's area is brought to a exactly, by one shift of its grid.

    Args:
        areas: shares of the image.
        mode: ``preserve`` to keep what is in the mask, ``delete`` to blur it so that the logit falls the most.
        steps: gradient steps.
        step_size: of a step, in units of the grid's values.

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
    values = (LEVELS + 8 * len(areas)) * x[0].numel()
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
    levels = torch.stack([x, *(blur(x, BLUR * min(height, width) * k / (LEVELS - 1)) for k in range(1, LEVELS))], 1)
    rows = torch.arange(len(x), device=x.device).repeat_interleave(len(areas))
    of, sign = logit(target), -1.0 if delete else 1.0
    ends = [of(model.scores(end), slice(None)) for end in (x, levels[:, -1])]
    scale = (ends[0] - ends[1]).abs().clamp_min(1e-3).to(x.dtype)
    loss: Loss = lambda scores, which: sign * of(scores, which) / scale[which]  # noqa: E731
    grid = x.new_full((len(rows), *renderer.grid), float(not delete))  # where the image is sharp
    speed = torch.zeros_like(grid)
    for step in range(steps):
        drawn = renderer.draw(grid)
        mask = drawn.mask
        shown, slope = _shown(levels, 1 - mask if delete else mask)
        gain = (model.value_and_grad(shown, loss, rows).grad * slope).sum(1) * sign
        pressure = PRESSURE * GROWTH ** (step / steps) / mask[0].numel()
        push = renderer.pull(grid, drawn, gain - 2 * pressure * (mask - _ideal(mask, areas)))
        speed = MOMENTUM * speed + (1 - MOMENTUM) * push
        grid = (grid + step_size * speed).clamp_(0, 1)
    mask = renderer.draw(_to_area(renderer, grid, x.new_tensor(areas).repeat(len(x)))).mask
    shown, _ = _shown(levels, 1 - mask if delete else mask)
    energy = of(model.scores(shown, rows), rows)
    return mask.reshape(len(x), -1, height, width), energy.reshape(len(x), -1)


def _shown(levels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the images blurred where masks are low ``(n * areas, C, H, W)``, and how values move with the mask."""
    depth = (1 - masks).reshape(len(levels), -1, 1, 1, *masks.shape[1:]) * (LEVELS - 1)
    below = depth.floor().clamp_(0, LEVELS - 2)
    shape = (*depth.shape[:2], *levels.shape[1:])
    at = below.long().expand(*shape[:2], 1, *shape[3:])
    sharp, soft = (levels[:, None].expand(shape).gather(2, at + k) for k in (0, 1))
    shown, slope = torch.lerp(sharp, soft, depth - below), (sharp - soft) * (LEVELS - 1)
    return shown.flatten(0, 2), slope.flatten(0, 2)


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
    low, high = -torch.ones_like(area), torch.ones_like(area)
    for _ in range(24):
        middle = (low + high) / 2
        over = renderer.draw((grid + middle[:, None, None]).clamp(0, 1)).mask.flatten(1).mean(1) > area
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (grid + ((low + high) / 2)[:, None, None]).clamp(0, 1)
