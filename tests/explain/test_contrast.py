"""Why one class and not another: every explanation takes a pair of classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.catalogue import catalogue
from ironglass.core.errors import InputError
from ironglass.core.method import get
from nets import images, small_cnn

SMALL: dict[str, Any] = {"steps": 3, "samples": 16, "tol": 0.5}
CARDS = [card for card in catalogue().values() if card.decorator == "explain" and card.name not in ("anchors", "cam")]
LINEAR = ("saliency", "gradient_x_input", "integrated_gradients", "lrp", "deeplift", "occlusion", "kernel_shap")


def run(name: str, net: nn.Module, x: Tensor, target: Any) -> Tensor:
    card = get(name).card
    options = {option.name: SMALL[option.name] for option in card.options if option.name in SMALL}
    if name == "extremal_perturbation":
        options["steps"] = 40
    if name == "expected_gradients":
        options["baselines"] = torch.zeros_like(x[:2])
    return get(name)(net, x, target, **options).values


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_pair_is_taken_and_its_order_matters(card: Any) -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(3, dtype=torch.float64)
    pair, single = run(card.name, net, x, (1, 3)), run(card.name, net, x, 1)
    assert pair.shape == single.shape
    assert bool(pair.isfinite().all())
    assert not torch.equal(pair, single)


@pytest.mark.parametrize("name", LINEAR)
def test_on_a_linear_model_a_contrast_is_the_difference_of_two_maps(name: str) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5, dtype=torch.float64)).eval()
        net[1].bias.data.zero_()
    x = images(4, dtype=torch.float64)
    first, second, pair = (run(name, net, x, target) for target in (1, 3, (1, 3)))
    if name == "saliency":  # a size, without sign
        weight = net[1].weight.detach()
        assert torch.allclose(pair.flatten(1), (weight[1] - weight[3]).abs().expand(4, -1), atol=1e-12)
    else:
        assert torch.allclose(pair, first - second, atol=1e-8)


def test_a_class_activation_map_of_a_pair_is_the_difference_of_two() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
        ).double()
    x = images(3, dtype=torch.float64)
    first, second, pair = (ig.explain.cam(net.eval(), x, target) for target in (0, 2, (0, 2)))
    assert torch.allclose(pair.values, first.values - second.values, atol=1e-10)
    assert pair.error is not None
    assert float(pair.error.max()) < 1e-9


def test_a_pair_a_sample_and_what_is_no_pair() -> None:
    net, x = small_cnn().eval(), images(3)
    target = torch.tensor([[0, 1], [2, 3], [4, 0]])
    found = ig.explain.saliency(net, x, target)
    assert torch.equal(found.target, target)
    assert found.explained(1, lambda label: f"c{label}") == "c2 rather than c3"
    for row in range(3):
        one = ig.explain.saliency(net, x[row : row + 1], tuple(target[row].tolist()))  # type: ignore[arg-type]
        assert torch.allclose(one.values[0], found.values[row], atol=1e-6)
    with pytest.raises(InputError, match="out of range"):
        ig.explain.saliency(net, x, (0, 9))
    with pytest.raises(InputError, match="pair of classes is none"):
        ig.explain.anchors(net, x, (0, 1))
    with pytest.raises(InputError, match="labels are"):
        ig.explain.saliency(net, x, torch.zeros(3, 3, dtype=torch.long))
    assert ig.metric.deletion(net, found, steps=4).values.shape == (3, 2)
