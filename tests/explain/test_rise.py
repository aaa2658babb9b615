from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.errors import InputError
from ironglass.explain.rise import _masks, rise
from nets import images, small_cnn


def additive(x: Tensor) -> Tensor:
    weight = torch.linspace(-1, 1, x[0].numel(), dtype=x.dtype).sin()
    return torch.stack([x.flatten(1) @ weight, x[:, 0, 0, 0]], 1)


def draws(count: int, cells: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    grids = (torch.rand(1, count, cells + 1, cells + 1, generator=generator, dtype=torch.float64) < 0.5).double()
    return grids, torch.rand(1, count, 2, generator=generator, dtype=torch.float64)


def test_masks_are_grids_enlarged_linearly_and_shifted() -> None:
    grids, shifts = draws(20, 4)
    whole = (shifts * 6).floor() / 6  # by whole pixels, as an enlarged picture can be cut
    masks = _masks(grids, whole, 24, 24)
    large = F.interpolate(grids, size=(30, 30), mode="bilinear", align_corners=False)[0]
    for k in range(20):
        down, across = (whole[0, k] * 6).round().int().tolist()
        torch.testing.assert_close(masks[0, k], large[k, down : down + 24, across : across + 24], rtol=0, atol=1e-12)


def test_every_pixel_is_let_through_half_of_the_time() -> None:
    masks = _masks(*draws(20000, 3), 12, 9)[0]
    assert float((masks.mean(0) - 0.5).abs().max()) < 0.015
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1


def expected(x: Tensor, cells: int) -> Tensor:
    """The exact expectation on the additive model: its weights through the covariance of the masks, over shifts."""
    grid = torch.linspace(0, 1, 41, dtype=torch.float64)[:-1] + 1 / 80
    shift = torch.stack([grid, grid], 1)[None]
    knots = torch.eye(cells + 1, dtype=torch.float64)
    rows = torch.stack(
        [
            _masks(knots[i][:, None].expand(1, 40, -1, cells + 1), shift, x.shape[2], x.shape[3])[0, :, :, 0]
            for i in range(cells + 1)
        ],
        2,
    )
    down = (rows @ rows.mT).mean(0)  # E[sum over knots of the two pixels' hats]; a knot's variance is 1/4
    weight = torch.linspace(-1, 1, 64, dtype=torch.float64).sin().reshape(8, 8)
    gain = weight * (x[0, 0] - 0.5)
    return 2 * 0.25 * torch.einsum("ab,cd,bd->ac", down, down, gain)


def test_on_an_additive_model_it_is_unbiased_and_knows_its_error() -> None:
    x = images(1, dtype=torch.float64)
    truth = expected(x, 4)
    runs = [rise(additive, x, 0, samples=200, cells=4, seed=seed) for seed in range(60)]
    maps = torch.stack([run.values[0] for run in runs])
    error = maps.std(0) / len(runs) ** 0.5
    assert float(((maps.mean(0) - truth).abs() / error).max()) < 4.5
    holds = ((maps - truth).abs() <= torch.stack([run.extras["interval"][0] for run in runs])).double().mean()
    assert 0.9 < float(holds) < 0.99


def test_opposite_pairs_err_less_than_the_papers_mean() -> None:
    x = images(1, dtype=torch.float64)
    truth = expected(x, 4)
    ours = torch.stack([rise(additive, x, 0, samples=200, cells=4, seed=seed).values[0] for seed in range(20)])
    grids, shifts = draws(4000, 4, seed=3)
    masks = _masks(grids, shifts, 8, 8)[0].reshape(20, 200, 8, 8)
    scores = additive(0.5 + (x - 0.5) * masks.reshape(-1, 1, 8, 8))[:, 0].reshape(20, 200)
    centred = scores - additive(0.5 + (x - 0.5) / 2)[:, 0]
    plain = torch.einsum("rk,rkhw->rhw", centred, masks) / 200 / 0.5
    assert float((ours - truth).square().mean()) < 0.8 * float((plain - truth).square().mean())


def test_a_sample_alone_and_small_chunks_give_the_same_map(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(3, dtype=torch.float64)
    whole = rise(net, x, 1, samples=40)
    assert whole.values.shape == (3, 8, 8)
    assert whole.cost.forward == 120
    alone = rise(net, x[2:], 1, samples=40)
    torch.testing.assert_close(alone.values[0], whole.values[2], rtol=1e-12, atol=1e-12)
    monkeypatch.setattr("ironglass.ops.observe.VALUES", 400)
    torch.testing.assert_close(rise(net, x, 1, samples=40).values, whole.values, rtol=1e-12, atol=1e-12)
    assert torch.equal(rise(net, x, 1, samples=40).values, rise(net, x, 1, samples=40).values)


@pytest.mark.parametrize("wrong", [{"samples": 7}, {"samples": 2}, {"cells": 0}])
def test_options_out_of_range_and_other_shapes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="even number"):
        rise(small_cnn().eval(), images(1), 0, **wrong)
    with pytest.raises(InputError, match="for images"):
        rise(lambda x: x, torch.rand(2, 3), 0)
