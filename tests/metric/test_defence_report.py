from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.statistics import wilson
from metric.broken import CNN, digits, trained
from nets import images, scores_without_autograd

THREAT = ig.Linf(0.15)
PGD = ig.attack.pgd.with_(steps=10)


@pytest.fixture(scope="module")
def net() -> CNN:
    x, y = digits()
    return trained(CNN(), x[:1400], y[:1400], steps=300)


def held(count: int = 60) -> tuple[Tensor, Tensor]:
    x, y = digits()
    return x[1500 : 1500 + count], y[1500 : 1500 + count]


def test_each_figure_is_that_of_the_calls_one_by_one(net: CNN) -> None:
    x, y = held()
    model = ig.defend.feature_squeezing(net, bits=2)
    found = ig.metric.defence_report(model, x, y, THREAT, attacks=(PGD,))
    naive, adaptive = PGD(net, x, y, THREAT), PGD(model, x, y, THREAT)
    clean = [float((each == y).double().mean()) for each in (net(x).argmax(1), model.labels(x))]
    grey = model.labels(naive.adversarial) == y
    worst = (model.labels(x) == y) & grey & ~adaptive.success
    assert found.row_names == tuple(f"feature_squeezing: {row}" for row in ("no attack", "pgd", "worst case"))
    wanted = [
        [clean[0], clean[1], clean[1]],
        [1 - naive.success_rate, float(grey.double().mean()), 1 - adaptive.success_rate],
        [0, 0, float(worst.double().mean())],
    ]
    assert torch.allclose(found.values, torch.tensor(wanted, dtype=torch.float64))
    assert (float(found.low[2, 2]), float(found.high[2, 2])) == pytest.approx(wilson(int(worst.sum()), len(x)))
    assert found.counts.tolist() == [[60, 60, 60], [60, 60, 60], [0, 0, 60]]
    assert torch.equal(found.extras["feature_squeezing: pgd: naive (grey box)"], grey)
    assert found.table().rows[2][1:3] == ("—", "—")
    assert found.cost.backward == naive.cost.backward + adaptive.cost.backward


def test_several_defences_share_the_naive_examples_and_random_ones_are_judged_by_most_draws(net: CNN) -> None:
    x, y = held(24)
    bare = ig.wrap(net)
    models = {
        "coarse": ig.defend.feature_squeezing(bare, bits=2),
        "random": ig.defend.input_randomization(bare, smallest=0.8, largest=1.0, samples=4),
    }
    found = ig.metric.defence_report(models, x, y, THREAT, attacks=(ig.attack.fgsm,))
    assert len(found.row_names) == 6
    assert float(found.values[1, 0]) == float(found.values[4, 0])
    assert found.cost.backward == 24 - int((bare.labels(x) != y).sum()) + _attacked(models, x, y)


def _attacked(models: dict[str, ig.Adapter], x: Tensor, y: Tensor) -> int:
    return sum(ig.attack.fgsm(model, x, y, THREAT).cost.backward for model in models.values())


def test_what_a_model_cannot_give_is_left_out() -> None:
    x, y = images(8), torch.arange(8) % 5
    model = ig.defend.feature_squeezing(scores_without_autograd, bits=3)
    found = ig.metric.defence_report(model, x, y, THREAT, attacks=(PGD, ig.attack.square.with_(max_queries=20)))
    assert found.counts.tolist() == [[8, 8, 8], [0, 0, 0], [8, 8, 8], [0, 0, 8]]


def test_wrong_requests_are_refused(net: CNN) -> None:
    x, y = held(4)
    with pytest.raises(InputError, match="has no defence"):
        ig.metric.defence_report({"net": ig.wrap(net)}, x, y, THREAT)
    with pytest.raises(InputError, match="no attack in linf"):
        ig.metric.defence_report(ig.defend.feature_squeezing(net), x, y, THREAT, attacks=("ddn",))
