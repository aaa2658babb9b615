"""The frontier of a family whose error and distances are known in closed form, and lines with a known slope."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from bench.linear import distance, halves, linear
from ironglass.bench.frontier import Frontier, _apart, line_through
from ironglass.core.errors import InputError
from ironglass.core.findings import Matrix, Scatter
from metric.broken import CNN, digits, trained

SLOPE, START = 0.05, 0.17


def family() -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """Thresholds on the first value, with weight on the others chosen so that the mean linf distance is on a line.

    A model that cuts at t and weighs each of seven idle values by c moves ``(x_1 - t) / (1 + 7 c)`` in linf.
    """
    x = torch.full((80, 8), 0.5, dtype=torch.double)
    x[:, 0] = torch.linspace(0.3, 0.9, 80, dtype=torch.double)
    models: dict[str, nn.Module] = {}
    for wrong in (2, 4, 8, 16, 32):
        cut = float(x[wrong - 1 : wrong + 1, 0].mean())
        mean = float((x[wrong:, 0] - cut).mean())
        idle = (mean / (START + SLOPE * np.log10(wrong / 80)) - 1) / 7
        assert idle > 0
        weight = torch.tensor([1.0] + [idle] * 7, dtype=torch.double)
        net = nn.Linear(8, 2).double().eval()
        with torch.no_grad():
            net.weight.copy_(torch.stack([-weight, weight]) / 2)
            bias = cut + 0.5 * 7 * idle
            net.bias.copy_(torch.tensor([bias, -bias]) / 2)
        models[f"{wrong} wrong"] = net
    return models, x, torch.ones(80, dtype=torch.long)


def test_a_family_with_a_known_relation_is_recovered() -> None:
    models, x, y = family()
    found = ig.bench.frontier(models, x, y, ig.Linf(0.05), steps=20)
    assert found.values[:, 0].tolist() == pytest.approx([wrong / 80 for wrong in (2, 4, 8, 16, 32)])
    line = START + SLOPE * found.values[:, 0].log10()
    assert found.values[:, 1].tolist() == pytest.approx(line.tolist(), rel=5e-3)
    assert found.on_frontier("linf") == (0, 1, 2, 3, 4)
    fit = found.fit("linf")
    assert fit is not None
    assert fit.slope == pytest.approx(SLOPE, rel=0.02)
    assert fit.low <= fit.slope <= fit.high
    assert fit.low > 0
    assert fit.intercept == pytest.approx(START, rel=0.02)
    for i, net in enumerate(models.values()):
        weight = (net.weight[1] - net.weight[0]).detach()  # type: ignore[operator, index]
        margin = (net(x)[:, 1] - net(x)[:, 0]).detach()
        exact = torch.where(margin > 0, margin / weight.norm(), 0)
        assert torch.allclose(found.distances[1, i], exact, rtol=5e-3)
        broken = (margin > 0) & (margin / weight.abs().sum() < 0.05)
        assert float(found.values[i, 3]) == pytest.approx(float(broken.sum()) / float((margin > 0).sum()))


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_line_is_least_squares_and_its_interval_covers(noise: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200 if noise else 1):
        error = 10 ** rng.uniform(-2, -0.3, 6)
        far = 0.3 + 0.1 * np.log10(error) + noise * rng.standard_normal(6)
        fit = line_through(error.tolist(), far.tolist(), range(6))
        assert fit is not None
        design = np.stack([np.log10(error), np.ones(6)], 1)
        slope, intercept = np.linalg.lstsq(design, far, rcond=None)[0]
        assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept))
        covered += fit.low - 1e-9 <= 0.1 <= fit.high + 1e-9
    assert covered >= (0.9 * 200 if noise else 1)


def test_the_frontier_leaves_out_whoever_is_beaten() -> None:
    first, second, x, y = halves()
    strong, weak = linear(first), linear(first + 2 * second)
    worse = linear(first)
    with torch.no_grad():
        worse.bias.add_(torch.tensor([0.05, -0.05], dtype=torch.double))  # nearer, and wrong on more
    found = ig.bench.frontier({"strong": strong, "worse": worse, "wide": weak}, x, y, ig.Linf(0.1), steps=20)
    error, far = found.values[:, 0].tolist(), found.values[:, 1].tolist()
    for i in range(3):
        beaten = any(error[j] <= error[i] and far[j] >= far[i] and j != i for j in range(3))
        assert (i in found.on_frontier("linf")) == (not beaten)
    assert 1 not in found.on_frontier("linf")
    assert torch.allclose(found.distances[0, 0], distance(first, x, "linf"), rtol=5e-3)
    assert found.fit("linf") is None or found.fit("linf").models  # type: ignore[union-attr]


def test_transfer_is_over_all_ordered_pairs_and_agrees_with_the_matrix() -> None:
    first, second, x, y = halves()
    models = {"a": linear(first), "b": linear(second), "c": linear(first + 0.2 * second)}
    found = ig.bench.frontier(models, x, y, ig.Linf(0.1), steps=20)
    matrix = ig.metric.transfer_matrix(models, x, y, ig.Linf(0.1), steps=20)
    assert torch.allclose(found.fooled, matrix.values.double())
    assert torch.equal(found.pairs, matrix.counts)
    assert "6 ordered pairs" in found.notes[-1]
    fools = sum(float(matrix.values[0, j] * matrix.counts[0, j]) for j in (1, 2))
    assert float(found.values[0, 4]) == pytest.approx(fools / float(matrix.counts[0, 1:].sum()))


def test_digits_give_figures_that_draw_and_save(
    tmp_path: Path, pair: dict[str, CNN], held_out: tuple[Tensor, Tensor]
) -> None:
    x, y = digits()
    models = {"short": trained(CNN(), x[:1400], y[:1400], steps=60), **pair}
    x, y = held_out
    found = ig.bench.frontier(models, x, y, ig.Linf(0.1), steps=20)
    assert float(found.values[2, 1]) > float(found.values[1, 1])
    assert 2 in found.on_frontier("linf")
    assert bool((found.low <= found.values).all())
    assert bool((found.values <= found.high).all())
    linf, l2, heat = found.charts()
    assert isinstance(linf, Scatter)
    assert isinstance(l2, Scatter)
    assert isinstance(heat, Matrix)
    assert found._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]
    assert len(found.table().rows) == 3
    found.save(tmp_path / "frontier.safetensors")
    back = ig.load(tmp_path / "frontier.safetensors")
    assert isinstance(back, Frontier)
    assert back.table() == found.table()
    assert back.charts() == found.charts()


def test_attacks_that_differ_much_are_told_of() -> None:
    ways = {"linf": [ig.attack.fmn], "l2": [ig.attack.fmn, ig.attack.ddn]}
    near, far = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 2.0, torch.inf])
    lengths = {("l2", "a"): torch.stack([2 * near, far]), ("l2", "b"): torch.stack([1.4 * near, far])}
    (note,) = _apart(lengths, ways)  # type: ignore[arg-type]
    assert note.startswith("a in l2: the attacks are far apart (fmn 3, ddn 1.5)")


def test_of_several_attacks_the_shortest_change_counts() -> None:
    first, _, x, y = halves()
    poor = ig.attack.deepfool.with_(overshoot=0.5)
    alone = ig.bench.frontier(linear(first), x, y, ig.Linf(0.1), nearest=(poor,), steps=20)
    both = ig.bench.frontier(linear(first), x, y, ig.Linf(0.1), nearest=(poor, "fmn"), steps=20)
    assert bool((both.distances <= alone.distances + 1e-12).all())
    assert torch.allclose(both.distances[1, 0], distance(first, x, "l2"), rtol=5e-3)


def test_one_model_has_no_transfer_and_no_line() -> None:
    first, _, x, y = halves()
    found = ig.bench.frontier(linear(first), x, y, ig.Linf(0.1), steps=10)
    assert found.fit() is None
    assert found.counts[0, 4:].tolist() == [0, 0]
    assert float(found.values[0, 3]) == pytest.approx(float((distance(first, x, "linf") < 0.1).double().mean()))


def test_wrong_requests_are_refused() -> None:
    first, _, x, y = halves()
    with pytest.raises(InputError, match="no minimum-norm attack in linf among ddn"):
        ig.bench.frontier(linear(first), x, y, ig.Linf(0.1), nearest=("ddn",))
    with pytest.raises(InputError, match="no minimum-norm attack in linf among pgd"):
        ig.bench.frontier(linear(first), x, y, ig.Linf(0.1), nearest=("pgd",))
    with pytest.raises(InputError, match="needs a finite eps"):
        ig.bench.frontier(linear(first), x, y, ig.Linf(float("inf")))
