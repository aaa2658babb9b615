from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom, kstest
from torch import Tensor

from ironglass.core.draws import Draws, keys
from ironglass.core.errors import InputError
from ironglass.core.values import L0, L1, L2, Bounds, Linf, Threat
from ironglass.ops import lp
from ironglass.ops.balls import sample_ball

WIDE = Bounds(-100.0, 100.0)
BALLS = [Linf(0.7), L2(0.7), L1(0.7)]
ids = lambda threat: threat.norm  # noqa: E731


def draws(x: Tensor, seed: int = 0) -> Draws:
    return Draws(keys(x), seed)


def moves(threat: Threat, dims: int, count: int = 20000, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.full((1, dims), 0.25, dtype=dtype)
    return (sample_ball(draws(x), x, threat, WIDE, count=count) - x[:, None])[0]


@pytest.mark.parametrize("threat", BALLS, ids=ids)
@pytest.mark.parametrize("dims", [1, 2, 7, 784])
def test_the_radius_is_distributed_as_in_a_uniform_ball(threat: Threat, dims: int) -> None:
    """The share of a ball's volume within radius r is (r / eps)^d, in every norm."""
    share = (lp.norm(moves(threat, dims, 3000), threat.norm) / threat.eps) ** dims
    assert kstest(share.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("threat", BALLS, ids=ids)
@pytest.mark.parametrize("dims", [1, 2, 5, 40])
def test_the_moments_are_those_of_a_uniform_ball(threat: Threat, dims: int) -> None:
    points = moves(threat, dims) / threat.eps
    variance = {"linf": 1 / 3, "l2": 1 / (dims + 2), "l1": 2 / ((dims + 1) * (dims + 2))}[threat.norm]
    fourth = {
        "linf": 1 / 5,
        "l2": 3 / ((dims + 2) * (dims + 4)),
        "l1": 24 / math.prod(dims + i for i in (1, 2, 3, 4)),
    }[threat.norm]
    error = (fourth - variance**2) ** 0.5 / len(points) ** 0.5
    assert torch.allclose(points.square().mean(0), torch.full((dims,), variance).double(), atol=6 * error, rtol=0)
    assert bool((points.mean(0).abs() < 6 * (variance / len(points)) ** 0.5).all())
    crossed = (points.T @ points / len(points)).fill_diagonal_(0)
    assert float(crossed.abs().max()) < 6 * (variance**2 / len(points)) ** 0.5


@pytest.mark.parametrize("threat", BALLS, ids=ids)
def test_every_part_of_the_ball_gets_its_share(threat: Threat) -> None:
    """In the plane, against areas: the share of points in the square of half the radius, and in each quadrant."""
    points = moves(threat, 2, 40000) / threat.eps
    inside = (points.abs().amax(1) < 0.5).sum()
    area = {"linf": 4.0, "l2": math.pi, "l1": 2.0}[threat.norm]
    assert 1e-4 < binom.cdf(int(inside), 40000, 1.0 / area) < 1 - 1e-4
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        quadrant = (points * torch.tensor(signs) > 0).all(1).sum()
        assert 1e-4 < binom.cdf(int(quadrant), 40000, 0.25) < 1 - 1e-4


@pytest.mark.parametrize("threat", BALLS, ids=ids)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_stay_in_the_ball_and_the_bounds(threat: Threat, dtype: torch.dtype) -> None:
    x = (torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype) * 1.4 - 0.2).clamp(0, 1)
    points = sample_ball(draws(x), x, threat, Bounds(), count=50)
    assert points.shape == (5, 50, 3, 8, 8)
    assert points.dtype == dtype
    assert bool(((points >= 0) & (points <= 1)).all())
    distance = lp.norm((points - x[:, None]).flatten(0, 1).double(), threat.norm)
    assert float(distance.max()) <= threat.eps * (1 + 1e-5)
    assert float(distance.min()) > 0


@pytest.mark.parametrize("threat", BALLS, ids=ids)
def test_a_mask_makes_a_smaller_ball_of_the_same_radius(threat: Threat) -> None:
    x = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[0, :, :2, :2] = True
    mask[1, :, 2:] = True
    points = sample_ball(draws(x), x, Threat(threat.norm, 0.3, mask), WIDE, count=3000) - x[:, None]
    assert bool((points[~mask[:, None].expand_as(points)] == 0).all())
    for row, dims in ((0, 4), (1, 8)):
        share = (lp.norm(points[row], threat.norm) / 0.3) ** dims
        assert kstest(share.numpy(), "uniform").pvalue > 1e-3
    one = sample_ball(draws(x), x, Threat(threat.norm, 0.3, mask[:1]), WIDE)
    assert bool((one[:, :, 2:] == 0.5).all())
    nowhere = sample_ball(draws(x), x, Threat(threat.norm, 0.3, torch.zeros(1, 1, 4, 4)), WIDE)
    assert torch.equal(nowhere, x)


@pytest.mark.parametrize("threat", BALLS, ids=ids)
def test_a_sample_draws_the_same_in_any_batch(threat: Threat) -> None:
    x = torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(1))
    stream = draws(x, 3)
    first, second = (sample_ball(stream, x, threat, Bounds(), count=4) for _ in range(2))
    assert not torch.equal(first, second)
    rows = torch.tensor([4, 1])
    alone = Draws(keys(x[rows]), 3)
    assert torch.equal(sample_ball(alone, x[rows], threat, Bounds(), count=4), first[rows])
    stream = draws(x, 3)
    assert torch.equal(sample_ball(stream, x[rows], threat, Bounds(), rows, 4), first[rows])
    assert torch.equal(sample_ball(stream, x[rows], threat, Bounds(), rows, 4), second[rows])
    assert sample_ball(draws(x), x, threat, Bounds()).shape == x.shape
    assert not torch.equal(sample_ball(draws(x, 4), x, threat, Bounds(), count=4), first)


def test_a_ball_of_no_size_is_its_centre_and_of_infinite_size_an_error() -> None:
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    for threat in BALLS:
        assert torch.equal(sample_ball(draws(x), x, Threat(threat.norm, 0.0), Bounds()), x)
        with pytest.raises(InputError, match="radius inf"):
            sample_ball(draws(x), x, Threat(threat.norm, math.inf), Bounds())
    with pytest.raises(InputError, match="in l0"):
        sample_ball(draws(x), x, L0(3), Bounds())
