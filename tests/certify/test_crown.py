"""The methods that go by linear bounds, on small networks and on those of the verification competition."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.core.values import Threat
from ironglass.ops import lp
from nets import images, small_cnn

LADDER = ("interval", "crown_ibp", "crown", "alpha_crown")
"""Each proves at least what the one before does."""
METHODS = (*LADDER, "cnn_cert")


def ladder(net: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> dict[str, Tensor]:
    return {name: getattr(ig.certify, name)(net, x, y, threat).margin for name in METHODS}


def attacked(net: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int = 25) -> Tensor:
    """The least margin that ascent and corners find."""
    generator = torch.Generator().manual_seed(0)
    least = torch.full((len(x),), torch.inf)
    for restart in range(3):
        far = torch.randn(x.shape, generator=generator)
        point = lp.project(x + far * threat.eps * (3 if restart else 0), x, threat, ig.Bounds())
        for step in range(steps):
            leaf = point.clone().requires_grad_()
            scores = net(leaf)
            margin = scores.gather(1, y[:, None])[:, 0] - scores.scatter(1, y[:, None], -torch.inf).amax(1)
            least = torch.minimum(least, margin.detach())
            (gradient,) = torch.autograd.grad(-margin.sum(), leaf)
            stride = Threat(threat.norm, threat.eps * 0.5 * (1 - step / steps))
            point = lp.project(point + lp.maximize(gradient, point, stride, ig.Bounds()), x, threat, ig.Bounds())
    return least


@pytest.mark.parametrize("threat", [ig.Linf(0.03), ig.L2(0.3), ig.L1(1.0)], ids=lambda threat: threat.norm)
def test_each_method_proves_what_the_looser_do_and_no_attack_gets_below(threat: Threat) -> None:
    net, x = small_cnn().eval().requires_grad_(False), images(10)
    y = net(x).argmax(1)
    y[::4] = (y[::4] + 1) % 5
    found, broken = ladder(net, x, y, threat), attacked(net, x, y, threat)
    for looser, tighter in itertools.pairwise(LADDER):
        assert bool((found[tighter] >= found[looser] - 1e-5).all()), tighter
    for name, margin in found.items():
        assert bool((margin <= broken).all()), name
    assert bool((found["alpha_crown"] > found["interval"]).all())


def test_fast_lin_is_exact_where_nothing_bends_and_looser_than_crown_on_the_whole() -> None:
    net, x = (
        nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 5)),
        images(10),
    )
    net.eval().requires_grad_(False)
    y = net(x).argmax(1)
    tiny = [getattr(ig.certify, name)(net, x, y, ig.Linf(1e-6)).margin for name in ("fast_lin", "crown", "alpha_crown")]
    assert torch.allclose(tiny[0], tiny[1], atol=1e-4)
    assert torch.allclose(tiny[0], tiny[2], atol=1e-4)
    fast, crown = (getattr(ig.certify, name)(net, x, y, ig.Linf(0.1)).margin for name in ("fast_lin", "crown"))
    assert float(crown.mean()) > float(fast.mean())
    assert bool((fast <= attacked(net, x, y, ig.Linf(0.1))).all())


def test_fast_lin_refuses_what_has_no_parallel_lines() -> None:
    for layer, name in ((nn.Tanh(), "tanh"), (nn.GELU(), "gelu")):
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), layer, nn.Linear(8, 3)).eval()
        with pytest.raises(InputError, match=f"operator {name} at"):
            ig.certify.fast_lin(net, images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.1))
    pooled = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()
    with pytest.raises(InputError, match="max_pool2d"):
        ig.certify.fast_lin(pooled, images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.1))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_is_not_proven(method: str) -> None:
    for place, value in (("head", torch.inf), ("conv", torch.nan), ("conv", torch.inf)):
        net, x = small_cnn().eval().requires_grad_(False), images(3)
        layer = getattr(net, place)
        layer.bias[0] = value
        result = getattr(ig.certify, method)(net, x, torch.zeros(3, dtype=torch.long), ig.Linf(0.01))
        assert not bool(result.verified.any())
        assert not bool((result.margin > -torch.inf).any())


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_operator_is_refused_by_name(method: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Mish(), nn.Linear(8, 3)).eval()
    with pytest.raises(InputError, match=r"operator mish at '.*2'"):
        getattr(ig.certify, method)(net, images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.1))


def test_alpha_crown_says_which_options_are_out_of_range() -> None:
    for options in ({"steps": -1}, {"inner": -1}, {"share": 0.0}, {"rate": 0.0}):
        with pytest.raises(InputError, match="positive rate"):
            ig.certify.alpha_crown(
                small_cnn().eval(), images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.1), **options
            )


def test_climbing_to_the_end_gives_no_less_than_stopping_at_what_is_proven() -> None:
    net, x = small_cnn().eval().requires_grad_(False), images(8)
    y = net(x).argmax(1)
    crown = ig.certify.crown(net, x, y, ig.Linf(0.1)).margin
    settled = ig.certify.alpha_crown(net, x, y, ig.Linf(0.1))
    final = ig.certify.alpha_crown(net, x, y, ig.Linf(0.1), settle=False)
    assert bool((settled.margin >= crown).all())
    assert bool((final.verified >= settled.verified).all())
    assert torch.equal(settled.margin[crown > 0], crown[crown > 0])
    assert float((final.margin - crown).max()) > 1e-3


# Beside the figures of a competing implementation, on networks and images of the verification competition.

BAR = {
    "mnist_tiny_mlp/linf0.1": ("crown", 40),
    "mnistfc_256x2/linf0.02": ("crown", 20),
    "mnistfc_256x4/l2_0.3": ("crown", 10),
    "mnistfc_256x4/l1_2.0": ("crown", 10),
    "kw_mnist/linf0.1": ("crown", 8),
    "verivital_avgpool/linf0.02": ("crown_ibp", 20),
    "cifar_conv_small_sigmoid/linf1_255": ("crown", 4),
    "resnet2b/linf1_255": ("crown", 2),
}


@pytest.fixture
def competition(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(shared_data / "loaders"))
    bar = shared_data.parent / "reference" / "certify_bar.json"
    if not (shared_data / "cert").exists() or not bar.exists():
        pytest.skip("the competition's networks are not here")
    module = importlib.import_module("cert_nets")
    sys.modules.pop("cert_nets")
    module.bar = json.loads(bar.read_text())["tasks"]
    return module


def task_of(competition: Any, name: str, count: int) -> tuple[dict[str, Any], nn.Module, Tensor, Tensor, Threat]:
    task = competition.bar[name]
    net = competition.net(task["model"])
    if competition.MAN["models"][task["model"]].get("mean"):
        mean, std = competition.norm(task["model"])
        net = Normalized(net, mean, std).eval()
    x, y = (part[: task["n"]] for part in competition.images(task["images"]))
    right = (net(x).argmax(1) == y).nonzero()[:count, 0]
    norm = {"inf": "linf", "2.0": "l2", "1.0": "l1"}[task["norm"]]
    return task, net, x[right], y[right], Threat(norm, task["eps"])  # type: ignore[arg-type]


class Normalized(nn.Module):
    def __init__(self, net: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)  # type: ignore[no-any-return]


leaves_files_open = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@leaves_files_open
@pytest.mark.parametrize("name", BAR)
def test_as_many_images_are_certified_as_a_competitor_does(name: str, competition: Any) -> None:
    method, count = BAR[name]
    task, net, x, y, threat = task_of(competition, name, count)
    theirs = task[{"crown": "CROWN", "crown_ibp": "CROWN-IBP"}[method]]["certified_idx"]
    ours = getattr(ig.certify, method)(net, x, y, threat)
    assert int(ours.verified.sum()) >= sum(i < count for i in theirs)
    assert bool((ours.margin <= attacked(net, x, y, threat, steps=8)).all())


@leaves_files_open
@pytest.mark.parametrize("name", ["mnist_tiny_mlp/linf0.1", "mnistfc_256x2/linf0.02", "kw_mnist/linf0.1"])
def test_the_ladder_holds_on_trained_networks(name: str, competition: Any) -> None:
    _, net, x, y, threat = task_of(competition, name, 6)
    found, broken = ladder(net, x, y, threat), attacked(net, x, y, threat)
    for looser, tighter in itertools.pairwise(LADDER):
        room = 1e-4 * found[looser].abs()
        assert bool((found[tighter] >= found[looser] - room).all()), tighter
    assert all(bool((margin <= broken).all()) for margin in found.values())


def test_what_would_take_hours_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)
    ).eval()
    monkeypatch.setattr("ironglass.ops.linear.engine.MOST", 100)
    for method in ("crown", "alpha_crown", "cnn_cert", "fast_lin"):
        with pytest.raises(InputError, match=r"rows of up to 64 values back from the operator linear at '.*3'"):
            getattr(ig.certify, method)(net, images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.3))
    ig.certify.crown_ibp(net, images(2), torch.zeros(2, dtype=torch.long), ig.Linf(0.3))
