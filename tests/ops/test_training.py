from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import InputError, MethodFailed
from ironglass.core.training import Batch
from ironglass.core.values import Bounds, Linf, Threat
from ironglass.models.adapter import wrap
from ironglass.ops import lp
from ironglass.ops.training import Loop, inner, schedules
from ironglass.ops.training.bounds import interval_margins
from ironglass.ops.training.student import Apprentice
from ironglass.ops.training.thin import ThinInputs
from learners import blobs, seeded
from nets import images, small_cnn


def student(net: nn.Module, x: Tensor, bounds: tuple[float, float] = (0, 1)) -> Apprentice:
    model = wrap(net.eval(), bounds=bounds)
    model.probe(x)
    return Apprentice(model, torch.Generator().manual_seed(1))


def test_the_step_size_follows_its_schedule() -> None:
    table = {
        "cosine": [1, 0.85355, 0.5, 0.14645, 0],
        "triangular": [0, 0.625, 0.83333, 0.41667, 0],
        "steps": [1, 1, 1, 0.1, 0.01],
        "constant": [1, 1, 1, 1, 1],
    }
    for name, wanted in table.items():
        given = [schedules.factor(name, share) for share in (0, 0.25, 0.5, 0.75, 1)]  # type: ignore[arg-type]
        assert given == pytest.approx(wanted, abs=1e-5), name


def test_the_radius_follows_its_ramp() -> None:
    assert [schedules.grown(share, 0.1, 0.4) for share in (0, 0.05, 0.1, 0.3, 0.5, 1)] == pytest.approx(
        [0, 0, 0, 0.5, 1, 1]
    )
    assert [schedules.grown(share) for share in (0, 1)] == [1, 1]
    assert schedules.grown(0.3, 0.3) == 1
    smooth = [schedules.grown(i / 1000, 0, 1, "smooth") for i in range(1001)]
    slopes = [1000 * (b - a) for a, b in itertools.pairwise(smooth)]
    assert smooth[0] == 0
    assert smooth[-1] == pytest.approx(1)
    assert all(slope >= 0 for slope in slopes)
    assert max(abs(b - a) for a, b in itertools.pairwise(slopes)) < 0.02, "no jump of the slope"
    assert slopes[500] == pytest.approx(slopes[900]), "a line from a quarter on"
    for wrong in ({"warm": 0.7, "ramp": 0.4}, {"warm": -0.1}):
        with pytest.raises(InputError, match="no shares"):
            schedules.check("cosine", "linear", **{"warm": 0.0, "ramp": 0.0} | wrong)
    with pytest.raises(InputError, match="did you mean cosine"):
        schedules.check("cosin", "linear", 0, 0)


def test_the_loop_is_adam_on_shuffled_batches() -> None:
    x, y = blobs(23)
    mine, theirs = (seeded(lambda: nn.Linear(6, 2).double()) for _ in range(2))
    loop = Loop(
        mine, 23, lambda net, rows, _: F.cross_entropy(net(x[rows]), y[rows]), epochs=3, batch=11, lr=0.1, seed=5
    )
    losses = [loop.epoch() for _ in range(3)]
    generator = torch.Generator().manual_seed(5)
    adam = torch.optim.Adam(theirs.parameters(), 0.1)
    step, sums = 0, []
    for _ in range(3):
        order, total = torch.randperm(23, generator=generator), 0.0
        for rows in (order[:11], order[11:]):  # the lone last sample joins the second batch
            adam.param_groups[0]["lr"] = 0.1 * (1 + math.cos(math.pi * step / 6)) / 2
            loss = F.cross_entropy(theirs(x[rows]), y[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            step, total = step + 1, total + loss.item() * len(rows)
        sums.append(total / 23)
    assert losses == pytest.approx(sums, rel=1e-12)
    assert torch.equal(mine.weight, theirs.weight)


def test_the_loop_draws_dropout_from_its_seed_and_leaves_the_global_generator() -> None:
    x = torch.ones(8, 6)

    def run(parts: int) -> tuple[list[float], Tensor]:
        net = seeded(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 2)))
        loop = Loop(net, 8, lambda net, rows, _: net(x[rows]).square().mean(), epochs=4, batch=4, seed=2)
        losses = [loop.epoch() for _ in range(parts)]
        if parts < 4:
            state = {name: tensor.clone() for name, tensor in loop.state().items()}
            loop = Loop(net, 8, lambda net, rows, _: net(x[rows]).square().mean(), epochs=4, batch=4, seed=2)
            nn.init.zeros_(net[1].weight)
            loop.restore(state)
            losses += [loop.epoch() for _ in range(4 - parts)]
        return losses, net[1].weight

    before = torch.get_rng_state()
    losses, weight = run(4)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)  # what others draw does not matter
    again, same = run(2)
    assert losses == again
    assert torch.equal(weight, same)


def test_a_loss_that_is_not_finite_and_a_network_that_cannot_learn_are_errors() -> None:
    net = nn.Linear(2, 2)
    with pytest.raises(MethodFailed, match="the loss is nan in epoch 1"):
        Loop(net, 4, lambda net, rows, _: net.weight.sum() * torch.nan, epochs=1).epoch()
    assert net.weight.grad is None
    with pytest.raises(InputError, match="no parameter"):
        Loop(net.requires_grad_(False), 4, lambda net, rows, _: net.weight.sum(), epochs=1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", ["pgd", "fgsm", "fgsm_rs", "n_fgsm"])
def test_what_is_trained_on_lies_in_the_threat(name: str, norm: Any) -> None:
    x, y = images(20), torch.arange(20) % 5
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., 1:7, 2:6] = True
    threat = Threat(norm, {"linf": 0.1, "l2": 0.6, "l1": 2.0}[norm], mask)
    found = inner.maximizer(name, threat, 3, None)(student(small_cnn(), x), Batch(x, y, threat, 1.0, 0))
    assert torch.equal(torch.where(mask, x, found), x)
    assert bool(((found >= 0) & (found <= 1)).all())
    reach = 3 if name == "n_fgsm" else 1
    assert 0 < float(lp.norm(found - x, norm).max()) <= threat.eps * reach * (1 + 1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_on_a_linear_network_the_ascent_finds_the_worst_point(norm: Any) -> None:
    x, y = blobs(12)
    net = seeded(lambda: nn.Linear(6, 2).double())
    threat, bounds = Threat(norm, 0.4), Bounds(-4, 4)
    rise = (net.weight[1 - y] - net.weight[y]).detach()
    most = (rise * lp.maximize(rise, x, threat, bounds)).sum(1)
    for name in ("pgd", "fgsm"):
        found = inner.maximizer(name, threat, 20, 0.4)(student(net, x, (-4, 4)), Batch(x, y, threat, 1.0, 0))
        assert torch.allclose((rise * (found - x)).sum(1), most, rtol=1e-3), name


def test_an_attack_of_the_catalogue_is_run_bare_with_a_new_seed_each_step_and_on_the_bill() -> None:
    x, y = images(6), torch.arange(6) % 5
    learner = student(small_cnn(), x)
    attack = inner.maximizer(ig.attack.pgd.with_(steps=2), Linf(0.01), 7, None)
    first, second, again = (attack(learner, Batch(x, y, Linf(0.01), 1.0, step)) for step in (0, 1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert learner.backward > 0
    for wrong, said in (
        ("pdg", "did you mean pgd"),
        ("deepfooled", "no attack"),
        (ig.attack.jsma, "works in l0"),
        (ig.certify.interval, "is no attack"),
        (ig.attack.difference_of_means, "needs means"),
        (ig.attack.pgd.with_(polish=2), "polish is done by the judge"),
    ):
        with pytest.raises(InputError, match=said):
            inner.maximizer(wrong, Linf(0.1), 7, None)
    with pytest.raises(InputError, match="steps=0"):
        inner.maximizer("pgd", Linf(0.1), 0, None)


def test_the_inner_ascent_leaves_no_trace_in_the_network() -> None:
    x, y, net = images(6), torch.arange(6) % 5, small_cnn()
    learner = student(net, x)
    learner.net.train()
    state = {name: tensor.clone() for name, tensor in learner.net.state_dict().items()}
    inner.maximizer("pgd", Linf(0.1), 3, None)(learner, Batch(x, y, Linf(0.1), 1.0, 0))
    assert all(module.training for module in learner.net.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in learner.net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in learner.net.parameters())


def residual() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)
            self.head, self.skip = nn.Linear(64, 5), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            first = F.relu(self.one(x))
            joined = first - 0.5 * F.leaky_relu(self.two(first), 0.1)
            flat = F.avg_pool2d(joined, 2).flatten(1)
            return self.head(flat) + 0.1 * self.skip(flat.abs()) + 1

    return Net()


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Sigmoid(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5))


@pytest.mark.parametrize("make", [residual, plain, small_cnn], ids=["residual", "plain", "normalized"])
def test_the_bounds_trained_on_are_those_that_are_proven(make: Any) -> None:
    net, x, y = seeded(make).double().eval(), images(7, dtype=torch.float64), torch.arange(7) % 5
    threat = Linf(0.02, torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.8)
    learner = student(net, x)
    margins = interval_margins(learner, x, y, threat)
    proven = ig.certify.interval(ig.wrap(net), x, y, threat).margin
    least = margins.scatter(1, y[:, None], torch.inf).amin(1)
    assert torch.allclose(least, proven, rtol=1e-6, atol=1e-6)
    assert bool((least >= proven).all()), "a proof has slack for rounding on top"


@pytest.mark.parametrize("make", [plain, small_cnn], ids=["read once", "read anew"])
def test_the_bounds_have_the_gradient_of_their_finite_difference_and_follow_the_weights(make: Any) -> None:
    net, x, y = seeded(make).double(), images(4, dtype=torch.float64), torch.arange(4) % 5
    learner = student(net, x)
    weight = [parameter for parameter in learner.net.parameters() if parameter.ndim == 2][-1]

    def value() -> Tensor:
        return F.cross_entropy(-interval_margins(learner, x, y, Linf(0.01)), y)

    for _ in range(2):
        (grad,) = torch.autograd.grad(value(), weight)
        with torch.no_grad():
            index, step = (0, 3), 1e-6
            weight[index] += step
            up = value().item()
            weight[index] -= 2 * step
            down = value().item()
            weight[index] += step
        assert grad[index].item() == pytest.approx((up - down) / (2 * step), rel=1e-5)
        with torch.no_grad():
            weight.mul_(1.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_faster_way_through_a_thin_convolution_gives_the_same_gradient(channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, channels, 13, 11, generator=generator, dtype=torch.float64)
    for conv in (
        nn.Conv2d(channels, 7, 4, 2, 1), nn.Conv2d(channels, 7, (3, 5), 1, (2, 0), dilation=2),
        nn.Conv2d(channels, 7, 3, 3, "valid"), nn.Conv2d(channels, 7, 1, bias=False),
        nn.Conv2d(channels, 7, 3, padding=1, padding_mode="reflect"),
    ):  # fmt: skip
        conv = conv.double().requires_grad_(False)
        slopes = []
        for context in (nullcontext(), ThinInputs()):
            leaf = x.clone().requires_grad_()
            with context:
                out = conv(leaf).square().sum()
            slopes.append(torch.autograd.grad(out, leaf)[0])
        assert torch.allclose(*slopes, rtol=1e-12, atol=1e-12)
    conv = nn.Conv2d(channels, 7, 3).double()
    with ThinInputs():
        conv(x.requires_grad_()).sum().backward()
    assert conv.weight.grad is not None, "weights that learn keep their gradient"
