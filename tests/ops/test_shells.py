from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ironglass.ops.shells import Shells


def shells(lead: float, ends: list[float], slopes: list[float]) -> Shells:
    known = torch.tensor(slopes).double().reshape(1, 1, -1)
    fits = torch.arange(len(slopes)).double().reshape(1, 1, -1) + 1
    return Shells(torch.tensor([[lead]]).double(), torch.tensor([ends]).double(), known, fits)


@pytest.mark.parametrize(
    ("lead", "radius", "fit"),
    [(1.0, 0.5, 1), (2.0, 1.0, 1), (3.0, 1.25, 2), (6.0, 2.0, 2), (7.0, 2.1, 3), (100.0, 4.0, 3), (0.0, 0.0, 1)],
)
def test_the_radius_is_where_the_slopes_add_up_to_the_value(lead: float, radius: float, fit: int) -> None:
    """Slope 2 up to the distance 1, 4 up to 2, 10 up to 4."""
    found, quality = shells(lead, [1, 2, 4], [2, 4, 10]).nearest()
    assert float(found) == pytest.approx(radius)
    assert float(quality) == fit


def test_a_slope_further_out_is_no_less_and_one_that_is_not_finite_gives_0() -> None:
    assert float(shells(4.0, [1, 2], [2, 1]).nearest()[0]) == pytest.approx(2.0)
    assert float(shells(4.0, [1, 2], [2, torch.nan]).nearest()[0]) == 0.0
    assert float(shells(1.0, [1, 2], [2, torch.nan]).nearest()[0]) == pytest.approx(0.5)
    assert float(shells(1.0, [3], [0]).nearest()[0]) == 3.0


def test_the_least_of_all_functions_counts() -> None:
    lead, slopes = torch.tensor([[4.0, 2.0]]).double(), torch.tensor([[[1.0], [4.0]]]).double()
    found = Shells(lead, torch.tensor([[9.0]]).double(), slopes, torch.tensor([[[0.25], [0.5]]]).double()).nearest()
    assert [float(part) for part in found] == [0.5, 0.5]


def test_cutting_shells_comes_near_the_true_distance_and_never_beyond() -> None:
    """The slope grows with the distance: value 10, slope 8 t or 20 t, so the distances are 1.58 and 1."""
    lead, grows = torch.full((2, 1), 10.0).double(), torch.tensor([8.0, 20.0]).double()

    def slope(reach: Tensor, rows: Tensor) -> Tensor:
        return (grows[rows] * reach)[:, None]

    ends = torch.full((2, 1), 50.0).double()
    whole = Shells(lead, ends, slope(ends[:, 0], torch.arange(2))[..., None], torch.ones(2, 1, 1).double())
    exact, last = (20 / grows).sqrt(), torch.zeros(2).double()
    for _ in range(80):
        found, _ = whole.nearest()
        assert bool((found >= last - 1e-12).all())
        assert bool((found <= exact + 1e-12).all())
        last = found
        rows, reach = whole.next(torch.zeros(2, 1).double())
        if not len(rows):
            break
        whole.add(rows, reach, slope(reach, rows), torch.ones(len(rows), 1).double())
        assert bool((whole.ends.diff(dim=1) >= 0).all())
    assert bool((last > 0.9 * exact).all())
