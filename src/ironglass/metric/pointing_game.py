"""The pointing game: does the map's highest place lie on the object?"""

from __future__ import annotations

import torch
from torch import Tensor

from ironglass.core.access import Model
from ironglass.core.errors import InputError
from ironglass.core.method import metric
from ironglass.core.results import Attribution, Score
from ironglass.core.values import PerSample


@metric(
    title="Pointing game",
    paper="zhang2018",
    access="labels",
    cost="0",
    lecture="does an explanation hold: localization",
    inputs=("image",),
    needs=("regions",),
)
def pointing_game(
    model: Model,
    attribution: Attribution,
    *,
    regions: PerSample | None = None,
    tolerance: int = 15,
) -> Score:
    """Look whether the map's maximum lies on the object, or at most some pixels beside it.

    Args:
        regions: where the object is ``(N, H, W)``, true or not 0 inside.
        tolerance: in pixels, as a circle: the paper's 15 for photographs of usual size.

    Returns:
        1 for a hit and 0 for a miss ``(N,)``, with what the object covers, which chance would hit, beside it
        ``(N, 2)``; passed where it is a hit.

    Raises:
        InputError: if there are no regions, or they are not of the map's size.
    """
    values = attribution.values.sum(1) if attribution.values.ndim == 4 else attribution.values
    assert regions is not None, "the card says that they are needed"
    if values.ndim != 3 or regions.shape != values.shape:
        raise InputError(
            f"regions of shape {tuple(regions.shape)} for maps {tuple(values.shape)}", "give one of a map's size each"
        )
    inside = _grown(regions != 0, tolerance)
    top = values.flatten(1).argmax(1)
    hit = inside.flatten(1).gather(1, top[:, None])[:, 0]
    covered = inside.flatten(1).double().mean(1)
    return Score(
        x=attribution.x,
        method="pointing_game",
        values=torch.stack([hit.double(), covered], 1).to(attribution.values.dtype),
        passed=hit,
        steps=("hit", "hit by chance"),
        of=attribution.method,
    )


def _grown(regions: Tensor, by: int) -> Tensor:
    """Returns the regions with all that is at most ``by`` pixels away."""
    if by <= 0:
        return regions
    place = torch.arange(-by, by + 1)
    disc = (place[:, None] ** 2 + place[None] ** 2 <= by * by).to(torch.float32)[None, None]
    return torch.nn.functional.conv2d(regions.float()[:, None], disc.to(regions.device), padding=by)[:, 0] > 0.5
