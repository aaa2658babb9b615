"""The black box: what reaches the goal is judged as the goal says, also in ties; points are placed, kept, paid for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.values import Goal, Threat
from ironglass.ops import lp
from ironglass.ops.zeroth import BlackBox

NAN, INF = float("nan"), float("inf")
SCORES = torch.tensor(
    [
        [1.0, 1.0, 0.0],  # a tie, which the first label wins
        [0.0, 1.0, 1.0],
        [2.0, 1.0, 0.0],
        [0.0, 3.0, NAN],
        [0.0, 3.0, INF],
        [-INF, 3.0, 1.0],
        [0.0, 3.0, 1.0],
        [NAN, NAN, NAN],
    ]
)


def box_of(scores: Tensor, goal: Goal, threat: Threat, queries: int = 100, **options: bool | float) -> BlackBox:
    """A box whose model gives the scores of the row that a sample's first value names."""

    def table(x: Tensor) -> Tensor:
        return scores[(x[:, 0] * len(scores)).round().long().clamp(max=len(scores) - 1)]

    x = torch.rand(len(scores), 4, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.arange(len(scores)) / len(scores)
    model = ig.wrap(table, classes=3)
    session, _ = model.session(x, "scores", goal, queries)
    return BlackBox(session, x, goal, threat, max_queries=queries, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("kind", [ig.Avoid, ig.Reach])
@pytest.mark.parametrize("labels", [False, True])
def test_a_goal_is_reached_as_the_goal_itself_says_also_in_ties(label: int, kind: type[Goal], labels: bool) -> None:
    goal = kind(torch.full((len(SCORES),), label))
    box = box_of(SCORES, goal, ig.Linf(0.1), labels=labels)
    rows = torch.arange(len(SCORES))
    values = box.ask(box.x[:, None], rows)[:, 0]
    told = goal.reached_by(SCORES.argmax(1)) if labels else goal.reached(SCORES)
    assert torch.equal(box.found, told)
    assert torch.equal(goal.hits(SCORES), goal.reached(SCORES).nonzero()[:, 0])
    if labels:
        assert torch.equal(values > 0, told)


@pytest.mark.parametrize("norm", ["l2", "l1", "linf"])
def test_points_are_placed_in_ball_box_and_mask_and_stay_where_they_are_if_they_are_there(norm: str) -> None:
    mask = torch.tensor([[True, True, False, True]])
    threat = Threat(norm, 0.2, mask)  # type: ignore[arg-type]
    box = box_of(SCORES, ig.Avoid(torch.zeros(8, dtype=torch.long)), threat)
    points = torch.rand(3, 50, 4, generator=torch.Generator().manual_seed(1)) * 2 - 0.5
    for rows in (torch.tensor([1, 4, 6]), torch.arange(8)):
        some = points.repeat(3, 1, 1)[: len(rows)]
        placed = box.place(some, rows)
        change = placed - box.x[rows, None]
        assert float(lp.norm(change.flatten(0, 1), norm).max()) <= 0.2 * (1 + 1e-6)  # type: ignore[arg-type]
        assert bool(((placed >= 0) & (placed <= 1)).all())
        assert bool((change[..., 2] == 0).all())
        assert torch.allclose(box.place(placed, rows), placed, atol=1e-7)


def test_which_points_are_asked_may_be_said_one_by_one() -> None:
    box = box_of(SCORES, ig.Reach(torch.ones(8, dtype=torch.long)), ig.L2(INF))
    rows = torch.tensor([2, 5])
    which = torch.tensor([[True, False, True], [False, False, True]])
    box.ask(box.x[rows, None].expand(-1, 3, -1), rows, which)
    assert box.spent(torch.arange(8)).tolist() == [0, 0, 2, 0, 0, 1, 0, 0]


def test_a_search_without_a_radius_ends_where_it_is_near_enough() -> None:
    scores = torch.tensor([[0.0, 5.0, 0.0]] * 8)  # every point reaches the goal
    goal = ig.Avoid(torch.zeros(8, dtype=torch.long))
    box, rows = box_of(scores, goal, ig.L2(INF), enough=0.3), torch.arange(8)
    away = torch.tensor([0.0, 0.0, 0.0, 0.05])
    box.ask((box.x - 10 * away)[:, None], rows)
    far = box.length > 0.3
    assert torch.equal(box.done(rows), ~far)
    assert torch.equal(box.open(rows), far)
    paid = box.spent(rows)
    box.ask((box.x - away)[:, None], rows)
    assert torch.equal(box.spent(rows) - paid, far.long()), "those that are done are asked no more"
    assert bool(box.done(rows).all())
