"""The basic iterative method: all that can be gained, from the sample itself, and towards the least likely class."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ironglass as ig
from attack.oracles import REGIMES, case
from ironglass.core.values import Threat

RADII = {"linf": 0.1, "l2": 2.0, "l1": 8.0}
MASK = torch.zeros(1, 28, 28, dtype=torch.bool)
MASK[:, 3:25, 10:26] = True


def curved(classes: int = 6) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, classes)).eval()
        x = torch.rand(48, 1, 8, 8)
    return net, x, net(x).argmax(1)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("norm", RADII)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_it_takes_all_that_can_be_taken(regime: str, norm: str, masked: bool, targeted: bool, loss: str) -> None:
    made = case(regime, 10, lead=12.0)
    mask = MASK if masked else None
    goal = ig.Reach(torch.full((8,), made.near)) if targeted else ig.Avoid(made.y)
    result = ig.attack.bim(made.net, made.x, goal, Threat(norm, RADII[norm], mask), loss=loss)  # type: ignore[arg-type]
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain(norm, RADII[norm], mask)).all())
    assert float(result.distance.max()) <= RADII[norm] * (1 + 1e-9)
    if masked:
        assert torch.equal(torch.where(MASK, made.x, result.adversarial), made.x)
    assert result.queries.tolist() == [22] * len(made.x), "the first look, 20 gradients, and the last point"


def test_it_starts_at_the_sample_and_steps_as_told() -> None:
    made = case("interior", 2, lead=12.0)
    result = ig.attack.bim(made.net, made.x, made.y, ig.Linf(0.1), steps=3, step_size=0.02)
    assert torch.allclose(result.distance, torch.full_like(result.distance, 0.06))


@pytest.mark.parametrize("norm", RADII)
def test_the_least_likely_class_is_where_it_goes(norm: str) -> None:
    net, x, y = curved()
    wide = {"linf": 0.5, "l2": 4.0, "l1": 30.0}[norm]
    least = net(x).argmin(1)
    result = ig.attack.bim(net, x, y, Threat(norm, wide), steps=60, target="least_likely")  # type: ignore[arg-type]
    there = result.after.argmax(1) == least
    assert float(there.double().mean()) > 0.9
    assert bool(result.success[there].all()), "success is judged by the goal"
    aimed = ig.attack.bim(net, x, ig.Reach(least), Threat(norm, wide), steps=60)  # type: ignore[arg-type]
    assert torch.equal(aimed.adversarial, result.adversarial)


def test_of_two_classes_the_least_likely_is_the_other() -> None:
    made = case("saturated", 2, lead=12.0)
    result = ig.attack.bim(made.net, made.x, made.y, ig.L2(2.0), target="least_likely")
    assert bool((made.won(result.adversarial) >= 0.999 * made.gain("l2", 2.0)).all())


def test_requests_that_make_no_sense_are_refused() -> None:
    net, x, y = curved()
    with pytest.raises(ValueError, match="bim needs a finite eps"):
        ig.attack.bim(net, x, y, ig.L2(float("inf")))
    with pytest.raises(ValueError, match="steps=0"):
        ig.attack.bim(net, x, y, ig.L2(1.0), steps=0)
    with pytest.raises(ValueError, match="names its target already"):
        ig.attack.bim(net, x, ig.Reach((y + 1) % 6), ig.L2(1.0), target="least_likely")
