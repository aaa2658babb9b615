from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ironglass.core.errors import InputError
from ironglass.core.properties import Case, Property, Verdict, margin_property
from ironglass.core.results import Cost, load


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def case(low: float = 0.1, high: float = 0.7) -> Case:
    weights = torch.tensor([[1.0, -1.0], [0.0, 1.0]], dtype=torch.float64)
    return Case(doubles(low), doubles(high), weights, doubles(0.5, 2.0))


def test_excess_is_the_row_that_is_furthest_from_its_limit() -> None:
    outputs = torch.tensor([[3.0, 1.0], [0.0, 1.0], [1.5, 1.0]])
    assert case().excess(outputs).tolist() == [1.5, -1.0, 0.0]


def test_what_is_not_finite_breaks_nothing() -> None:
    outputs = torch.tensor([[torch.nan, 0.0], [-torch.inf, 0.0], [-1.0, 0.0]])
    assert (case().excess(outputs) <= 0).tolist() == [False, False, True]


def test_without_rows_every_input_breaks_it() -> None:
    empty = Case(doubles(0), doubles(1), torch.zeros(0, 2, dtype=torch.float64), doubles())
    assert (empty.excess(torch.tensor([[5.0, 5.0], [torch.nan, 0.0]])) <= 0).tolist() == [True, False]


@pytest.mark.parametrize("low", [0.1, 0.3, -0.7, 1 / 3, 2.0**-30])
def test_rounded_ends_lie_in_the_exact_box(low: float) -> None:
    box = case(low, low + 0.2)
    ends = box.rounded(torch.float32)
    assert ends[0].dtype == torch.float32
    assert low <= float(ends[0].double()) <= low + 1e-7
    assert low + 0.2 - 1e-7 <= float(ends[1].double()) <= low + 0.2


def test_an_input_that_is_fixed_means_the_number_next_to_it() -> None:
    low, high = case(0.1, 0.1).rounded(torch.float32)
    assert low == high == torch.tensor(0.1)
    assert case(0.1, 0.1).holds(torch.tensor([[0.1], [0.100001]])).tolist() == [True, False]


def test_a_point_on_the_end_is_inside_and_one_past_it_is_not() -> None:
    box = case(0.25, 0.5)
    past = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
    assert box.holds(torch.stack([torch.tensor([0.25]), torch.tensor([0.5]), past[None]])).tolist() == [
        True,
        True,
        False,
    ]


def test_cases_are_grouped_by_their_boxes() -> None:
    cases = (case(0.1), case(0.2), case(0.1))
    groups = list(Property(cases, 1, 2).boxes())
    assert [group for _, group in groups] == [(0, 2), (1,)]
    assert groups[0][0] is cases[0]


def test_the_property_of_a_label_has_a_case_for_each_other_class() -> None:
    made = margin_property(1, 3, torch.zeros(4), torch.ones(4))
    assert [each.weights[0].tolist() for each in made.cases] == [[-1, 1, 0], [0, 1, -1]]
    assert made.cases[0].excess(torch.tensor([[0.5, 2.0, 9.0]])).tolist() == [1.5]
    with pytest.raises(InputError, match="label 3 of 3 classes"):
        margin_property(3, 3, torch.zeros(4), torch.ones(4))


def test_a_verdict_is_saved_and_says_itself(tmp_path: Path) -> None:
    verdict = Verdict(
        x=torch.tensor([[0.5, 0.25]]), method="vnnlib", cost=Cost(seconds=1.5), outcome="falsified",
        outputs=torch.tensor([[1.0]]), bound=-torch.inf, domains=7, reason="an attack breaks it", name="prop_1",
    )  # fmt: skip
    verdict.save(tmp_path / "v.safetensors")
    again = load(tmp_path / "v.safetensors")
    assert isinstance(again, Verdict)
    assert torch.equal(again.x, verdict.x)
    assert (again.outcome, again.domains, again.cost, again.bound) == ("falsified", 7, verdict.cost, -torch.inf)
    assert again.sentence == ("prop_1 does not hold: a counterexample was found and checked (an attack breaks it)")
