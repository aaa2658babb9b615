"""The control: what comes back is uniform in the ball, and asks for no more than it says."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.values import Threat

RADII = {"linf": 0.1, "l2": 0.4, "l1": 0.4}


def certain(x: Tensor) -> Tensor:
    """Says class 0 whatever it sees."""
    return torch.tensor([9.0, 0.0]).expand(len(x), 2)


@pytest.mark.parametrize("norm", RADII)
def test_it_draws_uniformly_from_the_ball(norm: str) -> None:
    x = 0.45 + 0.1 * torch.rand(3000, 5, generator=torch.Generator().manual_seed(0))
    result = ig.attack.random_noise(certain, x, torch.zeros(3000, dtype=torch.long), Threat(norm, RADII[norm]))  # type: ignore[arg-type]
    share = (result.distance / RADII[norm]) ** 5
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3, "the share of the volume within a radius"
    up = (result.adversarial > x).double().mean(0)
    assert bool(((up - 0.5).abs() < 0.04).all())
    assert bool((result.queries == 1).all()), "the runner's first look, and no more"


def test_each_try_is_a_fresh_draw_and_the_first_that_works_is_kept() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    x = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = net(x).argmax(1)
    rates = [ig.attack.random_noise(net, x, y, ig.Linf(0.4), tries=tries).success.sum() for tries in (1, 4, 30)]
    assert rates[0] < rates[1] < rates[2]
    result = ig.attack.random_noise(net, x, y, ig.Linf(0.4), tries=30)
    hit = result.first_success > 0
    assert torch.equal(result.queries[hit], result.first_success[hit])
    assert int(result.queries.max()) <= 30


def test_a_mask_is_kept_and_a_seed_decides() -> None:
    x, mask = torch.rand(4, 1, 6, 6), torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[:, 2:4] = True
    y = torch.zeros(4, dtype=torch.long)
    first, again, other = (
        ig.attack.random_noise(certain, x, y, ig.L2(0.5, mask), seed=seed).adversarial for seed in (0, 0, 1)
    )
    assert torch.equal(torch.where(mask, x, first), x)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
