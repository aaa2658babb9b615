from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError
from ironglass.core.method import explain
from ironglass.core.results import Attribution
from ironglass.core.values import Bounds
from ironglass.explain.grad_cam import grad_cam
from ironglass.explain.saliency import saliency
from ironglass.metric.completeness import completeness
from ironglass.ops.baselines import baseline, incompleteness
from nets import images, scores_without_autograd, small_cnn


def of(values: Tensor, x: Tensor, target: Tensor, **options: object) -> Attribution:
    return Attribution(x=x, method="by hand", values=values, target=target, options=options)


def linear() -> nn.Module:
    net = nn.Linear(6, 3).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.arange(18, dtype=torch.float64).reshape(3, 6).cos())
    return net


X = torch.rand(5, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
Y = torch.tensor([0, 2, 1, 0, 2])


def test_gradient_times_change_is_complete_on_a_linear_model() -> None:
    net = linear()
    exact = net.weight.detach()[Y] * X  # type: ignore[index,operator]
    score = completeness(net, of(exact, X, Y))
    assert float(score.values.max()) < 1e-14
    assert score.passed.tolist() == [True] * 5
    assert (score.method, score.of) == ("completeness", "by hand")
    assert score.cost.forward == 10


@pytest.mark.parametrize("scale", [0.0, 0.5, 0.97, 1.2])
def test_it_is_the_share_that_is_missing(scale: float) -> None:
    net = linear()
    exact = net.weight.detach()[Y] * X  # type: ignore[index,operator]
    score = completeness(net, of(scale * exact, X, Y))
    torch.testing.assert_close(score.values, torch.full((5,), abs(1 - scale), dtype=torch.float64))
    assert bool(score.passed.all()) == (abs(1 - scale) <= 0.05)
    assert bool(completeness(net, of(scale * exact, X, Y), tol=1.1).passed.all())


def test_the_baseline_is_the_explanations_own_where_it_has_one() -> None:
    net = linear()
    from_half = net.weight.detach()[Y] * (X - 0.5)  # type: ignore[index,operator]
    assert float(completeness(net, of(from_half, X, Y, baseline="mid")).values.max()) < 1e-13
    assert float(completeness(net, of(from_half, X, Y, baseline=0.5)).values.max()) < 1e-13
    assert float(completeness(net, of(from_half, X, Y), baseline=0.5).values.max()) < 1e-13
    assert float(completeness(net, of(from_half, X, Y)).values.max()) > 0.1
    assert float(completeness(net, of(from_half, X, Y, baseline=None), baseline="mid").values.max()) < 1e-13


def test_no_change_at_all_is_no_division_by_zero() -> None:
    net, x = linear(), torch.zeros(2, 6, dtype=torch.float64)
    target = torch.tensor([0, 1])
    assert torch.equal(completeness(net, of(x, x, target)).values, torch.zeros(2, dtype=torch.float64))
    assert bool(completeness(net, of(x + 1, x, target)).values.isfinite().all())
    assert not bool(completeness(net, of(x + 1, x, target)).passed.any())


def test_a_saliency_map_and_grad_cam_get_a_figure_too() -> None:
    net, x = small_cnn().eval(), images(4)
    for method in (saliency, grad_cam):
        score = completeness(net, method(net, x))
        assert score.values.shape == (4,)
        assert bool(score.values.isfinite().all())
        assert not bool(score.passed.all())


def test_it_needs_scores_alone() -> None:
    x = images(3)
    weight = torch.linspace(0, 900, 64 * 5).sin().reshape(5, 1, 8, 8) * 3
    score = completeness(scores_without_autograd, of(weight[[1, 2, 0]] * x, x, torch.tensor([1, 2, 0])))
    assert float(score.values.max()) < 1e-4


def test_an_unknown_baseline_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no baseline is called 'blck'[^$]*black"):
        completeness(linear(), of(X, X, Y), baseline="blck")
    with pytest.raises(InputError, match="'mean' is for images"):
        completeness(linear(), of(X, X, Y), baseline="mean")


def test_baselines_are_what_they_are_called() -> None:
    x, bounds = images(3, dtype=torch.float64) * 4 - 2, Bounds(-2, 2)
    for name, value in (("black", -2.0), ("mid", 0.0), ("white", 2.0), (0.25, 0.25)):
        assert torch.equal(baseline(x, bounds, name), torch.full_like(x, value))
    torch.testing.assert_close(baseline(x, bounds, "mean")[:, 0, 3, 5], x.mean((1, 2, 3)))
    flat = torch.full_like(x, 0.7)
    torch.testing.assert_close(baseline(flat, bounds, "blur"), flat)
    blurred = baseline(x, bounds, "blur")
    assert blurred.shape == x.shape
    assert float(blurred.var()) < float(x.var()) / 2


def test_blur_is_a_gaussian_average() -> None:
    from scipy.ndimage import gaussian_filter

    x = images(2, dtype=torch.float64)
    found = baseline(x, Bounds(), "blur")
    for i in range(2):
        expected = gaussian_filter(x[i, 0].numpy(), 0.8, mode="nearest", radius=3)
        torch.testing.assert_close(found[i, 0], torch.from_numpy(expected))


def test_the_missing_share_by_hand() -> None:
    total, start, end = torch.tensor([3.0, 1.0, -4.0]), torch.tensor([1.0, 0.0, 2.0]), torch.tensor([5.0, 2.0, -2.0])
    assert incompleteness(total, start, end).tolist() == [0.25, 0.5, 0.0]


@explain(title="Change", paper="none", access="scores", cost="1", kind="agnostic")
def change(model: object, x: Tensor, target: Tensor, *, baseline: float = 0.25) -> Tensor:
    """Return what a linear model makes of each value."""
    weight = linear().weight.detach()[target]  # type: ignore[index,operator]
    return weight * (x - baseline)  # type: ignore[no-any-return]


def test_options_travel_with_the_attribution() -> None:
    attribution = change(linear(), X, Y)
    assert float(completeness(linear(), attribution).values.max()) < 1e-13
    assert float(completeness(linear(), change(linear(), X, Y, baseline=0.75)).values.max()) < 1e-13
