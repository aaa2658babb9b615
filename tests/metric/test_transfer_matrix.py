"""What transfers between linear models is known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.statistics import wilson
from metric.broken import CNN, digits, trained


def linear(weight: Tensor) -> nn.Linear:
    """Class 1 where ``weight . (x - 1/2) > 0``."""
    net = nn.Linear(len(weight), 2).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.stack([-weight, weight]) / 2)
        net.bias.copy_(torch.tensor([1.0, -1.0], dtype=torch.float64) * weight.sum() / 4)
    return net


def halves(count: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two orthogonal directions that look at different values, and samples that both put in class 1."""
    first, second = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    first[:4], second[4:] = 1, 1
    x = 0.55 + 0.1 * torch.rand(count, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return first, second, x, torch.ones(count, dtype=torch.long)


def test_to_itself_and_to_its_twin_everything_transfers() -> None:
    first, _, x, y = halves()
    found = ig.metric.transfer_matrix([linear(first), linear(first)], x, y, ig.Linf(0.3))
    assert found.values.tolist() == [[1, 1], [1, 1]]
    assert found.counts.tolist() == [[40, 40], [40, 40]]
    assert float(found.low[0, 1]) == pytest.approx(wilson(40, 40)[0])
    assert found.row_names == ("model 0", "model 1")


@pytest.mark.parametrize("threat", [ig.Linf(0.3), ig.L2(0.6), ig.L1(1.2)], ids=str)
def test_between_orthogonal_directions_nothing_transfers(threat: ig.Threat) -> None:
    first, second, x, y = halves()
    models = {"first": linear(first), "second": linear(second)}
    found = ig.metric.transfer_matrix(models, x, y, threat, attack=ig.attack.pgd.with_(random_start=False), steps=20)
    assert found.values.tolist() == [[1, 0], [0, 1]]
    assert found.counts.min() > 0
    assert found.table().rows[0][:2] == ("first", "100% [91, 100]")


def test_opposite_directions_cannot_share_a_right_answer() -> None:
    first, _, x, y = halves()
    found = ig.metric.transfer_matrix({"plus": linear(first), "minus": linear(-first)}, x, y, ig.Linf(0.3))
    assert found.counts.tolist() == [[40, 0], [0, 0]]
    assert found.table().rows[0][2] == "—"
    assert found.bars("minus").labels == ()


def test_only_what_the_source_attack_breaks_counts() -> None:
    first, second, x, y = halves()
    margin = (x - 0.5) @ first
    falls = margin < 0.1 * 4
    assert 0 < int(falls.sum()) < len(x)
    both = linear(first + second)
    found = ig.metric.transfer_matrix({"first": linear(first), "both": both}, x, y, ig.Linf(0.1), attack="fgsm")
    moved = x - 0.1 * first
    fooled = falls & (((moved - 0.5) @ (first + second)) < 0)
    assert int(found.counts[0, 1]) == int(falls.sum())
    assert float(found.values[0, 1]) == pytest.approx(float(fooled.sum()) / float(falls.sum()))


def test_examples_transfer_across_training_sets() -> None:
    x, y = digits()
    nets = {"odd": trained(CNN(), x[1:1400:2], y[1:1400:2], steps=80)}
    nets["even"] = trained(CNN(), x[:1400:2], y[:1400:2], steps=80)
    rows = slice(1500, 1560)
    found = ig.metric.transfer_matrix(nets, x[rows], y[rows], ig.Linf(0.2), attack=ig.attack.pgd.with_(steps=10))
    noise = ig.metric.transfer_matrix(nets, x[rows], y[rows], ig.Linf(0.2), attack="random_noise")
    assert found.values.diag().tolist() == [1, 1]
    assert float(found.low[0, 1]) > 0.05, "Szegedy's observation: it transfers"
    assert int(found.counts.min()) > 30
    assert int(noise.counts.sum()) < int(found.counts.sum())
    assert found.options["steps"] == 10
    assert found.cost.backward > 0


def test_wrong_requests_are_refused() -> None:
    first, second, x, y = halves()
    with pytest.raises(InputError, match="a transfer needs two"):
        ig.metric.transfer_matrix(linear(first), x, y, ig.Linf(0.1))
    with pytest.raises(InputError, match="takes a threat in linf, l2, l1"):
        ig.metric.transfer_matrix([linear(first), linear(second)], x, y)
    with pytest.raises(InputError, match="No attack method called 'saliency'"):
        ig.metric.transfer_matrix([linear(first), linear(second)], x, y, ig.Linf(0.1), attack="saliency")
    with pytest.raises(InputError, match="same name"):
        ig.metric.transfer_matrix([ig.wrap(linear(first), name="a")] * 2, x, y, ig.Linf(0.1))
