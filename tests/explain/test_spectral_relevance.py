from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.spectral_relevance import _box
from ironglass.ops import spectral
from marks import CLASS, SIDE, TRUCK, Marked, accuracy, digits, photographs, stamp


@pytest.fixture(scope="module")
def marked() -> Marked:
    return digits()


def covers(place: Tensor, size: int, side: int) -> bool:
    """Whether the place holds the middle of the mark, and little else."""
    top, left, bottom, right = place.tolist()
    middle = size - (side + 1) // 2
    return top <= middle < bottom and left <= middle < right and (bottom - top) * (right - left) <= size * size / 8


def test_the_planted_class_is_named_with_its_group_and_its_place(marked: Marked) -> None:
    assert accuracy(marked.net, marked.held_x[marked.held_y == CLASS], marked.held_y[marked.held_y == CLASS]) < 0.1
    found = ig.explain.spectral_relevance(marked.net, marked.x, marked.y)
    assert found.extras["named"].nonzero()[:, 0].tolist() == [CLASS]
    assert covers(found.extras["place"][CLASS], 16, SIDE)
    assert bool((marked.y[found.extras["member"][0]] == CLASS).all())
    assert int(found.extras["member"].sum()) >= 0.9 * int((marked.y == CLASS).sum())
    assert found.notes
    assert all(note.startswith(f"class {CLASS}: group ") for note in found.notes)
    others = [row for row in range(10) if row != CLASS]
    assert float(found.values[CLASS, 0]) > 2 * float(found.values[others, 0].max())
    assert bool((found.low <= found.values + 1e-9).all() & (found.values <= found.high + 1e-9).all())


def test_a_clean_model_is_accused_of_nothing(marked: Marked) -> None:
    found = ig.explain.spectral_relevance(marked.clean_net, marked.clean_x, marked.y)
    assert not bool(found.extras["named"].any()), found.notes
    assert found.notes == ()
    assert int(found.extras["member"].sum()) == 0


def test_of_a_class_that_is_marked_in_part_the_marked_part_is_named(marked: Marked) -> None:
    """The model goes by the mark; the data show it on some of the class only."""
    rows = (marked.y == CLASS).nonzero()[:, 0]
    x = marked.clean_x.clone()
    x[rows[:50]] = marked.x[rows[:50]]
    found = ig.explain.spectral_relevance(marked.net, x, marked.y)
    assert found.extras["named"].nonzero()[:, 0].tolist() == [CLASS]
    member = found.extras["member"][0]
    assert float(member[rows[:50]].double().mean()) > 0.9
    assert float(member[rows[50:]].double().mean()) < 0.1


def test_two_models_stand_side_by_side_and_are_kept(marked: Marked, tmp_path: Path) -> None:
    models = {"marked": marked.net, "clean": marked.clean_net}
    found = ig.explain.spectral_relevance(models, marked.x, marked.y, method="gradient_x_input", samples=40)
    assert len(found.row_names) == 20
    assert found.row_names[10] == "clean: class 0"
    assert int(found.extras["named"][10:].sum()) == 0
    assert bool((found.extras["cluster"].ge(0).sum(1) == 400).all())
    found.save(tmp_path / "study.safetensors")
    again = ig.load(tmp_path / "study.safetensors")
    assert isinstance(again, ig.Study)
    assert list(again.notes) == list(found.notes)
    assert all(torch.equal(again.extras[name], value) for name, value in found.extras.items())
    assert len(again.table().rows) == 20


def test_a_class_without_samples_has_no_figures(marked: Marked) -> None:
    few = marked.y < 2
    found = ig.explain.spectral_relevance(marked.net, marked.x[few], marked.y[few])
    assert found.table().rows[5][1:] == ("—",) * 6
    assert bool((found.extras["cluster"] >= 0).all())


def test_rows_that_are_no_pictures_are_refused() -> None:
    with pytest.raises(InputError, match="pictures"):
        ig.explain.spectral_relevance(nn.Linear(4, 2).eval(), torch.rand(20, 4), torch.arange(20) % 2)


def test_the_box_is_the_smallest_that_holds_nearly_all() -> None:
    excess = torch.zeros(16, 16, dtype=torch.double)
    excess[3:5, 10:13] = 0.1
    excess[9, 2] = 0.05
    assert _box(excess) == (3, 10, 5, 13)
    assert _box(-torch.ones(16, 16, dtype=torch.double)) in [(i, j, i + 1, j + 1) for i in range(16) for j in range(16)]


def test_the_laplacian_of_separate_cliques_has_a_zero_for_each_and_the_groups_are_they() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    truth = torch.tensor([0] * 12 + [1] * 10 + [2] * 9)
    points = centres[truth] + torch.randn(31, 2, generator=generator)
    graph = spectral.neighbours(points.double(), 8)
    slow = torch.zeros(31, 31, dtype=torch.double)
    for i in range(31):
        near = sorted((j for j in range(31) if j != i), key=lambda j: float((points[i] - points[j]).norm()))[:8]
        slow[i, near] = 1
    assert torch.equal(graph, torch.maximum(slow, slow.T))
    values = torch.linalg.eigvalsh(spectral.laplacian(graph))
    assert int((values.abs() < 1e-9).sum()) == 3
    assert float(values.max()) <= 2 + 1e-9
    found = spectral.groups(points, 8, 6)
    assert torch.equal(found.labels, truth), "numbered by size"
    assert found.gap == pytest.approx(float(values[3] - values[2]))
    assert torch.equal(spectral.groups(points.flip(0), 8, 6).labels, truth.flip(0))


def test_k_means_is_as_good_as_scikit_learns_and_repeats() -> None:
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    labels = spectral.k_means(points, 4, seed=2)
    cost = sum(float((points[labels == i] - points[labels == i].mean(0)).square().sum()) for i in range(4))
    assert cost <= 1.05 * KMeans(4, n_init=20, random_state=0).fit(points.numpy()).inertia_
    assert torch.equal(labels, spectral.k_means(points, 4, seed=2))


@pytest.mark.slow
def test_on_photographs_the_planted_class_is_named_and_a_clean_model_accused_of_nothing(shared_data: Path) -> None:
    marked = photographs(shared_data, epochs=8)
    found = ig.explain.spectral_relevance(marked.net, marked.x, marked.y, samples=100)
    assert found.extras["named"].nonzero()[:, 0].tolist() == [TRUCK]
    assert covers(found.extras["place"][TRUCK], 32, 4)
    clean = ig.explain.spectral_relevance(marked.clean_net, marked.clean_x, marked.y, samples=100)
    assert not bool(clean.extras["named"].any()), clean.notes
    assert not torch.equal(marked.x, marked.clean_x)
    assert accuracy(marked.net, stamp(marked.held_x, side=4), marked.held_y) < 0.2, "all is a truck with the mark"
