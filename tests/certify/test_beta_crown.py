from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from bound_nets import NETS
from enumeration import least_margin, small_mlp
from ironglass.core.errors import InputError
from ironglass.ops import lp
from ironglass.ops.branching import ascent
from ironglass.ops.branching import signs as search
from ironglass.ops.branching.lined import Lined

EPS = 0.35
SEEDS = (2, 5, 7, 10, 12, 14, 15, 17)


def case(seed: int) -> tuple[nn.Sequential, Tensor, Tensor, float]:
    """A network, a sample, its label, and the exact least margin of its ball."""
    net = small_mlp(seed, scale=2.5)
    x = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = net(x).argmax(1)
    low, high = (x - EPS).clamp(0, 1)[0], (x + EPS).clamp(0, 1)[0]
    return net, x, y, least_margin(net, low, high, int(y))


EXACT = {seed: case(seed) for seed in SEEDS}


def margin(net: nn.Module, x: Tensor, y: Tensor, **options: Any) -> float:
    return float(ig.certify.beta_crown(net, x, y, ig.Linf(EPS), **options).margin)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_the_exact_minimum(seed: int) -> None:
    net, x, y, exact = EXACT[seed]
    assert exact - 2e-4 <= margin(net, x, y, gap=1e-4) <= exact + 1e-9


def test_it_decides_every_sign() -> None:
    """Some of the balls hold a point of another class, and some that do not CROWN cannot prove."""
    signs = [margin(net, x, y) > 0 for net, x, y, _ in EXACT.values()]
    assert signs == [exact > 0 for *_, exact in EXACT.values()]
    crown = [float(ig.certify.crown(net, x, y, ig.Linf(EPS)).margin) > 0 for net, x, y, _ in EXACT.values()]
    assert len(set(signs)) == 2
    assert crown != signs


def test_it_decides_in_single_precision() -> None:
    for net, x, y, exact in list(EXACT.values())[:4]:
        found = margin(copy.deepcopy(net).float(), x.float(), y, gap=1e-3)
        assert exact - 2e-3 <= found <= exact + 1e-5


def test_the_bounds_are_in_order() -> None:
    """CROWN ≤ some parts ≤ more parts ≤ exact ≤ attack."""
    for net, x, y, exact in list(EXACT.values())[1:5]:
        crown = float(ig.certify.crown(net, x, y, ig.Linf(EPS)).margin)
        some, more = (margin(net, x, y, gap=1e-4, parts=parts) for parts in (4, 24))
        generator = torch.Generator().manual_seed(0)
        points = (x + (torch.rand(4000, 3, generator=generator, dtype=x.dtype) * 2 - 1) * EPS).clamp(0, 1)
        scores = net(points)
        attack = float((scores[:, y] - scores.scatter(1, y.expand(len(points), 1), -torch.inf).amax(1, True)).min())
        assert crown <= some + 1e-12
        assert some <= more + 1e-9
        assert more <= exact + 1e-9
        assert exact <= attack + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_nowhere_below_alpha_crown(dtype: torch.dtype) -> None:
    """Searched to the end, each sample's margin is at least that of the slopes alone, whatever the network."""
    above = 0
    for seed in SEEDS[:4]:
        net = small_mlp(seed, scale=2.5, dtype=dtype)
        x = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        y = net(x).argmax(1)
        for eps in (0.1, EPS):
            alpha = ig.certify.alpha_crown(net, x, y, ig.Linf(eps)).margin
            beta = ig.certify.beta_crown(net, x, y, ig.Linf(eps), gap=1e-4).margin
            assert bool((alpha <= beta + 1.1e-4).all())
            above += int((beta > alpha + 1e-3).sum())
    assert above > 4


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_balls_are_bounded_better_than_by_crown_and_soundly(seed: int, norm: Any) -> None:
    net, x, y, _ = EXACT[seed]
    threat = ig.L2(0.4) if norm == "l2" else ig.L1(0.6)
    found = float(ig.certify.beta_crown(net, x, y, threat, gap=1e-6, parts=60).margin)
    crown = float(ig.certify.crown(net, x, y, threat).margin)
    generator = torch.Generator().manual_seed(seed)
    points = x + torch.randn(6000, 3, generator=generator, dtype=x.dtype) * 0.4
    points = lp.project(points, x.expand(len(points), 3), threat, ig.Bounds())
    scores = net(points)
    worst = float((scores[:, y] - scores.scatter(1, y.expand(len(points), 1), -torch.inf).amax(1, True)).min())
    assert crown - 1e-12 <= found <= worst + 1e-9


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", sorted(NETS))
def test_every_operator_is_passed_soundly(name: str) -> None:
    """Whatever the network is made of, the bound is no worse than CROWN's and no point is below it."""
    torch.manual_seed(0)
    net = NETS[name]().eval().requires_grad_(False)
    x = torch.rand(2, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    y = net(x).argmax(1)
    try:
        crown = ig.certify.crown(net, x, y, ig.Linf(0.05)).margin
    except InputError:
        pytest.skip("refused by name")
    found = ig.certify.beta_crown(net, x, y, ig.Linf(0.05), gap=1e-3, parts=8, steps=2).margin
    points = (x + (torch.rand(300, *x.shape, generator=torch.Generator().manual_seed(2)) * 2 - 1) * 0.05).clamp(0, 1)
    scores = net(points.flatten(0, 1)).reshape(300, 2, -1)
    own = scores.gather(2, y.expand(300, 2)[..., None])
    rest = scores.scatter(2, y.expand(300, 2)[..., None], -torch.inf).amax(2, keepdim=True)
    assert bool((found >= crown - 1e-6 * crown.abs()).all())
    assert bool((found <= (own - rest)[..., 0].amin(0) + 1e-5).all())


def test_a_sample_does_not_depend_on_its_batch() -> None:
    net = small_mlp(7, scale=2.5)
    x = torch.rand(2, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    y = net(x).argmax(1)
    together = ig.certify.beta_crown(net, x, y, ig.Linf(EPS), gap=1e-4).margin
    alone = [ig.certify.beta_crown(net, x[i : i + 1], y[i : i + 1], ig.Linf(EPS), gap=1e-4).margin for i in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-9)


def test_what_is_not_finite_is_not_proven() -> None:
    net = small_mlp(0)
    net[2].weight[0, 0] = torch.nan
    found = ig.certify.beta_crown(net, torch.full((1, 3), 0.5, dtype=torch.float64), torch.tensor([0]), ig.Linf(0.1))
    assert not bool(found.verified)


def test_wrong_options_are_named() -> None:
    net, x, y, _ = EXACT[7]
    with pytest.raises(InputError, match="gap=-1"):
        ig.certify.beta_crown(net, x, y, ig.Linf(0.1), gap=-1.0)


def unsound() -> bool:
    """Whether some network's bound lies above what its ball attains."""
    return any(margin(net, x, y, gap=1e-2, parts=200) > exact + 1e-6 for net, x, y, exact in EXACT.values())


def test_canary_one_half_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = search._halves

    def dropped(parts: Any, choice: Any) -> Any:
        both = halves(parts, choice)
        return both.take(torch.arange(len(both) // 2))

    monkeypatch.setattr(search, "_halves", dropped)
    assert unsound()


def test_canary_both_halves_have_one_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = search._halves

    def one_sign(parts: Any, choice: Any) -> Any:
        both = halves(parts, choice)
        both.signs = {step: sign.abs() for step, sign in both.signs.items()}
        return both

    monkeypatch.setattr(search, "_halves", one_sign)
    assert unsound()


def test_canary_multipliers_of_the_wrong_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    pull, slopes = Lined.pull, ascent._slopes

    def wrong(self: Lined, relaxed: Any, rows: Any, signs: Any, alphas: Any, betas: Any) -> Any:
        return pull(self, relaxed, rows, signs, alphas, {step: -beta for step, beta in betas.items()})

    def wrong_slopes(*args: Any) -> Any:
        return {key: -slope if key[0] == "beta" else slope for key, slope in slopes(*args).items()}

    monkeypatch.setattr(Lined, "pull", wrong)
    monkeypatch.setattr(ascent, "_slopes", wrong_slopes)
    assert unsound()


def test_canary_the_constraint_is_taken_the_wrong_way_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where z ≤ 0 is known, z = 0 for the ReLU's input is not: clipping the other end leaves points out."""
    split = Lined.split
    monkeypatch.setattr(Lined, "split", lambda self, signs: split(self, {s: v.abs() for s, v in signs.items()}))
    assert unsound()


def test_without_a_fault_nothing_is_unsound() -> None:
    assert not unsound()
