from __future__ import annotations

import itertools
import math

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from ironglass.core.draws import Draws
from ironglass.core.errors import InputError
from ironglass.models.adapter import wrap
from ironglass.ops import observe as engine
from ironglass.ops.designs import balanced, coalitions, plan
from ironglass.ops.observe import blocks, chunks, observe, outcome, ridge


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha", [1.0, 0.01, 30.0])
@pytest.mark.parametrize("outputs", [1, 4])
def test_the_ridge_is_scikit_learns(alpha: float, outputs: int) -> None:
    z = torch.rand(3, 60, 9, generator=generator()) < 0.5
    y = torch.randn(3, 60, outputs, generator=generator(1), dtype=torch.float64)
    weight = torch.rand(3, 60, generator=generator(2), dtype=torch.float64)
    fit = ridge(z, y, weight, alpha)
    for i in range(3):
        theirs = Ridge(alpha=alpha).fit(z[i].double().numpy(), y[i].numpy(), sample_weight=weight[i].numpy())
        coefficients = torch.as_tensor(theirs.coef_).reshape(outputs, 9).T
        torch.testing.assert_close(fit.weights[i], coefficients, rtol=0, atol=1e-9)
        torch.testing.assert_close(fit.constant[i], torch.as_tensor(theirs.intercept_).reshape(-1), rtol=0, atol=1e-9)
        if outputs == 1:
            quality = theirs.score(z[i].double().numpy(), y[i].numpy(), sample_weight=weight[i].numpy())
            assert float(fit.quality[i]) == pytest.approx(quality, abs=1e-9)


def test_a_linear_answer_is_recovered_without_a_penalty_and_fits_fully() -> None:
    z = torch.rand(2, 40, 6, generator=generator()) < 0.5
    z[:, :, 5] = True  # a part that never goes: nothing tells it apart
    truth = torch.randn(2, 6, 1, generator=generator(1), dtype=torch.float64)
    fit = ridge(z, z.double() @ truth + 3, torch.ones(2, 40), 0)
    torch.testing.assert_close(fit.weights[:, :5], truth[:, :5], rtol=0, atol=1e-10)
    assert float(fit.weights[:, 5].abs().max()) < 1e-10
    torch.testing.assert_close(fit.quality, torch.ones(2, 1, dtype=torch.float64))
    assert float(fit.interval.max()) < 1e-9
    assert torch.equal(ridge(z, torch.full((2, 40, 1), 7.0), torch.ones(2, 40), 1).quality, torch.ones(2, 1).double())


def test_the_interval_holds_the_truth() -> None:
    truth = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
    z = torch.rand(400, 100, 4, generator=generator()) < 0.5
    noise = torch.randn(400, 100, generator=generator(1), dtype=torch.float64) * (1 + 2 * z[..., 0])
    fit = ridge(z, (z.double() @ truth + noise)[..., None], torch.ones(400, 100), 1e-9)
    holds = ((fit.weights[..., 0] - truth).abs() <= fit.interval[..., 0]).double().mean(0)
    assert float(holds.min()) > 0.9
    assert float(holds.max()) < 0.985, "and is no wider than it need be"


@pytest.mark.parametrize(("count", "parts"), [(64, 7), (256, 49), (33, 12), (10, 64), (500, 1)])
def test_masks_come_in_opposite_pairs_and_are_balanced(count: int, parts: int) -> None:
    draws = Draws(torch.arange(3), 0)
    masks = balanced(draws, count, parts, torch.arange(3))
    assert masks.shape == (3, count, parts)
    whole = count // 2 * 2
    assert torch.equal(masks[:, 0:whole:2], ~masks[:, 1:whole:2])
    size = 1 << parts.bit_length()
    full = count // (2 * size) * 2 * size
    signs = masks[:, :full].double() * 2 - 1
    assert torch.equal(signs.mT @ signs, full * torch.eye(parts, dtype=torch.float64).expand(3, -1, -1))
    assert not torch.equal(masks[0], masks[1])
    alone = balanced(Draws(torch.arange(3), 0), count, parts, torch.tensor([2]))
    assert torch.equal(alone[0], masks[2])


def test_a_mask_by_itself_is_a_uniform_draw() -> None:
    masks = torch.cat([balanced(Draws(torch.arange(300), seed), 2, 3, torch.arange(300)) for seed in range(10)])
    patterns = (masks[:, 0].long() @ torch.tensor([4, 2, 1])).bincount(minlength=8)
    assert float((patterns - 375).abs().max()) < 5 * math.sqrt(375)


@pytest.mark.parametrize("parts", [2, 3, 4, 7, 10])
def test_all_coalitions_are_looked_at_once_where_they_are_few(parts: int) -> None:
    masks, weights = coalitions(Draws(torch.arange(2), 0), 2**parts - 2, parts, torch.arange(2))
    assert {tuple(mask) for mask in masks[0].tolist()} == set(itertools.product([False, True], repeat=parts)) - {
        (False,) * parts,
        (True,) * parts,
    }
    assert len(masks[0]) == 2**parts - 2
    size = masks[0].sum(1)
    kernel = [(parts - 1) / (math.comb(parts, s) * s * (parts - s)) for s in size.tolist()]
    torch.testing.assert_close(weights, torch.tensor(kernel, dtype=torch.float64))


@pytest.mark.parametrize(("parts", "count"), [(12, 200), (49, 1000), (49, 10), (5, 3), (30, 500), (200, 1000)])
def test_coalitions_stay_within_their_number_and_every_size_keeps_its_weight(parts: int, count: int) -> None:
    masks, weights = coalitions(Draws(torch.arange(2), 0), count, parts, torch.arange(2))
    assert masks.shape[1] == len(weights) <= count
    assert torch.equal(masks[:, ::2], ~masks[:, 1::2])
    size = masks[1].sum(1)
    for each in size.unique().tolist():
        assert float(weights[size == each].sum()) == pytest.approx((parts - 1) / (each * (parts - each)))
    assert sum(2 * group.pairs for group in plan(parts, count)) == len(weights)
    assert len(weights) >= count - 1 or all(group.whole for group in plan(parts, count))


def test_chunks_and_blocks_meet_every_input_once() -> None:
    for samples, count, size in ((3, 7, 1 << 20), (5, 4, 1 << 23), (300, 12, 64), (2, 1, 1)):
        seen = torch.zeros(samples, count)
        for which, part in chunks(samples, count, size):
            seen[which, part] += 1
            assert (which.stop - which.start) * (part.stop - part.start) * size <= max(engine.VALUES, size)
        assert bool((seen == 1).all())
    assert [part for block in blocks(10, engine.STORED // 3) for part in range(10)[block]] == list(range(10))


@pytest.mark.parametrize("values", [20, 64, 1 << 20])
def test_answers_come_in_order_and_are_charged_to_their_samples(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr(engine, "VALUES", values)
    x = torch.arange(12.0).reshape(4, 3) / 12
    model = wrap(lambda x: torch.stack([x.sum(1), -x[:, 0]], 1))
    session, meter = model.session(x)

    def make(which: slice, part: slice) -> Tensor:
        rows = torch.tensor([2, 0, 3])[which]
        return (x[rows, None] + torch.arange(5.0)[part, None]).flatten(0, 1)

    found = observe(session, make, x, 5, torch.tensor([2, 0, 3]))
    expected = x[[2, 0, 3]].sum(1)[:, None] + 3 * torch.arange(5.0)
    torch.testing.assert_close(found[..., 0], expected)
    assert meter.queries.tolist() == [5, 0, 5, 5]


def test_what_is_explained_is_the_logit_or_the_probability() -> None:
    scores = torch.randn(3, 4, 5, generator=generator())
    target = torch.tensor([1, 0, 4])
    assert torch.equal(outcome(scores, target, "logit")[2], scores[2, :, 4].double())
    torch.testing.assert_close(outcome(scores, target, "probability")[0], scores[0].double().softmax(1)[:, 1])
    with pytest.raises(InputError, match="no output"):
        outcome(scores, target, "logits")  # type: ignore[arg-type]
