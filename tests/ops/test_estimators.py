"""Estimators against what is known of them: means, second moments, angles, and exactness on quadratics."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ironglass.core.draws import Draws
from ironglass.ops import estimators
from ironglass.ops.estimators import (
    Basis,
    Control,
    Groups,
    Kind,
    Probe,
    RandomDirections,
    bilinear,
    directions,
    enlarged,
    packed_signs,
    principal,
    tile_of,
)

KINDS: tuple[Kind, ...] = ("signs", "sphere", "gaussian")
SIZE = 50


def quadratic(seed: int = 0, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """A slope and a symmetric curvature, float64."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.randn(size, generator=generator, dtype=torch.float64)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return slope, root @ root.T / size


class Counting:
    """A quadratic that is asked as estimators ask, and counts what each row pays."""

    def __init__(self, slope: Tensor, curvature: Tensor | None = None, rows: int = 1) -> None:
        self.slope, self.curvature = slope, curvature
        self.asked = torch.zeros(rows, dtype=torch.long)

    def __call__(self, points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        self.asked[rows] += count
        values = points.flatten(2) @ self.slope
        if self.curvature is not None:
            values = values + 0.5 * (points.flatten(2) @ self.curvature * points.flatten(2)).sum(-1)
        paid = (torch.arange(points.shape[1]) < count[:, None]).reshape(*points.shape[:2], *(1,) * (values.ndim - 2))
        return torch.where(paid, values, torch.full_like(values, 1e9))  # what was not paid must not be used


def probe(ask: Counting, point: Tensor, *, left: int | Tensor = 10**6, seed: int = 0, **more: Tensor) -> Probe:
    n = len(point)
    rows = torch.arange(n)
    count = torch.full((n,), left) if isinstance(left, int) else left
    base = ask(point[:, None], rows, torch.ones_like(rows))[:, 0]
    ask.asked.zero_()
    return Probe(ask, lambda points, rows: points, point, rows, count, Draws(rows, seed), base, **more)


def many(rows: int) -> Tensor:
    return torch.zeros(rows, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_estimate_is_right_in_the_mean_and_as_long_as_it_must_be(kind: Kind, antithetic: bool) -> None:
    slope, _ = quadratic()
    rows = 40_000
    grads = RandomDirections(1, 1e-3, kind, antithetic=antithetic)(probe(Counting(slope, rows=rows), many(rows)))
    spread = grads.std(0) / rows**0.5
    assert float(((grads.mean(0) - slope) / spread).abs().max()) < 5
    squares = grads.square().sum(1)
    expected = (SIZE + 2 if kind == "gaussian" else SIZE) * slope.square().sum()
    assert abs(float((squares.mean() - expected) / (squares.std() / rows**0.5))) < 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [5, 10, 40])
def test_its_angle_is_the_expected_one(kind: Kind, count: int) -> None:
    slope, _ = quadratic(1, 200)
    rows = 2000
    point = torch.zeros(rows, 200, dtype=torch.float64)
    grads = RandomDirections(count, 1e-3, kind)(probe(Counting(slope, rows=rows), point))
    cosine = torch.nn.functional.cosine_similarity(grads, slope[None])
    assert float(cosine.mean()) == pytest.approx(math.sqrt(count / (count + 199)), rel=0.08)
    agree = (grads.sign() == slope.sign()).double().mean()
    assert 0.5 < float(agree) < 1


def test_antithetic_pairs_do_not_see_curvature() -> None:
    slope, curvature = quadratic(2)
    rows = 3000
    cosines = {}
    for antithetic, count in ((True, 5), (False, 10)):
        for radius in (1e-3, 5.0):
            ask = Counting(slope, curvature, rows)
            grads = RandomDirections(count, radius, "gaussian", antithetic=antithetic)(probe(ask, many(rows)))
            cosines[antithetic, radius] = float(torch.nn.functional.cosine_similarity(grads, slope[None]).mean())
            assert ask.asked.tolist() == [10] * rows
    assert cosines[True, 5.0] == pytest.approx(cosines[True, 1e-3], rel=1e-6)
    assert cosines[False, 5.0] < 0.8 * cosines[False, 1e-3]


def test_a_vote_sums_signs() -> None:
    slope, _ = quadratic(3)
    ask = Counting(slope, rows=4)
    at = probe(ask, many(4))
    votes = RandomDirections(7, 1e-3, "gaussian", vote=True)(at)
    u = directions(Draws(torch.arange(4), 0), "gaussian", (7, SIZE), torch.arange(4), torch.float64)
    expected = ((u @ slope).sign()[:, :, None] * u.sign()).sum(1)
    assert torch.equal(votes, expected)


def test_several_values_a_point_are_several_gradients() -> None:
    slopes = torch.stack([quadratic(4)[0], quadratic(5)[0]], 1)
    at = probe(Counting(slopes, rows=3), many(3))
    both = RandomDirections(9, 1e-2, "sphere")(at)
    assert both.shape == (3, 2, SIZE)
    for which in range(2):
        one = RandomDirections(9, 1e-2, "sphere")(probe(Counting(slopes[:, which], rows=3), many(3)))
        assert torch.allclose(both[:, which], one)


def variance(distance: float, shared: bool) -> float:
    """The mean squared error of a controlled estimate, whose snapshot is exact, that far from the snapshot."""
    slope, curvature = quadratic(6)
    slope, curvature = 20**0.5 * slope / slope.norm(), curvature / 4
    rows = 2000
    away = torch.randn(SIZE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    point = (away / away.norm() * distance).expand(rows, -1)
    ask = Counting(slope, curvature, rows)
    here, there = probe(ask, point, seed=1), probe(ask, many(rows), seed=1 if shared else 2)
    truth, snapshot = slope + point @ curvature, slope.expand(rows, -1)
    estimate = RandomDirections(1, 1e-5, "sphere")
    if shared:
        assert there.base is not None
        found = estimate(here, Control(there.point, there.base, snapshot))
        assert ask.asked.tolist() == [2] * rows
    else:
        found = estimate(here) - estimate(there) + snapshot
    return float((found - truth).square().sum(1).mean())


def test_shared_directions_reduce_the_variance_and_fresh_ones_do_not() -> None:
    assert variance(0.1, shared=True) <= 0.1
    assert variance(0.1, shared=True) == pytest.approx(100 * variance(0.01, shared=True), rel=0.05)
    assert variance(0.1, shared=False) == pytest.approx(2 * 49 * 20, rel=0.1)
    assert variance(0.01, shared=False) == pytest.approx(variance(0.1, shared=False), rel=0.1)


def test_coordinates_are_exact_on_quadratics() -> None:
    slope, curvature = quadratic(8)
    generator = torch.Generator().manual_seed(9)
    point = torch.randn(3, SIZE, generator=generator, dtype=torch.float64)
    ask = Counting(slope, curvature, 3)
    grad = Groups(1, 0.5)(probe(ask, point))
    assert torch.allclose(grad, slope + point @ curvature, atol=1e-10)
    assert ask.asked.tolist() == [2 * SIZE] * 3


def test_where_the_domain_ends_the_way_really_gone_counts() -> None:
    slope, _ = quadratic(10)
    point = torch.rand(4, SIZE, generator=torch.Generator().manual_seed(11), dtype=torch.float64).round()
    at = probe(Counting(slope, rows=4), point)
    at = at._replace(place=lambda points, rows: points.clamp(0, 1))

    def cut(points: Tensor, rows: Tensor, count: Tensor) -> Tensor:
        return Counting(slope, rows=4)(points.clamp(0, 1), rows, count)

    assert torch.allclose(Groups(1, 0.1)(at._replace(ask=cut)), slope.expand(4, -1))


@pytest.mark.parametrize("size", [1, 4, 7])
def test_members_of_a_group_get_its_mean(size: int) -> None:
    slope, curvature = quadratic(12)
    point = torch.randn(5, SIZE, generator=torch.Generator().manual_seed(13), dtype=torch.float64)
    ask = Counting(slope, curvature, 5)
    grad = Groups(size, 0.1)(probe(ask, point))
    groups = -(-SIZE // size)
    assert ask.asked.tolist() == [2 * groups] * 5
    truth = slope + point @ curvature
    for row in range(5):
        values = grad[row].unique()
        assert len(values) == groups
        for value in values:
            members = grad[row] == value
            assert int(members.sum()) in (size, SIZE % size or size)
            assert float(value) == pytest.approx(float(truth[row, members].mean()), abs=1e-9)


def test_a_basis_gives_the_projection_on_its_span() -> None:
    slope, curvature = quadratic(14)
    data = torch.randn(30, SIZE, generator=torch.Generator().manual_seed(15), dtype=torch.float64)
    vectors = principal(data, 12)
    assert torch.allclose(vectors @ vectors.T, torch.eye(12, dtype=torch.float64), atol=1e-12)
    centred = data - data.mean(0)
    assert torch.linalg.eigvalsh(centred.T @ centred)[-12:].sum() == pytest.approx(
        float((centred @ vectors.T).square().sum())
    )
    ask = Counting(slope, curvature, 3)
    point = data[:3]
    grad = Basis(vectors, 0.2)(probe(ask, point))
    truth = slope + point @ curvature
    assert torch.allclose(grad, truth @ vectors.T @ vectors, atol=1e-10)
    assert ask.asked.tolist() == [24] * 3
    assert len(principal(data[:5], 12)) == 4, "no more directions than the data span"


ESTIMATORS: list[Callable[[Probe], Tensor]] = [
    RandomDirections(10, 1e-3),
    RandomDirections(10, 1e-3, antithetic=True),
    Groups(5, 1e-3),
    Basis(torch.eye(SIZE, dtype=torch.float64)[:10], 1e-3),
]


@pytest.mark.parametrize("estimate", ESTIMATORS, ids=["forward", "antithetic", "groups", "basis"])
def test_no_row_pays_more_than_it_has_and_poor_rows_do_not_disturb(estimate: Callable[[Probe], Tensor]) -> None:
    slope, _ = quadratic(16)
    left = torch.tensor([0, 1, 2, 3, 7, 10, 19, 20, 1000])
    ask = Counting(slope, rows=9)
    grads = estimate(probe(ask, many(9), left=left))
    assert bool((ask.asked <= left).all())
    assert bool((ask.asked >= left.clamp(max=10) - 1).all()), "what is left is used, but for the odd one of a pair"
    assert bool((grads[0] == 0).all())
    assert float(grads.abs().max()) < 1e4, "no value that was not paid for"
    rich = estimate(probe(Counting(slope, rows=9), many(9)))
    assert torch.allclose(grads[-1], rich[-1])


@pytest.mark.parametrize("estimate", ESTIMATORS[:3], ids=["forward", "antithetic", "groups"])
def test_a_mask_is_kept(estimate: Callable[[Probe], Tensor]) -> None:
    slope, _ = quadratic(17)
    mask = torch.zeros(2, SIZE, dtype=torch.float64)
    mask[0, :11], mask[1, 30:] = 1, 1
    ask = Counting(slope, rows=2)
    grads = estimate(probe(ask, many(2), mask=mask))
    assert bool((grads[mask == 0] == 0).all())
    assert bool((grads[mask == 1] != 0).any())
    if isinstance(estimate, Groups):
        assert ask.asked.tolist() == [2 * 3, 2 * 4]
        exact = Groups(1, 0.1)(probe(Counting(slope, rows=2), many(2), mask=mask))
        assert torch.allclose(exact, slope * mask)


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_mask_an_estimate_is_right_in_the_mean(kind: Kind) -> None:
    slope, _ = quadratic(18)
    mask = (torch.arange(SIZE) % 3 == 0).double()[None]
    rows = 20_000
    grads = RandomDirections(1, 1e-3, kind)(probe(Counting(slope, rows=rows), many(rows), mask=mask))
    spread = (grads.std(0) / rows**0.5).clamp(min=1e-12)
    assert float(((grads.mean(0) - slope * mask[0]) / spread).abs().max()) < 5


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_move_alike_and_give_the_mean_of_each_tile(kind: Kind) -> None:
    rows, shape = 20_000, (1, 4, 6)
    slope, _ = quadratic(19, 24)
    point = torch.zeros(rows, *shape, dtype=torch.float64)
    grads = RandomDirections(1, 1e-3, kind, tile=2)(probe(Counting(slope, rows=rows), point))
    tiles = torch.nn.functional.avg_pool2d(slope.reshape(1, *shape), 2)
    expected = enlarged(tiles[0][None], (1, *shape), 2)[0]
    spread = grads.std(0) / rows**0.5
    assert float(((grads.mean(0) - expected) / spread).abs().max()) < 5
    assert torch.equal(enlarged(grads[:9, :, ::2, ::2], (9, *shape), 2), grads[:9])


def test_tiles_of_pictures_and_of_rows() -> None:
    assert [tile_of(shape, None) for shape in ((1, 28, 28), (3, 224, 224), (3, 8, 8), (500,))] == [2, 16, 1, 1]
    u = directions(Draws(torch.arange(2), 0), "signs", (3, 7), torch.arange(2), tile=3)
    assert u.shape == (2, 3, 7)
    assert torch.equal(u[..., 0], u[..., 2])
    with pytest.raises(ValueError, match="tile=0"):
        tile_of((1, 8, 8), 0)


def test_packed_signs_are_fair_and_independent() -> None:
    signs = packed_signs(Draws(torch.arange(200), 3), (5, 500), torch.arange(200), torch.float32)
    assert signs.shape == (200, 5, 500)
    assert bool((signs.abs() == 1).all())
    flat = signs.reshape(-1, 500).double()
    assert float(flat.mean(0).abs().max()) < 5 / math.sqrt(1000)
    correlation = flat.T @ flat / 1000 - torch.eye(500, dtype=torch.float64)
    assert float(correlation.abs().max()) < 6 / math.sqrt(1000)


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    slope, curvature = quadratic(20)
    point = torch.randn(7, SIZE, generator=torch.Generator().manual_seed(21), dtype=torch.float64)
    whole = [estimate(probe(Counting(slope, curvature, 7), point)) for estimate in (*ESTIMATORS[:1], *ESTIMATORS[2:])]
    monkeypatch.setattr(estimators, "BLOCK", 20 * SIZE)
    parts = [estimate(probe(Counting(slope, curvature, 7), point)) for estimate in (*ESTIMATORS[:1], *ESTIMATORS[2:])]
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other)
    small = RandomDirections(45, 1e-3)(probe(Counting(slope, curvature, 7), point))
    assert small.shape == point.shape
    cosine = torch.nn.functional.cosine_similarity(small, slope + point @ curvature)
    assert float(cosine.mean()) == pytest.approx(math.sqrt(45 / 94), abs=0.1)


@pytest.mark.parametrize(
    ("shape", "size", "small"), [((1, 28, 28), 14, (1, 14, 14)), ((3, 8, 16), 8, (3, 4, 8)), ((30,), 10, (10,))]
)
def test_a_bilinear_decoder_is_linear_and_as_large_as_it_must_be(
    shape: tuple[int, ...], size: int, small: tuple[int, ...]
) -> None:
    made, decode = bilinear(shape, size)
    assert made == small
    a, b = torch.randn(2, 5, *made, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert decode(a).shape == (5, *shape)
    assert torch.allclose(decode(2 * a - b), 2 * decode(a) - decode(b))
    assert torch.allclose(decode(torch.ones_like(a)), torch.ones(5, *shape, dtype=torch.float64))
    same, identity = bilinear(shape, 1000)
    assert same == shape
    assert torch.equal(identity(torch.ones(1, *shape)), torch.ones(1, *shape))
