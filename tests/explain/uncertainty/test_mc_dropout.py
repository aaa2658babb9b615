from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ironglass as ig
from ironglass.core.errors import AccessError, InputError
from ironglass.models.dropout import Thinned, thinned
from ironglass.models.network import Torch
from ironglass.ops.uncertainty import of_classes
from nets import images, scores_without_autograd, small_cnn


class Tiny(nn.Module):
    """Three hidden units under dropout, so that all eight masks can be gone through."""

    def __init__(self, rate: float = 0.4) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(4, 3), nn.Dropout(rate), nn.Linear(3, 3)
        generator = torch.Generator().manual_seed(0)
        for layer in (self.first, self.last):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(self.first(x).tanh()))


def all_masks(net: Tiny, x: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Returns the probabilities under each mask ``(8, N, 3)`` and the masks' chances."""
    hidden = net.first(x).tanh()
    masks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    chance = (masks * (1 - rate) + (1 - masks) * rate).prod(1)
    return torch.stack([net.last(hidden * mask / (1 - rate)).softmax(1) for mask in masks]).detach(), chance


def test_the_parts_are_those_of_all_masks_enumerated() -> None:
    net, x = Tiny().eval(), torch.rand(5, 4)
    p, chance = all_masks(net, x, 0.4)
    mean = torch.einsum("m,mnk->nk", chance, p)
    own = torch.einsum("m,mn->n", chance, -(p * p.log()).sum(2))
    total = -(mean * mean.log()).sum(1)
    found = ig.explain.mc_dropout(net, x, samples=6000)
    assert torch.allclose(found.mean, mean, atol=0.02)
    assert torch.allclose(found.aleatoric, own, atol=0.02)
    assert torch.allclose(found.epistemic, total - own, atol=0.02)
    assert found.draws == 6000
    assert torch.equal(found.labels(), mean.argmax(1))


def test_a_draw_is_one_of_the_thinned_networks_and_the_same_for_every_sample() -> None:
    net, x = Tiny().eval(), torch.rand(5, 4)
    p, _ = all_masks(net, x, 0.4)
    views = thinned(ig.wrap(net), 40, 0)
    views.prepare(x)
    for draw in views(x).softmax(2):
        assert any(torch.allclose(draw, each, atol=1e-5) for each in p)


def test_without_dropout_nothing_is_epistemic() -> None:
    net, x = Tiny().eval(), torch.rand(5, 4)
    found = ig.explain.mc_dropout(net, x, samples=9, rate=0.0)
    assert float(found.epistemic.max()) < 1e-6
    assert torch.allclose(found.mean, net(x).softmax(1), atol=1e-6)
    assert float(found.variance.max()) < 1e-10


class Around(nn.Module):
    """A skip around the dropout: what comes before cannot be run once for all draws."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + F.dropout2d(x.relu(), 0.3, self.training)
        return self.last(x.mean((2, 3)))


class Tokens(nn.Module):
    """Takes the batch size before the dropout and lays it out after: run once for all draws it would mix samples."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        size = len(x)
        x = F.dropout(x.flatten(1).reshape(size * 8, 8).reshape(size, 64), 0.3, self.training)
        return self.last(x.reshape(size, -1, 8).mean(1))


@pytest.mark.parametrize(("net", "folds"), [(small_cnn(), True), (Around(), False), (Tokens(), False)])
def test_what_comes_before_the_first_dropout_is_run_once_where_that_is_the_same(net: nn.Module, folds: bool) -> None:
    net.eval()
    x = images(7)
    views = thinned(ig.wrap(net), 5, 3)
    views.prepare(x)
    found = views(x)
    assert views._folds[(2, 1, 8, 8)][0] is folds
    views._folds = {(2, 1, 8, 8): (False, 1)}
    assert torch.allclose(views(x), found, atol=1e-6)
    singles = torch.cat([views(each[None]) for each in x], 1)
    assert torch.allclose(singles, found, atol=1e-6)
    assert not torch.allclose(found[0], found[1])


def test_a_late_dropout_costs_the_network_once() -> None:
    net, x = small_cnn().eval(), images(10)
    runs: list[int] = []
    model = ig.wrap(net)
    views = thinned(model, 50, 0)
    views.prepare(x)
    views(x)
    handle = net.conv.register_forward_pre_hook(lambda _, args: runs.append(len(args[0])))
    views(x)
    handle.remove()
    assert sum(runs) == 10


def test_the_gradient_is_that_of_the_thinned_networks() -> None:
    net, x = Tiny().double().eval(), torch.rand(3, 4, dtype=torch.float64)
    views = Thinned(Torch(net, None, None), 6, 1)
    views.prepare(x)
    weight = torch.randn(6, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = views.back(x, weight)
    for index in range(12):
        step = torch.zeros(12, dtype=torch.float64)
        step[index] = 1e-6
        ahead, behind = ((views(x + sign * step.view(3, 4)) * weight).sum() for sign in (1, -1))
        assert float((ahead - behind) / 2e-6) == pytest.approx(float(found.flatten()[index]), abs=1e-6)


def test_whole_channels_are_dropped_where_the_layer_says_so() -> None:
    net = nn.Sequential(nn.Dropout2d(0.5)).eval()
    views = Thinned(Torch(net, None, None), 30, 0)
    x = torch.rand(2, 8, 3, 3) + 0.5
    out = views(x)
    seen = (out != 0).flatten(3)
    assert torch.equal(seen.any(3), seen.all(3))
    assert 0.35 < float(seen.double().mean()) < 0.65
    assert torch.allclose(out[seen.reshape(out.shape)], (2 * x).expand(30, *x.shape)[seen.reshape(out.shape)])


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    views = Thinned(Torch(nn.Sequential(nn.AlphaDropout(0.3)).eval(), None, None), 1, 0)
    x = torch.randn(1, 200_000, generator=torch.Generator().manual_seed(0))
    out = views(x)
    assert float(out.mean()) == pytest.approx(0, abs=0.02)
    assert float(out.var()) == pytest.approx(1, abs=0.02)


def test_maps_have_a_figure_a_pixel() -> None:
    net = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(6, 4, 1)).eval()
    x = images(5)
    found = ig.explain.mc_dropout(net, x, samples=12)
    assert found.total.shape == (5, 8, 8)
    assert found.mean.shape == (5, 4, 8, 8)
    assert torch.allclose(found.total, found.aleatoric + found.epistemic, atol=1e-5)
    assert found.of("epistemic").shape == (5,)
    views = thinned(ig.wrap(net), 12, 0)
    assert torch.allclose(of_classes(views(x).softmax(2)).epistemic, found.epistemic, atol=1e-5)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.head(self.drop(x))
        return out[:, :3], out[:, 3:]


def test_noise_of_the_networks_own_size_makes_it_less_sure() -> None:
    net, x = Noisy().eval(), torch.rand(6, 4)
    plain = ig.explain.mc_dropout(net, x, samples=20, rate=0.0)
    found = ig.explain.mc_dropout(net, x, samples=20, rate=0.0, heteroscedastic=True, noise=4000)
    logits, log_variance = net(x)
    noise = torch.randn(4000, 6, 3, generator=torch.Generator().manual_seed(0))
    wanted = (logits + (log_variance / 2).exp() * noise).softmax(2).mean(0)
    assert torch.allclose(found.mean, wanted, atol=0.03)
    assert float(found.epistemic.max()) < 1e-5
    assert not torch.allclose(plain.mean, found.mean, atol=0.02)
    values = ig.explain.mc_dropout(net, x, samples=400, heteroscedastic=True, of="values")
    assert torch.allclose(values.total, values.aleatoric + values.epistemic)
    assert float(values.epistemic.min()) > 0


def test_the_network_and_the_generators_stay_as_they_were(tmp_path: object) -> None:
    net, x = small_cnn(), images(6)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="train mode"):
        first = ig.explain.mc_dropout(net, x, samples=5)
    assert all(module.training for module in net.modules())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    net.eval()
    assert torch.equal(first.epistemic, ig.explain.mc_dropout(net, x, samples=5).epistemic)
    assert not torch.equal(first.epistemic, ig.explain.mc_dropout(net, x, samples=5, seed=1).epistemic)
    path = f"{tmp_path}/found.safetensors"
    first.save(path)
    read = ig.load(path)
    assert isinstance(read, ig.Uncertainty)
    assert torch.equal(read.total, first.total)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InputError, match="no dropout"):
        ig.explain.mc_dropout(nn.Linear(4, 3).eval(), torch.rand(2, 4))
    with pytest.raises(AccessError, match="needs training"):
        ig.explain.mc_dropout(scores_without_autograd, images(2))
    with pytest.raises(InputError, match="no log-variance"):
        ig.explain.mc_dropout(Tiny().eval(), torch.rand(2, 4), heteroscedastic=True)
    with pytest.raises(InputError, match="at least one sample"):
        ig.explain.mc_dropout(Tiny().eval(), torch.rand(2, 4), samples=0)
