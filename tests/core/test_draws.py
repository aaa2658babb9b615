from __future__ import annotations

import pytest
import torch
from scipy import stats

from ironglass.core.draws import Draws, branch, keys

X = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0))


def draws(rows: object = slice(None), seed: int = 0) -> Draws:
    return Draws(keys(X[rows]), seed)  # type: ignore[index]


def test_a_key_is_the_samples_content_and_nothing_else() -> None:
    order = torch.tensor([4, 0, 2])
    assert torch.equal(keys(X)[order], keys(X[order]))
    assert len(set(keys(X).tolist())) == 6
    assert torch.equal(keys(X), keys(X.clone().transpose(1, 2).contiguous().transpose(1, 2)))


@pytest.mark.parametrize("kind", ["uniform", "normal", "signs"])
def test_a_sample_draws_the_same_in_any_batch_and_order(kind: str) -> None:
    order = torch.tensor([5, 1, 3])
    whole, part = draws(), draws(order)
    for _ in range(3):
        assert torch.equal(getattr(whole, kind)((2, 3))[order], getattr(part, kind)((2, 3)))


def test_a_sample_moves_along_its_stream_only_when_it_draws() -> None:
    alone, mixed = draws(), draws()
    first, second = alone.uniform((4,)), alone.uniform((4,))
    some = torch.tensor([3, 1])
    assert torch.equal(mixed.uniform((4,), some), first[some])
    assert torch.equal(mixed.uniform((4,), torch.tensor([1])), second[1:2])
    rest = mixed.uniform((4,))
    assert torch.equal(rest[0], first[0])
    assert torch.equal(rest[3], second[3])


def test_seeds_samples_and_positions_all_give_other_draws() -> None:
    values = torch.cat([draws(seed=seed).uniform((50,)).flatten() for seed in range(4)])
    assert len(values.unique()) > 0.999 * len(values)


def test_uniform_draws_are_uniform_in_every_stream_and_across_streams() -> None:
    values = draws(seed=3).uniform((20000,), dtype=torch.float64).double()
    for row in values:
        assert stats.kstest(row.numpy(), "uniform").pvalue > 1e-3
        pairs = torch.histogramdd(torch.stack([row[:-1:2], row[1::2]], 1), bins=[10, 10], range=[0.0, 1.0, 0.0, 1.0])
        assert stats.chisquare(pairs.hist.flatten().numpy()).pvalue > 1e-3
    correlation = torch.corrcoef(values)
    assert float((correlation - torch.eye(6)).abs().max()) < 0.035
    many = Draws(torch.arange(20000), 0).uniform((1,), dtype=torch.float64)[:, 0]
    assert stats.kstest(many.numpy(), "uniform").pvalue > 1e-3, "keys that count up must not show"
    assert bool(((values >= 0) & (values < 1)).all())


def test_normal_draws_are_normal() -> None:
    for row in draws(seed=5).normal((20001,), dtype=torch.float64):
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3
    assert draws().normal().shape == (6,)


def test_below_covers_its_range_evenly_and_may_differ_a_row() -> None:
    counts = torch.bincount(draws().below(7, (7000,)).flatten(), minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    tops = torch.tensor([1, 2, 3, 4, 5, 6])
    values = draws().below(tops, (500,))
    assert torch.equal(values.amax(1), tops - 1)
    assert int(values.min()) == 0
    assert draws().below(tops).shape == (6,)


def test_signs_are_even() -> None:
    values = draws().signs((10000,))
    assert values.unique().tolist() == [-1, 1]
    assert float(values.mean(1).abs().max()) < 0.04


def test_the_global_generator_is_not_touched() -> None:
    state = torch.get_rng_state()
    draws().normal((5,))
    assert torch.equal(torch.get_rng_state(), state)


def test_streams_of_seeds_and_keys_that_count_up_are_independent() -> None:
    streams = torch.cat([Draws(torch.arange(8), seed).uniform((5000,), dtype=torch.float64) for seed in range(4)])
    for row in streams:
        counts = torch.histc(row.float(), 64, 0, 1)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4
        for lag in range(1, 6):
            assert abs(float(torch.corrcoef(torch.stack([row[:-lag], row[lag:]]))[0, 1])) < 0.06
    off_diagonal = torch.corrcoef(streams) - torch.eye(32)
    assert float(off_diagonal.abs().max()) < 0.07
    assert float(off_diagonal.square().mean()) == pytest.approx(1 / 5000, rel=0.3), "as much as chance alone gives"


def test_float32_draws_are_uniform_to_their_last_bit() -> None:
    last = (draws(seed=1).uniform((40000,)) * 2**24).long() % 16
    for row in last:
        assert stats.chisquare(torch.bincount(row, minlength=16).numpy()).pvalue > 1e-4


def test_draws_do_not_depend_on_how_they_are_asked_for() -> None:
    at_once, piecemeal = draws(), draws()
    whole = at_once.uniform((2, 3))
    parts = torch.stack([piecemeal.uniform((3,)), piecemeal.uniform((3,))], 1)
    assert torch.equal(whole, parts)
    assert torch.equal(draws().uniform((6,)).reshape(6, 2, 3), whole)


def test_moments_of_normal_draws_and_of_their_products() -> None:
    values = draws(seed=9).normal((30000,), dtype=torch.float64)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = values.pow(power).mean(1) - moment
        assert float(error.abs().max()) < 4.5 * (spread / 30000) ** 0.5
    cosines, sines = values.split(15000, 1)
    for first, second in ((cosines, sines), (cosines.abs(), sines.abs())):
        for row, other in zip(first, second, strict=True):
            assert abs(float(torch.corrcoef(torch.stack([row, other]))[0, 1])) < 0.035
    single = draws().normal((3,))
    assert single.dtype == torch.float32
    assert bool(single.isfinite().all())


def test_below_reaches_both_ends_of_any_range() -> None:
    assert draws().below(1, (100,)).unique().tolist() == [0]
    for high in (3, 10, 1000, 2**40):
        values = draws(seed=high).below(high, (20000,))
        assert int(values.min()) >= 0
        assert int(values.max()) < high
        assert int(values.max()) > 0.999 * high - 1
        assert abs(float(values.double().mean()) / (high - 1) - 0.5) < 0.005


def test_branches_are_streams_of_their_own_by_sample_and_number() -> None:
    base = keys(torch.rand(40, 3, generator=torch.Generator().manual_seed(0)))
    branches = [branch(base, torch.full_like(base, number)) for number in range(-20, 40)]
    assert len(torch.cat([base, *branches]).unique()) == 40 * 61
    assert torch.equal(branches[7][[3, 1]], branch(base[[3, 1]], torch.tensor([-13, -13])))
    first, second = (Draws(each, 0).uniform((2000,)) for each in branches[:2])
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.01
