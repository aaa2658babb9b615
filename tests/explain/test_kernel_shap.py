from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.kernel_shap import kernel_shap, shapley
from ironglass.ops.views import Image, Table
from nets import images, small_cnn


def rows(count: int, columns: int, seed: int = 0) -> Tensor:
    return torch.rand(count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def crossed(x: Tensor) -> Tensor:
    first = (3 * x[:, 0] * x[:, 1] - x[:, 2]).tanh() * (1 + x[:, 3]) + x[:, 4:].prod(1)
    return torch.stack([first, x.sum(1)], 1)


def brute_force(x: Tensor, reference: Tensor) -> Tensor:
    """Shapley values of the first logit, averaged over rows of reference, player by player from the definition."""
    players = x.shape[1]

    def value(members: tuple[int, ...]) -> Tensor:
        total = torch.zeros(len(x), dtype=x.dtype)
        for row in reference:
            mixed = row.expand_as(x).clone()
            mixed[:, list(members)] = x[:, list(members)]
            total += crossed(mixed)[:, 0]
        return total / len(reference)

    found = torch.zeros_like(x)
    for player in range(players):
        others = [other for other in range(players) if other != player]
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for members in itertools.combinations(others, size):
                found[:, player] += weight * (value((*members, player)) - value(members))
    return found


@pytest.mark.parametrize("players", [5, 6, 7])
def test_few_players_get_exactly_their_shapley_values(players: int) -> None:
    x = rows(3, players)
    result = kernel_shap(crossed, x, 0, samples=2**players - 2)
    torch.testing.assert_close(
        result.values, brute_force(x, torch.full((1, players), 0.5).double()), rtol=0, atol=1e-10
    )
    assert result.cost.forward == 3 * 2**players
    assert result.error is not None
    assert float(result.error.max()) < 1e-12


def test_a_background_is_averaged_over() -> None:
    x, background = rows(2, 5), rows(4, 5, seed=3)
    result = kernel_shap(crossed, x, 0, samples=30, draws=4, view=Table(background))
    torch.testing.assert_close(result.values, brute_force(x, background), rtol=0, atol=1e-10)
    torch.testing.assert_close(result.extras["reference"], crossed(background)[:, 0].mean().expand(2))
    assert result.cost.forward == 2 * 32 * 4


@pytest.mark.parametrize("samples", [16, 100, 300])
def test_the_map_adds_up_to_the_change_however_few_the_samples(samples: int) -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(4, dtype=torch.float64)
    result = kernel_shap(net, x, 2, samples=samples, baseline="black")
    with torch.no_grad():
        change = net(x)[:, 2] - net(torch.zeros_like(x))[:, 2]
    torch.testing.assert_close(result.values.flatten(1).sum(1), change, rtol=0, atol=1e-11)
    torch.testing.assert_close(result.extras["reference"], net(torch.zeros_like(x))[:, 2].detach())
    assert ig.metric.completeness(net, result, baseline="black").passed.all()


def test_sampled_values_converge_and_a_linear_model_needs_no_more_than_a_few() -> None:
    x = rows(6, 14)
    weight = torch.linspace(-2, 3, 14, dtype=torch.float64)
    result = kernel_shap(lambda x: torch.stack([x @ weight, -x.sum(1)], 1), x, 0, samples=60)
    torch.testing.assert_close(result.values, weight * (x - 0.5), rtol=0, atol=1e-9)
    truth = kernel_shap(crossed, x, 0, samples=2**14 - 2).values
    errors = [
        float((kernel_shap(crossed, x, 0, samples=n).values - truth).norm() / truth.norm()) for n in (64, 512, 4096)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[1] < 0.05


def test_equal_players_get_alike_and_idle_ones_nothing() -> None:
    x = rows(3, 6)
    x[:, 1] = x[:, 0]

    def model(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0] * x[:, 1] + x[:, 2] ** 3, x[:, 5]], 1)

    values = kernel_shap(model, x, 0, samples=62).values
    torch.testing.assert_close(values[:, 0], values[:, 1], rtol=0, atol=1e-12)
    assert float(values[:, 3:].abs().max()) < 1e-12


def test_the_share_of_a_part_is_spread_over_its_cells_and_an_empty_part_gets_none() -> None:
    x = images(2, dtype=torch.float64)
    regions = torch.zeros(8, 8, dtype=torch.long)
    regions[:, 3:] = 2  # there is no region 1
    result = kernel_shap(
        lambda x: torch.stack([x.sum((1, 2, 3)), x[:, 0, 0, 0]], 1), x, 0, view=Image(regions=regions), baseline=0.0
    )
    torch.testing.assert_close(result.values[:, :, :3].sum((1, 2)), x[:, 0, :, :3].sum((1, 2)))
    torch.testing.assert_close(result.values[:, :, 3:].sum((1, 2)), x[:, 0, :, 3:].sum((1, 2)))


def test_one_player_gets_it_all() -> None:
    x = rows(3, 1)
    result = kernel_shap(lambda x: torch.cat([x**2, x], 1), x, 0)
    torch.testing.assert_close(result.values, x**2 - 0.25)
    assert torch.equal(
        shapley(torch.zeros(2, 0, 1), torch.zeros(2, 0), torch.zeros(0), torch.ones(2)), torch.ones(2, 1)
    )


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 and 1"):
        kernel_shap(crossed, rows(2, 5), 0, samples=1)
