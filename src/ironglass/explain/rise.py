"""Randomized input sampling for explanation (RISE)."""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops.baselines import baseline as filling
from ironglass.ops.observe import Output, chunks, outcome


@explain(
    title="RISE",
    paper="petsiuk2018",
    access="scores",
    cost="samples",
    kind="agnostic",
    lecture="perturbation explanations: RISE",
)
def rise(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    samples: int = 4000,
    cells: int = 7,
    baseline: str | float = "mid",
    output: Output = "logit",
    seed: int = 0,
) -> Map:
    r"""Weigh each pixel by what the model says where soft random masks let it through.

    .. math:: R_i = \frac{1}{n \, \mathbb E[M_i]} \sum_{k=1}^{n} \big(f_t(x \odot M_k) - \bar f_k\big) M_{ki}

    A mask is a coarse grid of zeros and ones, one as likely as the other, enlarged smoothly and shifted by chance. Each
    comes with its opposite, and the mean :math:`\bar f_k` of the two is taken off. That changes the expected map by a
    constant only, the same for every pixel, so that 0 means no effect; of an additive model the pairs err far less.

    Args:
        samples: masks a sample, half of them opposites.
        cells: of the coarse grid, along each side.
        baseline: what stands where nothing is let through: ``black``, ``mid``, ``white``, ``mean``, ``blur`` or a
            number.
        output: explain the target's ``logit`` or its ``probability``.
        seed: of the masks.

    Returns:
        The map ``(N, H, W)``. Extras: ``interval``, the half-width of a 95 % interval about each of its values.

    Raises:
        InputError: if an option is out of range, or the samples are no images.
    """
    if x.ndim != 4:
        raise InputError(f"RISE is for images, samples have shape {tuple(x.shape[1:])}", "take lime or kernel_shap")
    if samples < 4 or samples % 2 or cells < 1:
        raise InputError(f"samples={samples}, cells={cells}", "an even number of samples, e.g. samples=4000, cells=7")
    cover, pairs, draws = filling(x, model.bounds, baseline), samples // 2, model.draws(seed)
    grids = draws.uniform((pairs, cells + 1, cells + 1)) < 0.5
    shifts = draws.uniform((pairs, 2), dtype=torch.float64)
    total, squares = (x.new_zeros(len(x), *x.shape[2:], dtype=torch.float64) for _ in range(2))
    for which, part in chunks(len(x), pairs, 2 * x[0].numel()):
        masks = _masks(grids[which, part].to(x.dtype), shifts[which, part], x.shape[2], x.shape[3])
        both = torch.stack([masks, 1 - masks], 2)
        shown = torch.lerp(cover[which, None, None], x[which, None, None], both[:, :, :, None])
        rows = torch.arange(which.start, which.stop, device=x.device)
        scores = model.scores(shown.flatten(0, 2), rows.repeat_interleave(2 * both.shape[1]))
        y = outcome(scores.reshape(len(rows), -1, scores.shape[1]), target[which], output).reshape(len(rows), -1, 2)
        effect = (y[..., 0] - y[..., 1]).to(x.dtype)
        lit = masks - 0.5
        total[which] += torch.einsum("nk,nkhw->nhw", effect, lit)
        squares[which] += torch.einsum("nk,nkhw->nhw", effect**2, lit.square_())
    mean = total / pairs
    spread = (squares / pairs - mean**2).clamp_min(0) / (pairs - 1)
    return Map(mean, extras={"interval": 1.96 * spread.sqrt()})


def _masks(grids: Tensor, shifts: Tensor, height: int, width: int) -> Tensor:
    """Returns coarse grids ``(n, k, cells + 1, cells + 1)`` enlarged linearly and shifted by a part of a cell."""
    across = _hats(grids.shape[-1], width, shifts[..., 1], grids)
    down = _hats(grids.shape[-1], height, shifts[..., 0], grids)
    return down @ grids @ across.mT


def _hats(knots: int, side: int, shift: Tensor, like: Tensor) -> Tensor:
    """Returns how much of each knot of the grid is in each pixel along a side ``(n, k, side, knots)``."""
    pixel = (torch.arange(side, dtype=torch.float64, device=like.device) + 0.5) * (knots - 1) / side
    place = (pixel + shift[..., None] - 0.5).clamp(0, knots - 1)
    distance = place[..., None] - torch.arange(knots, device=like.device)
    return (1 - distance.abs()).clamp_min(0).to(like.dtype)
