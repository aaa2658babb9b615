from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.model_based.additive_model import AdditiveModel
from tables import mixed


def test_terms_and_intercept_add_up_to_the_logits() -> None:
    x, y = mixed()
    model = ig.explain.additive_model(x, y, categorical=(1,))
    terms = model.terms(x)
    assert terms.shape == (600, 2, 3)
    assert torch.allclose(model.intercept + terms.sum(2), model(x), rtol=1e-12, atol=1e-12)
    assert float(terms.mean(0).abs().max()) < 1e-9, "a term is counted from its mean"


def slowly(x: Tensor, y: Tensor, model: AdditiveModel, smooth: float, ridge: float) -> list[Tensor]:
    """Returns the gradient of the penalized loss in each curve ``(bins, classes)``, by autograd."""
    shapes = [shape.clone().requires_grad_() for shape in model.shapes]
    scores = model.intercept.expand(len(x), -1)
    for column, (shape, edges) in enumerate(zip(shapes, model.edges, strict=True)):
        scores = scores + shape[(x[:, column, None] > edges).sum(1)]
    loss = -scores.log_softmax(1).gather(1, y[:, None]).sum()
    for shape in shapes:
        loss = loss + smooth / 2 * shape.diff(dim=0).square().sum() + ridge / 2 * shape.square().sum()
    return list(torch.autograd.grad(loss, shapes))


def test_cyclic_boosting_never_raises_the_loss_and_ends_at_its_minimum() -> None:
    x, y = mixed(200)
    x = x[:, [0, 2]]
    model = ig.explain.additive_model(x, y, bins=6, rounds=3000, smooth=2.0, ridge=0.5, tol=0.0)
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(model.losses))
    for grad in slowly(x, y, model, 2.0, 0.5):  # the curves were brought to mean 0 since: that moves the ridge's part
        assert torch.allclose(grad, grad[:1].expand_as(grad), atol=1e-5), "the same in every bin"


def test_an_additive_model_finds_the_curve_and_ignores_the_noise() -> None:
    x, _ = mixed(2000)
    outer = (x[:, 0].abs() > 1).long()
    model = ig.explain.additive_model(x, outer, categorical=(1,))
    sizes = model.importance(x)
    assert float(sizes[0]) > 10 * float(sizes[1:].max())
    curve = model.curve(0).series[0]
    inside = [height for at, height in zip(curve.x, curve.y, strict=True) if abs(at) < 0.8]
    outside = [height for at, height in zip(curve.x, curve.y, strict=True) if abs(at) > 1.2]
    assert max(inside) < 0 < min(outside)


def test_a_category_that_was_not_seen_adds_nothing() -> None:
    x, y = mixed()
    model = ig.explain.additive_model(x, y, categorical=(1,))
    row = torch.tensor([[0.3, 9.0, 0.5]], dtype=torch.double)
    assert not bool(model.terms(row)[:, :, 1].any())
    assert len(model.curve(1).series[0].x) == 3


def test_a_smoother_curve_jumps_less_and_a_constant_column_is_no_curve() -> None:
    x, y = mixed()
    x[:, 2] = 0.5
    rough, even = (ig.explain.additive_model(x, y, smooth=smooth) for smooth in (0.0, 50.0))
    jumps = [float(model.shapes[0].diff(dim=0).abs().max()) for model in (rough, even)]
    assert jumps[1] < jumps[0] / 4
    assert rough.parts == 2
    assert not rough.curve(2).series[0].x
    with pytest.raises(InputError, match="bins=1"):
        ig.explain.additive_model(x, y, bins=1)
