from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import AccessError, InputError
from ironglass.defend.deepcloak import Cloaked
from metric.broken import CNN, digits, trained


class Planted(nn.Module):
    """Features are the inputs, but the third is the first, a hundred times as sensitive, and decides little."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
            self.head.weight[:, 2] *= 0.02

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.tensor([1.0, 1.0, 100.0, 1.0, 1.0, 1.0])
        return self.head(x[:, [0, 1, 0, 3, 4, 5]] * scale)


def cloak(net: nn.Module) -> Cloaked:
    return next(module for module in net.modules() if isinstance(module, Cloaked))


def test_a_planted_nuisance_is_the_first_to_be_masked() -> None:
    net = Planted().eval()
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    made = ig.defend.deepcloak.raw(ig.wrap(net).session(x)[0], x, y, ig.Linf(0.05), share=1 / 6)
    assert cloak(made).kept.tolist() == [1, 1, 0, 1, 1, 1]
    first = x[:, :1] * 0
    assert torch.allclose(made(x), F.linear(torch.cat([x[:, :2], first, x[:, 3:]], 1), net.head.weight, net.head.bias))


def test_the_scores_are_the_sums_of_what_the_twins_move() -> None:
    net = Planted().eval()
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    made = ig.defend.deepcloak.raw(ig.wrap(net).session(x)[0], x, y, ig.Linf(0.05))
    twins = ig.attack.fgsm(net, x, y, ig.Linf(0.05)).adversarial
    moved = (x - twins)[:, [0, 1, 0, 3, 4, 5]].abs().sum(0) * torch.tensor([1.0, 1, 100, 1, 1, 1])
    assert torch.allclose(cloak(made).moved, moved, rtol=1e-4)


@pytest.fixture(scope="module")
def net() -> CNN:
    x, y = digits()
    return trained(CNN(), x[:1400], y[:1400], steps=300)


def test_masks_are_nested_and_none_is_the_identity(net: CNN) -> None:
    x, y = digits()
    x, y, threat = x[:200], y[:200], ig.Linf(0.1)
    masks, before = [], None
    for share in (0, 0.05, 0.1, 0.3):
        made = ig.defend.deepcloak(net, x, y, threat, share=share)
        mask = cloak(made.backend.module(x[:1])).kept == 0
        assert int(mask.sum()) == round(share * 64)
        assert before is None or bool((mask | ~before).all())
        before = mask
        masks.append(made)
    assert torch.allclose(masks[0].scores(x), net(x).detach(), atol=1e-5)
    assert not torch.allclose(masks[-1].scores(x), net(x).detach(), atol=1e-2)


def test_in_train_mode_nothing_is_masked(net: CNN) -> None:
    x, y = digits()
    made = ig.defend.deepcloak(net, x[:100], y[:100], ig.Linf(0.1), share=0.5)
    whole = made.backend.module(x[:1])
    assert torch.allclose(whole.train()(x[:5]), net(x[:5]), atol=1e-6)
    assert not torch.allclose(whole.eval()(x[:5]), net(x[:5]), atol=1e-2)


def test_what_comes_back_is_a_network_that_everything_takes(net: CNN) -> None:
    x, y = digits()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    made = ig.defend.deepcloak(net, x[:200], y[:200], ig.Linf(0.1), share=0.05, attack=ig.attack.pgd.with_(steps=3))
    assert made.access == "training"
    assert made.undefended.scores(x[:3]).allclose(net(x[:3]), atol=1e-5)
    assert ig.certify.interval(made, x[:4], y[:4], ig.Linf(0.001)).margin.shape == (4,)
    held, labels = x[1500:1560], y[1500:1560]
    found = ig.attack.pgd(made, held, labels, ig.Linf(0.1))
    assert found.success_rate > 0.5, "it is no defence against who goes through it"
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert float((made.labels(held) == labels).double().mean()) > 0.7


def test_wrong_requests_are_refused(net: CNN) -> None:
    x, y = digits()
    x, y = x[:8], y[:8]
    with pytest.raises(InputError, match="share=1"):
        ig.defend.deepcloak(net, x, y, ig.Linf(0.1), share=1.0)
    with pytest.raises(InputError, match="no linear layer 'first'"):
        ig.defend.deepcloak(net, x, y, ig.Linf(0.1), layer="first")
    assert ig.defend.deepcloak(net, x, y, ig.Linf(0.1), layer="last").classes == 10
    with pytest.raises(InputError, match="no attack in l0"):
        ig.defend.deepcloak(net, x, y, ig.L0(3))
    with pytest.raises(AccessError, match="needs training"):
        ig.defend.deepcloak(ig.wrap(net, access="gradient"), x, y, ig.Linf(0.1))
