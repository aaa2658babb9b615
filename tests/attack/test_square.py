"""Random search by windows: what it asks, what it keeps, and what it finds."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import ironglass as ig
from attack.oracles import case
from ironglass.core.values import Norm, Threat

RADII: dict[Norm, float] = {"linf": 0.1, "l2": 1.5, "l1": 6.0}
SHAPES = [(1, 9, 9), (3, 8, 12), (2, 12, 8), (40,), (1, 60), (7, 11), (2, 3, 6, 6), (1, 2, 2), (1,)]


class Watched:
    """A black box that keeps every input, and fails whoever asks autograd; ``score`` gives class 1 its logit."""

    def __init__(self, score: object = None, classes: int = 2) -> None:
        self.score, self.classes = score, classes
        self.asked: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        self.asked.append(x.clone())
        out = torch.zeros(len(x), self.classes, dtype=x.dtype)
        out[:, 0] = 1e5
        if self.score is not None:
            out[:, 1] = self.score(x)  # type: ignore[operator]
        return out

    def queries(self) -> Tensor:
        """All inputs the attack asked of, for a run on one batch whose samples never leave: ``(queries, N, …)``."""
        first_look = next(k for k in range(1, len(self.asked)) if len(self.asked[k]) == len(self.asked[-1]))
        return torch.stack(self.asked[first_look + 1 : -1])


def zeros(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long)


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def run(x: Tensor, threat: Threat, max_queries: int, score: object = None, **options: object) -> tuple[Tensor, Tensor]:
    """Attacks a model that is never fooled; returns all queries, and what came back."""
    box = Watched(score)
    result = ig.attack.square(box, x, zeros(len(x)), threat, max_queries=max_queries, **options)  # type: ignore[arg-type]
    assert result.queries.tolist() == [max_queries + 1] * len(x)
    queries = box.queries()
    assert len(queries) == max_queries
    return queries, result.adversarial


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_query_lies_in_ball_and_box_whatever_the_shape(norm: Norm, shape: tuple[int, ...]) -> None:
    x = pictures(5, *shape).mul(1.4).sub(0.2).clamp(0, 1)
    queries, found = run(x, Threat(norm, RADII[norm]), 60, lambda x: x.flatten(1).sin().sum(1))
    size = (queries - x).flatten(2).norm(p={"linf": float("inf"), "l2": 2, "l1": 1}[norm], dim=2)
    assert float(size.max()) <= RADII[norm] * (1 + 1e-12)
    assert bool(((queries >= 0) & (queries <= 1)).all())
    assert found.shape == x.shape
    if math.prod(shape) > 1:  # a single value at its best bound can only stay
        assert bool((found != x).flatten(1).any(1).all())


@pytest.mark.parametrize("norm", RADII)
def test_what_comes_back_is_the_best_that_was_asked(norm: Norm) -> None:
    weight = pictures(30, seed=4) - 0.5
    x = pictures(6, 30)
    queries, found = run(x, Threat(norm, RADII[norm]), 150, lambda x: x @ weight)
    assert torch.allclose(found @ weight, (queries @ weight).amax(0), atol=1e-9)


def test_a_window_may_lie_anywhere_and_each_place_is_as_likely() -> None:
    x = torch.full((400, 1, 6, 9), 0.5, dtype=torch.float64) + 1e-6 * pictures(400, 1, 6, 9)
    queries, _ = run(x, ig.Linf(0.1), 400, p=0.3)
    start, tried = queries[0], queries[100:200]
    changed = (tried != start)[:, :, 0].flatten(0, 1)
    assert bool(changed.flatten(1).any(1).all()), "no query is wasted on what is known"
    assert bool((queries[1:10] != start).flatten(0, 1).any(0).all()), (
        "also large windows get to the last row and column"
    )
    sizes = 0.3 * 54 / 2**5
    assert round(math.sqrt(sizes)) == 1
    single = changed.flatten(1).double()
    assert bool((single.sum(1) == 1).all())
    assert stats.chisquare(single.sum(0).numpy()).pvalue > 1e-4


def test_windows_shrink_on_a_schedule_that_is_scaled_to_the_budget() -> None:
    x = torch.full((300, 1, 20, 20), 0.5, dtype=torch.float64) + 1e-6 * pictures(300, 1, 20, 20)
    area = {}
    for budget in (200, 1000):
        queries, _ = run(x, ig.Linf(0.1), budget, p=0.8)
        area[budget] = (queries[1:] != queries[0]).flatten(2).sum(2).amax(1)
    for part, level in ((0.003, 1), (0.01, 2), (0.03, 3), (0.07, 4), (0.15, 5), (0.3, 6), (0.5, 7), (0.9, 9)):
        side = max(round(math.sqrt(0.8 * 400 / 2**level)), 1)
        assert int(area[1000][int(part * 1000)]) <= side**2
        assert int(area[1000][int(part * 1000)]) >= 0.5 * side**2, "stripes leave some columns as they were"
        if part >= 0.03:
            assert abs(int(area[200][int(part * 200)]) - int(area[1000][int(part * 1000)])) <= 0.4 * side**2


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("kind", ["one", "each", "channel", "none"])
def test_a_mask_is_kept_and_every_query_uses_it(norm: Norm, kind: str) -> None:
    x = pictures(4, 2, 10, 7)
    mask = torch.zeros(*{"one": (1, 10, 7), "each": (4, 2, 10, 7), "channel": (2, 10, 7), "none": (1, 10, 7)}[kind])
    if kind == "one":
        mask[:, 8:, 3:] = 1
    elif kind == "each":
        mask[0, :, 0, 0], mask[1, 1], mask[2, :, 3:6, 2:], mask[3] = 1, 1, 1, 1
    elif kind == "channel":
        mask[1, ::2, ::2] = 1
    free = mask.bool().expand(4, 2, 10, 7)
    queries, found = run(x, Threat(norm, RADII[norm], mask.bool()), 80)
    assert torch.equal(torch.where(free, x, queries), x.expand_as(queries))
    assert torch.equal(torch.where(free, x, found), x)
    if kind != "none":
        assert bool((queries[1:] != queries[0]).flatten(2).any(2).double().mean() > 0.9)
        assert bool((queries != x).any(0)[free].all()), "all that is allowed is tried"


@pytest.mark.parametrize("norm", RADII)
def test_in_l2_and_l1_the_whole_budget_is_used(norm: Norm) -> None:
    x = 0.4 + 0.2 * pictures(8, 3, 16, 16)
    queries, _ = run(x, Threat(norm, 0.5), 100, lambda x: x.flatten(1).cos().sum(1))
    size = (queries - x).flatten(2).norm(p={"linf": float("inf"), "l2": 2, "l1": 1}[norm], dim=2)
    assert float(size.min()) >= 0.5 * (1 - 1e-5)


def test_in_l2_one_window_gains_what_another_loses() -> None:
    x = 0.4 + 0.2 * pictures(50, 1, 15, 15)
    queries, _ = run(x, ig.L2(0.5), 60)
    start = queries[0] - x
    for tried in queries[1:] - x:
        changed = (tried - start).abs() > 1e-9
        assert bool(changed.flatten(1).any(1).all())
        kept = torch.where(changed, 0, tried) - torch.where(changed, 0, start)
        assert float(kept.abs().max()) < 1e-9
        lost = torch.where(changed & (tried.abs() < 1e-12), start, 0).flatten(1).norm(dim=1)
        assert float(lost.max()) <= 0.5


@pytest.mark.parametrize("norm", RADII)
def test_a_sample_is_attacked_alike_in_any_batch_and_order(norm: Norm) -> None:
    made = case("saturated", 10, lead=2.5, count=10)
    threat = Threat(norm, 0.7 * float(made.least(norm).median()) + (0.1 if norm == "linf" else 2.0))
    order = torch.tensor([7, 0, 4])
    whole, some = (
        ig.attack.square(made.net, made.x[rows], made.y[rows], threat, max_queries=120, seed=5)
        for rows in (torch.arange(10), order)
    )
    assert torch.equal(whole.queries[order], some.queries)
    assert torch.allclose(whole.adversarial[order], some.adversarial, atol=1e-12)
    other = ig.attack.square(made.net, made.x, made.y, threat, max_queries=120, seed=6)
    assert not torch.equal(other.adversarial, whole.adversarial)


@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("targeted", [False, True])
def test_it_finds_what_is_easy_and_never_what_is_impossible(norm: Norm, targeted: bool) -> None:
    made = case("interior", 10, lead=1.0, count=12)
    goal = ig.Reach(torch.full((12,), made.near)) if targeted else ig.Avoid(made.y)
    easy, hard = ({"linf": 4, "l2": 6, "l1": 12}[norm] * float(made.least(norm).max()), 0.999 * made.least(norm).min())
    result = ig.attack.square(made.net, made.x, goal, Threat(norm, easy), max_queries=2000)
    assert float(result.success.double().mean()) >= 0.9
    assert torch.equal(result.success, result.after.argmax(1) == made.near)
    won = result.success
    assert torch.equal(result.queries[won], result.first_success[won]), "who succeeds leaves at once"
    failed = ig.attack.square(made.net, made.x, goal, Threat(norm, float(hard)), max_queries=50)
    assert not bool(failed.success.any())


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_any_number_of_classes(classes: int) -> None:
    made = case("interior", classes, lead=0.5)
    result = ig.attack.square(made.net, made.x, made.y, ig.Linf(0.2), max_queries=500)
    assert result.success_rate > 0.8


def test_a_budget_of_the_model_is_kept_and_spent_to_the_last() -> None:
    x = pictures(5, 1, 8, 8)
    model = ig.wrap(Watched(), max_queries=17)
    result = ig.attack.square(model, x, zeros(5), ig.Linf(0.1), max_queries=500)
    assert result.queries.tolist() == [17] * 5
    assert not result.partial


def test_scores_that_are_not_numbers_are_no_success() -> None:
    def score(x: Tensor) -> Tensor:
        return torch.where(x.flatten(1)[:, 0] > 0.5, torch.nan, 0.0).to(x.dtype)

    _, found = run(pictures(5, 1, 8, 8), ig.Linf(0.3), 30, score)
    assert bool(found.isfinite().all())


def test_requests_that_make_no_sense_are_refused() -> None:
    x = pictures(2, 1, 8, 8)
    with pytest.raises(ValueError, match="square needs a finite eps"):
        ig.attack.square(Watched(), x, zeros(2), ig.L2(float("inf")))
    with pytest.raises(ValueError, match="max_queries=0"):
        ig.attack.square(Watched(), x, zeros(2), ig.L2(1.0), max_queries=0)
    with pytest.raises(ValueError, match=r"p=1\.5"):
        ig.attack.square(Watched(), x, zeros(2), ig.L2(1.0), p=1.5)
