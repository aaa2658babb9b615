from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.values import Bounds
from ironglass.ops import squeeze
from ironglass.ops.colour import from_lab, to_lab

UNIT = Bounds(0, 1)


def pictures(count: int = 3, channels: int = 3, height: int = 11, width: int = 13, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("bounds", [UNIT, Bounds(-2, 3)], ids=str)
def test_there_are_exactly_as_many_levels_and_squeezing_twice_is_squeezing_once(bits: int, bounds: Bounds) -> None:
    x = torch.linspace(bounds.low, bounds.high, 10_001, dtype=torch.float64)[:, None]
    once = squeeze.reduce_bits(x, bits, bounds)
    assert len(once.unique()) == 2**bits
    assert torch.equal(squeeze.reduce_bits(once, bits, bounds), once)
    assert float((once - x).abs().max()) <= bounds.span / (2**bits - 1) / 2 + 1e-12
    assert (float(once.min()), float(once.max())) == (bounds.low, bounds.high)


def test_one_bit_is_a_threshold_in_the_middle() -> None:
    x = torch.tensor([[0.0, 0.49, 0.51, 1.0]])
    assert squeeze.reduce_bits(x, 1, UNIT).tolist() == [[0, 0, 1, 1]]
    with pytest.raises(InputError, match="bits=0"):
        squeeze.reduce_bits(x, 0, UNIT)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_the_median_is_scipys_to_the_bit(size: int) -> None:
    x = pictures()
    wanted = np.stack([[median_filter(plane, size=size, mode="reflect") for plane in image] for image in x.numpy()])
    assert np.array_equal(squeeze.median(x, size).numpy(), wanted)


def test_the_window_of_two_has_the_pixel_at_its_lower_right_and_takes_the_larger_middle() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 1], x[0, 0, 1, 2] = 1, 0.5
    found = squeeze.median(x, 2)[0, 0]
    assert float(found[1, 2]) == 0.5, "0, 0, 1 and 0.5: the larger middle is 0.5"
    assert float(found[2, 2]) == 0.5
    assert float(found.sum()) == 1.0
    assert float(squeeze.median(torch.tensor([[[[0.1, 0.2], [0.3, 0.4]]]]), 2)[0, 0, 1, 1]) == pytest.approx(0.3)


def slow_means(x: Tensor, search: int, block: int, strength: float) -> Tensor:
    """The definition, a pixel at a time, on a picture reflected at its edge."""
    far, half = search // 2, block // 2
    edge = far + half
    wide = np.pad(x.numpy(), ((0, 0), (edge, edge), (edge, edge)), mode="reflect")
    out = np.zeros(x.shape)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            row, column = i + edge, j + edge
            here = wide[:, row - half : row + half + 1, column - half : column + half + 1]
            total, weights = 0, 0.0
            for a in range(row - far, row + far + 1):
                for b in range(column - far, column + far + 1):
                    there = wide[:, a - half : a + half + 1, b - half : b + half + 1]
                    weight = np.exp(-((here - there) ** 2).mean() / strength**2)
                    total, weights = total + weight * wide[:, a, b], weights + weight
            out[:, i, j] = total / weights
    return torch.tensor(out)


@pytest.mark.parametrize("channels", [1, 3])
def test_non_local_means_are_the_definition(channels: int) -> None:
    x = pictures(2, channels, 8, 9)
    found = squeeze.non_local_means(x, 5, 3, 0.3)
    for image, wanted in zip(found, (slow_means(each, 5, 3, 0.3) for each in x), strict=True):
        assert torch.allclose(image, wanted, atol=1e-12)


def test_a_flat_picture_stays_and_noise_shrinks() -> None:
    flat = torch.full((1, 1, 20, 20), 0.4, dtype=torch.float64)
    noise = 0.02 * (pictures(1, 1, 20, 20) - 0.5)
    assert torch.allclose(squeeze.non_local_means(flat, 11, 3, 0.1), flat)
    assert float((squeeze.non_local_means(flat + noise, 11, 3, 0.1) - flat).abs().mean()) < 0.3 * float(
        noise.abs().mean()
    )


def test_what_cannot_be_windowed_is_refused() -> None:
    with pytest.raises(InputError, match="pictures"):
        squeeze.median(torch.rand(3, 8), 2)
    with pytest.raises(InputError, match="odd windows"):
        squeeze.non_local_means(pictures(), 4, 3, 0.1)
    with pytest.raises(InputError, match="smaller window"):
        squeeze.non_local_means(pictures(height=6, width=6), 13, 3, 0.1)


def test_colours_go_to_lightness_and_opponents_and_back() -> None:
    x = pictures(2, 3)
    lab = to_lab(x)
    assert torch.allclose(from_lab(lab), x, atol=1e-12)
    grey = torch.linspace(0.05, 1, 7, dtype=torch.float64).reshape(1, 1, 1, 7).expand(1, 3, 1, 7)
    light, a, b = to_lab(grey)[0]
    assert torch.allclose(light, 1.16 * grey[0, 0] ** (1 / 3) - 0.16, atol=1e-12)
    assert float(torch.stack([a, b]).abs().max()) < 1e-3


def test_pictures_of_three_channels_are_denoised_in_lightness_and_colour_apart() -> None:
    x, bounds = pictures(1, 3, 12, 12) * 2 - 1, Bounds(-1, 1)
    lab = to_lab((x + 1) / 2)
    light = slow_means(lab[0, :1], 5, 3, 20 / 255)
    colour = slow_means(lab[0, 1:], 5, 3, 20 / 100)
    wanted = from_lab(torch.cat([light, colour])[None]).clamp(0, 1) * 2 - 1
    assert torch.allclose(squeeze.denoise(x, 5, 3, 20, bounds), wanted, atol=1e-10)
    grey = pictures(1, 1, 12, 12)
    assert torch.allclose(squeeze.denoise(grey, 5, 3, 20, UNIT)[0], slow_means(grey[0], 5, 3, 20 / 255), atol=1e-12)
