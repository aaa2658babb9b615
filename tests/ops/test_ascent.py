"""The loop: who leaves when, what is paid, and which point comes back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ironglass.core.access import Loss, Pass
from ironglass.core.draws import Draws
from ironglass.core.values import L2, Avoid, Bounds, Linf, Reach, Threat
from ironglass.models.adapter import wrap
from ironglass.models.session import Session
from ironglass.ops.ascent import ascend


class Bowl(nn.Module):
    """Class 1 gains towards 0.6 and loses beyond; class 0 leads by ``lead`` there."""

    def __init__(self, lead: float) -> None:
        super().__init__()
        self.lead = lead

    def forward(self, x: Tensor) -> Tensor:
        height = -(x.flatten(1) - 0.6).square().sum(1)
        return torch.stack([torch.full_like(height, self.lead), height], 1)


class Recorder:
    """A session that keeps what it is asked; rows in ``poor`` may ask ``allowance`` times."""

    def __init__(self, session: Session, poor: tuple[int, ...] = (), allowance: int = 0) -> None:
        self._session, self.bounds, self.classes, self.names = session, session.bounds, session.classes, session.names
        self.asked: list[tuple[Tensor, Tensor]] = []
        self.budget = torch.full((64,), 1000)
        self.budget[list(poor)] = allowance

    def scores(self, x: Tensor, rows: Tensor) -> Tensor:
        self._note(x, rows)
        return self._session.scores(x, rows)

    def value_and_grad(self, x: Tensor, loss: Loss, rows: Tensor) -> Pass:
        self._note(x, rows)
        return self._session.value_and_grad(x, loss, rows)

    def left(self, rows: Tensor) -> Tensor:
        return self.budget[rows]

    def draws(self, seed: int) -> Draws:
        raise AssertionError("the loop draws nothing")

    def _note(self, x: Tensor, rows: Tensor) -> None:
        self.asked.append((x.clone(), rows.clone()))
        self.budget[rows] -= 1
        assert int(self.budget[rows].min()) >= 0, "a sample was asked beyond its budget"


def at_work(net: nn.Module, x: Tensor, **budget: object) -> Recorder:
    session, _ = wrap(net.eval()).session(x, "gradient")
    return Recorder(session, **budget)  # type: ignore[arg-type]


X = torch.tensor([[0.1], [0.5], [0.3]], dtype=torch.float64)
AWAY = Avoid(torch.zeros(3, dtype=torch.long))


def test_the_nearest_point_comes_back_not_the_last() -> None:
    model = at_work(Bowl(1.0), X)
    climb = ascend(model, X, AWAY, Linf(1.0), sizes=[0.35, 0.35, 0.35], loss=AWAY.loss("margin"))  # type: ignore[arg-type]
    visited = torch.stack([x for x, _ in model.asked])
    best = (visited - 0.6).abs().amin(0)
    assert torch.allclose((climb.point - 0.6).abs(), best)
    assert bool(((visited[-1] - 0.6).abs() > best).any())
    assert torch.allclose(climb.margin, -1.0 - best[:, 0].square())


def test_a_sample_leaves_at_the_first_point_that_reaches_the_goal() -> None:
    model = at_work(Bowl(-0.05), X)
    climb = ascend(model, X, AWAY, Linf(1.0), sizes=[0.1] * 6, loss=AWAY.loss("ce"))  # type: ignore[arg-type]
    assert climb.margin.tolist() == [torch.inf] * 3
    asked = [rows.tolist() for _, rows in model.asked]
    assert asked == [[0, 1, 2], [0, 2], [0], [0]], "0.5 is there, 0.3 is one step away, and 0.1 three"
    assert climb.point[:, 0].tolist() == pytest.approx([0.4, 0.5, 0.4])


def test_a_sample_stops_when_its_own_budget_is_spent() -> None:
    model = at_work(Bowl(1.0), X, poor=(1,), allowance=2)
    climb = ascend(model, X, AWAY, Linf(1.0), sizes=[0.05] * 4, loss=AWAY.loss("margin"))  # type: ignore[arg-type]
    assert [rows.tolist() for _, rows in model.asked] == [[0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [0, 2]]
    assert float(climb.point[1]) == pytest.approx(0.55), "the best of what it could pay for"
    broke = at_work(Bowl(1.0), X, poor=(0, 1, 2), allowance=0)
    start = X + 0.02
    climb = ascend(broke, X, AWAY, Linf(1.0), sizes=[0.05], loss=AWAY.loss("ce"), start=start)  # type: ignore[arg-type]
    assert torch.equal(climb.point, start)
    assert broke.asked == []


def test_no_steps_judge_the_start() -> None:
    model = at_work(Bowl(-0.05), X)
    climb = ascend(model, X, AWAY, Linf(1.0), sizes=[], loss=AWAY.loss("ce"))  # type: ignore[arg-type]
    assert torch.isinf(climb.margin).tolist() == [False, True, False]
    assert len(model.asked) == 1


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_point_that_is_asked_lies_in_ball_box_and_mask(norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 5, 5, generator=generator, dtype=torch.float64).mul(1.4).sub(0.2).clamp(0, 1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).double()
    mask = torch.rand(6, 1, 5, 5, generator=generator) < 0.6
    goal, threat = Reach(torch.full((6,), 2)), Threat(norm, 0.4, mask)  # type: ignore[arg-type]
    model = at_work(net, x)
    ascend(model, x, goal, threat, sizes=[0.3, 0.2, 0.1, 0.05], loss=goal.loss("ce"))  # type: ignore[arg-type]
    for point, rows in model.asked:
        delta = (point - x[rows]).flatten(1)
        assert float(delta.norm(p={"linf": float("inf"), "l2": 2, "l1": 1}[norm], dim=1).max()) <= 0.4 * (1 + 1e-12)
        assert bool(((point >= 0) & (point <= 1)).all())
        assert torch.equal(point.where(~mask[rows], x[rows]), x[rows])


def test_small_steps_on_a_convex_loss_climb_at_every_step() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(5, 30, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(30, 4)).double().eval()
    goal = Avoid(torch.zeros(5, dtype=torch.long))
    with torch.no_grad():
        net[1].bias[0] += 50  # type: ignore[index,operator]
    model = at_work(net, x)
    ascend(model, x, goal, L2(0.5), sizes=[0.02] * 15, loss=goal.loss("margin"))  # type: ignore[arg-type]
    values = torch.stack([goal.loss("margin")(net(point), rows) for point, rows in model.asked])
    assert bool((values.diff(dim=0) > 0).all())


def test_bounds_are_the_models() -> None:
    session, _ = wrap(Bowl(1.0).eval(), bounds=(0, 0.52)).session(X, "gradient")
    climb = ascend(session, X, AWAY, Linf(1.0), sizes=[0.3] * 3, loss=AWAY.loss("margin"))
    assert session.bounds == Bounds(0, 0.52)
    assert climb.point[:, 0].tolist() == [0.52] * 3
