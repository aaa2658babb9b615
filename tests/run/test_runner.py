from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core import method
from ironglass.core.access import Model
from ironglass.core.errors import InputError, MethodFailed
from ironglass.core.method import get
from ironglass.core.results import AttackResult, Attribution, Result
from ironglass.core.values import Goal, Threat
from ironglass.run import Runner
from ironglass.run.cache import Cache, key_of
from ironglass.run.judge import Job
from ironglass.run.pools import Processes
from ironglass.run.runner import SHARD
from nets import images, scores_without_autograd, small_cnn


@pytest.fixture
def net() -> torch.nn.Module:
    return small_cnn().eval()


def attack(runner: Runner, count: int = 6, **options: Any) -> AttackResult:
    x = images(count)
    result = runner(get("pgd"), x, torch.arange(count) % 5, ig.Linf(0.1), steps=3, **options)
    assert isinstance(result, AttackResult)
    return result


def lying(adversarial: Any) -> Any:
    """Returns the PGD method with a body that returns what the test wants."""
    method = get("pgd")
    return type(method)(lambda model, x, goal, threat, **options: adversarial(x), method.card)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda x: x[:1], r"returned \(1, 1, 8, 8\)"),
        (lambda x: x.double(), "torch.float64 for samples"),
        (lambda x: x * float("nan"), "not finite"),
        (lambda x: 1 / 0, "pgd failed: ZeroDivisionError"),
    ],
)
def test_a_method_that_breaks_its_contract_fails_by_name(net: torch.nn.Module, body: Any, says: str) -> None:
    y = net(images(4)).argmax(1)
    with pytest.raises(MethodFailed, match=says):
        Runner(net)(lying(body), images(4), y, ig.Linf(0.1))


def test_the_runner_judges_and_the_method_cannot_cheat(net: torch.nn.Module) -> None:
    x = images(4)
    y = net(x).argmax(1)
    result = Runner(net)(lying(lambda x: x + 0.5), x, y, ig.Linf(0.01))
    assert isinstance(result, AttackResult)
    assert float((result.adversarial - x).abs().max()) <= 0.01 * (1 + 1e-5)
    assert torch.equal(result.success, net(result.adversarial).argmax(1) != y)
    assert torch.allclose(result.distance, (result.adversarial - x).abs().flatten(1).amax(1))


def test_what_is_wrong_already_is_not_attacked(net: torch.nn.Module) -> None:
    x = images(6)
    wrong = (net(x).argmax(1) + 1) % 5
    result = Runner(net)(get("pgd"), x, wrong, ig.Linf(0.1))
    assert isinstance(result, AttackResult)
    assert bool(result.success.all())
    assert torch.equal(result.adversarial, x)
    assert result.queries.tolist() == [1] * 6
    assert result.cost.backward == 0


def test_shards_are_joined_in_order_and_progress_is_told(net: torch.nn.Module) -> None:
    ticks: list[tuple[str, int, int]] = []
    count = SHARD + 9
    runner = Runner(net, tick=lambda *what: ticks.append(what))
    result = attack(runner, count)
    assert torch.equal(result.x, images(count))
    assert ticks == [("pgd", SHARD, count), ("pgd", count, count)]
    assert result.cost.forward == int(result.queries.sum())


def test_a_mask_a_sample_is_cut_with_its_shard(net: torch.nn.Module) -> None:
    count = SHARD + 3
    x = images(count)
    masks = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    result = Runner(net)(get("fgsm"), x, torch.arange(count) % 5, ig.Linf(0.1, mask=masks))
    assert isinstance(result, AttackResult)
    assert torch.equal(torch.where(masks, x, result.adversarial), x)
    assert result.threat.mask is not None
    assert torch.equal(result.threat.mask, masks)


def test_no_target_explains_the_decision(net: torch.nn.Module) -> None:
    x = images(3)
    decided = ig.explain.saliency(net, x)
    assert torch.equal(decided.target, net(x).argmax(1))
    assert torch.equal(decided.values, ig.explain.saliency(net, x, net(x).argmax(1)).values)
    assert ig.explain.saliency(net, x, 2).target.tolist() == [2, 2, 2]


def test_fixed_options_are_kept_and_travel(net: torch.nn.Module) -> None:
    strong = ig.attack.pgd.with_(steps=2, restarts=2)
    assert repr(strong) == "attack.pgd.with_(steps=2, restarts=2)"
    again = pickle.loads(pickle.dumps(strong))
    assert (again.fixed, again.card) == (strong.fixed, strong.card)
    result = strong(net, images(2), torch.tensor([0, 1]), ig.Linf(0.1), steps=3)
    assert (result.options["steps"], result.options["restarts"]) == (3, 2)
    with pytest.raises(InputError, match="no option 'stepz'"):
        ig.attack.pgd.with_(stepz=1)  # type: ignore[call-arg,unused-ignore]


def test_what_cannot_travel_says_so() -> None:
    with Processes(1) as pool, pytest.raises(InputError, match="cannot be sent to worker processes"):
        Runner(lambda x: x.flatten(1)[:, :5], pool=pool)(get("random_noise"), images(2), torch.tensor([0, 1]), ig.L2(1))
    with pytest.raises(InputError, match="workers=0"):
        Processes(0)


def test_a_model_from_a_users_file_travels(tmp_path: Path) -> None:
    from ironglass.models.sources import load_model

    (tmp_path / "net.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.head = torch.nn.Linear(64, 5)\n\n"
        "    def forward(self, x):\n        return self.head(x.flatten(1))\n\n\n"
        "def make():\n    torch.manual_seed(0)\n    return Net().eval()\n"
    )
    model = load_model(f"{tmp_path / 'net.py'}:make")
    with Processes(1) as pool:
        there = attack(Runner(model, pool=pool))
    assert torch.equal(there.adversarial, attack(Runner(model)).adversarial)


def test_an_error_in_a_worker_arrives_whole() -> None:
    with Processes(1) as pool, pytest.raises(InputError, match="both must be at least 1"):
        attack(Runner(small_cnn().eval(), pool=pool), restarts=0)


def test_the_cache_key_holds_all_that_matters(net: torch.nn.Module) -> None:
    x, y = images(3), torch.tensor([0, 1, 2])
    model = ig.wrap(net)

    def key(**changes: Any) -> str | None:
        parts = {
            "method": get("fgsm"),
            "x": x,
            "goal": ig.Avoid(y),
            "threat": ig.Linf(0.1),
            "options": {"loss": "ce"},
        } | changes
        job = Job(
            parts["method"], parts["x"], (parts["goal"], parts["threat"]), parts["options"], changes.get("budget")
        )
        return key_of(changes.get("model", model), job)

    changes: list[dict[str, Any]] = [
        {"method": get("pgd")},
        {"x": x + 1e-3},
        {"goal": ig.Avoid(y + 1)},
        {"goal": ig.Reach(y)},
        {"threat": ig.Linf(0.2)},
        {"threat": ig.L2(0.1)},
        {"threat": ig.Linf(0.1, mask=torch.ones(1, 1, 8, 8))},
        {"options": {"loss": "margin"}},
        {"budget": 5},
        {"model": ig.wrap(small_cnn(1).eval())},
        {"model": ig.wrap(small_cnn().eval(), mean=0.5)},
    ]
    keys = [key(), *(key(**change) for change in changes)]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert key() == keys[0] == key(model=ig.wrap(small_cnn().eval()))
    assert key(model=ig.wrap(scores_without_autograd)) is None


def test_a_cached_shard_is_not_done_again(
    net: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = attack(Runner(net, cache=Cache(tmp_path)))

    def fail(*args: Any, **options: Any) -> Tensor:
        raise AssertionError("done again")

    monkeypatch.setattr(get("pgd"), "raw", fail)
    second: Result = attack(Runner(net, cache=Cache(tmp_path)))
    assert isinstance(second, AttackResult)
    assert torch.equal(first.adversarial, second.adversarial)


def test_a_half_written_cache_file_is_not_read(net: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / "abc.123.part").write_bytes(b"half")
    cache = Cache(tmp_path)
    assert cache.get("abc") is None
    result = ig.explain.saliency(net, images(2))
    cache.put("abc", result)
    back = cache.get("abc")
    assert isinstance(back, Attribution)
    assert torch.equal(back.values, result.values)


def test_a_probe_from_outside_the_ball_is_no_success() -> None:
    @method.attack(title="Far", paper="szegedy2014", access="scores", norms=("l2",), cost="2")
    def far_and_back(model: Model, x: Tensor, goal: Goal, threat: Threat) -> Tensor:
        """Look far away, then near."""
        model.scores(-9 * x)
        model.scores(x)
        return x

    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)).eval()
    x = images(6)
    with torch.no_grad():
        y = net(x).argmax(1)
        fooled = net(-9 * x).argmax(1) != y
    assert bool(fooled.any())
    near, far = (far_and_back(net, x, y, ig.L2(eps)) for eps in (0.1, 100.0))
    assert torch.equal(far.first_success, torch.where(fooled, 2, -1))
    assert bool((near.first_success == -1).all())
