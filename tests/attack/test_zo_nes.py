"""ZO-NES: its steps, and the settings that see less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ironglass as ig
from attack.watched import asked, bent
from ironglass.core.errors import AccessError


def test_its_steps_are_those_of_the_paper() -> None:
    shape, mu, size = (1, 5, 5), 1e-3, 0.01
    margin = bent(shape)
    x = 0.45 + 0.1 * torch.rand(1, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    queries, _ = asked("zo_nes", x, ig.Linf(0.2), margin, 12 * 4 + 1, samples=6, radius=mu, step_size=size)
    values, queries = margin(queries), queries.flatten(1)
    point, running = x.flatten(), torch.zeros(25, dtype=torch.float64)
    for step in range(4):
        ends, worth = queries[12 * step :][:12].reshape(6, 2, 25), values[12 * step :][:12].reshape(6, 2)
        assert torch.allclose(ends.mean(1), point.expand(6, -1), atol=1e-9), "pairs about the point"
        u = (ends[:, 0] - ends[:, 1]) / (2 * mu)
        running = 0.9 * running + 0.1 * 25 / (12 * mu) * (worth[:, 0] - worth[:, 1]) @ u
        point = point + size * running.sign()
    assert torch.allclose(queries[48], point, atol=1e-9)


def few_scores(keep: int) -> Callable[[Tensor], Tensor]:
    """A linear model of four classes that tells only the largest probabilities, or with 0 the label alone."""
    weight = torch.randn(36, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def scores(x: Tensor) -> Tensor:
        full = ((x.flatten(1) - 0.5) @ weight).log_softmax(1)
        if keep == 0:
            return full.argmax(1)
        floor = full.topk(keep, 1).values[:, -1:]
        return torch.where(full >= floor, full, -1e3)

    return scores


@pytest.mark.parametrize(
    ("setting", "keep", "budget"), [("partial", 1, 6000), ("partial", 2, 6000), ("labels", 0, 60000)]
)
@pytest.mark.parametrize("targeted", [False, True])
def test_from_a_picture_of_another_class_it_comes_near(setting: str, keep: int, budget: int, targeted: bool) -> None:
    model = ig.wrap(few_scores(keep), classes=4)
    x = torch.rand(300, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = few_scores(1)(x).argmax(1)
    pictures = torch.stack([x[labels == k][0] for k in range(4)])
    x, labels = x[-4:], labels[-4:]
    goal = ig.Reach((labels + 1) % 4) if targeted else ig.Avoid(labels)
    result = ig.attack.zo_nes(
        model, x, goal, ig.Linf(0.3), setting=setting, pictures=pictures, top=max(keep, 1), max_queries=budget,  # type: ignore[arg-type]
        jitter=0.05,
    )  # fmt: skip
    assert float(result.success.double().mean()) >= 0.75
    assert float(result.distance[result.success].max()) <= 0.3 * (1 + 1e-6)
    assert float((pictures[0] - x).abs().flatten(1).amax(1).min()) > 0.5, "far at the start"


def test_the_settings_that_see_less_are_in_linf() -> None:
    x = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    model = few_scores(4)
    y = model(x).argmax(1)
    with pytest.raises(ValueError, match="works in linf"):
        ig.attack.zo_nes(model, x, y, ig.L2(1.0), setting="labels", pictures=x[:1].expand(4, -1, -1, -1))


def test_with_labels_no_more_is_declared_and_the_ledger_is_exact() -> None:
    asked, tell = 0, few_scores(0)

    def labels(x: Tensor) -> Tensor:
        nonlocal asked
        asked += len(x)
        return tell(x)

    x = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = tell(x)
    pictures = torch.stack([x[y == k][0] for k in range(4)])
    model = ig.wrap(labels, classes=4)
    by_label = ig.attack.zo_nes.with_(setting="labels", pictures=pictures, jitters=7, max_queries=500)
    assert (by_label.access, ig.attack.zo_nes.access) == ("labels", "scores")
    model.probe(x)
    asked = 0
    result = by_label(model, x[-3:], y[-3:], ig.Linf(0.05))
    assert int(result.queries.sum()) == asked - 3, "the judge looks once more at each"
    assert int(result.queries.min()) > 400
    with pytest.raises(AccessError, match="zo_nes needs scores, this model gives labels"):
        ig.attack.zo_nes(model, x[-3:], y[-3:], ig.Linf(0.05))
