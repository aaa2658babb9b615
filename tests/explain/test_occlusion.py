from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.explain.occlusion import occlusion
from ironglass.ops.views import Table
from nets import images, small_cnn


def slow(net: torch.nn.Module, x: Tensor, target: int, tops: list[int], lefts: list[int], size: int) -> Tensor:
    """One window of one image at a time."""
    found = torch.zeros(len(x), *x.shape[2:], dtype=torch.float64)
    count = torch.zeros(x.shape[2:], dtype=torch.float64)
    for top in tops:
        for left in lefts:
            covered = x.clone()
            covered[:, :, top : top + size, left : left + size] = 0.5
            with torch.no_grad():
                fall = (net(x) - net(covered))[:, target]
            found[:, top : top + size, left : left + size] += fall[:, None, None]
            count[top : top + size, left : left + size] += 1
    return found / count.clamp_min(1)


def test_windows_slide_and_their_falls_are_averaged() -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(3, dtype=torch.float64)
    result = occlusion(net, x, 1, windows=3, size=4)
    torch.testing.assert_close(result.values, slow(net, x, 1, [0, 2, 4], [0, 2, 4], 4), rtol=0, atol=1e-12)
    assert result.cost.forward == 3 * 10
    by_half = occlusion(net, x, 1, windows=3)
    assert torch.equal(by_half.values, result.values), "without a size, windows overlap by half"


@pytest.mark.parametrize(("windows", "size"), [(1, 8), (8, 1), (20, 3), (2, 100), (2, 1)])
def test_any_number_and_size_of_windows(windows: int, size: int) -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(2, dtype=torch.float64)
    last = max(8 - size, 0)
    at = sorted({round(v) for v in torch.linspace(0, last, windows, dtype=torch.float64).tolist()})
    result = occlusion(net, x, 0, windows=windows, size=size)
    torch.testing.assert_close(result.values, slow(net, x, 0, at, at, min(size, 8)), rtol=0, atol=1e-12)


def test_a_linear_model_is_recovered_pixel_by_pixel_and_column_by_column() -> None:
    weight = torch.linspace(-1, 1, 64, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        score = x.flatten(1) @ weight[: x[0].numel()]
        return torch.stack([score, -score], 1)

    x = images(2, dtype=torch.float64)
    values = occlusion(model, x, 0, windows=8, size=1).values
    torch.testing.assert_close(values, (x[:, 0] - 0.5) * weight.reshape(8, 8), rtol=0, atol=1e-12)
    table = x[:, 0, 0]
    result = occlusion(model, table, 0)
    torch.testing.assert_close(result.values, (table - 0.5) * weight[:8], rtol=0, atol=1e-12)
    assert result.cost.forward == 2 * 9
    against = torch.ones(1, 8, dtype=torch.float64)
    result = occlusion(model, table, 0, view=Table(against))
    torch.testing.assert_close(result.values, (table - 1) * weight[:8], rtol=0, atol=1e-12)


def test_the_part_that_decides_stands_out() -> None:
    x = torch.full((1, 1, 16, 16), 0.2)
    x[:, :, 4:8, 8:12] = 1

    def model(x: Tensor) -> Tensor:
        score = x[:, 0, 4:8, 8:12].mean((1, 2)) * 10
        return torch.stack([score, -score], 1)

    values = occlusion(model, x, 0, view="grid", baseline="black").values[0]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:8, 8:12] = True
    assert float(values[inside].min()) > 0
    assert float(values[:3].abs().max()) == 0


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="windows=0"):
        occlusion(small_cnn().eval(), images(1), 0, windows=0)
