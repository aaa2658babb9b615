"""Gradients that are the edges, gradients that are noise, and networks that lie between."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

import ironglass as ig
from ironglass.bench.gradient_alignment import GradientAlignment, roughness, sobel
from ironglass.core.errors import InputError
from metric.broken import CNN, digits


class Known(nn.Module):
    """Two logits whose margin is a weighted sum of the input: the weights are the gradient, up to a factor."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        margin = (x * self.weights[: len(x)]).flatten(1).sum(1) * 1e-3
        return torch.stack([margin, -margin], 1)


def pictures(count: int = 12) -> Tensor:
    return digits()[0][:count].double()


def test_edges_are_sobels_and_roughness_is_total_variation() -> None:
    x = torch.rand(3, 2, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    for picture, found in zip(x.numpy(), sobel(x).numpy(), strict=True):
        slow = sum(
            np.hypot(ndimage.sobel(plane, 0, mode="nearest"), ndimage.sobel(plane, 1, mode="nearest"))
            for plane in picture
        )
        assert np.allclose(found, slow)
    maps = x[:, 0]
    slow_variation = [
        sum(abs(float(m[i, j] - m[i - 1, j])) for i in range(1, 9) for j in range(11))
        + sum(abs(float(m[i, j] - m[i, j - 1])) for i in range(9) for j in range(1, 11))
        for m in maps
    ]
    assert roughness(maps).tolist() == pytest.approx(
        [v / float(m.sum()) for v, m in zip(slow_variation, maps, strict=True)]
    )
    assert roughness(torch.zeros(1, 4, 4)).tolist() == [0]
    assert roughness(torch.ones(1, 4, 4)).tolist() == [0]


def test_a_gradient_that_is_the_edges_has_the_highest_score_and_noise_has_none() -> None:
    x = pictures()
    y = torch.zeros(len(x), dtype=torch.long)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    edges = sobel(x)[:, None]
    found = ig.bench.gradient_alignment({"noise": Known(noise).eval(), "edges": Known(edges).eval()}, x, y)
    assert found.row_names == ("noise", "edges", "edges less noise")
    assert found.values[1, :3].tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert found.values[0, :3].abs().max() < 0.3
    for column in ("ssim", "rank", "hog"):
        value, low, _ = found.difference(column)
        assert value > 0.5
        assert low > 0
    assert torch.allclose(found.gradients[1], edges[:, 0] / edges.flatten(1).amax(1)[:, None, None], rtol=1e-6)
    assert found.difference("roughness")[2] < 0
    assert found.notes[0].startswith("edges's gradients agree more with edges than noise's by rank: +")
    assert found.notes[0].endswith("].")


def test_the_scale_of_a_gradient_plays_no_role() -> None:
    x = pictures()
    y = torch.zeros(len(x), dtype=torch.long)
    edges = sobel(x)[:, None]
    found = ig.bench.gradient_alignment([Known(edges).eval(), Known(1e-12 * edges).eval()], x, y, scores=("ssim",))
    value, low, high = found.difference("ssim")
    assert abs(value) < 1e-9
    assert low <= value <= high
    assert found.notes[0].endswith("may be chance.")


def test_the_difference_is_paired_and_confidence_and_accuracy_are_counted(
    pair: dict[str, CNN], held_out: tuple[Tensor, Tensor]
) -> None:
    (x, y), net = held_out, pair["standard"]
    found = ig.bench.gradient_alignment({"one": net, "same": net}, x, y, scores=("rank",))
    assert found.values[2].tolist() == [0] * 4
    assert found.low[2].tolist() == found.high[2].tolist() == [0] * 4
    with torch.no_grad():
        outputs = net(x)
    assert float(found.values[0, 3]) == pytest.approx(float((outputs.argmax(1) == y).double().mean()))
    assert float(found.values[0, 2]) == pytest.approx(float(outputs.softmax(1).amax(1).mean()), rel=1e-5)


def test_a_robust_network_of_the_digits_beats_a_standard_one_and_chance_is_excluded(
    tmp_path: Path, pair: dict[str, CNN], held_out: tuple[Tensor, Tensor]
) -> None:
    found = ig.bench.gradient_alignment(pair, *held_out)
    for column in ("rank", "hog"):
        assert found.difference(column)[1] > 0, column
    assert found._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]
    found.save(tmp_path / "g.safetensors")
    back = ig.load(tmp_path / "g.safetensors")
    assert isinstance(back, GradientAlignment)
    assert back.table() == found.table()
    assert [attribution.method for attribution in back.maps()] == ["standard", "robust"]


def test_real_robust_networks_of_mnist_beat_the_standard_one(shared_data: Path) -> None:
    load = _loader(shared_data, "seqnet")
    data = np.load(shared_data / "mnist.npz")
    x = torch.from_numpy(data["x_test"][:100]).float()[:, None] / 255
    y = torch.from_numpy(data["y_test"][:100]).long()
    names = ("mnist_conv_small_nat", "mnist_pgd_madry", "mnist_cnn_a_adv")
    models = {name: load(shared_data / "models" / f"{name}.npz")[0] for name in names}
    found = ig.bench.gradient_alignment(models, x, y, scores=("rank",))
    assert found.difference("rank", 1)[1] > 0
    assert found.difference("rank", 2)[1] > 0


class Pixels(nn.Module):
    """A network of pixels 0 to 255, for pictures in [0, 1]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(255 * x)


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_real_robust_networks_of_cifar_beat_the_standard_one_by_every_score(shared_data: Path, sigma: float) -> None:
    load, data = _loader(shared_data, "seqnet"), np.load(shared_data / "cifar10_lossless.npz")
    x = torch.tensor(data["x"][:100]).float().permute(0, 3, 1, 2).contiguous() / 255
    y = torch.tensor(data["y"][:100]).long()
    folder = shared_data / "models"
    models = {
        "standard": Pixels(_loader(shared_data, "tflite_to_torch")(folder / "cifar_resnet8_mlperf.npz")).eval(),
        "cnn_a_adv": load(folder / "cifar_cnn_a_adv.npz")[0],
        "resnet2b_adv": _loader(shared_data, "cifar_resnet_vit")(folder / "cifar_resnet2b_adv.npz"),
    }
    found = ig.bench.gradient_alignment(models, x, y, sigma=sigma)
    for score in ("rank", "ssim", "hog") if not sigma else ("rank", "ssim"):
        for model in (1, 2):
            assert found.difference(score, model)[1] > 0, (score, model)


def _loader(shared_data: Path, name: str) -> Callable[[Path], Any]:
    sys.path.insert(0, str(shared_data / "loaders"))
    return importlib.import_module(name).load  # type: ignore[no-any-return]


def test_wrong_requests_are_refused() -> None:
    x, y = torch.rand(4, 6), torch.zeros(4, dtype=torch.long)
    with pytest.raises(InputError, match="pictures"):
        ig.bench.gradient_alignment(nn.Linear(6, 2).eval(), x, y)
    pictures_ = torch.rand(2, 1, 16, 16)
    with pytest.raises(InputError, match="did you mean ssim"):
        ig.bench.gradient_alignment(CNN().eval(), pictures_, torch.zeros(2, dtype=torch.long), scores=("sim",))
