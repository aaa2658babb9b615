from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import AccessError, InputError
from ironglass.core.statistics import wilson
from ironglass.core.values import Bounds
from ironglass.defend.squeezing_detector import options
from ironglass.models.detector import FittedDetector, _Guard, threshold_at
from ironglass.ops import squeeze
from metric.broken import CNN, digits, trained
from nets import labels_without_autograd, scores_without_autograd

SETS = ("bits 3", "median 3")
THREAT = ig.Linf(0.1)


def shuffled() -> tuple[Tensor, Tensor]:
    """The digits in an order in which all writers stand everywhere."""
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


@pytest.fixture(scope="module")
def net() -> CNN:
    x, y = shuffled()
    return trained(CNN(), x[:900], y[:900], steps=400)


@pytest.fixture(scope="module")
def fitted(net: CNN) -> FittedDetector:
    return ig.defend.squeezing_detector(net, shuffled()[0][900:1300], squeezers=SETS)


def held(count: int = 100) -> tuple[Tensor, Tensor]:
    x, y = shuffled()
    return x[1300 : 1300 + count], y[1300 : 1300 + count]


def test_the_score_is_the_largest_distance_of_the_predictions(net: CNN, fitted: FittedDetector) -> None:
    x, _ = held()
    own = net(x).softmax(1)
    seen = [squeeze.reduce_bits(x, 3, Bounds()), squeeze.median(x, 3)]
    wanted = torch.stack([(net(each).softmax(1) - own).abs().sum(1) for each in seen]).amax(0)
    assert torch.allclose(fitted.score(x), wanted, atol=1e-5)
    assert torch.equal(fitted.detect(x), fitted.score(x) > fitted.threshold)


def test_squeezers_that_change_nothing_see_nothing(net: CNN) -> None:
    x, _ = held()
    assert float(ig.defend.squeezing_detector(net, x, squeezers=("median 1",)).score(x).max()) == 0


@pytest.mark.parametrize(("count", "fpr"), [(100, 0.05), (99, 0.05), (20, 0.05), (7, 0.3), (1, 0.5), (1000, 0.001)])
def test_the_threshold_is_that_order_statistic(count: int, fpr: float) -> None:
    scores = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    threshold = threshold_at(scores, fpr)
    assert threshold == float(scores.sort().values[max(1, math.ceil(round(count * (1 - fpr), 9))) - 1])
    assert float((scores > threshold).double().mean()) <= fpr


def test_few_held_out_samples_are_flagged_and_most_naive_attacks(net: CNN, fitted: FittedDetector) -> None:
    x, y = held(400)
    flagged = int(fitted.detect(x).sum())
    low, high = wilson(flagged, len(x))
    assert low <= 0.05 <= high
    naive = ig.attack.pgd(net, x[:100], y[:100], THREAT)
    rate = float(fitted.detect(naive.adversarial)[naive.success].double().mean())
    assert rate > 0.6


def test_an_attack_through_the_detector_is_neither_right_nor_flagged(net: CNN, fitted: FittedDetector) -> None:
    x, y = held()
    guarded = fitted.guarded
    scores = guarded.scores(x)
    assert torch.equal(scores.argmax(1) == 10, fitted.detect(x))
    assert torch.allclose(scores[:, :10], net(x).detach(), atol=1e-5)
    naive = ig.attack.pgd(net, x, y, THREAT)
    passed = naive.success & ~fitted.detect(naive.adversarial)
    adaptive = ig.attack.pgd(guarded, x, fitted.goal(y), THREAT)
    labels = ig.wrap(net).labels(adaptive.adversarial)
    assert torch.equal(adaptive.success, (labels != y) & ~fitted.detect(adaptive.adversarial))
    assert adaptive.success_rate > float(passed.double().mean()) + 0.2


@pytest.mark.parametrize("name", ["auto_pgd", "deepfool", "fmn", "square", "fgsm"])
def test_any_attack_of_the_catalogue_goes_through_it(name: str, fitted: FittedDetector) -> None:
    x, y = held(24)
    found = ig.Runner(fitted.guarded, max_queries=200)(getattr(ig.attack, name), x, fitted.goal(y), THREAT)
    assert not bool(fitted.detect(found.adversarial)[found.success].any())


def test_its_gradient_is_that_of_the_loss_with_the_squeezers_as_the_identity(fitted: FittedDetector) -> None:
    x, y = (each.clone() for each in held(8))
    net = fitted.model.backend.module(x[:1]).double()
    session, _ = fitted.guarded.session(x)
    found = session.value_and_grad(x, fitted.goal(y).loss("margin"))
    views = [x, squeeze.reduce_bits(x, 3, Bounds()), squeeze.median(x, 3)]
    leaves = [view.double().requires_grad_() for view in views]
    scores = [net(leaf) for leaf in leaves]
    probabilities = [each.softmax(1) for each in scores]
    score = torch.stack([(each - probabilities[0]).abs().sum(1) for each in probabilities[1:]]).amax(0)
    flagged = scores[0].amax(1) + 10 * (score - fitted.threshold)
    own = torch.maximum(scores[0].gather(1, y[:, None])[:, 0], flagged)
    other = scores[0].scatter(1, y[:, None], -torch.inf).amax(1)
    grads = torch.autograd.grad((other - own).sum(), leaves)
    assert torch.allclose(found.grad.double(), sum(grads), atol=1e-4)


def test_it_takes_a_function_and_refuses_labels() -> None:
    x = digits()[0][:20, :, ::2, ::2]
    fitted = ig.defend.squeezing_detector(scores_without_autograd, x, squeezers="mnist")
    found = ig.attack.square(fitted.guarded, x, fitted.goal(torch.arange(20) % 5), THREAT, max_queries=20)
    assert int(found.queries.max()) <= 21
    with pytest.raises(AccessError, match="needs gradient"):
        ig.attack.pgd(fitted.guarded, x, fitted.goal(torch.arange(20) % 5), THREAT)
    with pytest.raises(InputError, match="compares scores"):
        ig.defend.squeezing_detector(ig.wrap(labels_without_autograd, classes=5), x)


@pytest.mark.parametrize("over", [-1e-7, 0.0, 1e-7, 1e-3])
def test_rounding_never_hides_a_score_just_above_the_threshold(over: float) -> None:
    views = torch.tensor([[[30.0, 10.0]], [[over, 0.0]]])
    guard = _Guard(lambda seen: seen[1, :, 0], 0.0)
    assert bool((guard(views).argmax(1) == 2).all()) is (over > 0)


def test_squeezers_are_told_in_words(net: CNN) -> None:
    assert options("bits 4") == {"bits": 4}
    assert options("non_local 11 3 4") == {"bits": None, "non_local": (11, 3, 4.0)}
    with pytest.raises(InputError, match="'blur 3' is no squeezer"):
        ig.defend.squeezing_detector(net, held()[0], squeezers="blur 3")
    with pytest.raises(InputError, match="fpr=0"):
        ig.defend.squeezing_detector(net, held()[0], squeezers="mnist", fpr=0.0)
