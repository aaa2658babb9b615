from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import AccessError, InputError
from ironglass.core.values import Bounds
from ironglass.ops import squeeze
from metric.broken import CNN, digits, trained
from nets import images, labels_without_autograd, scores_without_autograd, small_cnn

UNIT = Bounds(0, 1)


@pytest.fixture(scope="module")
def net() -> CNN:
    x, y = digits()
    return trained(CNN(), x[:1400], y[:1400], steps=300)


def held() -> tuple[Tensor, Tensor]:
    x, y = digits()
    return x[1500:1620], y[1500:1620]


def test_the_model_sees_squeezed_inputs_in_the_order_of_the_options(net: CNN) -> None:
    x, _ = held()
    defended = ig.defend.feature_squeezing(net, bits=2, median=3, non_local=(5, 3, 20.0))
    seen = squeeze.denoise(squeeze.median(squeeze.reduce_bits(x, 2, UNIT), 3), 5, 3, 20, UNIT)
    assert torch.allclose(defended.scores(x), net(seen).detach(), atol=1e-5)
    assert defended.undefended.scores(x).allclose(net(x), atol=1e-5)
    assert defended.access == "internals"
    assert "feature_squeezing" in defended.name


def test_gradients_pass_it_as_the_identity(net: CNN) -> None:
    x, y = held()
    defended, bare = ig.defend.feature_squeezing(net, bits=1), ig.wrap(net)
    loss = ig.Avoid(y).loss()
    through, _ = defended.session(x)
    plain, _ = bare.session(x)
    found, wanted = through.value_and_grad(x, loss), plain.value_and_grad(squeeze.reduce_bits(x, 1, UNIT), loss)
    assert torch.allclose(found.grad, wanted.grad, atol=1e-6)
    assert torch.allclose(found.value, wanted.value, atol=1e-6)


def test_squeezing_that_changes_nothing_is_the_model_itself(net: CNN) -> None:
    x, y = held()
    x = (x * 255).round() / 255
    same = ig.defend.feature_squeezing(net, bits=None, median=1)
    threat = ig.Linf(0.1)
    first, second = (ig.attack.pgd(model, x, y, threat, steps=8) for model in (net, same))
    assert torch.equal(first.success, second.success)
    assert torch.allclose(first.adversarial, second.adversarial, atol=1e-6)


def test_one_bit_holds_against_who_does_not_know_it_and_less_against_who_does(net: CNN) -> None:
    x, y = held()
    defended, threat = ig.defend.feature_squeezing(net, bits=2), ig.Linf(0.15)
    naive = ig.attack.pgd(net, x, y, threat)
    adaptive = ig.attack.pgd(defended, x, y, threat)
    undefended = float((net(naive.adversarial).argmax(1) == y).double().mean())
    grey_box = float((defended.labels(naive.adversarial) == y).double().mean())
    clean = float((defended.labels(x) == y).double().mean())
    assert clean > 0.85
    assert grey_box > undefended + 0.1, "the published direction"
    assert 1 - adaptive.success_rate < grey_box - 0.1, "the adaptive attack takes it back"
    assert torch.equal(adaptive.success, defended.labels(adaptive.adversarial) != y)


def test_explanations_and_audits_go_through_it(net: CNN) -> None:
    x, y = held()
    defended = ig.defend.feature_squeezing(net, bits=3)
    assert ig.explain.lrp(defended, x[:4]).values.shape == x[:4].shape
    alarms = ig.metric.masking_alarms(ig.defend.feature_squeezing(net, bits=1), x[:24], y[:24], ig.Linf(0.1), steps=5)
    assert not {"random", "batch"} & set(alarms.alarms)
    assert "steps" in [check.name for check in alarms.checks]
    with pytest.raises(AccessError, match="needs training"):
        ig.certify.interval(defended, x, y, ig.Linf(0.01))


def test_a_defence_of_scores_gives_scores_and_of_labels_labels() -> None:
    x, y = images(6), torch.arange(6) % 5
    scores = ig.defend.feature_squeezing(scores_without_autograd, bits=3)
    assert ig.attack.square(scores, x, y, ig.Linf(0.1), max_queries=20).queries.max() <= 21
    with pytest.raises(AccessError, match="needs gradient"):
        ig.attack.pgd(scores, x, y, ig.Linf(0.1))
    labels = ig.defend.feature_squeezing(ig.wrap(labels_without_autograd, classes=5), bits=3)
    assert ig.attack.random_noise(labels, x, y, ig.Linf(0.1)).after.sum(1).tolist() == [1] * 6
    assert labels.access == "labels"


def test_defences_stack(net: CNN) -> None:
    x, y = held()
    both = ig.defend.feature_squeezing(ig.defend.feature_squeezing(net, bits=None, median=2), bits=2)
    assert torch.allclose(both.scores(x), net(squeeze.median(squeeze.reduce_bits(x, 2, UNIT), 2)).detach(), atol=1e-5)
    assert both.undefended.undefended.scores(x).allclose(net(x), atol=1e-5)
    assert both.undefended.undefended.undefended is None
    assert ig.attack.fgsm(both, x, y, ig.Linf(0.1)).cost.backward > 0


def test_the_network_and_normalization_stay_the_users() -> None:
    net = small_cnn().eval()
    model = ig.wrap(net, mean=0.5, std=0.25, labels=list("abcde"), name="net")
    defended = ig.defend.feature_squeezing(model, bits=1)
    x = images(4)
    assert torch.allclose(defended.scores(x), net((x.round() - 0.5) / 0.25).detach(), atol=1e-5)
    assert defended.names == tuple("abcde")
    assert defended.identity() != ig.defend.feature_squeezing(model, bits=2).identity() != model.identity()


def test_wrong_requests_are_refused(net: CNN) -> None:
    x, _ = held()
    with pytest.raises(InputError, match="nothing to do"):
        ig.defend.feature_squeezing(net, bits=None).scores(x)
    with pytest.raises(InputError, match="no option 'bit'"):
        ig.defend.feature_squeezing(net, bit=1)
    flat = ig.defend.feature_squeezing(nn.Linear(4, 2).eval(), bits=None, median=2)
    with pytest.raises(InputError, match="pictures"):
        flat.scores(torch.rand(3, 4))
