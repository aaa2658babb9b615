from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError


class Linear(nn.Module):
    """Class k's logit is the sum of a quarter of the picture: what speaks for it is known."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.zeros(4, 8, 8)
        for k, (row, column) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
            weight[k, row : row + 4, column : column + 4] = 1
        self.head = nn.Linear(64, 4, bias=False)
        self.head.weight = nn.Parameter(weight.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    """Four pictures of class 0, of which the second and, more surely, the last are taken for class 3."""
    x = torch.zeros(4, 1, 8, 8)
    x[:, :, :4, :4] = 0.5
    x[1, :, 4:, 4:] = 0.6
    x[3, :, 4:, 4:] = 0.9
    return x, torch.zeros(4, dtype=torch.long)


def test_the_surest_mistakes_come_first_with_both_maps_and_what_decides_between_them(
    samples: tuple[Tensor, Tensor],
) -> None:
    x, y = samples
    found = ig.explain.misprediction(Linear().eval(), x, y, method="gradient_x_input")
    assert found.rows.tolist() == [3, 1]
    assert found.predicted.tolist() == [3, 3]
    assert found.lead.tolist() == pytest.approx([0.4 * 16, 0.1 * 16], rel=1e-5)
    assert float(found.confidence[0]) > float(found.confidence[1]) > 0.5
    assert torch.allclose(found.contrast.values, found.wrong.values - found.right.values, atol=1e-6)
    assert torch.allclose(found.contrast.values.flatten(1).sum(1).double(), found.lead, atol=1e-4)
    assert float(found.wrong.values[0, 0, :4].abs().sum()) == 0, "nothing above speaks for class 3"
    table = found.table()
    assert [row[0] for row in table.rows] == ["3", "1"]
    assert table.rows[0][1:3] == ("class 0", "class 3")


def test_the_part_that_has_to_go_is_found(samples: tuple[Tensor, Tensor]) -> None:
    """Black for a pixel takes 0.9 from the lead of 6.4: 8 of 64 pixels have to go, a fifth is the first part tried."""
    x, y = samples
    found = ig.explain.misprediction(Linear().eval(), x, y, method="gradient_x_input", baseline="black")
    assert found.turns.tolist() == [0.2, 0.05]
    x = x.clone()
    x[:, :, :4, :4] = 0  # nothing speaks for the right class: it cannot lead
    lost = ig.explain.misprediction(Linear().eval(), x[3:], y[3:], method="gradient_x_input", baseline="black")
    assert lost.turns.tolist() == [torch.inf]
    assert lost.table().rows[0][5] == "more than 50%"


def test_names_pictures_and_a_figure(samples: tuple[Tensor, Tensor]) -> None:
    x, y = samples
    model = ig.wrap(Linear().eval(), labels=["ant", "bee", "cat", "dog"])
    found = ig.explain.misprediction(model, x, y, method=ig.explain.lrp.with_(composite="epsilon"), cases=1)
    assert len(found) == 1
    gallery = found.gallery()
    assert len(gallery.columns) == 4
    assert gallery.rows[0][0].line == "dog instead of ant"
    figure = found.plot()
    assert [axis.get_title() for axis in figure.axes[1:]] == [
        "for the wrong class",
        "for the right class",
        "for the wrong, not the right",
    ]
    assert found.table().rows[0][1:3] == ("ant", "dog")


def test_nothing_to_debug_is_said(samples: tuple[Tensor, Tensor]) -> None:
    x, y = samples
    with pytest.raises(InputError, match="labels all 2 samples right"):
        ig.explain.misprediction(Linear().eval(), x[::2], y[::2])
    with pytest.raises(InputError, match="cases=0"):
        ig.explain.misprediction(Linear().eval(), x, y, cases=0)
