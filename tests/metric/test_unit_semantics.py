"""Purity of units and random directions, on layers that are planted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.diagnosis import Study
from ironglass.core.errors import InputError
from ironglass.metric.unit_semantics import purity

CLASSES, EACH = 4, 30


class Planted(nn.Module):
    """A layer of units that each fire on one class, turned by a rotation."""

    def __init__(self, turn: Tensor) -> None:
        super().__init__()
        self.hidden = nn.Linear(CLASSES, CLASSES, bias=False)
        self.last = nn.Linear(CLASSES, CLASSES + 1)
        with torch.no_grad():
            self.hidden.weight.copy_(turn)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))


def samples() -> tuple[Tensor, Tensor]:
    """Class k has its value k near 1 and the others near 0."""
    y = torch.arange(CLASSES).repeat_interleave(EACH)
    noise = torch.rand(len(y), CLASSES, generator=torch.Generator().manual_seed(0))
    return (nn.functional.one_hot(y, CLASSES) * 0.8 + 0.2 * noise), y


def test_the_purity_of_planted_units_is_one() -> None:
    x, y = samples()
    found = ig.metric.unit_semantics({"planted": Planted(torch.eye(CLASSES)).eval()}, x, y, directions=4)
    assert isinstance(found, Study)
    assert found.column_names == ("units", "random directions", "chance")
    assert found.values[0, 0] == 1
    assert (float(found.low[0, 0]), float(found.high[0, 0])) == (1.0, 1.0)
    assert found.counts.tolist() == [[4, 4, 4]]
    assert found.cost.forward == len(x)


def test_a_unit_that_likes_all_classes_alike_is_as_pure_as_chance() -> None:
    x, y = samples()
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(3))]
    found = ig.metric.unit_semantics(Planted(torch.eye(CLASSES)).eval(), x, shuffled, directions=300)
    units, random, chance = found.values[0].tolist()
    assert units < 0.75
    assert abs(random - chance) < 0.06


def test_chance_is_the_expected_largest_class_of_a_draw() -> None:
    x, y = samples()
    found = ig.metric.unit_semantics(Planted(torch.eye(CLASSES)).eval(), x, y, directions=4000, top=2)
    same = (EACH - 1) / (CLASSES * EACH - 1)
    expected = 0.5 + 0.5 * same  # two samples: purity is 1 if they are of one class, else 1/2
    assert float(found.values[0, 2]) == pytest.approx(expected, abs=0.01)


def test_purity_by_hand() -> None:
    y = torch.tensor([0, 0, 1, 2, 1, 0])
    projections = torch.tensor([[6.0, 1], [5, 2], [4, 3], [3, 4], [2, 5], [1, 6]])
    assert purity(projections, y, 3).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert purity(projections, y, 6).tolist() == [0.5, 0.5]
    assert purity(projections, y, 1).tolist() == [1, 1]
    assert purity(torch.zeros(6, 1), y, 2).tolist() == [1.0], "of equal ones the first count"


def test_a_convolutions_unit_is_a_channel_and_dead_units_are_left_out() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(48, 2)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0]).reshape(3, 1, 1, 1))  # type: ignore[union-attr, operator]
    y = torch.arange(20) % 2
    x = 0.2 + 0.5 * y[:, None, None, None] + 0.2 * torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = ig.metric.unit_semantics(net, x, y, layer="0", top=5)
    assert found.counts[0].tolist() == [2, 256, 256]
    assert found.values[0, 0] == 1
    assert found.values[0, 1] == 1, "in a space of one dimension that tells the classes apart, every direction does"


def test_several_models_are_rows_and_draw_bars() -> None:
    x, y = samples()
    turn = torch.linalg.qr(torch.randn(CLASSES, CLASSES, generator=torch.Generator().manual_seed(2))).Q
    nets = {"straight": Planted(torch.eye(CLASSES)).eval(), "turned": Planted(turn).eval()}
    found = ig.metric.unit_semantics(nets, x, y, directions=500)
    assert found.row_names == ("straight", "turned")
    assert float(found.values[1, 0]) <= float(found.values[0, 0]) == 1
    apart = float(found.values[0, 1] - found.values[1, 1])
    assert abs(apart) < 0.02, "a rotation changes the units; to random directions it is nothing"
    assert found.bars("units").labels == ("straight", "turned")


def test_the_seed_decides_the_directions_and_batches_do_not() -> None:
    x, y = samples()
    net = Planted(torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2))).Q).eval()
    runs = [ig.metric.unit_semantics(net, x, y, seed=seed, directions=50).values for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_wrong_requests_are_refused() -> None:
    x, y = samples()
    net = Planted(torch.eye(CLASSES)).eval()
    with pytest.raises(InputError, match="no layer 'hiden'"):
        ig.metric.unit_semantics(net, x, y, layer="hiden")
    with pytest.raises(InputError, match="top=500"):
        ig.metric.unit_semantics(net, x, y, top=500)
    with pytest.raises(InputError, match="takes no threat"):
        ig.metric.unit_semantics(net, x, y, ig.Linf(0.1))
    with pytest.raises(InputError, match="no models"):
        ig.metric.unit_semantics([], x, y)
