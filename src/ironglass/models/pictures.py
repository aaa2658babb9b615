"""Picture files as tensors: decoded, turned upright, cropped to the wanted aspect, resized."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ironglass.core.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})


def checked(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns a shape that pictures can be brought to, else raises an `InputError`."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(f"pictures cannot be brought to shape {shape}", "use a model that takes (1 or 3, H, W)")
    return shape


def read(path: Path, shape: tuple[int, ...] | None = None, centre: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """Reads a picture with values in [0, 1].

    Args:
        path: the file.
        shape: ``(C, H, W)`` with C 1 or 3; the picture is cropped to that aspect and resized (bicubic). None keeps the
            size, and C as the file has it.
        centre: which part a crop keeps: 0 is the left (top), 1 the right (bottom).

    Returns:
        ``(C, H, W)``, float32.

    Raises:
        InputError: naming the file that cannot be read as a picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of odd metadata
            with Image.open(path) as file:
                image = ImageOps.exif_transpose(file)
                deep = image.mode.startswith("I;16") or image.mode == "I"
                if deep:
                    image = Image.fromarray(np.asarray(image, dtype=np.float32) * (255 / 65535))
                channels = shape[0] if shape else 1 if deep or image.mode in ("L", "1", "F") else 3
                image = image.convert("F" if deep else "L" if channels == 1 else "RGB")
    except Exception as error:  # decoders raise a dozen kinds
        raise InputError(f"cannot read the picture {path}: {error}", "repair, convert or remove it") from error
    if shape is not None and image.size != (shape[2], shape[1]):
        image = ImageOps.fit(image, (shape[2], shape[1]), Image.Resampling.BICUBIC, centering=centre)
    values = torch.from_numpy(np.array(image, dtype=np.float32)).div(255).clamp(0, 1)
    values = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    return values.expand(channels, -1, -1).contiguous()
