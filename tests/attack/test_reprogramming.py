"""Black-box reprogramming: beside the white box on linear sources, and an exact count of what the source is shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ironglass as ig
from ironglass.attack.blackbox.reprogramming import embedded, framed, frequency_mapping, voted

WHOLE = (1, 12, 12)


class Source:
    """Linear scores of 9 classes; counts the pictures it is shown, and fails whoever asks autograd."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(144, 9, generator=generator) / 4
        self.asked = 0

    def __call__(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert float(x.min()) >= 0
        assert float(x.max()) <= 1
        self.asked += len(x)
        return x.flatten(1) @ self.weight


def task(count: int, source: Source, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Pictures 6 × 6 of three classes, each along what the source's own class 2, 5 or 7 looks for, and noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    centre = source.weight.T.reshape(9, 12, 12)[[2, 5, 7], 3:9, 3:9]
    signs = centre[y].sign()
    noise = torch.rand(count, 6, 6, generator=generator) - 0.5
    return (0.5 + 0.08 * signs + 0.6 * noise).clamp(0, 1)[:, None], y


def white_box(source: Source, x: Tensor, y: Tensor, mapping: Tensor, steps: int = 400) -> Tensor:
    """The frame that Adam finds with the true gradient, as a bias of the task's classes; the source is linear."""
    frame = framed(WHOLE, (1, 6, 6), None)
    weights = torch.zeros(WHOLE, requires_grad=True)
    optimizer = torch.optim.Adam([weights], 0.05)
    for _ in range(steps):
        shown = torch.where(frame != 0, 0.5 + 0.5 * torch.tanh(weights * frame), embedded(x, WHOLE, frame))
        loss = nn.functional.cross_entropy(voted(shown.flatten(1) @ source.weight, mapping), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.detach()


def test_with_as_many_directions_as_values_it_is_as_good_as_the_white_box() -> None:
    source = Source()
    x, y = task(120, source)
    unseen, truth = task(600, source, seed=2)
    given: dict[str, Any] = {"shape": WHOLE, "mapping": torch.tensor([[2], [5], [7]])}
    program = ig.attack.reprogramming(source, (x, y), epochs=25, batch=30, samples=108, seed=3, **given)
    exact = white_box(source, x, y, program.mapping)
    with torch.no_grad():
        best = float((voted(source(program.inputs(unseen, exact)), program.mapping).argmax(1) == truth).double().mean())
    assert best > 0.8, "the task can be learned"
    assert program.accuracy(unseen, truth) >= best - 0.02
    plain = ig.attack.reprogramming(source, (x, y), epochs=0, **given)
    assert program.accuracy(unseen, truth) > plain.accuracy(unseen, truth) + 0.1
    assert program.losses[-1] < program.losses[0]


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_the_mapping_is_a_choice_of_distinct_labels_by_frequency(labels: int) -> None:
    source = Source()
    x, y = task(60, source)
    program = ig.attack.reprogramming(source, (x, y), shape=WHOLE, labels=labels, epochs=0)
    flat = program.mapping.flatten().tolist()
    assert program.mapping.shape == (3, labels)
    assert len(set(flat)) == 3 * labels
    if labels == 1:  # each class in turn takes what the source gives it most, of what is free
        with torch.no_grad():
            chance = source(program.inputs(x)).softmax(1)
        taken: list[int] = []
        for label in range(3):
            mean = chance[y == label].mean(0).tolist()
            taken.append(max((c for c in range(9) if c not in taken), key=lambda c: mean[c]))
        assert flat == taken
    with pytest.raises(ValueError, match="the source has 9"):
        frequency_mapping(torch.zeros(6, 9), torch.arange(6) % 3, 3, 4)


@pytest.mark.parametrize(("count", "batch", "q", "epochs"), [(20, 7, 5, 2), (9, 9, 1, 3), (12, 5, 300, 1)])
def test_the_queries_are_epochs_times_samples_times_directions_and_one(
    count: int, batch: int, q: int, epochs: int
) -> None:
    source = Source()
    x, y = task(count, source)
    model = ig.wrap(source, shape=WHOLE)
    model.probe(torch.rand(2, *WHOLE))
    source.asked = 0
    program = ig.attack.reprogramming(model, (x, y), epochs=epochs, batch=batch, samples=q)
    assert program.queries == {"mapping": count, "learning": epochs * count * (q + 1)}
    assert source.asked == sum(program.queries.values())
    assert len(program.losses) == epochs


@pytest.mark.parametrize("budget", [25, 26, 100, 333])
def test_a_budget_ends_the_learning_and_is_never_exceeded(budget: int) -> None:
    source = Source()
    x, y = task(20, source)
    model = ig.wrap(source, shape=WHOLE)
    model.probe(torch.rand(2, *WHOLE))
    source.asked = 0
    program = ig.attack.reprogramming(model, (x, y), epochs=50, batch=5, samples=4, max_queries=budget)
    assert source.asked == sum(program.queries.values()) <= budget
    assert budget - source.asked < 5 * 5
    assert program.predict(x).shape == (20,)


def test_the_frame_is_around_the_picture_and_alone_is_learned() -> None:
    source = Source()
    x, y = task(30, source)
    program = ig.attack.reprogramming(source, (x, y), shape=WHOLE, epochs=2, samples=4)
    shown = program.inputs(x)
    assert torch.equal(shown[:, :, 3:9, 3:9], x)
    assert int(program.frame.sum()) == 144 - 36
    assert bool((program.weights[:, 3:9, 3:9] == 0).all())
    assert torch.equal(shown[0][program.frame != 0], shown[1][program.frame != 0])
    again = ig.attack.reprogramming(source, (x, y), shape=WHOLE, epochs=2, samples=4)
    assert torch.equal(again.weights, program.weights)
    resized = ig.attack.reprogramming(source, (x, y), shape=WHOLE, size=8, epochs=0)
    assert int(resized.frame.sum()) == 144 - 64
    assert program.table(x, y).rows[0][0] == "accuracy"


def test_grey_pictures_are_shown_in_all_channels_and_rows_of_numbers_will_do() -> None:
    frame = framed((3, 8, 8), (1, 4, 4), None)
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(embedded(x, (3, 8, 8), frame)[:, :, 2:6, 2:6], x.expand(-1, 3, -1, -1))
    weight = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    rows = torch.rand(20, 6, generator=torch.Generator().manual_seed(1))
    program = ig.attack.reprogramming(lambda v: v @ weight, (rows, torch.arange(20) % 2), shape=(10,), epochs=2)
    assert torch.equal(program.inputs(rows)[:, 2:8], rows)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"shape": (1, 6, 6)}, "leave no frame"),
    ({"shape": (1, 4, 4)}, "do not fit"),
    ({"shape": None}, "input shape is not known"),
    ({"samples": 0}, "samples|at least 1"),
    ({"labels": 4}, "the source has 9"),
    ({"mapping": torch.tensor([[1], [1], [2]])}, "distinct"),
    ({"max_queries": 3}, "does not pay"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    source = Source()
    x, y = task(12, source)
    with pytest.raises(ValueError, match=message):
        ig.attack.reprogramming(source, (x, y), **({"shape": WHOLE} | options))
