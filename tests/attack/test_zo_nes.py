"""ZO-NES: its steps, and the settings that see less."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import ironglass as ig
from attack.watched import asked, bent


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


def few_scores(keep: int) -> object:
    """A linear model of four classes that tells only the largest probabilities, or with 0 only the label."""
    weight = torch.randn(36, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def scores(x: Tensor) -> Tensor:
        full = ((x.flatten(1) - 0.5) @ weight).log_softmax(1)
        if keep == 0:
            return torch.nn.functional.one_hot(full.argmax(1), 4).double() * 20 - 10
        floor = full.topk(keep, 1).values[:, -1:]
        return torch.where(full >= floor, full, -1e3)

    return scores


@pytest.mark.parametrize(
    ("setting", "keep", "budget"), [("partial", 1, 6000), ("partial", 2, 6000), ("labels", 0, 60000)]
)
@pytest.mark.parametrize("targeted", [False, True])
def test_from_a_picture_of_another_class_it_comes_near(setting: str, keep: int, budget: int, targeted: bool) -> None:
    model = few_scores(keep)
    x = torch.rand(300, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = model(x).argmax(1)  # type: ignore[operator]
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
    y = model(x).argmax(1)  # type: ignore[operator]
    with pytest.raises(ValueError, match="works in linf"):
        ig.attack.zo_nes(model, x, y, ig.L2(1.0), setting="labels", pictures=x[:1].expand(4, -1, -1, -1))
