"""Deletion, insertion, infidelity, sensitivity, pointing and agreement, on models whose answers are known exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.results import Attribution
from ironglass.ops import removal
from nets import images, small_cnn


def linear(size: int = 16, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """Two classes on 4 × 4 grey images, float64; the weight of class 1 less that of class 0 is ``w``."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 2, dtype=torch.float64))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, size, generator=generator, dtype=torch.float64))
        net[1].bias.zero_()
    x = torch.rand(6, 1, 4, 4, generator=generator, dtype=torch.float64)
    return net.eval(), x, net[1].weight.detach()


def attribution(net: nn.Module, x: Tensor, values: Tensor, target: Tensor) -> Attribution:
    return replace(ig.explain.saliency(net, x, target), values=values)


def test_the_curve_is_the_probability_after_each_step_literally() -> None:
    net, x, _ = linear()
    worth = torch.rand(6, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = torch.tensor([0, 1, 0, 1, 0, 1])
    found: list[Tensor] = []

    class Session:
        def scores(self, batch: Tensor, rows: Tensor | None = None) -> Tensor:
            found.append(batch)
            with torch.no_grad():
                return net(batch)

    got = removal.curve(Session(), x, torch.zeros_like(x), worth, target, 4)  # type: ignore[arg-type]
    for row in range(6):
        sample = x[row].flatten().clone()
        order = sorted(range(16), key=lambda place: -float(worth[row, place]))
        expected = []
        for step in range(5):
            for place in order[4 * (step - 1) : 4 * step] if step else ():
                sample[place] = 0
            with torch.no_grad():
                expected.append(float(net(sample.reshape(1, 1, 4, 4)).softmax(1)[0, target[row]]))
        assert got[row].tolist() == pytest.approx(expected, abs=1e-12)
    trapezoid = torch.trapezoid(got, dx=0.25, dim=1)
    assert torch.allclose(removal.area(got), trapezoid)


@pytest.mark.parametrize("metric", ["deletion", "insertion"])
def test_the_exact_contributions_of_a_linear_model_give_the_best_area_of_all_orders(metric: str) -> None:
    """A linear logit falls fastest in the order of its own parts, whatever else is tried."""
    net, x, weight = linear()
    target = torch.zeros(6, dtype=torch.long)
    parts = ((weight[0] - weight[1]) * x.flatten(1)).reshape_as(x)
    score = getattr(ig.metric, metric)
    options: dict[str, Any] = {"steps": 16, "baseline": "black", "orders": 5}
    exact = score(net, attribution(net, x, parts, target), **options)
    assert bool(exact.passed.all())
    worst = score(net, attribution(net, x, -parts, target), **options)
    assert not bool(worst.passed.any())
    sign = 1 if metric == "insertion" else -1
    assert bool((sign * (exact.values[:, 0] - exact.values[:, 1]) > 0).all())
    for seed in range(20):
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
        other = score(net, attribution(net, x, noise, target), **options)
        assert bool((sign * (exact.values[:, 0] - other.values[:, 0]) >= 0).all())


def test_the_gradient_of_a_linear_model_is_without_infidelity() -> None:
    net, x, weight = linear()
    target = torch.zeros(6, dtype=torch.long)
    gradient = weight[0].reshape(1, 1, 4, 4).expand_as(x)
    for scaled in (True, False):
        score = ig.metric.infidelity(net, attribution(net, x, gradient, target), scaled=scaled)
        assert float(score.values[:, 0].max()) < 1e-12
        assert bool(score.passed.all())
    # without a scale of its own a map twice as large misses by as much as a map of zeros does
    double = ig.metric.infidelity(net, attribution(net, x, 2 * gradient, target), scaled=False)
    assert torch.allclose(double.values[:, 0], double.values[:, 1])
    assert float(ig.metric.infidelity(net, attribution(net, x, 2 * gradient, target)).values[:, 0].max()) < 1e-12
    # the mean squared change of the logit is sigma^2 |w|^2
    many = ig.metric.infidelity(net, attribution(net, x, gradient, target), samples=4000, noise=0.1)
    assert torch.allclose(many.values[:, 1], (0.01 * weight[0].square().sum()).expand(6), rtol=0.1)


def test_a_map_of_another_class_foretells_less() -> None:
    net, x, weight = linear()
    target = torch.zeros(6, dtype=torch.long)
    maps = [weight[i].reshape(1, 1, 4, 4).expand_as(x) for i in (0, 1)]
    own, other = (ig.metric.infidelity(net, attribution(net, x, values, target)).values[:, 0] for values in maps)
    cosine = float(torch.cosine_similarity(weight[0], weight[1], dim=0))
    assert bool((own < other).all())
    assert abs(cosine) < 0.9


def test_a_linear_model_s_saliency_never_changes_and_a_gradient_times_input_changes_by_the_input() -> None:
    net, x, _ = linear()
    score = ig.metric.max_sensitivity(net, ig.explain.saliency(net, x), samples=5)
    assert float(score.values.max()) == 0
    assert bool(score.passed.all())


def test_maximum_sensitivity_is_the_maximum_over_the_neighbours_it_draws() -> None:
    net = small_cnn(dtype=torch.float64).eval()
    x = images(5, dtype=torch.float64)
    found = ig.explain.saliency(net, x)
    one, many = (ig.metric.max_sensitivity(net, found, samples=count).values for count in (1, 12))
    assert bool((many >= one).all())
    wide = ig.metric.max_sensitivity(net, found, samples=12, radius=0.3).values
    assert float(wide.mean()) > float(many.mean())


def test_pointing_hits_and_misses_by_the_pixel() -> None:
    net, x, _ = linear()
    values = torch.zeros(6, 4, 4, dtype=x.dtype)
    values[:, 1, 2] = 1
    regions = torch.zeros(6, 4, 4)
    for row, place in enumerate([(1, 2), (1, 3), (3, 2), (0, 0), (2, 3), (1, 0)]):
        regions[row][place] = 1
    given = attribution(net, x, values, torch.zeros(6, dtype=torch.long))
    assert ig.metric.pointing_game(net, given, regions=regions, tolerance=0).passed.tolist() == [1, 0, 0, 0, 0, 0]
    assert ig.metric.pointing_game(net, given, regions=regions, tolerance=1).passed.tolist() == [1, 1, 0, 0, 0, 0]
    assert ig.metric.pointing_game(net, given, regions=regions, tolerance=2).passed.tolist() == [1, 1, 1, 0, 1, 1]
    chance = ig.metric.pointing_game(net, given, regions=regions, tolerance=0).values[:, 1]
    assert torch.allclose(chance, torch.full_like(chance, 1 / 16))
    with pytest.raises(InputError, match="pointing_game needs regions"):
        ig.metric.pointing_game(net, given)
    with pytest.raises(InputError, match="rows for"):
        ig.metric.pointing_game(net, given, regions=regions[:3])


def test_regions_are_cut_with_their_samples_in_shards() -> None:
    net, _, _ = linear()
    x = torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values = torch.zeros(300, 4, 4, dtype=x.dtype)
    places = torch.arange(300) % 16
    values.flatten(1).scatter_(1, places[:, None], 1.0)
    regions = torch.zeros(300, 4, 4)
    regions.flatten(1).scatter_(1, places[:, None], 1.0)
    given = attribution(net, x, values, torch.zeros(300, dtype=torch.long))
    score = ig.metric.pointing_game(net, given, regions=regions, tolerance=0)
    assert bool(score.passed.all())
    assert score.options["regions"] is regions


def test_a_map_agrees_with_itself_and_not_with_chance() -> None:
    net, x, weight = linear()
    target = torch.zeros(6, dtype=torch.long)
    same = ig.metric.agreement(net, replace(ig.explain.saliency(net, x, target), method="twin"), methods=("saliency",))
    assert torch.allclose(same.values, torch.ones_like(same.values))
    assert bool(same.passed.all())
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    chance = ig.metric.agreement(net, replace(attribution(net, x, noise, target), method="twin"), methods=("saliency",))
    assert not bool(chance.passed.all())
    assert weight.shape == (2, 16)
    with pytest.raises(InputError, match="no other"):
        ig.metric.agreement(net, ig.explain.saliency(net, x, target), methods=("saliency",))
