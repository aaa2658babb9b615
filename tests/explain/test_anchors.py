from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.anchors import anchors, bounds
from ironglass.ops.views import Image, Table
from nets import images


def table(count: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randint(4, (count, columns), generator=torch.Generator().manual_seed(seed)).double() / 4


def both(x: Tensor) -> Tensor:
    """Label 1 where columns 0 and 2 have certain values."""
    return ((x[:, 0] == 0.25) & (x[:, 2] == 0.5)).long()


def labels(function: object) -> ig.models.adapter.Adapter:  # type: ignore[name-defined]
    return ig.wrap(function, classes=2)  # type: ignore[arg-type]


def precision(model: object, x: Tensor, rule: list[int], background: Tensor) -> float:
    """The exact share of the background's rows, with the rule's columns put in, that keep the label."""
    changed = background.clone()
    changed[:, rule] = x[rule]
    return float((model(changed) == model(x[None])).double().mean())  # type: ignore[operator]


def test_the_bounds_solve_the_divergence_exactly() -> None:
    mean, drawn = np.array([0.0, 0.3, 0.95, 1.0]), np.array([10.0, 200.0, 50.0, 100.0])
    low, high = bounds(mean, drawn, 2.3)

    def divergence(p: float, q: float) -> float:
        return sum(a * np.log(a / b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)

    for i in range(4):
        for edge, end in ((low[i], 0.0), (high[i], 1.0)):
            if edge != pytest.approx(end, abs=1e-9):
                assert drawn[i] * divergence(mean[i], edge) == pytest.approx(2.3, rel=1e-6)
    assert high[3] == pytest.approx(1)
    assert low[3] == pytest.approx(np.exp(-2.3 / 100))
    assert low[0] == pytest.approx(0)


def test_the_rule_of_a_tree_is_its_path() -> None:
    background = table(400, 6)
    x = background[:5].clone()
    x[:, 0], x[:, 2] = 0.25, 0.5
    result = anchors(labels(both), x, None, view=Table(background))
    assert result.values.tolist() == [[1, 0, 1, 0, 0, 0]] * 5
    assert bool((result.extras["precision"] == 1).all())
    covered = (background[:, 0] == 0.25) & (background[:, 2] == 0.5)
    assert result.extras["coverage"].tolist() == [float(covered.double().mean())] * 5
    assert bool((result.extras["bound"] >= 0.9).all())


def test_what_always_holds_needs_no_rule() -> None:
    background = table(100, 4)
    result = anchors(
        labels(lambda x: torch.zeros(len(x), dtype=torch.long)), background[:3], None, view=Table(background)
    )
    assert not bool(result.values.any())
    assert result.extras["coverage"].tolist() == [1, 1, 1]
    assert int(result.cost.forward) <= 3 * 100


def test_the_widest_of_the_precise_rules_is_taken() -> None:
    background = table(600, 5)
    background[:, 4] = (torch.rand(600, generator=torch.Generator().manual_seed(5)) < 0.1).double()

    def model(x: Tensor) -> Tensor:  # either of two rules: the one covers a quarter, the other a tenth
        return ((x[:, 1] == 0.75) | (x[:, 4] == 1)).long()

    x = background[:1].clone()
    x[:, 1], x[:, 4] = 0.75, 1
    result = anchors(labels(model), x, None, view=Table(background))
    assert result.values.tolist() == [[0, 1, 0, 0, 0]]


def test_bins_make_rules_of_ranges() -> None:
    background = torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = background[:, 1].sort().values

    def model(x: Tensor) -> Tensor:
        return (x[:, 1] > edges[252]).long()

    x = torch.tensor([[0.5, 0.9, 0.5]], dtype=torch.float64)
    binned = anchors(labels(model), x, None, view=Table(background, bins=4))
    assert binned.values.tolist() == [[0, 1, 0]]
    assert float(binned.extras["coverage"]) == pytest.approx(0.25, abs=0.01)
    exact = anchors(labels(model), x, None, view=Table(background))
    assert float(exact.extras["coverage"]) == 0, "no row has exactly this value"


def test_regions_of_an_image_that_decide_are_found() -> None:
    x = images(2)
    x[:, :, 2:4, 4:6] = 1

    def model(x: Tensor) -> Tensor:
        return (x[:, 0, 2:4, 4:6].mean((1, 2)) > 0.9).long()

    regions = (torch.arange(8) // 2)[:, None] * 4 + torch.arange(8) // 2
    result = anchors(labels(model), x, None, view=Image(regions=regions), baseline="black")
    expected = torch.zeros(8, 8)
    expected[2:4, 4:6] = 1
    assert torch.equal(result.values, expected.expand(2, -1, -1))
    assert result.extras["coverage"].tolist() == [0.5, 0.5]


def noisy(x: Tensor) -> Tensor:
    """Column 0 alone makes a rule of precision just above 0.8; with column 1 just above 0.95."""
    place = (x[:, 5] * 1000).long() % 100
    return torch.where(
        (x[:, 0] == 0.25) & (x[:, 1] == 0.5), place < 96, torch.where(x[:, 0] == 0.25, place < 82, place < 45)
    ).long()


@pytest.mark.slow
def test_the_precision_is_what_was_promised_in_nine_of_ten_runs() -> None:
    background = table(3000, 5)
    background = torch.cat(
        [background, torch.rand(3000, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)], 1
    )
    x = torch.tensor([[0.25, 0.5, 0.0, 0.0, 0.0, 0.001]], dtype=torch.float64)
    truth = {
        rule: precision(noisy, x[0], list(rule), background)
        for size in range(6)
        for rule in itertools.combinations(range(5), size)
    }
    kept = 0
    for seed in range(200):
        result = anchors(
            labels(noisy), x, None, view=Table(background), threshold=0.9, tolerance=0.02, delta=0.1, seed=seed
        )
        rule = tuple(result.values[0, :5].nonzero()[:, 0].tolist())
        exact = 1.0 if bool(result.values[0, 5]) else truth[rule]
        kept += exact >= 0.9 - 0.02
    assert kept >= 180


def test_a_sample_alone_has_the_rule_it_has_in_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    background = table(300, 6)
    model = labels(both)
    x = background[:6]
    whole = anchors(model, x, None, view=Table(background))
    monkeypatch.setitem(anchors.raw.__globals__, "VALUES", 100)
    for i in range(6):
        alone = anchors(model, x[i : i + 1], None, view=Table(background))
        assert torch.equal(alone.values[0], whole.values[i])
        assert alone.extras["precision"][0] == whole.extras["precision"][i]


def test_the_draws_are_never_exceeded() -> None:
    background = table(300, 6)
    noise = labels(lambda x: (x.sum(1) * 1e4).long() % 2)
    for samples in (1, 5, 60, 700):
        result = anchors(noise, background[:3], None, view=Table(background), samples=samples)
        assert result.cost.forward <= 3 * samples


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="threshold=1"):
        anchors(labels(both), table(2, 5), None, threshold=1)
