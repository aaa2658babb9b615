"""The indicators on functions whose answers are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ironglass.core.values import Avoid, Linf
from ironglass.metric import masking_probes as probe
from ironglass.metric.masking_trials import Trials
from ironglass.models.adapter import wrap
from ironglass.models.session import Session

Y = torch.zeros(6, dtype=torch.long)
X = 0.3 + 0.4 * torch.rand(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Scores(nn.Module):
    """Two classes: 0, and a function of the input."""

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score
        self.register_buffer("kind", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        return torch.stack([torch.zeros_like(score), score], 1)


def session(score: Callable[[Tensor], Tensor], x: Tensor = X) -> Session:
    model = wrap(Scores(score).eval())
    return model.session(x)[0]


def margin(count: int = 6) -> Callable[[Tensor, object], Tensor]:
    return Avoid(torch.zeros(count, dtype=torch.long)).loss("margin")  # type: ignore[return-value]


def test_the_spread_of_repeated_scores_is_relative_to_the_largest() -> None:
    calls = [torch.tensor([[4.0, -8.0], [1.0, 1.0]]), torch.tensor([[6.0, -8.0], [1.0, 1.0]])]
    assert probe.spread(calls).tolist() == [0.25, 0.0]


def test_neighbours_matter_only_where_scores_use_the_batch() -> None:
    assert probe.batch_dependence(session(lambda x: x.sum(1)), X).tolist() == [0.0] * 6
    mixed = probe.batch_dependence(session(lambda x: x.sum(1) - x.mean()), X)
    assert bool((mixed > 0.1).all())


def test_probability_vectors_are_told_from_logits() -> None:
    rows = torch.tensor([[0.2, 0.8], [0.0, 1.0], [0.5, 0.6], [-0.1, 1.1], [3.0, -2.0]])
    assert probe.probabilities(rows).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("way", ["grad", "backward", "func", "none"])
def test_gradients_at_inference_are_counted(way: str) -> None:
    def score(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            if way == "grad":
                torch.autograd.grad(leaf.square().sum(), leaf)
            elif way == "backward":
                leaf.square().sum().backward()
            elif way == "func":
                torch.func.grad(lambda z: z.square().sum())(x)
        return x.sum(1)

    model = session(score)
    scores, calls = probe.backward_calls(lambda: model.scores(X))
    assert (calls > 0) == (way != "none")
    assert torch.equal(scores, model.scores(X))


def test_vanished_gradients_are_zero_missing_or_not_finite() -> None:
    grad = torch.tensor([[0.0, 0.0], [0.0, 1e-30], [torch.nan, 1.0]])
    assert probe.vanishes(grad, grad).tolist() == [True, False, True]
    assert probe.vanishes(None, grad).tolist() == [True] * 3
    assert probe.gradient(session(lambda x: torch.from_numpy(x.detach().numpy().sum(1))), X, margin()) is None
    through_numpy = session(lambda x: torch.from_numpy(x.numpy().sum(1)))
    assert probe.gradient(through_numpy, X, margin()) is None
    assert torch.equal(probe.gradient(session(lambda x: x.sum(1)), X, margin()), torch.ones_like(X))  # type: ignore[arg-type]


def test_rounding_is_told_from_a_smooth_function() -> None:
    for score, flat in ((lambda x: x.sum(1), False), (lambda x: (x * 7).round().sum(1), True)):
        model = session(score)
        unchanged = probe.unchanged(model, X, model.scores(X), model.draws(0))
        assert unchanged.tolist() == [flat] * 6


def test_a_line_has_sixteen_equal_parts_and_a_step_one() -> None:
    straight = session(lambda x: x @ torch.arange(1.0, 6, dtype=x.dtype))
    line = probe.jump(straight, X, margin(), straight.draws(0), 3)
    torch.testing.assert_close(line, torch.full((6,), 1 / 16, dtype=torch.float64))
    edge = X.clone()
    edge[:, 0] = 0.5
    model = session(lambda x: (x[:, 0] > 0.5).to(x), edge)
    assert probe.jump(model, edge, margin(), model.draws(0), 8).tolist() == [1.0] * 6
    constant = session(lambda x: 0 * x[:, 0])
    assert probe.jump(constant, X, margin(), constant.draws(0), 2).tolist() == [0.0] * 6


def test_the_largest_part_by_hand() -> None:
    path = torch.tensor([[0.0, 1.0, 5.0], [1.0, 1.0, 5.0], [-2.0, 2.0, 5.0]])
    assert probe.largest_part(path).tolist() == [0.75, 1.0, 0.0]
    assert probe.largest_part(path, torch.tensor([3.0, 3.0, 3.0])).tolist() == [0.75, 0.0, 0.0]


def test_instability_is_the_mean_relative_change() -> None:
    assert probe.relative_change(torch.tensor([2.0, -4.0, 1.0]), torch.tensor([2.5, -3.0, 9.0])).tolist() == [
        0.25,
        0.25,
        1,
    ]
    x = torch.full((4000, 1), 0.5, dtype=torch.float64) + 1e-9 * torch.arange(4000, dtype=torch.float64)[:, None]
    model = session(lambda x: 10 * x[:, 0] - 5.2, x)  # the margin is -0.2, noise moves it by up to 5/255
    found = probe.instability(model, x, margin(4000), model.scores(x), model.draws(0), 30)
    assert float(found.mean()) == pytest.approx(10 / 255 / 4 / 0.2, rel=0.02)


def test_an_attack_is_complete_when_its_last_quarter_gains_nothing() -> None:
    steps = torch.arange(40, dtype=torch.float64)
    done, rising = 1 - torch.exp(-steps), steps
    falling, constant = -steps, torch.ones(40, dtype=torch.float64)
    bumpy = torch.where(steps < 5, steps, 3 + (steps % 2))  # what was reached early counts
    trace = torch.stack([done, rising, falling, constant, bumpy], 1)
    assert probe.incomplete(trace).tolist() == [False, True, False, False, False]
    assert probe.incomplete(torch.tensor([[0.0], [0.5], [1.0], [torch.nan]])).tolist() == [False]
    quarter = probe.incomplete(torch.tensor([0.0, 1, 2, 3, 4, 5, 95, 100])[:, None])
    assert quarter.tolist() == [True]
    assert probe.incomplete(torch.tensor([0.0, 1, 2, 3, 4, 96, 98, 100])[:, None]).tolist() == [False]


def trials(model: Session, x: Tensor, y: Tensor, eps: float, random: Tensor | None = None, draws: int = 9) -> Trials:
    none = torch.zeros(len(x), dtype=torch.bool) if random is None else random
    return Trials(model, x, y, Linf(eps), random=none, draws=draws, steps=10, restarts=2, seed=0)


def test_searches_break_what_a_linear_model_lets_them() -> None:
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    start = X @ weight
    model = session(lambda x: x @ weight - 1.6)
    breaks = start + 0.1 * weight.abs().sum() > 1.6
    right = start < 1.6
    assert 0 < int((breaks & right).sum()) < int(right.sum())
    rows = right.nonzero()[:, 0]
    tried = trials(model, X, Y, 0.1)
    for found in (tried.gradient(rows), tried.single(rows), tried.search(rows, 200)):
        assert torch.equal(found, breaks & right)
    assert torch.equal(tried.transfer(rows, model), breaks & right)
    assert not bool(tried.silent.any())
    assert torch.equal(tried.broken, breaks & right)
    assert torch.equal(model.scores(tried.worst).argmax(1)[rows] == 1, breaks[rows])
    assert not bool(tried.gradient(rows[:0]).any())
    noise = tried.noise(rows, 3)
    assert bool((noise <= breaks).all())


def test_a_trace_is_the_loss_of_each_step() -> None:
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    model = session(lambda x: x @ weight - 9.0)
    trace = trials(model, X, Y, 0.1).trace(torch.tensor([4, 1]))
    assert trace.shape == (10, 2)
    first = [math.log1p(math.exp(float(X[i] @ weight) - 9.0)) for i in (4, 1)]
    assert trace[0].tolist() == pytest.approx(first)
    assert bool((trace.diff(dim=0) >= -1e-12).all())


def test_random_samples_are_judged_by_most_of_the_draws() -> None:
    calls = {"count": 0}

    def score(x: Tensor) -> Tensor:
        calls["count"] += 1
        return torch.full_like(x[:, 0], 1.0 if calls["count"] % 3 == 0 else -1.0)

    model = session(score)
    random = torch.tensor([True, True, True, False, False, False])
    rows = torch.arange(6)
    calls["count"] = 2
    first = trials(model, X, Y, 0.1, random).fooled(X, rows)
    assert first.tolist() == [False] * 3 + [True] * 3, "a third of the draws is not most of them; one draw is all"


def test_a_lucky_hit_is_a_silent_failure() -> None:
    calls = {"count": 0}

    def score(x: Tensor) -> Tensor:
        calls["count"] += 1
        return 0 * x.sum(1) + (1.0 if calls["count"] % 5 == 0 else -1.0)

    tried = trials(session(score), X, Y, 0.1, torch.ones(6, dtype=torch.bool))
    assert not bool(tried.gradient(torch.arange(6)).any())
    assert tried.silent.tolist() == [True] * 6
