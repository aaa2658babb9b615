"""Attacks that see labels alone: exact distances on linear models, and rays whose lengths are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

import ironglass as ig
from attack.oracles import case
from ironglass.core.method import get
from ironglass.core.values import Norm, Threat
from ironglass.ops.estimators import Probe, RandomDirections, directions
from ironglass.ops.rays import Rays
from ironglass.ops.separating import Separating, widest
from nets import images, labels_without_autograd

SIZE = 50
NAMES = ("opt_attack", "sign_opt", "hop_skip_jump", "boundary")
INF = float("inf")


class Half:
    """Labels of two classes that a plane parts; counts what it is asked, and fails whoever asks autograd."""

    def __init__(self, size: int = SIZE, seed: int = 0, count: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(size, generator=generator, dtype=torch.float64)
        self.x = 0.45 + 0.1 * torch.rand(count, size, generator=generator, dtype=torch.float64)
        self.edge = float((self.x @ self.weight).max()) + 0.3
        self.asked = 0

    def __call__(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.asked += len(x)
        return (x.flatten(1) @ self.weight.to(x.dtype) > self.edge).long()

    def least(self) -> Tensor:
        return (self.edge - self.x @ self.weight) / self.weight.norm()


def attacked(name: str, half: Half, queries: int, eps: float = INF, norm: Norm = "l2", **options: Any) -> Any:
    model = ig.wrap(half, classes=2)
    y = torch.zeros(len(half.x), dtype=torch.long)
    return get(name)(model, half.x, y, Threat(norm, eps), max_queries=queries, **options)


@pytest.mark.parametrize(
    ("name", "queries", "ratio", "options"),
    [
        ("sign_opt", 4000, 1.01, {"samples": 50}),
        ("sign_opt", 4000, 1.01, {"svm": True, "samples": 20}),
        ("opt_attack", 6000, 1.01, {}),
        ("hop_skip_jump", 6000, 1.02, {}),
        ("boundary", 5000, 1.3, {}),
    ],
)
def test_the_nearest_point_of_a_plane_is_found_from_labels_alone(
    name: str, queries: int, ratio: float, options: dict[str, Any]
) -> None:
    half = Half()
    found = attacked(name, half, queries, **options)
    assert bool(found.success.all())
    gone = found.distance / half.least()
    assert float(gone.max()) <= ratio
    assert float(gone.min()) >= 1


def test_hop_skip_jump_finds_the_nearest_corner_in_linf() -> None:
    half = Half()
    found = attacked("hop_skip_jump", half, 8000, norm="linf")
    least = (half.edge - half.x @ half.weight) / half.weight.abs().sum()
    assert bool(found.success.all())
    assert float((found.distance / least).max()) <= 1.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("regime", ["interior", "saturated"])
def test_pictures_of_many_values_come_near_too(name: str, regime: str) -> None:
    made = case(regime, 10, lead=0.2, count=2)
    weight, bias = made.net[1].weight, made.net[1].bias

    def labels(x: Tensor) -> Tensor:
        return (x.flatten(1) @ weight.T + bias).argmax(1)

    found = get(name)(ig.wrap(labels, classes=10), made.x, made.y, ig.L2(INF), max_queries=1000)
    assert isinstance(found, ig.AttackResult)
    assert bool(found.success.all())
    assert float((found.distance / made.least("l2")).max()) <= {"opt_attack": 12, "boundary": 9}.get(name, 6)


@pytest.mark.parametrize("name", NAMES)
def test_with_a_finite_eps_who_is_near_enough_leaves(name: str) -> None:
    half = Half()
    eps = 2 * float(half.least().max())
    found = attacked(name, half, 5000, eps)
    assert bool(found.success.all())
    assert float(found.distance.max()) <= eps * (1 + 1e-9)
    assert torch.equal(found.queries, found.first_success)
    assert int(found.queries.max()) < 4000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [1, 3, 17, 40, 111])
def test_a_budget_that_cuts_a_step_leaves_the_best_so_far(name: str, budget: int) -> None:
    half = Half()
    model = ig.wrap(half, classes=2)
    model.probe(half.x)
    half.asked = 0
    y = torch.zeros(len(half.x), dtype=torch.long)
    found = get(name)(model, half.x, y, ig.L2(INF), max_queries=budget)
    assert isinstance(found, ig.AttackResult)
    assert int(found.queries.max()) <= budget + 1
    assert int(found.queries.sum()) == half.asked - len(y), "the judge's last look is not the attack's"
    assert not found.partial
    if budget > 40:
        more = get(name)(model, half.x, y, ig.L2(INF), max_queries=4 * budget)
        assert isinstance(more, ig.AttackResult)
        assert bool((more.distance <= found.distance * (1 + 1e-9)).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_reached_from_a_given_start(name: str) -> None:
    x = images(6)
    with torch.no_grad():
        y = labels_without_autograd(x)
    target = y.roll(1)
    rows = target != y
    x, target, starts = x[rows], target[rows], images(6).roll(1, 0)[rows]
    model = ig.wrap(labels_without_autograd, classes=5)
    found = get(name)(model, x, ig.Reach(target), ig.L2(INF), max_queries=600, starts=starts)
    assert isinstance(found, ig.AttackResult)
    assert bool(found.success.all())
    assert bool((found.distance < (starts - x).flatten(1).norm(dim=1)).all())
    with pytest.raises(ValueError, match="starts"):
        get(name)(model, x, ig.Reach(target), ig.L2(INF), starts=starts[..., :4])


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("sign_opt", {"radius": 0.0}, "radius=0"),
    ("sign_opt", {"samples": 0}, "samples=0"),
    ("opt_attack", {"step_size": 0.0}, "step_size=0"),
    ("hop_skip_jump", {"tries": 0}, "tries=0"),
    ("boundary", {"towards": 1.0}, "towards=1"),
    ("boundary", {"max_queries": 0}, "max_queries=0"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    half = Half()
    with pytest.raises(ValueError, match=message):
        attacked(name, half, **({"queries": 10} | {"queries": options.pop("max_queries", 10)}), **options)


def rays_of(half: Half, queries: int = 10_000) -> tuple[Rays, Tensor]:
    """Rays from the samples of a plane, and a session that pays for them."""
    model = ig.wrap(half, classes=2)
    goal = ig.Avoid(torch.zeros(len(half.x), dtype=torch.long))
    session, _ = model.session(half.x, "labels", goal, queries)
    return Rays(session, half.x, goal, ig.L2(INF), queries), torch.arange(len(half.x))


def test_lengths_along_rays_are_exact_and_rays_that_miss_are_infinite() -> None:
    half = Half()
    rays, rows = rays_of(half)
    generator = torch.Generator().manual_seed(3)
    ways = half.weight + 3 * torch.randn(len(rows), 3, SIZE, generator=generator, dtype=torch.float64)
    ways = ways / ways.norm(dim=2, keepdim=True)
    true = (half.edge - half.x @ half.weight)[:, None] / (ways @ half.weight)
    near = half.x[:, None] + true[..., None] * ways
    assert bool(((near >= 0) & (near <= 1)).all()), "the box does not cut these"
    fine = torch.full_like(true, 1e-7)
    found = rays.bisect(ways, torch.zeros_like(true), true * 1.9, rows, fine)
    assert bool(((found >= true) & (found <= true + 1e-6)).all())
    shorter = rays.shorter(ways, true * torch.tensor([1.0001, 1.3, 0.9]), rows, fine)
    assert torch.allclose(shorter[:, :2], true[:, :2], atol=1e-6)
    assert bool((shorter[:, 2] == torch.inf).all())
    on = torch.ones_like(true, dtype=torch.bool)
    beside = rays.nearby(ways, true * torch.tensor([1.002, 0.999, 1.0]), rows, on, 0.01)
    assert torch.allclose(beside, true, rtol=2e-4)


def test_a_ray_that_no_query_can_be_paid_for_stays_as_long_as_the_known_one() -> None:
    half = Half()
    rays, rows = rays_of(half, 1)
    ways = half.weight.expand(len(rows), 2, -1) / half.weight.norm()
    around = torch.full((len(rows), 2), 0.01, dtype=torch.float64)
    assert torch.equal(rays.nearby(ways, around, rows, torch.ones_like(around, dtype=torch.bool), 0.01), around)
    assert half.asked - 3 == len(rows), "the probe's look and one query each"


def test_the_widest_margin_is_that_of_the_quadratic_program() -> None:
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(3, 12, 30, generator=generator, dtype=torch.float64)
    vectors[1, 7:] = 0  # were not asked
    weight = widest(vectors @ vectors.transpose(1, 2))
    z = torch.einsum("nk,nkd->nd", weight, vectors)
    for row in range(3):
        kept = vectors[row][vectors[row].abs().sum(1) > 0].numpy()
        # the least z with V z >= 1 is V' a / (1 - b) of a non-negative least squares problem
        stacked = np.concatenate([kept.T, np.ones((1, len(kept)))])
        solved, _ = nnls(stacked, np.concatenate([np.zeros(30), [1.0]]))
        residual = stacked @ solved - np.concatenate([np.zeros(30), [1.0]])
        exact = -residual[:-1] / residual[-1]
        assert np.allclose(z[row].numpy(), exact, atol=5e-3)
    assert bool((weight[1, 7:] == 0).all())
    noisy = torch.randn(1, 40, 3, generator=generator, dtype=torch.float64)  # no plane agrees with all
    assert bool(widest(noisy @ noisy.transpose(1, 2)).isfinite().all())


def linear(weight: Tensor) -> Any:
    def ask(points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        paid = torch.arange(points.shape[1]) < count[:, None]
        return torch.where(paid, (points.flatten(2) @ weight).sign(), torch.full((), 1e9, dtype=weight.dtype))

    return ask


def test_the_separating_direction_agrees_with_every_sign_and_is_nearer_than_the_mean() -> None:
    weight = torch.randn(SIZE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    rows = torch.arange(200)
    point, zero = torch.zeros(200, SIZE, dtype=torch.float64), torch.zeros(200, dtype=torch.float64)
    left = torch.full((200,), 40)
    left[:20] = 7

    def at() -> Probe:
        draws = ig.core.draws.Draws(rows, 1)
        return Probe(linear(weight), lambda p, r: p, point, rows, left, draws, zero)

    wide = Separating(40, 0.1, "gaussian")(at())
    u = directions(ig.core.draws.Draws(rows, 1), "gaussian", (40, SIZE), rows, torch.float64)
    margin = (u @ weight).sign() * torch.einsum("nkd,nd->nk", u, wide)
    assert float(margin[20:].min()) >= 1 - 1e-3
    assert float(margin[:20, :7].min()) >= 1 - 1e-3
    mean = RandomDirections(40, 0.1, "gaussian")(at())
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(wide, weight[None]).mean()) > float(cosine(mean, weight[None]).mean()) - 0.02


def test_a_centred_estimate_takes_away_what_all_values_share() -> None:
    weight = torch.randn(SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    rows = torch.arange(5)
    point = 0.3 * weight.expand(5, -1) / weight.norm()  # most of what is asked reaches the goal
    probe = Probe(linear(weight), lambda p, r: p, point, rows, torch.full((5,), 30), ig.core.draws.Draws(rows, 2), None)
    found = RandomDirections(30, 1.0, "sphere", center=True)(probe)
    u = directions(ig.core.draws.Draws(rows, 2), "sphere", (30, SIZE), rows, torch.float64)
    values = ((point[:, None] + u) @ weight).sign()
    expected = SIZE / 30 * torch.einsum("nk,nkd->nd", values - values.mean(1, keepdim=True), u)
    assert torch.allclose(found, expected)
