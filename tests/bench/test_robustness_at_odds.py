"""Tsipras' toy: the bound holds exactly, for every classifier, and the closed forms are what simulation says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import ironglass as ig
from ironglass.bench.robustness_at_odds import (
    RobustnessAtOdds,
    accuracies,
    best_accuracies,
    bound,
    linear_accuracy,
)
from ironglass.core.errors import InputError


@pytest.mark.parametrize("chance", [0.5, 0.7, 0.95, 0.999])
@pytest.mark.parametrize("apart", [0.5, 4.0, 12.0])
def test_the_bound_holds_for_any_classifier_at_all(chance: float, apart: float) -> None:
    """Random answers on a fine grid of the sufficient statistic, asymmetric ones too, and their exact accuracies."""
    rng = np.random.default_rng(0)
    edges = np.concatenate([[-np.inf], np.linspace(-9, 9 + apart, 400), [np.inf]])
    plus, minus = np.diff(ndtr(edges - apart / 2)), np.diff(ndtr(edges + apart / 2))
    for kind in range(300):
        answers = rng.random((2, len(plus))) ** rng.choice([0.1, 1, 10])  # of +1, where x_1 is +1, and where it is -1
        if kind % 3 == 1:
            answers = (edges[:-1][None] > rng.normal(0, 3, (2, 1))).astype(float)
        if kind % 3 == 2:
            answers = (rng.random((2, len(plus))) < 0.5).astype(float)

        def right(up: np.ndarray, down: np.ndarray, table: np.ndarray) -> float:
            yes = chance * table[0] @ up + (1 - chance) * table[1] @ up
            no = chance * (1 - table[1]) @ down + (1 - chance) * (1 - table[0]) @ down
            return float(yes + no) / 2

        standard, turned = right(plus, minus, answers), right(minus, plus, answers)
        assert turned <= chance / (1 - chance) * (1 - standard) + 1e-12


def test_the_best_classifiers_are_on_the_bound_where_the_weak_features_tell_all_and_below_it_else() -> None:
    for apart_dimension in (100, 400):
        best = best_accuracies(0.95, apart_dimension, 0.2, points=200)
        assert (best[:, 1] <= bound(best[:, 0], 0.95) + 1e-12).all()
        assert (np.diff(best[:, 0]) <= 1e-12).all(), "from the most accurate on"
        assert (np.diff(best[:, 1]) >= -1e-12).all()
        assert best[-1] == pytest.approx([0.95, 0.95], abs=1e-6)
    gap = bound(best[:, 0], 0.95) - best[:, 1]
    assert gap.max() < 0.01, "with 8 standard deviations between them the bound is all but reached"


def test_no_threshold_is_better_than_the_best() -> None:
    chance, dimension, eta = 0.9, 50, 0.25
    apart = 2 * eta * math.sqrt(dimension)
    best = best_accuracies(chance, dimension, eta, points=400)
    for v in np.linspace(0.001, 0.999, 60):
        for u in np.linspace(0.001, float(ndtr(_quantile(v) + apart)), 20):
            standard, robust = accuracies(np.array(u), np.array(v), chance)
            if standard >= best[-1, 0]:
                reached = np.interp(standard, best[::-1, 0], best[::-1, 1], right=-1)
                assert robust <= reached + 2e-3


def _quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))


@pytest.mark.parametrize("eps", [0.0, 0.4])
def test_linear_classifiers_do_what_simulation_says(eps: float) -> None:
    rng = np.random.default_rng(0)
    chance, dimension, eta, total = 0.8, 25, 0.2, 400_000
    labels = np.where(rng.random(total) < 0.5, -1.0, 1.0)
    first = labels * np.where(rng.random(total) < chance, 1.0, -1.0)
    mean = eta * labels + rng.standard_normal(total) / math.sqrt(dimension)
    for weight in (0.0, 0.1, 0.5):
        margin = labels * (weight * first + mean) - eps * (weight + 1)
        exact = float(linear_accuracy(np.array([weight]), chance, dimension, eta, eps)[0])
        assert float((margin > 0).mean()) == pytest.approx(exact, abs=4e-3)


def test_the_experiment_is_exact_and_below_its_bound(tmp_path: Path) -> None:
    found = ig.bench.robustness_at_odds()
    assert bool((found.values[:, 1] <= found.values[:, 2]).all())
    assert float(found.values[0, 0]) == pytest.approx(float(ndtr(2.0)))
    assert float(found.values[-1, 0]) == pytest.approx(0.95, abs=1e-3)
    assert torch.equal(found.low, found.high)
    assert found.table().rows[0][1] == "97.7%"
    assert found._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]
    found.save(tmp_path / "odds.safetensors")
    back = ig.load(tmp_path / "odds.safetensors")
    assert isinstance(back, RobustnessAtOdds)
    assert back.charts() == found.charts()


@pytest.mark.parametrize("wrong", [{"chance": 1.0}, {"chance": 0.4}, {"dimension": 0}, {"eta": -0.1}, {"points": 1}])
def test_wrong_requests_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="chance"):
        ig.bench.robustness_at_odds(**wrong)  # type: ignore[arg-type]
