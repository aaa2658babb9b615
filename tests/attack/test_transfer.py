"""Transfer: what the sources tell is the exact answer where the target is like them, and the target is not asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from attack.oracles import case
from ironglass.attack.blackbox.transfer import Mean, surrogate
from ironglass.core.errors import AccessError
from ironglass.core.values import Bounds, Norm, Threat
from nets import images, scores_without_autograd, small_cnn


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_target_like_the_source_gets_the_greatest_gain_without_a_query(norm: Norm) -> None:
    made = case("interior", 4, lead=1.0, count=4)
    eps = {"linf": 0.02, "l2": 0.5, "l1": 8.0}[norm]
    weight, bias = made.net[1].weight.detach(), made.net[1].bias.detach()
    asked = 0

    def target(x: Tensor) -> Tensor:
        nonlocal asked
        asked += len(x)
        return (x.flatten(1) @ weight.T + bias).argmax(1)

    model = ig.wrap(target, classes=4)
    model.probe(made.x)
    asked = 0
    found = ig.attack.transfer(model, made.x, made.y, Threat(norm, eps), source=made.net, loss="margin")
    assert found.queries.tolist() == [1] * 4, "the runner's first look alone"
    assert asked == 8, "and the judge's last"
    gain = made.won(found.adversarial) / made.gain(norm, eps)
    assert float(gain.min()) >= 0.999


def test_of_several_sources_the_mean_of_the_logits_is_climbed() -> None:
    x = images(5)
    nets = [small_cnn(seed).eval() for seed in (1, 2, 3)]
    goal = ig.Avoid(torch.arange(5))
    both = ig.attack.transfer(small_cnn(0).eval(), x, goal, ig.Linf(0.1), source=nets, steps=7)
    mean = ig.attack.transfer(small_cnn(0).eval(), x, goal, ig.Linf(0.1), source=Mean(nets).eval(), steps=7)
    assert torch.allclose(both.adversarial, mean.adversarial, atol=1e-6)
    alone = ig.attack.transfer(small_cnn(0).eval(), x, goal, ig.Linf(0.1), source=nets[:1], steps=7)
    assert not torch.allclose(both.adversarial, alone.adversarial, atol=1e-3)


def test_it_goes_on_where_the_source_is_fooled() -> None:
    made = case("interior", 4, lead=0.01, count=2)
    little = ig.attack.pgd(made.net, made.x, made.y, ig.Linf(0.05))
    far = ig.attack.transfer(made.net, made.x, made.y, ig.Linf(0.05), source=made.net)
    assert bool(little.success.all())
    assert bool((made.won(far.adversarial) > 1.5 * made.won(little.adversarial)).all())


def test_what_is_no_source_is_refused() -> None:
    x, net = images(2), small_cnn().eval()
    with torch.no_grad():
        y = net(x).argmax(1)
    for source, error, message in (
        ([], ValueError, "no source"),
        (scores_without_autograd, AccessError, "scores alone"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), ValueError, "3 classes, the target 5"),
        ([net, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()], ValueError, "5, 3 classes"),
    ):
        with pytest.raises(error, match=message):
            ig.attack.transfer(net, x, y, ig.Linf(0.1), source=source)
    with pytest.raises(ValueError, match="needs source"):
        ig.attack.transfer(net, x, y, ig.Linf(0.1))


def test_a_wrapped_source_keeps_its_normalization() -> None:
    net = small_cnn(1).eval()
    plain = surrogate(ig.wrap(net, mean=0.5, std=0.25), images(3), Bounds())
    pair = surrogate([ig.wrap(net, mean=0.5, std=0.25)] * 2, images(3), Bounds())
    with torch.no_grad():
        expected = net((images(3) - 0.5) / 0.25)
    assert torch.allclose(plain.scores(images(3)), expected, atol=1e-5)
    assert torch.allclose(pair.scores(images(3)), expected, atol=1e-5)
