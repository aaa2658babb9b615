"""The colour space CIELAB, in which distances are nearer to what eyes see."""

from __future__ import annotations

import torch
from torch import Tensor

_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.950456, 1.0, 1.088754)
_KNEE = 0.008856
"""Below this share of white the cube root gives way to a line."""


def to_lab(x: Tensor) -> Tensor:
    r"""Returns red, green and blue as lightness and two opponent colours ``(N, 3, H, W)``, all in 100ths.

    .. math:: L = 1.16 f(Y) - 0.16, \quad a = 5 (f(X) - f(Y)), \quad b = 2 (f(Y) - f(Z)), \qquad f(t) = \sqrt[3]{t}

    with X, Y and Z linear in the values, in units of D65 white. The values are taken as they are, without the gamma of
    a screen; so denoisers do.

    Args:
        x: values in [0, 1] ``(N, 3, H, W)``.
    """
    matrix = x.new_tensor(_TO_XYZ) / x.new_tensor(_WHITE)[:, None]
    t = torch.einsum("oc,nchw->nohw", matrix, x)
    f = torch.where(t > _KNEE, t.clamp(min=_KNEE) ** (1 / 3), 7.787 * t + 16 / 116)
    first, second, third = f.unbind(1)
    return torch.stack([1.16 * second - 0.16, 5 * (first - second), 2 * (second - third)], 1)


def from_lab(lab: Tensor) -> Tensor:
    """Returns the red, green and blue of what `to_lab` gives; the other way round, exactly."""
    light, a, b = lab.unbind(1)
    second = (light + 0.16) / 1.16
    f = torch.stack([second + a / 5, second, second - b / 2], 1)
    t = torch.where(f > 7.787 * _KNEE + 16 / 116, f**3, (f - 16 / 116) / 7.787)
    matrix = torch.linalg.inv(lab.new_tensor(_TO_XYZ) / lab.new_tensor(_WHITE)[:, None])
    return torch.einsum("co,nohw->nchw", matrix, t)
