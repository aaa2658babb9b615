"""EfficientNet-Lite 0 to 2: convolutions, batch norms and ReLU6 alone, so every explanation and bound applies."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple, cast

from torch import Tensor, nn

from ironglass.core.errors import InputError, suggest


class Scale(NamedTuple):
    """How a variant departs from the base network: channels, layers, the side of its input, and its dropout."""

    width: float
    depth: float
    size: int
    dropout: float


SCALES = {"lite0": Scale(1.0, 1.0, 224, 0.2), "lite1": Scale(1.0, 1.1, 240, 0.2), "lite2": Scale(1.1, 1.2, 260, 0.3)}
MEAN, STD = 127 / 255, 128 / 255  # of inputs in [0, 1]: (255 x - 127) / 128

# expansion, channels, layers, stride, kernel of each stage
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
_STEM, _HEAD = 32, 1280


class EfficientNetLite(nn.Module):
    """A classifier of RGB pictures ``(N, 3, size, size)``, normalized by ``MEAN`` and ``STD``.

    The stem, the head and the depth of the outer stages do not scale with the variant. Strided convolutions pad as
    TensorFlow's ``SAME`` does: where the padding is odd, the extra row and column are at the bottom and right. The
    padding is fixed for the variant's input size. Stochastic depth, which acts in training alone, is left out.

    Args:
        variant: ``lite0``, ``lite1`` or ``lite2``.
        classes: how many logits.

    Raises:
        InputError: if there is no such variant.
    """

    def __init__(self, variant: str = "lite0", classes: int = 1000) -> None:
        super().__init__()
        if variant not in SCALES:
            raise InputError(f"EfficientNet-Lite has no variant '{variant}'", suggest(variant, SCALES))
        width, depth, side, dropout = SCALES[variant]
        self.stem = _layer(3, _STEM, 3, 2, side=side)
        side, channels, blocks = math.ceil(side / 2), _STEM, []
        for number, (expansion, wanted, layers, stride, kernel) in enumerate(_STAGES):
            outer = number in (0, len(_STAGES) - 1)
            for layer in range(layers if outer else math.ceil(layers * depth)):
                out, step = _rounded(wanted * width), stride if layer == 0 else 1
                blocks.append(Block(channels, out, expansion, kernel, step, side))
                side, channels = math.ceil(side / step), out
        self.blocks = nn.Sequential(*blocks)
        self.head = _layer(channels, _HEAD, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_HEAD, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits ``(N, classes)``."""
        x = self.flatten(self.pool(self.head(self.blocks(self.stem(x)))))
        return cast(Tensor, self.classifier(self.dropout(x)))


class Block(nn.Module):
    """An inverted residual: widen, filter each channel by itself, narrow; added to the input where shapes allow."""

    def __init__(self, channels: int, out: int, expansion: int, kernel: int, stride: int, side: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = _layer(channels, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(wide, wide, kernel, stride, groups=wide, side=side)
        self.project = _layer(wide, out, 1, active=False)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Returns the block's output ``(N, out, side / stride, side / stride)``."""
        out = cast(Tensor, self.project(self.depthwise(self.expand(x))))
        return x + out if self.residual else out


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state dict of the TensorFlow-style names (``_blocks.0._bn1``) under the names of this module."""
    return {_new_name(name): tensor for name, tensor in state.items()}


_OUTER = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier",
}
_INNER = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def _new_name(name: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block and block[2] in _INNER:
        return f"blocks.{block[1]}.{_INNER[block[2]]}.{block[3]}"
    layer, _, tensor = name.rpartition(".")
    return f"{_OUTER.get(layer, layer)}.{tensor}"


def _layer(
    channels: int, out: int, kernel: int, stride: int = 1, *, groups: int = 1, side: int = 1, active: bool = True
) -> nn.Sequential:
    """A padded convolution, its batch norm and ReLU6; ``side`` is the height and width of the input."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) if kernel > 1 else 0
    before, after = total // 2, total - total // 2
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if before != after:
        layers["pad"] = nn.ZeroPad2d((before, after, before, after))
    padding = before if before == after else 0
    layers["conv"] = nn.Conv2d(channels, out, kernel, stride, padding, groups=groups, bias=False)
    layers["norm"] = nn.BatchNorm2d(out, eps=1e-3, momentum=0.01)
    if active:
        layers["relu"] = nn.ReLU6()
    return nn.Sequential(layers)


def _rounded(channels: float) -> int:
    """Rounds to a multiple of 8, and up where that would lose over a tenth."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
