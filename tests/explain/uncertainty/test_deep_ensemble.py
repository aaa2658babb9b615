from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.ops.uncertainty import attenuated_loss
from nets import images, scores_without_autograd, small_cnn

MEMBERS = 8


class Regressor(nn.Module):
    """Gives a value and the logarithm of its variance; its inputs lie in [0, 1] and stand for [-4, 4]."""

    def __init__(self, weights: list[tuple[Tensor, Tensor]], rate: float) -> None:
        super().__init__()
        self.weights = nn.ParameterList([part for pair in weights for part in pair])
        self.drop = nn.Dropout(rate)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = run(
            list(zip(self.weights[::2], self.weights[1::2], strict=True)), x[None] if x.ndim == 2 else x, self.drop
        )[0]
        return out[:, :1], out[:, 1:]


def run(weights: list[tuple[Tensor, Tensor]], x: Tensor, drop: nn.Module) -> Tensor:
    """Runs several networks at once ``(M, n, 2)``."""
    x = 8 * x - 4
    for weight, bias in weights[:-1]:
        x = torch.baddbmm(bias, x.expand(len(weight), -1, -1), weight).relu()
        x = drop(x[0])[None] if len(x) == 1 else drop(x)
    return torch.baddbmm(weights[-1][1], x, weights[-1][0])


def sigma(x: Tensor) -> Tensor:
    return 0.05 + 0.4 * x


def gapped(count: int = 2000) -> tuple[Tensor, Tensor]:
    """Noisy values of a sine, and none in the middle quarter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 1, generator=generator)
    x = torch.where(x < 0.5, 0.75 * x, 1 - 0.75 * (1 - x))
    return x, (8 * x - 4).sin() + sigma(x) * torch.randn(count, 1, generator=generator)


def trained(rate: float, steps: int = 900) -> list[Regressor]:
    x, y = gapped()
    sizes = ((1, 48), (48, 48), (48, 2))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        weights = [
            (
                torch.randn(MEMBERS, before, after).mul_((2 / before) ** 0.5).requires_grad_(),
                torch.randn(MEMBERS, 1, after).mul_(1.5 if before == 1 else 0.1).requires_grad_(),
            )
            for before, after in sizes
        ]
        optimizer = torch.optim.Adam([part for pair in weights for part in pair], 5e-3)
        drop = nn.Dropout(rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = torch.randint(len(x), (MEMBERS, 64))
            out = run(weights, x[rows], drop)
            optimizer.zero_grad()
            attenuated_loss(out[..., :1], out[..., 1:].clamp(-8, 4), y[rows]).mean().backward()
            optimizer.step()
            schedule.step()
    members = [[(w[m : m + 1].detach(), b[m : m + 1].detach()) for w, b in weights] for m in range(MEMBERS)]
    return [Regressor(each, rate).eval() for each in members]


def test_an_ensemble_sees_a_gap_in_the_data_and_dropout_does_not() -> None:
    inside = torch.cat([torch.linspace(0.03, 0.34, 60), torch.linspace(0.66, 0.97, 60)])[:, None]
    gap = torch.linspace(0.42, 0.58, 60)[:, None]
    nets = trained(0.0)
    options = {"heteroscedastic": True, "of": "values"}
    seen, unseen = (ig.explain.deep_ensemble(nets, x, **options) for x in (inside, gap))
    ratio = float(unseen.epistemic.sqrt().mean() / seen.epistemic.sqrt().mean())
    assert ratio > 5
    correlation = float(torch.corrcoef(torch.stack([seen.aleatoric.sqrt(), sigma(inside)[:, 0]]))[0, 1])
    assert correlation > 0.95, "the noise that it learns is the noise of the data"
    one = trained(0.1)[0]
    dropped = [ig.explain.mc_dropout(one, x, samples=60, **options).epistemic.sqrt().mean() for x in (inside, gap)]
    assert float(dropped[1] / dropped[0]) < 0.6 * ratio
    assert torch.allclose(seen.total, seen.aleatoric + seen.epistemic)


def test_the_parts_of_classes_are_those_of_the_members() -> None:
    nets, x = [small_cnn(seed).eval() for seed in range(4)], images(6)
    p = torch.stack([net(x).softmax(1) for net in nets]).detach()
    found = ig.explain.deep_ensemble(nets, x)
    assert torch.allclose(found.mean, p.mean(0), atol=1e-6)
    assert torch.allclose(found.aleatoric, -(p * p.log()).sum(2).mean(0), atol=1e-5)
    assert torch.allclose(found.total, -(p.mean(0) * p.mean(0).log()).sum(1), atol=1e-5)
    assert float(found.epistemic.min()) > 0
    assert found.draws == 4
    again = ig.explain.deep_ensemble({"a": nets[0], "b": nets[1], "c": nets[2], "d": nets[3]}, x)
    assert torch.equal(again.epistemic, found.epistemic)


def test_one_model_is_all_aleatoric_and_functions_will_do() -> None:
    x = images(6)
    assert float(ig.explain.deep_ensemble(small_cnn().eval(), x).epistemic.max()) == 0
    both = ig.explain.deep_ensemble([scores_without_autograd, lambda batch: -scores_without_autograd(batch)], x)
    assert float(both.epistemic.min()) > 0
    with pytest.raises(InputError, match="no log-variance"):
        ig.explain.deep_ensemble(scores_without_autograd, x, heteroscedastic=True)


def test_an_ensemble_is_a_model_that_everything_takes() -> None:
    nets, x = [small_cnn(seed).eval() for seed in range(3)], images(8)
    model = ig.ensemble(nets)
    p = torch.stack([net(x).softmax(1) for net in nets]).detach()
    assert torch.allclose(model.scores(x).exp(), p.mean(0), atol=1e-6)
    y = model.labels(x)
    leaf = x.clone().requires_grad_()
    mean = torch.stack([net(leaf).log_softmax(1) for net in nets]).logsumexp(0)
    (wanted,) = torch.autograd.grad(-mean.log_softmax(1).gather(1, y[:, None]).sum(), leaf)
    found = model.session(x)[0].value_and_grad(x, ig.Avoid(y).loss())
    assert torch.allclose(found.grad, wanted, atol=1e-5)
    scores, jacobian = model.session(x)[0].jacobian(x)
    assert torch.allclose(scores, model.scores(x), atol=1e-6)
    (column,) = torch.autograd.grad(torch.stack([net(leaf).softmax(1) for net in nets]).mean(0).log()[:, 2].sum(), leaf)
    assert torch.allclose(jacobian[:, 2], column, atol=1e-5)
    for attack in (ig.attack.pgd, ig.attack.deepfool, ig.attack.square.with_(max_queries=20)):
        assert attack(model, x, y, ig.Linf(0.1)).adversarial.shape == x.shape
    assert ig.explain.saliency(model, x).values.shape == x.shape
    with pytest.raises(InputError, match="two or more"):
        ig.ensemble([nets[0]])
