from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.models.detector import FittedDetector
from ironglass.ops.ranking import auroc
from metric.broken import CNN, digits, trained

THREAT = ig.Linf(0.1)
PGD = ig.attack.pgd.with_(steps=10)


def shuffled() -> tuple[Tensor, Tensor]:
    x, y = digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


@pytest.fixture(scope="module")
def net() -> CNN:
    x, y = shuffled()
    return trained(CNN(), x[:900], y[:900], steps=400)


@pytest.fixture(scope="module")
def fitted(net: CNN) -> FittedDetector:
    return ig.defend.squeezing_detector(net, shuffled()[0][900:1300], squeezers=("bits 3", "median 3"))


def test_each_figure_is_that_of_the_calls_one_by_one(net: CNN, fitted: FittedDetector) -> None:
    x, y = (each[1300:1400] for each in shuffled())
    found = ig.metric.detection_report(fitted, x, y, THREAT, attacks=(PGD,))
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    assert found.row_names == ("legitimate", "pgd, naive", "pgd, adaptive")
    assert float(found.values[0, 2]) == float(fitted.detect(x).double().mean())
    for row, result in enumerate((PGD(net, x, y, THREAT), PGD(fitted.guarded, x, fitted.goal(y), THREAT)), 1):
        fooled, seen = net(result.adversarial).argmax(1) != y, fitted.detect(result.adversarial)
        wanted = [fooled, seen[fooled], seen[~fooled], None, fooled & ~seen]
        for column, which in enumerate(wanted):
            if which is not None:
                assert int(found.counts[row, column]) == len(which)
                share = float(which.double().mean()) if len(which) else 0.0
                assert float(found.values[row, column]) == pytest.approx(share)
        area = auroc(fitted.score(result.adversarial)[fooled], fitted.score(x))
        assert [float(part[row, 3]) for part in (found.values, found.low, found.high)] == pytest.approx(list(area))
    assert float(found.values[2, 4]) > float(found.values[1, 4]) + 0.1, "the adaptive attack passes more often"


class Brightness:
    """A detector of a user's own, by the mean value."""

    threshold = 0.4

    def score(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1)

    def detect(self, x: Tensor) -> Tensor:
        return self.score(x) > self.threshold


def test_a_detector_of_ones_own_is_taken_without_adaptive_rows(net: CNN) -> None:
    x, y = (each[1300:1330] for each in shuffled())
    found = ig.metric.detection_report(Brightness(), x, y, THREAT, model=net, attacks=(ig.attack.fgsm,))
    assert found.row_names == ("legitimate", "fgsm, naive")
    with pytest.raises(InputError, match="does not say what it guards"):
        ig.metric.detection_report(Brightness(), x, y, THREAT)


def test_wrong_requests_are_refused(net: CNN, fitted: FittedDetector) -> None:
    x, y = (each[1300:1310] for each in shuffled())
    with pytest.raises(InputError, match="no attack in linf"):
        ig.metric.detection_report(fitted, x, y, THREAT, attacks=("ddn",))
    with pytest.raises(InputError, match="labels no sample right"):
        ig.metric.detection_report(fitted, x, (net(x).argmax(1) + 1) % 10, THREAT)
