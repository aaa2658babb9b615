from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures import ARCHITECTURES, build, pictures
from ironglass.core.errors import InputError
from ironglass.explain.deeplift import deeplift
from ironglass.metric.completeness import completeness
from ironglass.models.adapter import wrap
from nets import images, small_cnn


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_complete_on_every_architecture(name: str) -> None:
    model = wrap(build(name, dtype=torch.float64), mean=0.4, std=0.3)
    result = deeplift(model, pictures(3, dtype=torch.float64), baseline="mid")
    assert result.error is not None
    assert float(result.error.max()) < 1e-6
    assert bool(completeness(model, result).passed.all())
    assert (result.cost.forward, result.cost.backward) == (6, 3)


def test_of_a_linear_model_it_is_weight_times_difference() -> None:
    net = nn.Linear(12, 4).double().eval()
    x, target = torch.rand(5, 12, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    found = deeplift(net, x, target, baseline=0.25).values
    torch.testing.assert_close(found, (x - 0.25) * net.weight.detach()[target], rtol=1e-13, atol=1e-15)


class Saturated(nn.Module):
    """``1 - relu(1 - x1 - x2)``: of the paper; its gradient is 0 where x1 + x2 > 1."""

    def forward(self, x: Tensor) -> Tensor:
        y = 1 - F.relu(1 - x.sum(1, keepdim=True))
        return torch.cat([y, -y], 1)


def test_it_sees_through_saturation() -> None:
    x = torch.tensor([[1.0, 1.0], [0.25, 0.25]])
    found = deeplift(Saturated().eval(), x, 0).values
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5], [0.25, 0.25]]))


def slow(weights: list[Tensor], biases: list[Tensor], x: Tensor, reference: Tensor, act: object, target: int) -> Tensor:
    """The multipliers of a dense network layer by layer, with matrices."""
    values, references = [x], [reference]
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        for row in (values, references):
            z = w @ row[-1] + b
            row += [z, act(z)] if i < len(weights) - 1 else [z]  # type: ignore[operator]
    m = weights[-1][target]
    for i in range(len(weights) - 2, -1, -1):
        m = m * (values[2 * i + 2] - references[2 * i + 2]) / (values[2 * i + 1] - references[2 * i + 1])
        m = weights[i].T @ m
    return m * (x - reference)


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Sigmoid(), nn.GELU(), nn.Tanh()], ids=str)
def test_it_agrees_with_matrices(act: nn.Module) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(6, 9), act, nn.Linear(9, 7), act, nn.Linear(7, 3)).double().eval()
        x = torch.rand(4, 6, dtype=torch.float64)
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    found = deeplift(net, x, 2, baseline=0.3).values
    parts = [layer.weight.detach() for layer in linear], [layer.bias.detach() for layer in linear]
    for n in range(4):
        expected = slow(*parts, x[n], torch.full_like(x[n], 0.3), act, 2)
        torch.testing.assert_close(found[n], expected, rtol=1e-9, atol=1e-12)


class Pooled(nn.Module):
    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool, self.head = pool, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(x).flatten(1))


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(4)], ids=str)
def test_a_maximum_is_shared_by_both_winners(pool: nn.Module) -> None:
    net, x = Pooled(pool).double().eval(), images(3, dtype=torch.float64)
    found = deeplift(net, x, 1, baseline="blur")
    assert found.error is not None
    assert float(found.error.max()) < 1e-9
    assert int((found.values != 0).flatten(1).sum(1).max()) <= 2 * 16  # two winners a window at most


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(64, 5), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return (
            torch.tanh(self.small(x))
            if float(x.mean()) < 0.1
            else torch.relu(self.large(x)) * torch.tanh(self.small(x))
        )


def test_a_network_that_takes_another_way_for_the_reference_is_refused() -> None:
    with pytest.raises(InputError, match="another way for the reference"):
        deeplift(Branching().eval(), images(3))


def test_what_has_no_rule_is_refused_by_name() -> None:
    class Sorted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1).sort(1).values)

    with pytest.raises(InputError, match="DeepLIFT cannot pass the function sort"):
        deeplift(Sorted(64, 5).eval(), images(2))


def test_a_sample_at_its_baseline_gets_zeros_and_no_nan() -> None:
    x = torch.zeros(2, 1, 8, 8)
    result = deeplift(small_cnn().eval(), x, 1)
    assert torch.equal(result.values, torch.zeros_like(x))
