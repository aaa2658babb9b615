from __future__ import annotations

import torch
from torch import Tensor

from enumeration import small_mlp
from ironglass.ops.bounds import Interval
from ironglass.ops.branching.leaf import at_leaf
from ironglass.ops.branching.lined import Lined, lined
from ironglass.ops.capture import capture
from ironglass.ops.linear import Relaxed, intervals
from ironglass.ops.linear.relaxed import add

LOW = torch.full((1, 3), 0.2, dtype=torch.float64)
HIGH = LOW + 0.6


def made(seed: int = 5) -> tuple[torch.nn.Sequential, Lined]:
    net = small_mlp(seed, sizes=(3, 9, 8, 3), scale=2.5)
    graph, start = capture(net, torch.cat([LOW, HIGH]), torch.float64), Interval(LOW, HIGH)
    return net, lined(graph, start, intervals(graph, start))


def some_signs(net: Lined, count: int) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        step: (torch.randint(-1, 2, (count, *unstable.shape[1:]), generator=generator) * unstable).to(torch.int8)
        for step in net.relus
        if (unstable := net.unstable(step)) is not None
    }


def test_picked_lines_are_those_made_anew() -> None:
    _, net = made()
    signs = some_signs(net, 5)
    assert any(bool((sign == value).any()) for sign in signs.values() for value in (-1, 1))
    picked, values = net.split(signs), dict(net.relaxed.values)
    anew = Relaxed(net.relaxed.graph, values, dict(net.relaxed.lines), net.relaxed.losses, dict(net.relaxed.folds))
    for step, sign in signs.items():
        x = values[net.before(step)]
        low = torch.where(sign > 0, x.lower.clamp(min=0), x.lower)
        values[net.before(step)] = Interval(low, torch.where(sign < 0, x.upper.clamp(max=0), x.upper))
        add(anew, step)
        for side in ("lower", "upper"):
            ours, theirs = getattr(picked.lines[step], side), getattr(anew.lines[step], side)
            assert torch.equal(ours.slope, theirs.slope)
            assert torch.equal(ours.offset, theirs.offset)
        for name in ("slope", "bend", "offset", "width"):
            assert torch.equal(getattr(picked.folds[step], name), getattr(anew.folds[step], name))


def test_bounds_of_parts_hold_at_their_points_for_any_slopes_and_multipliers() -> None:
    net, between = made()
    points = LOW + (HIGH - LOW) * torch.rand(4000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before: dict[int, Tensor] = {}
    value = points
    for index, layer in enumerate(net):
        before[index] = value
        value = layer(value)
    row = torch.tensor([[[1.0, -1.0, 0.0]]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    met = 0
    for seed in range(40):
        chosen = some_signs(between, 40)
        signs = {step: sign[seed : seed + 1] * (torch.rand(sign[:1].shape, generator=generator) < 0.25).to(torch.int8)
                 for step, sign in chosen.items()}  # fmt: skip
        alphas, betas = {}, {}
        for step, sign in signs.items():
            alphas[step] = torch.rand(1, 1, *sign.shape[1:], generator=generator, dtype=torch.float64)
            betas[step] = (
                torch.rand(alphas[step].shape, generator=generator, dtype=torch.float64) * (sign != 0)[:, None]
            )
        bound = float(between.pull(between.split(signs), row.expand(1, 1, 3), signs, alphas, betas).bound)
        inside = torch.ones(len(points), dtype=torch.bool)
        for layer, sign in zip((1, 3), signs.values(), strict=True):
            inside &= (before[layer] * sign >= 0).all(1)
        if bool(inside.any()):
            met += 1
            assert bound <= float((value[inside] @ row[0, 0]).min()) + 1e-9
    assert met > 10


def test_a_leaf_without_a_point_is_lifted_above_anything() -> None:
    """All inputs of the first layer's ReLUs at once on the side where the centre is not: no point is there."""
    net, between = made()
    first, *rest = between.relus
    centre = net[0]((LOW + HIGH) / 2)
    signs = {first: (-centre.sign() * between.unstable(first)).to(torch.int8)}
    for step in rest:
        signs[step] = between.unstable(step).to(torch.int8)
    row = torch.tensor([[[1.0, -1.0, 0.0]]], dtype=torch.float64)
    bound, _ = at_leaf(between, row, signs, float("inf"))
    points = LOW + (HIGH - LOW) * torch.rand(20000, 3, dtype=torch.float64)
    inside = ((net[0](points) * signs[first]) >= 0).all(1)
    assert not bool(inside.any())
    assert float(bound) > float((net(points) @ row[0, 0]).min())
