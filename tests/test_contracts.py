"""What every method of the catalogue must keep, whatever it is: a new method is tested here by existing."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ironglass.core.catalogue import LADDER, MADE, Card, catalogue
from ironglass.core.errors import AccessError, IronglassWarning, MethodFailed
from ironglass.core.method import Method, get
from ironglass.core.results import AttackResult, Attribution, Result
from ironglass.core.training import Epoch, Trained
from ironglass.core.values import Avoid, Bounds, Reach, Threat
from ironglass.models.adapter import Adapter, wrap
from ironglass.ops import lp
from ironglass.run import Runner, run_study, run_training
from ironglass.run.pools import Pool, Processes
from ironglass.run.runner import SHARD
from nets import images, labels_without_autograd, scores_without_autograd, small_cnn

RADII = {"linf": 0.1, "l2": 0.6, "l1": 2.0, "l0": 4.0, "wasserstein": 0.1}
CARDS = [card for card in catalogue().values() if card.decorator not in ("experiment", *MADE)]
"""What works on a model; an experiment has none, and what is made of a model is tested as one."""
MAKERS = [card for card in catalogue().values() if card.decorator in MADE]
ATTACKS = [(card, norm) for card in CARDS if card.decorator == "attack" for norm in card.norms]
SMALL = {"steps": 5, "max_queries": 40, "batches": 3, "samples": 12, "queries": 40, "probes": 3, "paths": 2, "top": 2}
SMALL |= {"nodes": 0, "parts": 12, "epochs": 3, "batch": 8, "replays": 1}
"""Options of these names are made small, so that the contracts stay quick; a method's own tests use it in earnest."""
NEEDED: dict[str, dict[str, Callable[[Tensor], Any]]] = {
    "difference_of_means": {"means": lambda x: images(5, seed=9)},
    "squeezing_detector": {"squeezers": lambda x: "mnist"},
    "transfer": {"source": lambda x: small_cnn(seed=7, dtype=x.dtype)},
    "pointing_game": {"regions": lambda x: x[:, 0] > 0.5},
}
"""What a method cannot do without, made of the samples."""

every = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
attacks = pytest.mark.parametrize(("card", "norm"), ATTACKS, ids=[f"{card.name}-{norm}" for card, norm in ATTACKS])
sharded = pytest.mark.parametrize(
    "card", [card for card in CARDS if card.decorator not in ("study", "train")], ids=lambda card: card.name
)
"""A study and a training are of all samples at once; every other method is cut into shards."""
trainings = pytest.mark.parametrize(
    "card", [card for card in CARDS if card.decorator == "train"], ids=lambda card: card.name
)
makers = pytest.mark.parametrize("card", MAKERS, ids=lambda card: card.name)
randoms = pytest.mark.parametrize("card", [card for card in CARDS if card.random], ids=lambda card: card.name)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the network is in train mode", category=IronglassWarning)
        yield


def options(card: Card, x: Tensor) -> dict[str, Any]:
    small = {option.name: SMALL[option.name] for option in card.options if option.name in SMALL}
    return small | {name: make(x) for name, make in NEEDED.get(card.name, {}).items()}


def call(card: Card, model: Any, x: Tensor, *, norm: str | None = None, seed: int = 0, **more: Any) -> Any:
    """Calls any method with what its kind takes; labels are drawn from the samples themselves."""
    method: Method[Any] = get(card.name)
    given = options(card, x) | ({"seed": seed} if card.random else {}) | more
    runner = model if isinstance(model, Runner) else Runner(model)
    y = (x.flatten(1).sum(1) * 7).long() % 5
    threat = Threat(norm or (card.norms or ("l2",))[0], RADII[norm or (card.norms or ("l2",))[0]])  # type: ignore[arg-type]
    if card.decorator in ("attack", "certify", "estimate", "smoothed", "diagnose"):
        return runner(method, x, y, threat, **given)
    if card.decorator == "study":  # of the model and itself
        named = {"first": runner.model, "second": runner.model}
        return run_study(method, named, x, y, threat if card.norms else None, **given)
    if card.decorator == "train":
        return run_training(method, runner.model, (x, y), threat, **given)
    if card.decorator == "explain":
        return runner(method, x, y, **given)
    if card.decorator == "uncertainty":
        return method(runner.model, x, **given)
    return runner(method, Runner(runner.model)(get("saliency"), x, y), **given)


def tensors(result: Result | Trained) -> dict[str, Tensor]:
    if isinstance(result, Trained):
        return dict(result.net.state_dict())
    named = {item.name: value for item in fields(result) if isinstance(value := getattr(result, item.name), Tensor)}
    return named | {"x": result.x} | dict(getattr(result, "extras", {}))


def same(first: Result | Trained, second: Result | Trained) -> bool:
    a, b = tensors(first), tensors(second)
    return a.keys() == b.keys() and all(torch.equal(_known(a[name]), _known(b[name])) for name in a)


def _known(tensor: Tensor) -> Tensor:
    """A study's figures are nan where nothing was measured."""
    return tensor.nan_to_num(nan=-1) if tensor.is_floating_point() else tensor


@attacks
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_attack_stays_inside_and_keeps_the_input(card: Card, norm: str, dtype: torch.dtype) -> None:
    x = images(12, dtype=dtype)
    kept = x.clone()
    result = call(card, small_cnn(dtype=dtype), x, norm=norm)
    assert isinstance(result, AttackResult)
    assert torch.equal(x, kept)
    assert result.adversarial.dtype == dtype
    assert bool(((result.adversarial >= 0) & (result.adversarial <= 1)).all())
    distance = lp.distance(result.adversarial.double(), x.double(), result.threat, Bounds())
    assert float(distance.max()) <= RADII[norm] * (1 + 1e-6)
    assert bool((result.queries >= 1).all())
    assert torch.equal(result.success, Avoid(result.goal).reached(result.after))


@attacks
def test_an_attack_of_no_size_changes_nothing(card: Card, norm: str) -> None:
    x = images(4)
    result = Runner(small_cnn())(get(card.name), x, torch.arange(4), Threat(norm, 0.0), **options(card, x))  # type: ignore[arg-type]
    assert isinstance(result, AttackResult)
    assert torch.equal(result.adversarial, x)


@attacks
def test_an_attack_changes_nothing_outside_its_mask(card: Card, norm: str) -> None:
    x, mask = images(6), torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 1:7] = True
    threat = Threat(norm, RADII[norm], mask)  # type: ignore[arg-type]
    result = Runner(small_cnn())(get(card.name), x, torch.arange(6) % 5, threat, **options(card, x))
    assert isinstance(result, AttackResult)
    assert torch.equal(torch.where(mask, x, result.adversarial), x)


@attacks
def test_a_targeted_attack_succeeds_only_at_its_target(card: Card, norm: str) -> None:
    if not card.targeted:
        pytest.skip(f"{card.name} takes no target")
    x, goal = images(8), Reach(torch.arange(8) % 5)
    result = Runner(small_cnn())(get(card.name), x, goal, Threat(norm, RADII[norm]), **options(card, x))  # type: ignore[arg-type]
    assert isinstance(result, AttackResult)
    assert torch.equal(result.success, result.after.argmax(1) == goal.labels)


@every
def test_a_network_is_left_as_it_was_also_after_an_exception(card: Card) -> None:
    net = small_cnn()
    assert net.training
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    net.head.bias.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(11), random.seed(12), np.random.seed(13)  # noqa: NPY002 - the legacy generator is what we watch
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[union-attr]  # noqa: NPY002

    call(card, net, images(5))
    with pytest.raises((MethodFailed, RuntimeError, ValueError)):
        call(card, _Failing(net), images(5))

    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore[union-attr]  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(module.training for module in net.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == [True] * 5 + [False]
    assert torch.equal(net.conv.weight.grad, torch.ones_like(net.conv.weight))
    assert [n for n, p in net.named_parameters() if p.grad is not None] == ["conv.weight"]
    assert not any(module._forward_hooks or module._backward_hooks for module in net.modules())


class _Failing(torch.nn.Module):
    """Runs for the probe, then raises."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise ValueError("out of order")
        return self.net(x)


@randoms
def test_another_seed_is_another_answer_and_the_same_seed_the_same(card: Card) -> None:
    net, x = small_cnn(), images(6)
    assert same(call(card, net, x, seed=3), call(card, net, x, seed=3))


@sharded
def test_a_sample_does_not_depend_on_its_batch_or_its_order(card: Card) -> None:
    net, x = small_cnn(dtype=torch.float64), images(9, dtype=torch.float64)
    order = torch.tensor([7, 2, 5, 0])
    whole, some = tensors(call(card, net, x)), tensors(call(card, net, x[order]))
    for name, tensor in whole.items():
        expected = tensor[order]
        assert torch.allclose(expected.double(), some[name].double(), rtol=1e-6, atol=1e-9), name


@pytest.fixture(scope="module")
def workers() -> Iterator[Pool]:
    with Processes(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def shown() -> Adapter:
    """One model for all methods, so that the workers are kept from one to the next."""
    return wrap(small_cnn().eval())


@sharded
def test_two_workers_give_the_same_bits_as_one(card: Card, workers: Pool, shown: Adapter) -> None:
    model, x = shown, images(SHARD + 20)
    assert same(call(card, model, x), call(card, Runner(model, pool=workers), x))


@every
def test_a_method_asks_no_more_than_its_card_says(card: Card) -> None:
    x = images(4)
    if card.access == "labels" and card.decorator != "metric":
        call(card, wrap(labels_without_autograd, classes=5), x)
    if card.access in ("labels", "scores") and card.decorator != "metric":
        call(card, scores_without_autograd, x)
    if card.decorator == "metric":
        net = small_cnn()
        attribution = Runner(net)(get("saliency"), x, torch.zeros(4, dtype=torch.long))
        assert isinstance(attribution, Attribution)
        again = "explains again" in card.tags  # then what is explained needs its own access too
        access = max(card.access, "gradient" if again else "labels", key=LADDER.index)
        Runner(wrap(net, access=access))(get(card.name), attribution, **options(card, x))  # type: ignore[arg-type]
        return
    rung = LADDER.index(card.access)
    call(card, wrap(small_cnn(), access=card.access), x)  # type: ignore[arg-type]
    if rung > 0:
        with pytest.raises(AccessError, match="needs"):
            call(card, wrap(small_cnn(), access=LADDER[rung - 1]), x)  # type: ignore[arg-type]


@attacks
def test_a_budget_is_never_exceeded_and_its_end_is_no_error(card: Card, norm: str) -> None:
    x = images(5)
    y = small_cnn().eval()(x).argmax(1)
    runner = Runner(small_cnn(), max_queries=3)
    result = runner(get(card.name), x, y, Threat(norm, RADII[norm]), **options(card, x))  # type: ignore[arg-type]
    assert isinstance(result, AttackResult)
    assert int(result.queries.max()) <= 3


@every
def test_an_unknown_option_is_an_error_that_names_the_nearest(card: Card) -> None:
    if card.options:
        name = card.options[0].name
        with pytest.raises(ValueError, match=f"no option '{name}x'"):
            call(card, small_cnn(), images(2), **{f"{name}x": 1})


@trainings
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(card: Card, tmp_path: Path) -> None:
    x, whole, cut = images(40), tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"

    def stop(done: int, total: int, epoch: Epoch) -> None:
        raise KeyboardInterrupt

    straight = call(card, small_cnn(), x, checkpoint=whole)
    first = call(card, small_cnn(), x, checkpoint=cut, progress=stop)
    assert (first.partial, len(first.history)) == (True, 2)
    assert not straight.partial
    last = call(card, small_cnn(), x, checkpoint=cut)
    assert same(straight, last)
    assert [epoch.counts for epoch in straight.history] == [epoch.counts for epoch in last.history]
    assert [epoch.loss for epoch in straight.history] == [epoch.loss for epoch in last.history]
    assert (straight.best, straight.cost.forward) == (last.best, last.cost.forward)
    kept, resumed = load_file(whole), load_file(cut)
    assert kept.keys() == resumed.keys()
    assert all(torch.equal(kept[name], resumed[name]) for name in kept)
    moved = [
        name for name, value in small_cnn().state_dict().items() if not torch.equal(value, kept[f"loop.net.net.{name}"])
    ]
    assert {"conv.weight", "head.weight", "bn.running_mean"} <= set(moved), "it did train"


@trainings
def test_a_training_gives_a_copy_of_the_network_that_works_in_the_users_units(card: Card) -> None:
    net, x = small_cnn(), images(30)
    net.head.bias.requires_grad_(False)
    model = wrap(net.eval(), mean=0.4, std=0.3, labels=list("abcde"))
    result = call(card, model, x)
    assert type(result.net) is type(net)
    assert result.net is not net
    assert not result.net.training
    assert torch.equal(result.net.head.bias, net.head.bias), "what is frozen stays"
    assert torch.allclose(result.model.scores(x), result.net((x - 0.4) / 0.3), atol=1e-5)
    assert result.model.name_of(1) == "b"
    assert result.table().rows[0][0] == "clean"
    assert len(result.curve().series[0].x) == len(result.history)


def made(card: Card, net: Any, x: Tensor) -> Any:
    """Returns the model that a defence makes: for a detector the guarded one."""
    method: Any = get(card.name)
    if card.decorator == "defence":
        small = {"smallest": 0.7, "largest": 1.0, "samples": 3} if card.stochastic else {}
        return method(net, **small)
    if card.decorator == "network_defence":
        norm = card.norms[0]
        return method(net, x, torch.arange(len(x)) % 5, Threat(norm, RADII[norm]))  # type: ignore[arg-type]
    return method(net, x, **options(card, x))


@makers
def test_what_a_defence_makes_is_a_model_that_leaves_the_network_as_it_was(card: Card) -> None:
    net, x = small_cnn().eval(), images(6)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = torch.get_rng_state()
    model = made(card, net, images(20, seed=3))
    model = getattr(model, "guarded", model)
    call(get("pgd").card, model, x)
    call(get("saliency").card, model, x)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not net.training


@makers
def test_through_a_defence_a_sample_does_not_depend_on_its_batch(card: Card) -> None:
    net, x = small_cnn(dtype=torch.float64).eval(), images(9, dtype=torch.float64)
    model = made(card, net, images(20, seed=3, dtype=torch.float64))
    model = getattr(model, "guarded", model)
    order = torch.tensor([7, 2, 5, 0])
    for name in ("pgd", "saliency"):
        whole, some = tensors(call(get(name).card, model, x)), tensors(call(get(name).card, model, x[order]))
        for part, tensor in whole.items():
            assert torch.allclose(tensor[order].double(), some[part].double(), rtol=1e-6, atol=1e-9), part


@makers
def test_through_a_defence_two_workers_give_the_same_bits_as_one(card: Card, workers: Pool) -> None:
    x = images(SHARD + 8)
    model = made(card, wrap(small_cnn().eval()), images(20, seed=3))
    model = getattr(model, "guarded", model)
    one, two = (call(get("fgsm").card, Runner(model, pool=pool), x) for pool in (None, workers))
    assert same(one, two)


@pytest.mark.slow
@every
def test_every_method_takes_a_defended_model(card: Card) -> None:
    x, net = images(5), small_cnn().eval()
    random = get("input_randomization").with_(smallest=0.7, largest=1.0, samples=2)
    for defence in (get("feature_squeezing"), random):
        model = cast(Any, defence)(net)
        if LADDER.index(card.access) <= LADDER.index("internals") and card.decorator != "uncertainty":
            call(card, model, x)


@pytest.mark.parametrize("name", [card.name for card in catalogue().values() if card.decorator == "experiment"])
def test_an_experiment_is_the_same_twice_and_takes_known_options_alone(name: str) -> None:
    run: Any = get(name)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = run(), run()
    assert torch.equal(before, torch.get_rng_state())
    assert same(first, second)
    assert first.options == run.card.filled({})
    assert first.table().rows
    assert first.charts()
    with pytest.raises(ValueError, match=f"no option '{run.card.options[0].name}x'"):
        run(**{f"{run.card.options[0].name}x": 1})
