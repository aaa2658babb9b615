"""Photographs of the shared data, for tests of networks that were trained on ImageNet."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def photographs(root: Path, count: int, side: int = 224) -> Tensor:
    """Returns the first photographs ``(count, 3, side, side)`` in [0, 1]."""
    stored = np.load(root / "imagenet_nips17_dev.npz", allow_pickle=False)
    found = []
    for start, stop in pairwise(stored["offsets"][: count + 1]):
        blob = stored["blob"][start:stop].tobytes()
        picture = Image.open(io.BytesIO(blob)).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        found.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
    return torch.stack(found)
