from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError


def trained(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 128), nn.ReLU(),
            nn.Linear(128, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    digits = load_digits()
    x, y = torch.tensor(digits.images / 16).float()[:, None], torch.tensor(digits.target).long()
    permuted = y[:600][torch.randperm(600, generator=torch.Generator().manual_seed(1))]
    return trained(x[:600], y[:600], 12), trained(x[:600], permuted, 60), x[600:640], y[600:640]


def test_a_model_trained_on_permuted_labels_is_told_from_an_honest_one(
    pair: tuple[nn.Module, nn.Module, Tensor, Tensor],
) -> None:
    honest, permuted, x, y = pair
    models = {"honest": honest, "permuted": permuted, "itself": honest}
    found = ig.metric.data_randomization(models, x, y, methods=("saliency", "grad_cam"))
    assert list(found.row_names) == ["saliency", "grad_cam"]
    flat = ig.explain.grad_cam(honest, x, y).values.flatten(1)
    varied = float((flat.amax(1) > flat.amin(1)).double().mean())  # a constant map resembles nothing, itself included
    assert found.values[:, 1].tolist() == pytest.approx([1, varied], abs=1e-5)
    assert float(found.high[0, 0]) < 0.5, "the gradient of a network that learned nothing of the classes is another"
    assert bool((found.low <= found.values).all() & (found.values <= found.high).all())


def test_what_does_not_look_at_the_model_fails(pair: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    """An edge detector is the same on every model."""
    from ironglass.core.method import explain

    @explain(title="Edges", paper="adebayo2018", access="labels", cost="0", kind="agnostic")
    def edges_of_the_image(model: object, x: Tensor, target: Tensor) -> Tensor:
        """Show edges."""
        return x - x.roll(1, -1)

    honest, permuted, x, y = pair
    found = ig.metric.data_randomization([honest, permuted], x, y, methods=("edges_of_the_image",))
    assert float(found.low[0, 0]) > 0.999


def test_one_model_is_refused(pair: tuple[nn.Module, nn.Module, Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="got one"):
        ig.metric.data_randomization(pair[0], pair[2], pair[3])
