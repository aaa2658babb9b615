"""Losses with formulas of their own, a row at a time, and what must not change them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ironglass.core.access import Loss
from ironglass.core.values import Avoid, LossName, Reach
from ironglass.ops.losses import away, difference, likely

ALL = slice(None)


def drawn(classes: int, count: int = 60, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    scores = 3 * torch.randn(count, classes, generator=generator, dtype=dtype) - 20
    labels = torch.randint(classes, (count,), generator=generator)
    targets = (labels + torch.randint(1, classes, (count,), generator=generator)) % classes
    return scores, labels, targets


def gradient(loss: Loss, scores: Tensor) -> Tensor:
    leaf = scores.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf, ALL).sum(), leaf)
    return grad


def ratio(z: Tensor, y: int, t: int | None) -> float:
    """The difference of logits ratio of one row, by sorting."""
    order = sorted(z.tolist(), reverse=True)
    others = [float(z[k]) for k in range(len(z)) if k != y]
    gain = (max(others) if t is None else float(z[t])) - float(z[y])
    if len(order) < (3 if t is None else 4):
        return gain
    return gain / (order[0] - (order[2] if t is None else (order[2] + order[3]) / 2))


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 100])
def test_the_ratio_is_the_papers(classes: int) -> None:
    scores, labels, targets = drawn(classes)
    rows = list(zip(scores, labels.tolist(), targets.tolist(), strict=True))
    plain = torch.tensor([ratio(z, y, None) for z, y, _ in rows], dtype=torch.float64)
    aimed = torch.tensor([ratio(z, y, t) for z, y, t in rows], dtype=torch.float64)
    assert torch.allclose(Avoid(labels).loss("dlr")(scores, ALL), plain, rtol=1e-9)
    assert torch.allclose(away(Avoid(labels), "dlr", targets)(scores, ALL), aimed, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_shift_nor_scale_changes_the_ratio(dtype: torch.dtype) -> None:
    scores, labels, targets = drawn(10, dtype=dtype)
    close = {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-8, "atol": 1e-8}
    for loss in (Avoid(labels).loss("dlr"), Reach(targets).loss("dlr"), away(Avoid(labels), "dlr", targets)):
        for changed in (scores + 50, scores * 1000, scores * 1e-3):
            assert torch.allclose(loss(changed, ALL), loss(scores, ALL), **close)
        assert torch.allclose(gradient(loss, scores * 1000) * 1000, gradient(loss, scores), **close)


@pytest.mark.parametrize("classes", [2, 3])
def test_with_few_classes_it_is_the_margin_and_has_a_gradient(classes: int) -> None:
    scores, labels, targets = drawn(classes)
    assert torch.equal(away(Avoid(labels), "dlr", targets)(scores, ALL), difference(labels, targets)(scores, ALL))
    assert torch.equal(Reach(targets).loss("dlr")(scores, ALL), Reach(targets).loss("margin")(scores, ALL))
    if classes == 2:
        assert torch.equal(Avoid(labels).loss("dlr")(scores, ALL), Avoid(labels).loss("margin")(scores, ALL))
    for loss in (Avoid(labels).loss("dlr"), away(Avoid(labels), "dlr", targets)):
        correct = scores.argmax(1) == labels
        assert bool((gradient(loss, scores)[correct].abs().amax(1) > 1e-3).all())


@pytest.mark.parametrize("name", ["ce", "margin", "dlr"])
def test_gradients_are_those_of_finite_differences(name: LossName) -> None:
    scores, labels, targets = drawn(6, count=8)
    for loss in (Avoid(labels).loss(name), Reach(targets).loss(name), away(Avoid(labels), name, targets)):
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z, ALL), scores.requires_grad_())


def test_every_loss_is_positive_at_the_goal_or_rises_towards_it() -> None:
    scores, labels, targets = drawn(7)
    nearer = scores.clone()
    nearer[torch.arange(60), targets] += 0.01
    for name in ("ce", "margin"):
        loss = away(Avoid(labels), name, targets)  # type: ignore[arg-type]
        assert bool((loss(nearer, ALL) > loss(scores, ALL)).all())
    for goal in (Avoid(labels), Reach(targets)):
        assert torch.equal(goal.loss("dlr")(scores, ALL) > 0, goal.reached(scores))


def test_without_targets_it_is_the_goals_own_loss_and_rows_are_heeded() -> None:
    scores, labels, targets = drawn(5)
    rows = torch.tensor([7, 3, 3])
    assert torch.equal(away(Reach(targets), "ce")(scores, ALL), Reach(targets).loss("ce")(scores, ALL))
    for name in ("ce", "margin", "dlr"):
        loss = away(Avoid(labels), name, targets)  # type: ignore[arg-type]
        assert torch.equal(loss(scores[rows], rows), loss(scores, ALL)[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_torchs(dtype: torch.dtype) -> None:
    for scale in (0.1, 1.0, 10.0, 1000.0):
        scores, labels, _ = drawn(10, dtype=dtype)
        scores = scores + 20
        expected = F.cross_entropy(scores * scale, labels, reduction="none")
        found = Avoid(labels).loss("ce")(scores * scale, ALL)
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * max(scale, 1))
        assert torch.equal(Reach(labels).loss("ce")(scores * scale, ALL), -found)


def test_cross_entropy_keeps_a_gradient_where_softmax_saturates() -> None:
    scores, labels, _ = drawn(10, dtype=torch.float32)
    labels = scores.argmax(1)
    exact = gradient(Avoid(labels).loss("ce"), scores.double())  # its direction, where float64 still knows it
    for scale in (1.0, 30.0, 1e3, 1e5):
        given = scores * scale
        grad = gradient(Avoid(labels).loss("ce"), given)
        assert bool(grad.isfinite().all())
        assert bool((grad.abs().amax(1) > 1e-20).all())
        own = grad.gather(1, labels[:, None])[:, 0]
        assert torch.allclose(own, -(grad.sum(1) - own), rtol=1e-5), "what the others gain the label loses"
    lost = gradient(lambda z, _: F.cross_entropy(z, labels, reduction="none"), scores * 1e3)
    assert bool((lost == 0).all(1).any()), "the plain form has none"
    near = F.normalize(gradient(Avoid(labels).loss("ce"), scores).double())
    assert torch.allclose(near, F.normalize(exact), atol=1e-4)


def test_cross_entropy_rises_all_the_way_through_its_tail() -> None:
    gap = torch.linspace(-200, 40, 4001, dtype=torch.float64)
    scores = torch.stack([torch.zeros_like(gap), gap, torch.full_like(gap, -1e4)], 1)
    value = Avoid(torch.zeros(4001, dtype=torch.long)).loss("ce")(scores, ALL)
    assert bool((value.diff() > 0).all())
    slope = value.diff() / gap.diff()
    assert bool((slope.diff() > -1e-7).all()), "convex, also where the tail begins"


def test_the_most_likely_other_classes() -> None:
    scores, labels, _ = drawn(6)
    for count in (1, 3, 5, 9):
        found = likely(Avoid(labels), scores, count)
        assert found.shape == (60, min(count, 5))
        for row, label in enumerate(labels.tolist()):
            order = [k for k in scores[row].argsort(descending=True).tolist() if k != label]
            assert found[row].tolist() == order[:count]
