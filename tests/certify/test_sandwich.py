from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError, MethodFailed
from ironglass.core.method import get
from ironglass.core.results import load
from ironglass.core.sandwich import Sandwich
from ironglass.core.values import Threat
from minima import mlp
from nets import images, scores_without_autograd


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    """An affine network on pictures, whose distances are known; some labels are wrong."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval().requires_grad_(False)
    net[1].weight.data = torch.randn(4, 64, generator=generator) * 0.5
    net[1].bias.data = torch.zeros(4)
    x = images(12) * 0.5 + 0.25
    net[1].bias.data = -net(x).mean(0)
    y = net(x).argmax(1)
    y[3] = (y[3] + 1) % 4
    return net, x, y


def exact_distance(net: nn.Module, x: Tensor, y: Tensor, norm: str) -> Tensor:
    scores = net(x).double()
    margin = scores.gather(1, y[:, None]) - scores
    slopes = (net[1].weight[y][:, None] - net[1].weight).double()  # type: ignore[index]
    order = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm]
    distance = margin / torch.linalg.vector_norm(slopes, order, 2).clamp(min=1e-12)
    return distance.scatter(1, y[:, None], torch.inf).amin(1).clamp(min=0)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.15)])
def test_both_sides_close_on_the_known_distance_of_an_affine_network(norm: Any, eps: float) -> None:
    net, x, y = linear()
    found = ig.certify.sandwich(net, x, y, Threat(norm, eps), steps=7)
    exact = exact_distance(net, x, y, norm)
    assert float(exact.max()) > eps / 2
    assert bool((found.lower <= exact).all())
    assert bool((found.upper >= exact - 1e-6).all())
    near = exact < eps
    assert bool((found.lower >= exact.clamp(max=eps) - eps / 100).all())
    assert torch.allclose(found.upper[near], exact[near], atol=2e-4)
    assert torch.allclose(found.estimate, exact.clamp(max=eps).double(), atol=1e-3)
    assert found.upper[3] == found.lower[3] == 0
    assert found.certificates == ("crown",)
    assert found.attacks == ("deepfool", "fmn")


def test_an_exact_method_closes_the_gap() -> None:
    """Of a network with pieces: what crown and attacks leave open, the last certificate settles to within a cell."""
    net = mlp((4, 10, 8, 3), 2, 2.0)
    x = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, threat = net(x).argmax(1), ig.Linf(0.3)
    open_ = ig.certify.sandwich(net, x, y, threat, attacks=("fgsm",), estimate=None, steps=6)
    closed = ig.certify.sandwich(
        net, x, y, threat, certificates=("crown", "milp"), attacks=("fgsm",), estimate=None, steps=6
    )
    assert bool((closed.lower >= open_.lower).all())
    assert bool((closed.upper <= open_.upper).all())
    assert bool((closed.upper - closed.lower).clamp(max=0.3)[closed.upper < 0.3].le(0.3 / 64 + 1e-9).all())
    assert float((open_.upper.clamp(max=0.3) - open_.lower).max()) > 0.3 / 16
    assert closed.estimate is None
    assert closed.certificates == ("crown", "milp")


def test_shares_table_and_curve_say_the_same() -> None:
    whole = Sandwich(
        x=torch.zeros(4, 2),
        method="sandwich",
        lower=torch.tensor([0.0, 0.1, 0.2, 0.4]),
        upper=torch.tensor([0.0, 0.3, torch.inf, torch.inf]),
        estimate=torch.tensor([0.0, 0.2, 0.3, 0.4]),
        y=torch.zeros(4).long(),
        threat=ig.Linf(0.4),
        certificates=("crown",),
        attacks=("fmn",),
    )
    assert whole.shares(0.0) == (0.75, 0.0, 0.25)
    assert whole.shares(0.2) == (0.5, 0.25, 0.25)
    assert whole.shares(0.4) == (0.25, 0.25, 0.5)
    assert [row[0] for row in whole.table().rows] == ["0.1", "0.2", "0.3", "0.4"]
    assert whole.table([0.2]).rows[0][1].startswith("2 (")
    assert whole.each().rows[2] == ("sample 2", "0.2", "0.3", "—")
    assert whole.width.tolist() == pytest.approx([0.0, 2 / 3, 1.0, 1.0])
    proven, estimated, alive = whole.curve().series
    for line, radii in ((proven, whole.lower), (estimated, whole.estimate), (alive, whole.upper)):
        for eps, share in zip(line.x, line.y, strict=True):
            right = radii[whole.upper > 0]
            assert share in (float((right >= eps).sum()) / 4, float((right > eps).sum()) / 4)
    at = {line.label.split(":")[0]: line for line in whole.curve().series}
    assert max(at["Proven"].y) == 0.75
    assert min(at["Not broken"].y) == 0.5


def test_what_crosses_is_a_bug_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that proves too much, found out by an attack."""
    net, x, y = linear()
    crown = get("crown")
    kept = crown.raw
    monkeypatch.setattr(crown, "raw", lambda *args, **options: kept(*args, **options) + 0.3)
    with pytest.raises(MethodFailed, match="bug of Ironglass"):
        ig.certify.sandwich(net, x, y, ig.Linf(0.05), estimate=None)
    with pytest.raises(MethodFailed, match=r"proven up to 0.2 \(crown\) and broken at 0.1 \(fmn\)"):
        Sandwich(
            x=x[:1],
            method="sandwich",
            lower=torch.tensor([0.2]),
            upper=torch.tensor([0.1]),
            y=y[:1],
            threat=ig.Linf(0.3),
            certificates=("crown",),
            attacks=("fmn",),
        )


def test_what_is_refused_is_noted_and_nothing_is_proven() -> None:
    x = images(3)
    with torch.no_grad():
        y = scores_without_autograd(x).argmax(1)
    found = ig.certify.sandwich(scores_without_autograd, x, y, ig.Linf(0.1), attacks=("square",))
    assert torch.equal(found.lower, torch.zeros(3).double())
    assert any(note.startswith("crown was refused") for note in found.notes)
    assert found.certificates == ()
    assert found.estimate is None
    assert int((found.upper < torch.inf).sum()) > 0


def test_a_sample_does_not_depend_on_its_batch_and_masks_are_kept() -> None:
    net, x, y = linear()
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    whole = ig.certify.sandwich(net, x, y, ig.Linf(0.3, mask), estimate=None)
    part = ig.certify.sandwich(net, x[4:7], y[4:7], ig.Linf(0.3, mask), estimate=None)
    assert torch.equal(whole.lower[4:7], part.lower)
    assert torch.allclose(whole.upper[4:7], part.upper, rtol=1e-4)
    assert bool((whole.lower >= ig.certify.sandwich(net, x, y, ig.Linf(0.3), estimate=None).lower).all())


def test_it_is_saved_and_read_back(tmp_path: Path) -> None:
    net, x, y = linear()
    found = ig.certify.sandwich(net, x, y, ig.Linf(0.2), steps=3, estimate=None)
    found.save(tmp_path / "sandwich.safetensors")
    again = load(tmp_path / "sandwich.safetensors")
    assert isinstance(again, ig.Sandwich)
    assert torch.equal(again.lower, found.lower)
    assert torch.equal(again.upper, found.upper)
    assert list(again.certificates) == list(found.certificates)


@pytest.mark.parametrize(
    ("threat", "options", "says"),
    [
        (ig.Linf(float("inf")), {}, "eps=inf"),
        (ig.Linf(0.1), {"steps": 21}, "steps=21"),
        (ig.Linf(0.1), {"certificates": ("pgd",)}, "pgd is no certify"),
        (ig.Linf(0.1), {"attacks": ("crown",)}, "crown is no attack"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(threat: Threat, options: dict[str, Any], says: str) -> None:
    net, x, y = linear()
    with pytest.raises(InputError, match=says):
        ig.certify.sandwich(net, x, y, threat, **options)
