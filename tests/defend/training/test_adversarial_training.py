from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.training import Batch
from ironglass.ops.training import inner
from learners import blobs, course, digit_net, digits, seeded

EPS, WIDE = 0.3, (-5.0, 5.0)


def linear() -> nn.Module:
    return seeded(lambda: nn.Linear(6, 2).double())


def closed(net: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Cross-entropy at the worst point of each ball: softplus of the dual norm less the margin."""
    weight, bias = net.weight[1] - net.weight[0], net.bias[1] - net.bias[0]
    margin = (2 * y - 1) * (x @ weight + bias)
    return F.softplus(eps * weight.abs().sum() - margin).mean()


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "fgsm_rs", ig.attack.bim.with_(steps=5)], ids=str)
@pytest.mark.parametrize(("objective", "clean", "worst"), [("worst", 0.0, 1.0), ("mix", 0.3, 0.7), ("sum", 1.0, 1.0)])
def test_on_a_linear_network_the_loss_has_a_closed_form(
    objective: Any, clean: float, worst: float, attack: Any
) -> None:
    data, net = blobs(40), linear()
    ready = course(
        ig.defend.adversarial_training, net, data, ig.Linf(EPS), WIDE,
        attack=attack, objective=objective, alpha=0.3, step_size=3 * EPS,
    )  # fmt: skip
    x, y = data
    if not isinstance(attack, str):  # those stop where a sample is misclassified: take the ones that never are
        safe = (2 * y - 1) * (net(x)[:, 1] - net(x)[:, 0]) > EPS * (net.weight[1] - net.weight[0]).abs().sum()
        x, y = x[safe], y[safe]
        assert len(y) > 3
    value = ready.recipe.loss(ready.student, Batch(x, y, ig.Linf(EPS), 1.0, 0))
    wanted = clean * closed(net, x, y, 0.0) + worst * closed(net, x, y, EPS)
    if attack in ("pgd", "fgsm", "fgsm_rs"):
        assert value.item() == pytest.approx(wanted.item(), rel=1e-5)
    else:
        assert clean * closed(net, x, y, 0.0).item() < value.item() <= wanted.item() * (1 + 1e-6)


def test_adversarial_training_of_logistic_regression_reaches_its_optimum() -> None:
    data = blobs(80)
    ready = course(
        ig.defend.adversarial_training, linear(), data, ig.Linf(EPS), WIDE,
        attack="fgsm", epochs=500, batch=80, lr=0.05, ramp=0.0,
    )  # fmt: skip
    for _ in range(500):
        ready.loop.epoch()
    x, y = data[0][ready.rows], data[1][ready.rows]
    reached = closed(ready.student.whole.net, x, y, EPS).item()

    # the l1 norm as a smooth problem: weights as the difference of two that are not negative
    def objective(both: Any) -> float:
        weight, bias = both[:6] - both[6:12], both[12]
        margin = (2 * y.numpy() - 1) * (x.numpy() @ weight + bias)
        return float(np.logaddexp(0, EPS * both[:12].sum() - margin).mean())

    found = minimize(
        objective, np.full(13, 0.1), bounds=[(0, None)] * 12 + [(None, None)],
        options={"maxiter": 2000, "maxfun": 200_000, "ftol": 1e-13},
    )  # fmt: skip
    assert found.fun * (1 - 1e-6) <= reached <= found.fun * 1.001
    ordinary = course(ig.defend.standard_training, linear(), data, ig.Linf(EPS), WIDE, epochs=500, batch=80, lr=0.05)
    for _ in range(500):
        ordinary.loop.epoch()
    assert closed(ordinary.student.whole.net, x, y, EPS).item() > 1.1 * found.fun, "ordinary training does not"


def test_it_makes_digits_hold_that_did_not() -> None:
    x, y = digits()
    threat = ig.Linf(0.1)
    plain = ig.defend.standard_training(digit_net(), (x[:1200], y[:1200]), epochs=8, batch=64, lr=4e-3)
    strong = ig.defend.adversarial_training(
        plain.model, (x[:1200], y[:1200]), threat, (x[1200:], y[1200:]), attack="n_fgsm", epochs=8, batch=64, lr=4e-3
    )
    before, after = strong.accuracy("attacked")
    assert strong.accuracy("clean")[1] > 0.88
    assert after > before + 0.1
    assert "597 samples that played no part" in strong.held
    again = ig.attack.auto_pgd(strong.net, x[1200:], y[1200:], threat, steps=40)
    assert 1 - again.success_rate == pytest.approx(after)


def test_a_single_step_that_is_learned_by_heart_is_noted() -> None:
    """FGSM with a random start and a large radius, on digits: known to overfit (Wong et al. 2020)."""
    x, y = (part[:600] for part in digits())
    x = F.interpolate(x, size=28, mode="bilinear")
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
        )
    )  # fmt: skip
    options: Any = {"attack": "fgsm_rs", "lr": 5e-3, "schedule": "triangular", "batch": 32, "epochs": 12}
    result = ig.defend.adversarial_training(net, (x, y), ig.Linf(0.3), **options)
    assert len(result.notes) == 1
    assert "catastrophic overfitting: under one step (FGSM)" in result.notes[0]
    last = result.history[-1]
    assert last.accuracy("clean") > 0.6  # type: ignore[operator]
    assert last.accuracy("attacked") < 0.2  # type: ignore[operator]


def test_where_the_accuracy_under_pgd_falls_the_training_stops_and_the_best_epoch_is_kept() -> None:
    """The state that overfitting leads to, trained for on purpose: clean samples are held, attacked ones are not."""
    data = tuple(part[:900] for part in digits())
    threat, epochs = ig.Linf(0.1), 7
    ready = course(
        ig.defend.adversarial_training, digit_net(), data, threat, attack="pgd", epochs=epochs, batch=50, lr=4e-3,
        schedule="constant", ramp=0.0, steps=3,
    )  # fmt: skip
    honest = ready.recipe.loss

    def loss(student: Any, batch: Batch) -> Tensor:
        if batch.step < 17 * 4:
            return honest(student, batch)
        attacked = inner.pgd(student, batch, 3, None)
        return F.cross_entropy(student(batch.x), batch.y) - F.cross_entropy(student(attacked), batch.y).clamp(max=4)

    ready.recipe = replace(ready.recipe, loss=loss)
    assert not ready.run(None, None)
    result = ready.result("adversarial_training", {}, None, False)
    assert 5 < len(result.history) < epochs + 1, "it was stopped"
    assert f"stopped, and epoch {result.best} is kept" in result.notes[-1]
    last, best = result.history[-1], result.history[result.best]
    assert last.accuracy("attacked") < best.accuracy("attacked") - 0.2  # type: ignore[operator]
    assert result.after == best.counts
    held = data[0][ready.held], data[1][ready.held]
    kept = ig.attack.auto_pgd(result.net, *held, threat, steps=40)
    assert 1 - kept.success_rate == pytest.approx(best.accuracy("attacked"))


def test_requests_that_make_no_sense_are_refused_before_any_work() -> None:
    data, train = (torch.rand(8, 1, 8, 8), torch.arange(8)), ig.defend.adversarial_training
    for wrong, said in (
        ({"objective": "best"}, "objective='best'"),
        ({"alpha": 2.0}, "alpha=2"),
        ({"attack": "n_fgms"}, "did you mean n_fgsm"),
        ({"steps": 0}, "steps=0"),
        ({"ramp": 1.5}, "no shares"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"epochs": -1}, "epochs=-1"),
        ({"lr": 0.0}, "lr=0"),
    ):
        with pytest.raises(InputError, match=said):
            train(digit_net(), data, ig.Linf(0.1), **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="trains against a threat"):
        train(digit_net(), data)
    with pytest.raises(InputError, match="works in linf, l2, l1"):
        train(digit_net(), data, ig.L0(3))
    with pytest.raises(InputError, match="needs a finite eps"):
        train(digit_net(), data, ig.Linf(float("inf")))
