"""Class activation maps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Model, Rows, Run
from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Map
from ironglass.ops import baselines
from ironglass.ops.rules import Head
from ironglass.ops.targets import logit


@explain(
    title="Class activation map",
    paper="zhou2016",
    access="internals",
    cost="2",
    tags=("no sum",),
    kind="specific",
    lecture="activation maps: CAM",
)
def cam(model: Model, x: Tensor, target: Tensor) -> Map:
    r"""Weigh the last feature maps as the network's own linear layer does, before they are averaged.

    .. math:: R = \sum_k w_{tk} A_k,\qquad \frac1Z \sum_{ij} R_{ij} + b_t = f_t(x)

    It is exact where the logits are one linear layer over globally averaged feature maps, or averaged maps themselves,
    and is refused elsewhere, with what stands in the way. The coarse map is brought to the image's size bilinearly; it
    is signed, and not scaled.

    Returns:
        Values ``(N, H, W)`` in logits; and how far the coarse map's mean and the bias are from the logit, as a share.

    Raises:
        InputError: if samples are no images, or the network has another head.
    """
    if x.ndim != 4:
        raise InputError(f"class activation maps are for images, samples here have shape {tuple(x.shape[1:])}", "")
    coarse: dict[int, Tensor] = {}
    explained = torch.empty(len(x), dtype=x.dtype, device=x.device)
    everyone = torch.arange(len(x), device=x.device)

    def through(run: Run, leaf: Tensor, rows: Rows) -> Tensor:
        scores, head = Head()(run, leaf)
        assert head.weight is not None
        aim = target[rows]
        weight, bias = (_of(part, aim) for part in (head.weight, head.bias))
        maps = torch.einsum("nk,nkhw->nhw", weight.to(head.maps), head.maps)
        explained[rows] = (maps.mean((1, 2)) + bias).to(explained)
        coarse.update(zip(everyone[rows].tolist(), maps, strict=True))
        return scores

    value = model.propagate(x, logit(target), through).value.to(explained)
    maps = torch.stack([coarse[row] for row in range(len(x))])[:, None].to(x.dtype)
    fine = F.interpolate(maps, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return Map(fine, baselines.incompleteness(explained, explained * 0, value))


def _of(part: Tensor | None, aim: Tensor) -> Tensor:
    """Returns each sample's row of a head's weight or bias; for a pair of classes the difference of two rows."""
    if part is None:
        return torch.zeros((), device=aim.device)
    return part[aim] if aim.ndim == 1 else part[aim[:, 0]] - part[aim[:, 1]]
