from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ironglass.core.errors import InputError
from ironglass.core.results import AttackResult, Attribution, Certificate, Cost, load
from ironglass.core.values import L1, L2, Avoid, Bounds, Evade, Linf, Reach, Threat, finite
from ironglass.run.judge import join, part


def test_empty_bounds_and_negative_radii_are_refused() -> None:
    with pytest.raises(InputError, match="bounds"):
        Bounds(1, 0)
    for eps in (-0.1, float("nan")):
        with pytest.raises(InputError, match="eps is"):
            L2(eps)


def test_goals_judge_decisions_and_never_call_nan_a_success() -> None:
    scores = torch.tensor([[2.0, 1, 0], [0, 1, 2], [float("nan"), 0, 0]])
    y = torch.tensor([0, 0, 1])
    assert Avoid(y).reached(scores).tolist() == [False, True, False]
    assert Reach(y).reached(scores).tolist() == [True, False, False]
    assert Avoid(y).take(torch.tensor([1])).reached(scores[1:2]).tolist() == [True]


@pytest.mark.parametrize("name", ["ce", "margin"])
def test_losses_rise_towards_the_goal(name: str) -> None:
    torch.manual_seed(0)
    scores, y = torch.randn(50, 7) - 20, torch.randint(7, (50,))  # all logits negative: a masked max must not use 0
    for goal in (Avoid(y), Reach(y)):
        loss = goal.loss(name)(scores, slice(None))  # type: ignore[arg-type]
        nearer = scores.clone()
        nearer[torch.arange(50), y] += -1.0 if isinstance(goal, Avoid) else 1.0
        assert bool((goal.loss(name)(nearer, slice(None)) > loss).all())  # type: ignore[arg-type]
    assert torch.equal(Avoid(y).loss("margin")(scores, slice(None)) > 0, Avoid(y).reached(scores))
    assert torch.equal(Reach(y).loss("margin")(scores, slice(None)) > 0, Reach(y).reached(scores))


def test_a_loss_takes_the_rows_it_is_told() -> None:
    scores, y = torch.eye(3), torch.tensor([0, 1, 2])
    rows = torch.tensor([2, 0])
    assert torch.equal(Avoid(y).loss()(scores[rows], rows), Avoid(y).loss()(scores, slice(None))[rows])


def test_results_survive_a_file(tmp_path: Path) -> None:
    x = torch.rand(3, 1, 2, 2)
    mask = torch.tensor([[[[True, False], [True, True]]]])
    result = AttackResult(
        x=x,
        adversarial=x + 0.1,
        success=torch.tensor([True, False, True]),
        distance=torch.ones(3),
        queries=torch.tensor([1, 2, 3]),
        first_success=torch.tensor([1, -1, 3]),
        before=torch.rand(3, 4),
        after=torch.rand(3, 4),
        goal=torch.tensor([0, 1, 2]),
        targeted=False,
        threat=Linf(0.1, mask),
        method="pgd",
        options={"steps": 3, "step_size": None},
        cost=Cost(4, 5, 0.5),
        seed=7,
    )
    result.save(tmp_path / "r.safetensors")
    back = load(tmp_path / "r.safetensors")
    assert isinstance(back, AttackResult)
    assert torch.equal(back.adversarial, result.adversarial)
    assert torch.equal(back.success, result.success)
    assert back.threat.mask is not None
    assert torch.equal(back.threat.mask, mask)
    assert (back.cost, back.options, back.seed, back.threat.eps) == (result.cost, result.options, 7, 0.1)
    assert back.success_rate == pytest.approx(2 / 3)


def test_optional_fields_may_be_absent_from_a_file(tmp_path: Path) -> None:
    x = torch.rand(2, 3)
    kwargs = {
        "verified": torch.tensor([True, False]),
        "margin": torch.rand(2),
        "y": torch.tensor([0, 1]),
        "threat": L1(2.0),
    }
    Certificate(x=x, method="interval", **kwargs).save(tmp_path / "c.safetensors")  # type: ignore[arg-type]
    back = load(tmp_path / "c.safetensors")
    assert isinstance(back, Certificate)
    assert back.threat.mask is None
    assert not back.partial


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"not tensors")
    with pytest.raises(InputError, match="cannot read"):
        load(tmp_path / "x")
    with pytest.raises(InputError, match="cannot read"):
        load(tmp_path / "missing")


def test_a_mask_a_sample_is_taken_with_its_sample() -> None:
    masks = torch.rand(4, 2, 2) > 0.5
    assert torch.equal(Threat("l2", 1.0, masks).take(torch.tensor([3])).mask, masks[3:])  # type: ignore[arg-type]
    shared = Threat("l2", 1.0, masks[:1])
    assert shared.take(torch.tensor([3])) is shared


def test_what_else_an_explanation_knows_is_taken_joined_and_saved(tmp_path: Path) -> None:
    x = torch.rand(4, 3)
    extras = {"fit": torch.rand(4, dtype=torch.float64), "parts": torch.arange(12).reshape(4, 3)}
    options = {"steps": 3, "weights": torch.ones(2)}
    whole = Attribution(
        x=x, method="lime", options=options, values=x, target=torch.zeros(4, dtype=torch.long), extras=extras
    )
    some = part(whole, torch.tensor([3, 1]))
    assert torch.equal(some.extras["parts"], extras["parts"][[3, 1]])
    joined = join([part(whole, slice(0, 1)), part(whole, slice(1, 4))])
    assert isinstance(joined, Attribution)
    assert all(torch.equal(joined.extras[name], extras[name]) for name in extras)
    whole.save(tmp_path / "a.safetensors")
    back = load(tmp_path / "a.safetensors")
    assert isinstance(back, Attribution)
    assert back.extras.keys() == extras.keys()
    assert all(torch.equal(back.extras[name], extras[name]) for name in extras)
    assert back.options["weights"]["shape"] == [2]


def test_evading_is_neither_the_label_nor_detected() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.5, 0.0], [0.0, 1.0, 2.0, 3.0], [2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    goal = Evade(torch.tensor([0, 0, 0]), 3)
    assert goal.reached(scores).tolist() == [True, False, False]
    assert goal.take(torch.tensor([2, 0])).reached(scores[[2, 0]]).tolist() == [False, True]
    rows = slice(None)
    assert goal.loss("margin")(scores, rows).tolist() == [1.0, -1.0, -1.0]
    own, others = scores[:, [0, 3]].logsumexp(1), scores[:, [1, 2]].logsumexp(1)
    assert torch.allclose(goal.loss("ce")(scores, rows), torch.nn.functional.softplus(others - own))
    top = scores.sort(1, descending=True).values
    assert torch.allclose(goal.loss("dlr")(scores, rows), goal.loss("margin")(scores, rows) / (top[:, 0] - top[:, 2]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found_anywhere(dtype: torch.dtype, wrong: float) -> None:
    for place in (0, 17, 98):
        values = torch.linspace(-1, 1, 99).to(dtype)
        assert finite(values)
        values[place] = wrong
        assert not finite(values)


def test_what_cannot_be_infinite_is_finite() -> None:
    assert finite(torch.arange(3))
    assert finite(torch.ones(2, dtype=torch.bool))
    assert finite(torch.empty(0, 4))
