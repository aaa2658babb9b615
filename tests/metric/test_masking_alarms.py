"""The battery names broken defences for what they are, and leaves honest models alone."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.diagnosis import Diagnosis
from ironglass.core.errors import InputError
from ironglass.core.values import Threat
from ironglass.metric.masking_checks import CHECKS
from ironglass.run.runner import SHARD
from metric.broken import CNN, defences, digits, trained, winners

NAMED = {
    "no gradient": {"zero_gradient"},
    "zero gradient": {"zero_gradient"},
    "3 bits": {"zero_gradient", "steps"},
    "logits x 1000": {"saturated"},
    "softmax": {"probabilities"},
    "resize and pad": {"random"},
    "noise": {"random"},
    "k winners": {"jumps"},
    "batch statistics": {"batch"},
    "dropout": {"random"},
    "dynamic": {"gradient_at_inference"},
}
SHOWS = {
    "no gradient": {"black_box"},
    "zero gradient": {"black_box", "unbounded", "worst_case"},
    "3 bits": {"black_box", "unbounded", "worst_case"},
    "resize and pad": {"silent"},
    "noise": {"silent"},
    "dropout": {"silent"},
}
"""What the causes do to attacks, where it cannot be missed."""


class World(NamedTuple):
    """Networks that were trained once, and samples that they have not seen."""

    honest: CNN
    robust: CNN
    broken: dict[str, nn.Module]
    x: Tensor
    y: Tensor


@pytest.fixture(scope="module")
def world() -> World:
    x, y = digits()
    seen = x[:1400], y[:1400]
    honest, robust = trained(CNN(), *seen, steps=150), trained(CNN(), *seen, steps=300, eps=0.1)
    kwta = trained(CNN(winners(0.1)), *seen, steps=200)
    return World(honest, robust, defences(honest, kwta), x[1500:1548], y[1500:1548])


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Random defences draw from the global generators: they are seeded, and left as they were."""
    state = random.getstate()
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the model's outputs look like probabilities")
        torch.manual_seed(0)
        random.seed(0)
        yield
    random.setstate(state)


def battery(net: object, world: World, threat: Threat | None = None, **options: object) -> Diagnosis:
    small = {"steps": 10, "queries": 100, "probes": 5, "paths": 3} | options
    return ig.metric.masking_alarms(net, world.x, world.y, threat or ig.Linf(0.1), **small)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMED)
def test_a_broken_defence_is_named_for_what_it_is(world: World, name: str) -> None:
    found = battery(world.broken[name], world)
    assert set(found.causes) == NAMED[name], found.table()
    assert set(found.alarms) >= SHOWS.get(name, set()), found.table()


HONEST = [("honest", ig.Linf(0.1)), ("robust", ig.Linf(0.1)), ("robust", ig.L2(0.7)), ("honest", ig.L1(3.0))]


@pytest.mark.parametrize(("which", "threat"), HONEST, ids=str)
def test_an_honest_model_raises_no_alarm(world: World, which: str, threat: Threat) -> None:
    found = battery(getattr(world, which), world, threat)
    assert found.alarms == (), found.table()
    asked = {check.name for check in CHECKS if found.verdict(check.name) == "clear"}
    assert asked >= {check.name for check in CHECKS} - {"transfer", "incomplete"}
    assert found.verdict("transfer") == "not run"


def test_what_it_breaks_is_broken_and_within_the_threat(world: World) -> None:
    found = battery(world.honest, world)
    with torch.no_grad():
        assert torch.equal(found.broken, world.honest(found.adversarial).argmax(1) != world.y)
    assert float((found.adversarial - world.x).abs().max()) <= 0.1 + 1e-7
    assert int(found.broken.sum()) > 10
    attacked = ig.attack.pgd(world.honest, world.x, world.y, ig.Linf(0.1), steps=10, restarts=3)
    assert bool((found.broken >= attacked.success).all()), "the battery's worst case is no weaker than its own attack"


def test_a_surrogate_finds_what_hidden_gradients_hide(world: World) -> None:
    found = battery(world.broken["3 bits"], world, surrogate=world.honest)
    assert found.verdict("transfer") == "alarm"
    assert battery(world.honest, world, surrogate=world.robust).verdict("transfer") == "clear"


def test_a_model_that_learned_nothing_is_unbounded(world: World) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.flatten(1).sum(1) * 1e-3 + 10, *[x.flatten(1).mean(1)] * 9], 1)

    x = world.x
    found = ig.metric.masking_alarms(Constant().eval(), x, torch.zeros_like(world.y), ig.Linf(0.1), steps=5, queries=20)
    assert found.verdict("unbounded") == "alarm"
    assert found.value("unbounded") == 1
    assert found.causes == ()


def test_shards_join_before_anything_is_judged(world: World) -> None:
    x, y = digits()
    x, y = x[-SHARD - 20 :], y[-SHARD - 20 :]
    options = {"steps": 3, "restarts": 1, "queries": 5, "probes": 1, "paths": 1}
    whole = ig.metric.masking_alarms(world.broken["3 bits"], x, y, ig.Linf(0.1), **options)
    assert len(whole) == len(whole.evidence) == SHARD + 20
    assert whole.counts("zero_gradient") == (SHARD + 20, SHARD + 20)
    assert whole.alarms[:2] == ("zero_gradient", "steps")


def test_a_mask_has_no_boundless_attack(world: World) -> None:
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:12, 4:12] = 1
    found = battery(world.honest, world, Threat("linf", 0.2, mask))
    assert found.verdict("unbounded") == "not run"
    assert found.alarms == ()
    assert torch.equal(torch.where(mask != 0, world.x, found.adversarial), world.x)


def test_it_costs_no_more_than_its_card_says(world: World) -> None:
    options = {"steps": 5, "queries": 50, "probes": 3, "paths": 1}
    for net in (world.robust, world.broken["noise"], world.broken["zero gradient"]):
        found = ig.metric.masking_alarms(net, world.x[:8], world.y[:8], ig.Linf(0.1), **options)
        assert (found.cost.forward + found.cost.backward) / 8 <= ig.catalogue()["masking_alarms"].passes(10, options)


def test_it_is_saved_and_read_back(world: World, tmp_path: Path) -> None:
    found = battery(world.broken["softmax"], world, surrogate=world.honest, steps=5, restarts=1)
    found.save(tmp_path / "found.safetensors")
    back = ig.load(tmp_path / "found.safetensors")
    assert isinstance(back, Diagnosis)
    assert back.options["surrogate"] == "<CNN>"
    assert back.checks == found.checks
    assert torch.equal(back.evidence, found.evidence)
    assert back.alarms == found.alarms
    assert back.table() == found.table()


@pytest.mark.parametrize(("threat", "options"), [(ig.Linf(float("inf")), {}), (ig.Linf(0.1), {"restarts": 0})])
def test_requests_that_make_no_sense_are_refused(world: World, threat: Threat, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="masking_alarms"):
        battery(world.honest, world, threat, **options)
