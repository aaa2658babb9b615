"""Games whose solution is known, in closed form or by enumeration of supports."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from ironglass.core.errors import InputError
from ironglass.ops.zero_sum import dominated, solve, solve_sampled

Array = NDArray[np.float64]
SCISSORS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def by_supports(table: Array) -> float:
    """The value by trying all pairs of supports of equal size: equalise on them, and check the rest (Shapley, Snow)."""
    rows, columns = table.shape
    for size in range(1, min(rows, columns) + 1):
        for some, others in itertools.product(
            itertools.combinations(range(rows), size), itertools.combinations(range(columns), size)
        ):
            part = table[np.ix_(some, others)]
            system = np.block([[part, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            mirror = np.block([[part.T, -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]])
            right = np.append(np.zeros(size), 1.0)
            if min(abs(np.linalg.det(system)), abs(np.linalg.det(mirror))) < 1e-12:
                continue
            q, p = np.linalg.solve(system, right), np.linalg.solve(mirror, right)
            whole_q, whole_p = np.zeros(columns), np.zeros(rows)
            whole_q[list(others)], whole_p[list(some)] = q[:-1], p[:-1]
            if min(whole_q.min(), whole_p.min()) < -1e-10:
                continue
            if (table @ whole_q).min() >= q[-1] - 1e-9 and (whole_p @ table).max() <= q[-1] + 1e-9:
                return float(q[-1])
    raise AssertionError("every finite game has a value")


def test_rock_paper_scissors_is_worth_nothing_and_is_played_evenly() -> None:
    found = solve(SCISSORS)
    assert found.value == pytest.approx(0, abs=1e-8)
    assert found.rows == pytest.approx([1 / 3] * 3)
    assert found.columns == pytest.approx([1 / 3] * 3)
    assert found.gap < 1e-8
    assert dominated(SCISSORS, "rows") == dominated(SCISSORS, "columns") == []


def test_matching_pennies() -> None:
    found = solve(np.array([[1.0, -1], [-1, 1]]))
    assert found.value == pytest.approx(0)
    assert found.rows == pytest.approx([0.5, 0.5])
    assert found.columns == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("seed", range(40))
def test_two_by_two_is_its_closed_form(seed: int) -> None:
    table = np.random.default_rng(seed).uniform(0, 1, (2, 2))
    (a, b), (c, d) = table
    lower, upper = table.min(0).max(), table.max(1).min()
    value = lower if lower >= upper else (a * d - b * c) / (a + d - b - c)
    assert solve(table).value == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("shape", [(2, 3), (3, 3), (4, 3), (3, 5), (4, 4), (1, 4), (5, 1)])
def test_small_games_are_worth_what_all_supports_together_say(shape: tuple[int, int]) -> None:
    for seed in range(6):
        table = np.random.default_rng(seed).uniform(0, 1, shape)
        assert solve(table).value == pytest.approx(by_supports(table), abs=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_the_value_lies_between_the_best_pure_strategies_and_the_mixes_guarantee_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 6, (rng.integers(1, 7), rng.integers(1, 7))) / 5  # ties and duplicates among them
    found = solve(table)
    assert table.min(0).max() - 1e-9 <= found.value <= table.max(1).min() + 1e-9
    assert found.rows.sum() == pytest.approx(1)
    assert found.columns.sum() == pytest.approx(1)
    assert (table @ found.columns).min() == pytest.approx(found.value, abs=1e-8)
    assert (found.rows @ table).max() == pytest.approx(found.value, abs=1e-8)
    for _ in range(20):  # the least row of a column is never above what any mix of rows pays there
        mix = rng.dirichlet(np.ones(len(table)))
        assert (table.min(0) <= mix @ table + 1e-12).all()
        assert (mix @ table).max() >= found.value - 1e-8


def test_a_scale_and_a_shift_of_the_payoff_scale_and_shift_the_value() -> None:
    table = np.random.default_rng(3).uniform(0, 1, (4, 5))
    one, other = solve(table), solve(1e4 * table - 7)
    assert other.value == pytest.approx(1e4 * one.value - 7, rel=1e-8)
    assert other.rows == pytest.approx(one.rows, abs=1e-7)


def test_a_strategy_that_another_always_beats_is_found_and_never_played() -> None:
    table = np.array([[0.2, 0.3, 0.1], [0.6, 0.7, 0.5], [0.4, 0.1, 0.3]])
    (row,) = dominated(table, "rows")
    assert (row.strategy, row.strict, row.pure) == (1, True, True)
    assert row.by.tolist() in ([1, 0, 0], [0, 0, 1])
    assert solve(table).rows[1] == 0
    assert solve(np.delete(table, 1, 0)).value == pytest.approx(solve(table).value)


def test_a_strategy_that_only_a_mix_beats_is_found() -> None:
    table = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.6]])
    (row,) = dominated(table, "rows")
    assert (row.strategy, row.strict, row.pure) == (2, True, False)
    assert (row.by @ table < table[2]).all()
    (column,) = dominated(1 - table.T, "columns")
    assert column.strategy == 2


def test_weak_dominance_is_told_from_strict_and_equal_strategies_dominate_nothing() -> None:
    (weak,) = dominated(np.array([[0.2, 0.5], [0.2, 0.6]]), "rows")
    assert (weak.strategy, weak.strict, weak.pure) == (1, False, True)
    assert dominated(np.array([[0.2, 0.5], [0.2, 0.5]]), "rows") == []
    assert dominated(np.array([[0.4]]), "rows") == []


@pytest.mark.parametrize("seed", range(25))
def test_no_dominated_strategy_is_played(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 3, (5, 5)) / 2  # ties everywhere, so that there are many solutions
    found = solve(table)
    for player, mix in (("rows", found.rows), ("columns", found.columns)):
        assert all(mix[each.strategy] < 1e-6 for each in dominated(table, player))


@pytest.mark.parametrize("seed", range(25))
def test_leaving_out_what_is_strictly_dominated_changes_no_value(seed: int) -> None:
    table = np.random.default_rng(seed).integers(0, 8, (4, 4)) / 7
    whole = solve(table)
    for player, axis in (("rows", 0), ("columns", 1)):
        found = dominated(table, player)
        losses = table if player == "rows" else -table.T
        for each in found:
            assert each.by[each.strategy] == 0
            assert each.by.sum() == pytest.approx(1)
            gain = losses[each.strategy] - each.by @ losses
            assert gain.min() >= -1e-8
            assert gain.max() > 1e-9
            assert each.strict == bool((gain > 1e-9).all())
            assert solve(np.delete(table, each.strategy, axis)).value == pytest.approx(whole.value, abs=1e-8)


def test_an_attacker_who_answers_each_sample_takes_more_and_knows_less_than_the_draw() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        payoffs = (rng.uniform(size=(3, 4, 50)) < rng.uniform(0.2, 0.9, (3, 4, 1))).astype(float)
        value, mix = solve_sampled(payoffs)
        assert value == pytest.approx((np.einsum("adn,d->an", payoffs, mix)).min(0).mean())
        assert payoffs.min(0).mean(1).max() - 1e-9 <= value <= solve(payoffs.mean(2)).value + 1e-9
        for _ in range(20):
            other = rng.dirichlet(np.ones(4))
            assert np.einsum("adn,d->an", payoffs, other).min(0).mean() <= value + 1e-9


def test_two_defences_that_fall_to_different_attacks_are_worth_half_when_drawn() -> None:
    payoffs = np.zeros((2, 2, 7))
    payoffs[0, 1], payoffs[1, 0] = 1, 1
    value, mix = solve_sampled(payoffs)
    assert value == pytest.approx(0.5)
    assert mix == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("wrong", [np.zeros((0, 3)), np.zeros(3), np.array([[np.nan]]), np.array([[np.inf, 1.0]])])
def test_what_is_no_game_is_refused(wrong: Array) -> None:
    with pytest.raises(InputError, match="a payoff of shape"):
        solve(wrong)
