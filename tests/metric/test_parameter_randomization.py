from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from ironglass.core.access import Model
from ironglass.core.errors import AccessError, InputError
from ironglass.core.method import explain
from ironglass.core.results import Attribution
from ironglass.explain.grad_cam import grad_cam
from ironglass.explain.gradient_x_input import gradient_x_input
from ironglass.explain.guided_backprop import guided_backprop
from ironglass.explain.integrated_gradients import integrated_gradients
from ironglass.explain.lrp import lrp
from ironglass.explain.saliency import saliency
from ironglass.metric.parameter_randomization import parameter_randomization
from ironglass.models.adapter import wrap
from ironglass.ops.similarity import hog, ranks, spearman, ssim
from nets import images, scores_without_autograd, small_cnn
from photographs import photographs

SIMILARITIES = ("spearman", "spearman_abs", "ssim", "hog")


@explain(title="Edges", paper="adebayo2018", access="scores", cost="0", kind="agnostic")
def edges(model: Model, x: Tensor, target: Tensor) -> Tensor:
    """Show the image's edges, whatever the model."""
    kernel = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]], dtype=x.dtype)
    both = torch.stack([kernel, kernel.T])[:, None]
    return F.conv2d(x.mean(1, keepdim=True), both, padding=1).norm(dim=1)


@explain(title="Noise by the sum of scores", paper="none", access="scores", cost="0", kind="agnostic")
def noise_by_sum(model: Model, x: Tensor, target: Tensor) -> Tensor:
    """Show noise that depends on the parameters alone by their sum."""
    seed = int(float(model.scores(x).double().abs().sum()) * 1e6)
    return model.draws(seed).normal(x.shape[1:], dtype=x.dtype)


@explain(title="Nothing", paper="none", access="scores", cost="0", kind="agnostic")
def nothing(model: Model, x: Tensor, target: Tensor) -> Tensor:
    """Show nothing."""
    return torch.zeros_like(x)


@explain(title="Flat", paper="none", access="gradient", cost="2", kind="agnostic")
def flat_saliency(model: Model, x: Tensor, target: Tensor, *, signed: bool = True) -> Tensor:
    """Show the gradient without an axis of channels."""
    gradient = model.value_and_grad(x, lambda scores, rows: scores.gather(1, target[rows, None])[:, 0]).grad.sum(1)
    return gradient if signed else gradient.abs()


@explain(title="Turning", paper="none", access="scores", cost="1", kind="agnostic")
def turning(model: Model, x: Tensor, target: Tensor) -> Tensor:
    """Show the image, with the sign of the logit."""
    logit = model.scores(x).gather(1, target[:, None])
    return (x + 0.1) * logit.sign()[:, :, None, None]


class Digits(nn.Module):
    """A small convolutional network for digits of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
        )
        self.hidden, self.head = nn.Linear(16 * 16, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(F.max_pool2d(self.features(x), 2).flatten(1))))


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network trained on digits, and 40 of them that it has not seen."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.from_numpy(data.images / 16).float()[:, None], torch.from_numpy(data.target).long()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = Digits()
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(6):
            for rows in torch.randperm(1500).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    net.eval()
    assert float((net(x[1500:]).argmax(1) == y[1500:]).float().mean()) > 0.9
    for parameter in net.parameters():
        parameter.grad = None
    return net, x[1500:1540], y[1500:1540]


@pytest.mark.parametrize("mode", ["cascading", "independent"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_an_edge_detector_fails(digits: tuple[nn.Module, Tensor, Tensor], similarity: str, mode: str) -> None:
    net, x, y = digits
    score = parameter_randomization(net, edges(net, x, y), similarity=similarity, mode=mode)  # type: ignore[arg-type]
    assert not bool(score.passed.any())
    torch.testing.assert_close(score.values, torch.ones_like(score.values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_noise_resembles_nothing(digits: tuple[nn.Module, Tensor, Tensor], similarity: str) -> None:
    net, x, y = digits
    score = parameter_randomization(net, noise_by_sum(net, x, y), similarity=similarity)  # type: ignore[arg-type]
    # on 8 x 8 pixels the gradients at the rim of any two maps point the same ways; sizes of chance average 0.1
    assert float(score.values.mean(0).abs().max()) < (0.4 if similarity == "hog" else 0.13)
    assert bool(score.passed.all()) or similarity == "hog"


def test_gradients_of_a_trained_network_drop(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    score = parameter_randomization(net, saliency(net, x, y, absolute=False), steps=4)
    assert score.steps == ["head", "hidden", "features.1", "features.0"]
    mean = score.values.mean(0)
    assert abs(float(mean[-1])) < 0.15
    assert float(score.passed.double().mean()) > 0.9
    single = parameter_randomization(net, saliency(net, x, y, absolute=False), steps=4, mode="independent")
    assert single.steps == ["head", "features.3", "features.0", "all layers"]
    assert torch.equal(single.values[:, 0], score.values[:, 0])
    assert torch.equal(single.values[:, -1], score.values[:, -1])
    assert float(single.values[:, 2].mean()) > float(mean[-1]) + 0.1


def test_guided_backpropagation_fails_and_what_carries_the_upper_layers_passes(
    digits: tuple[nn.Module, Tensor, Tensor],
) -> None:
    net, x, y = digits
    guided = parameter_randomization(net, guided_backprop(net, x, y))
    assert not bool(guided.passed.any())
    assert float(guided.values[:, 0].mean()) > float(guided.reference[:, 0].mean()) + 0.4  # type: ignore[index]
    for faithful in (saliency(net, x, y), gradient_x_input(net, x, y), integrated_gradients(net, x[:4], y[:4])):
        assert bool(parameter_randomization(net, faithful).passed.all())


def test_the_reference_is_the_gradient_in_the_form_of_the_map(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    for signed in (True, False):
        score = parameter_randomization(net, saliency(net, x, y, absolute=not signed), redraws=1)
        assert score.reference is not None
        assert torch.equal(score.reference, score.values)
        summed = parameter_randomization(net, flat_saliency(net, x, y, signed=signed), redraws=1)
        torch.testing.assert_close(summed.reference, score.reference)
    inside = parameter_randomization(net, saliency(net, x, y, at="features.2"), redraws=1)
    assert torch.equal(inside.values, inside.reference)  # type: ignore[arg-type]


def test_a_map_with_its_sign_turned_is_the_same_picture(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    score = parameter_randomization(net, turning(net, x, y), redraws=4)
    torch.testing.assert_close(score.values, torch.ones_like(score.values))
    assert not bool(score.passed.any())


def test_on_a_pretrained_network_of_photographs() -> None:
    from ironglass.models.demo import demo_data, demo_model

    model, x = demo_model(), demo_data().x[:2]
    test = parameter_randomization.with_(steps=2, redraws=2)
    for blind in (edges(model, x), guided_backprop(model, x)):
        assert not bool(test(model, blind).passed.any())
    for seeing in (saliency(model, x), grad_cam(model, x)):
        assert bool(test(model, seeing).passed.all())


@pytest.mark.slow
def test_on_a_pretrained_network_and_more_photographs(shared_data: Path) -> None:
    from ironglass.models.demo import demo_model

    model, x = demo_model(), photographs(shared_data, 8)
    test = parameter_randomization.with_(steps=3, redraws=2)
    for blind in (edges(model, x), guided_backprop(model, x), guided_backprop(model, x, rule="deconvnet")):
        assert not bool(test(model, blind).passed.any())
    seeing = (saliency(model, x), saliency(model, x, absolute=False), grad_cam(model, x))
    for explained in (*seeing, lrp(model, x, composite="epsilon")):
        assert bool(test(model, explained).passed.all())


def test_grad_cam_drops(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    attribution = grad_cam(net, x, y, layer="features.4")
    score = parameter_randomization(net, attribution, redraws=3)
    assert float(score.passed.double().mean()) > 0.8
    assert float(score.values[:, -1].mean()) < 0.3


def test_redraws_are_averaged(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    attribution = saliency(net, x[:8], y[:8])
    each = [parameter_randomization(net, attribution, steps=2, redraws=1, seed=seed).values for seed in (5, 6, 7)]
    together = parameter_randomization(net, attribution, steps=2, seed=5, redraws=3).values
    torch.testing.assert_close(together, torch.stack(each).mean(0))
    assert not torch.equal(each[0], each[1])


def test_the_same_seed_gives_the_same_bits_and_the_network_stays(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    attribution = saliency(net, x, y)
    first, second = (parameter_randomization(net, attribution, seed=3).values for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_constant_map_has_similarity_0_and_does_not_pass(similarity: str) -> None:
    net, x = small_cnn().eval(), images(3)
    score = parameter_randomization(net, nothing(net, x), similarity=similarity)  # type: ignore[arg-type]
    assert torch.equal(score.values, torch.zeros_like(score.values))
    assert not bool(score.passed.any())


def test_options_of_the_explanation_are_kept() -> None:
    net, x = small_cnn().eval(), images(4)
    signed = parameter_randomization(net, saliency(net, x, absolute=False), similarity="spearman_abs", redraws=1)
    absolute = parameter_randomization(net, saliency(net, x), similarity="spearman", redraws=1)
    torch.testing.assert_close(signed.values, absolute.values)


def test_wrong_options_and_black_boxes_are_refused() -> None:
    net, x = small_cnn().eval(), images(2)
    attribution = saliency(net, x)
    with pytest.raises(InputError, match=r"'ssmi' is unknown to parameter_randomization[^$]*ssim"):
        parameter_randomization(net, attribution, similarity="ssmi")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'up' is unknown"):
        parameter_randomization(net, attribution, mode="up")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="steps=1"):
        parameter_randomization(net, attribution, steps=1)
    with pytest.raises(AccessError, match="parameter_randomization needs internals"):
        parameter_randomization(scores_without_autograd, attribution)
    flat = Attribution(x=x, method="saliency", values=torch.rand(2, 6), target=attribution.target)
    with pytest.raises(InputError, match="no images"):
        parameter_randomization(net, flat, similarity="ssim")


def test_every_parameter_and_statistic_is_drawn_anew() -> None:
    class Odd(nn.Module):
        """A class token of the network itself, a layer used through its weight alone, and one that is not used."""

        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.embed = nn.Linear(8, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.norm = nn.BatchNorm1d(8, affine=False)
            self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
            self.tied = nn.Linear(8, 8)
            self.head = nn.Linear(8, 5)
            self.spare = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x[:, 0])], 1)
            mixed = self.attention(rows, rows, rows)[0][:, 0]
            return self.head(F.linear(self.normed(self.norm(mixed)), self.tied.weight))

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = Odd().eval()
        assert net.norm.running_mean is not None
        net.norm.running_mean.normal_()
    session, _ = wrap(net).session(images(3))
    layers = list(session.parameter_layers())
    held = ["", "embed", "attention", "attention.out_proj", "norm", "normed", "normed.parametrizations.weight"]
    assert layers == [*held, "tied", "head"]
    twin = session.reinitialized(layers, 7)
    old, new = net.state_dict(), twin._backend._whole.net.state_dict()  # type: ignore[attr-defined]
    zeros = {"attention.in_proj_bias"}
    kept = {name for name in old if torch.equal(old[name], new[name])}
    assert kept == zeros | {"spare.weight", "spare.bias"}
    assert not torch.equal(session.scores(images(3)), twin.scores(images(3)))
    partly = session.reinitialized(["head"], 7)._backend._whole.net.state_dict()  # type: ignore[attr-defined]
    assert {name for name in old if not torch.equal(old[name], partly[name])} == {"head.weight", "head.bias"}


def test_a_deep_network_that_is_drawn_anew_still_carries_its_values() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            rows = [layer for _ in range(40) for layer in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())]
            self.body, self.head = nn.Sequential(nn.Flatten(), *rows), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    net = Deep().eval()
    session, _ = wrap(net).session(images(4))
    twin = session.reinitialized(session.parameter_layers(), 3)
    gradient = twin.value_and_grad(images(4), lambda scores, rows: scores[:, 0]).grad
    assert float(gradient.abs().amax()) > 1e-6, "with statistics of 0 and 1 it would be about 1e-20"
    again = session.reinitialized(session.parameter_layers(), 3)
    assert torch.equal(twin.scores(images(4)), again.scores(images(4)))
    alone = wrap(net).session(images(1))[0].reinitialized(session.parameter_layers(), 3)
    assert torch.allclose(alone.scores(images(1)), twin.scores(images(4))[:1], atol=1e-5), "not of its neighbours"
    assert not any(module.training for module in twin._backend._whole.modules())  # type: ignore[attr-defined]


def test_statistics_that_have_no_reset_are_forgotten_too() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_mean", torch.tensor([3.0]))
            self.register_buffer("running_var", torch.tensor([5.0]))
            self.head = nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x.flatten(1) - self.running_mean) / self.running_var)

    session, _ = wrap(Frozen().eval()).session(images(2))
    assert list(session.parameter_layers()) == ["", "head"]
    new = session.reinitialized([""], 0)._backend._whole.net.state_dict()  # type: ignore[attr-defined]
    assert (float(new["running_mean"]), float(new["running_var"])) == (0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ranks_and_correlation_agree_with_scipy(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(0)
    a = torch.from_numpy(generator.normal(size=(40, 3, 5, 4))).to(dtype)
    b = (a + torch.from_numpy(generator.normal(size=a.shape))).mul(2).round().to(dtype)  # many ties
    a[::3] = a[::3].round()
    found = spearman(a, b)
    assert found.dtype == dtype
    for i in range(40):
        expected = spearmanr(a[i].flatten().numpy(), b[i].flatten().numpy()).statistic
        assert float(found[i]) == pytest.approx(expected, abs=1e-6 if dtype == torch.float32 else 1e-13)
    tied = torch.tensor([[3.0, 1.0, 3.0, 2.0, 1.0, 3.0]])
    assert ranks(tied).tolist() == [[4.0, 0.5, 4.0, 2.0, 0.5, 4.0]]
    assert ranks(torch.zeros(1, 5)).tolist() == [[2.0] * 5]


@pytest.mark.parametrize("signed", [True, False])
def test_ssim_agrees_with_scikit_image(signed: bool) -> None:
    from skimage.metrics import structural_similarity

    generator = np.random.default_rng(1)
    a = generator.normal(size=(4, 3, 24, 20))
    b = a + generator.normal(size=a.shape) * 0.7
    if not signed:
        a, b = np.abs(a), np.abs(b)
    found = ssim(torch.from_numpy(a), torch.from_numpy(b))
    for i in range(4):
        p, q = (side[i].sum(0) / np.abs(side[i].sum(0)).max() for side in (a, b))
        reach = max(p.max(), q.max()) - min(p.min(), q.min())
        expected = structural_similarity(p, q, data_range=reach, gaussian_weights=True, use_sample_covariance=False)
        assert float(found[i]) == pytest.approx(expected, abs=1e-12)


def test_hog_sees_shapes_and_not_their_contrast() -> None:
    generator = torch.Generator().manual_seed(2)
    a = torch.rand(3, 1, 64, 64, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(hog(a, a * 5), torch.ones(3, dtype=torch.float64))
    noise = torch.rand(3, 1, 64, 64, generator=generator, dtype=torch.float64)
    assert bool((hog(a, noise) < 0.6).all())
    stripes = torch.zeros(1, 64, 64, dtype=torch.float64)
    stripes[:, ::8] = 1
    assert float(hog(stripes, stripes.mT)) < 0 < 0.9 < float(hog(stripes, stripes.roll(2, 1)))
    assert float(hog(stripes, torch.zeros_like(stripes))) == 0


def test_ssim_of_a_map_that_the_window_exceeds() -> None:
    a = torch.rand(3, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ssim(a, a * 7), torch.ones(3, dtype=torch.float64))
    assert bool((ssim(a, a.flip(2)) < 0.9).all())
    assert bool(ssim(a[:, :1, :1], a[:, :1, :1]).eq(0).all())


def test_one_that_the_catalogue_knows_needs_no_import(tmp_path: Path) -> None:
    net, x = small_cnn().eval(), images(3)
    attribution = saliency(net, x)
    attribution.save(tmp_path / "map.safetensors")
    from ironglass.core.results import load

    again = load(tmp_path / "map.safetensors")
    assert isinstance(again, Attribution)
    assert torch.equal(parameter_randomization(net, again).values, parameter_randomization(net, attribution).values)
