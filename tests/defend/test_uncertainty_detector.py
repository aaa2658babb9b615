from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import AccessError, InputError
from ironglass.models.detector import FittedDetector
from metric.broken import CNN, digits, trained
from nets import scores_without_autograd

THREAT = ig.Linf(0.1)


class Dropped(CNN):
    """The digits' network with dropout before its last layer."""

    def end(self, x: Tensor) -> Tensor:
        hidden = self.act(self.third(self.act(x).flatten(1)))
        return self.last(F.dropout(hidden, 0.3, self.training))


def shuffled() -> tuple[Tensor, Tensor]:
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    x, y = shuffled()
    return trained(Dropped(), x[:900], y[:900], steps=400)


@pytest.mark.parametrize("measure", ["total", "aleatoric", "epistemic"])
def test_the_score_is_the_uncertainty(measure: str, net: nn.Module) -> None:
    x, _ = shuffled()
    fitted = ig.defend.uncertainty_detector(net, x[900:1000], measure=measure, samples=15, seed=2)
    found = ig.explain.mc_dropout(net, x[1000:1020], samples=15, seed=2)
    assert torch.allclose(fitted.score(x[1000:1020]), found.of(measure), atol=1e-4)
    assert float(fitted.detect(x[900:1000]).double().mean()) <= 0.05


def test_it_flags_what_an_attack_that_does_not_know_it_makes(net: nn.Module) -> None:
    x, y = shuffled()
    fitted: FittedDetector = ig.defend.uncertainty_detector(net, x[900:1300], measure="total")
    held, labels = x[1300:1380], y[1300:1380]
    naive = ig.attack.pgd(net, held, labels, THREAT)
    flagged = fitted.detect(naive.adversarial)[naive.success]
    assert float(flagged.double().mean()) > 0.2
    adaptive = ig.attack.pgd(fitted.guarded, held, fitted.goal(labels), THREAT)
    passed = (naive.success & ~fitted.detect(naive.adversarial)).double().mean()
    assert adaptive.success_rate >= float(passed)
    assert not bool(fitted.detect(adaptive.adversarial)[adaptive.success].any())


def test_an_ensembles_members_are_its_draws() -> None:
    x, y = shuffled()
    nets = [trained(CNN(), x[start : start + 300], y[start : start + 300], steps=100) for start in (0, 300)]
    fitted = ig.defend.uncertainty_detector(ig.ensemble(nets), x[900:1000])
    found = ig.explain.deep_ensemble(nets, x[1000:1020])
    assert torch.allclose(fitted.score(x[1000:1020]), found.epistemic, atol=1e-4)
    assert ig.attack.pgd(fitted.guarded, x[:6], fitted.goal(y[:6]), THREAT, steps=3).cost.backward > 0


def test_wrong_requests_are_refused(net: nn.Module) -> None:
    x, _ = shuffled()
    with pytest.raises(InputError, match="did you mean total"):
        ig.defend.uncertainty_detector(net, x[:20], measure="totl")
    with pytest.raises(AccessError, match="switch its dropout on"):
        ig.defend.uncertainty_detector(scores_without_autograd, x[:20, :, ::2, ::2])
    with pytest.raises(InputError, match="no dropout"):
        ig.defend.uncertainty_detector(CNN().eval(), x[:20])
