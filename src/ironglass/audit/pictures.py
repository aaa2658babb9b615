"""Pictures for the report: photographs as JPEG, maps as small palette PNG, both as ``data:`` addresses."""

from __future__ import annotations

import base64
import io
from functools import cache

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from ironglass.core.findings import Picture
from ironglass.core.values import Bounds

SIDE = 224


def drawable(x: Tensor) -> bool:
    """Returns whether samples ``(N, C, H, W)`` can be shown as pictures: one or three channels."""
    return x.ndim == 4 and x.shape[1] in (1, 3)


def photo(image: Tensor, bounds: Bounds, alt: str, line: str = "") -> Picture:
    """Returns a sample ``(C, H, W)`` as a picture; small ones without loss."""
    scaled = ((image.detach().cpu().double() - bounds.low) / bounds.span).clamp(0, 1)
    pixels = (scaled * 255).round().byte().permute(1, 2, 0).numpy()
    drawn = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    if max(drawn.size) < 96:
        return Picture(data=_encode(drawn, "PNG"), alt=alt, line=line)
    if max(drawn.size) > SIDE:
        drawn.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return Picture(data=_encode(drawn, "JPEG"), alt=alt, line=line)


def difference(delta: Tensor, bounds: Bounds, alt: str, line: str = "") -> tuple[Picture, float]:
    """Returns a perturbation ``(C, H, W)`` magnified around mid grey until it fills the range, and by how much."""
    largest = float(delta.abs().max())
    factor = 0.5 * bounds.span / largest if largest else 1.0
    middle = (bounds.low + bounds.high) / 2
    return photo(middle + delta * factor, bounds, alt, line), factor


def heat(values: Tensor, alt: str, line: str = "", signed: bool = True) -> Picture:
    """Returns a map ``(C, H, W)`` or ``(H, W)`` in colour: signed around white, or unsigned from dark to light.

    The scale is the map's own: its 99.5th percentile in size is the end of the scale. Channels are summed.
    """
    flat = values.detach().cpu().double()
    flat = flat.sum(0) if flat.ndim == 3 else flat
    top = float(np.quantile(flat.abs().numpy(), 0.995)) or float(flat.abs().max()) or 1.0
    scaled = (flat / top).clamp(-1, 1).numpy()
    index = np.round((scaled + 1) / 2 * 255 if signed else scaled.clip(0) * 255).astype(np.uint8)
    drawn = Image.fromarray(index, "P")
    drawn.putpalette(_palette("coolwarm" if signed else "inferno"))
    if max(drawn.size) > SIDE // 2:
        drawn = drawn.resize((drawn.width * SIDE // 2 // max(drawn.size), drawn.height * SIDE // 2 // max(drawn.size)))
    return Picture(data=_encode(drawn, "PNG"), alt=alt, line=line)


@cache
def _palette(name: str) -> bytes:
    return bytes((colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())


def _encode(drawn: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    drawn.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
