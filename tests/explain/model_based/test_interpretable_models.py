"""Interpretable models beside black boxes, and what all of them share."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import ironglass as ig
from ironglass.core.errors import InputError
from ironglass.explain.model_based.interpretable_models import Comparison
from tables import cancer, mixed

pytest.importorskip("sklearn", reason="needs scikit-learn")

FITS: dict[str, Callable[..., Callable[[Tensor], Tensor]]] = {
    "linear_model": lambda *table, **options: ig.explain.linear_model(*table, **options),
    "additive_model": lambda *table, **options: ig.explain.additive_model(*table, rounds=20, **options),
    "decision_tree": lambda *table, **options: ig.explain.decision_tree(*table, **options),
    "rule_list": lambda *table, **options: ig.explain.rule_list(*table, **options),
}
every = pytest.mark.parametrize("name", FITS)


@every
def test_a_fitted_model_is_a_model_of_the_toolkit_and_keeps_the_dtype(name: str) -> None:
    x, y, _ = cancer()
    model = FITS[name](x, y)
    assert model(x[:5].float()).dtype == torch.float32
    assert torch.equal(model(x[:5]), model(x)[:5])
    low, high = float(x.min()), float(x.max())
    wrapped = ig.wrap(model, bounds=(low, high))
    assert ig.explain.occlusion(wrapped, x[:2].float(), view="table", baseline="mid").values.shape == (2, 30)


@every
def test_a_fit_does_not_depend_on_the_global_generators(name: str) -> None:
    x, y = mixed()
    torch.manual_seed(1), np.random.seed(1)  # noqa: NPY002 - the legacy generator is what we watch
    first = FITS[name](x, y, categorical=(1,))(x)
    torch.manual_seed(2), np.random.seed(2)  # noqa: NPY002
    assert torch.equal(first, FITS[name](x, y, categorical=(1,))(x))


def test_the_comparison_judges_all_on_the_same_held_out_rows_and_draws_its_figure() -> None:
    x, y, names = cancer()
    found = ig.explain.interpretable_models(x, y, names=names, leaves=(2, 8), rules=(1, 4))
    assert isinstance(found, Comparison)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: round(0.3 * len(x))]
    for entry in found.entries:
        assert entry.correct == int((entry.model(x[order]).argmax(1) == y[order]).sum())
        assert entry.interval[0] < entry.accuracy < entry.interval[1]
    black = [entry for entry in found.entries if entry.phase == "black box"]
    glass = [entry for entry in found.entries if entry.phase == "model-based"]
    assert {entry.kind for entry in black} == {"random forest", "gradient boosting", "neural network"}
    assert min(entry.parts for entry in black) > max(entry.parts for entry in glass)
    assert max(entry.accuracy for entry in glass) >= max(entry.accuracy for entry in black) - 0.02
    assert found.simplest(1.0).parts == 2
    assert found.simplest(0.0).accuracy == max(entry.accuracy for entry in found.entries)
    assert len(found.table().rows) == len(found.entries)
    assert found.curve().log_x
    (axes,) = found.plot().axes
    assert len(axes.lines) == len(found.curve().series) == 7


def test_a_permuted_label_leaves_nothing_to_find() -> None:
    x, y, _ = cancer()
    mixed_up = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(5))]
    found = ig.explain.interpretable_models(x, mixed_up, leaves=(4,), rules=(2,), black_boxes=False)
    assert max(entry.interval[0] for entry in found.entries) < float(mixed_up.double().mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4)}, "is no table"),
        ({"y": torch.zeros(20)}, "no two classes"),
        ({"names": ("a",)}, "1 names for 3 columns"),
        ({"categorical": (7,)}, r"categorical=\[7\]"),
        ({"categorical": {1: ("red", "green")}}, "column 1 holds 2, and 2 names"),
        ({"held_out": 0.0}, "leaves none"),
        ({"held_out": (torch.zeros(3, 2), torch.zeros(3).long())}, "held_out of shapes"),
    ],
)
def test_what_cannot_be_compared_is_an_error(change: dict[str, object], message: str) -> None:
    x, y = mixed(20)
    given: dict[str, object] = {"x": x, "y": y} | change
    table = (given.pop("x"), given.pop("y"))
    with pytest.raises(InputError, match=message):
        ig.explain.interpretable_models(*table, **given)  # type: ignore[arg-type]


@pytest.mark.slow
def test_on_adult_an_additive_model_is_as_good_as_a_forest(shared_data: Path) -> None:
    with gzip.open(shared_data / "adult.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("income", "split", "fnlwgt")]
    categorical: dict[int, list[str]] = {}
    columns = []
    for i, name in enumerate(names):
        cells = [row[name] for row in rows]
        if not cells[0].isdigit():
            categorical[i] = sorted(set(cells))
        columns.append([float(categorical[i].index(cell)) if i in categorical else float(cell) for cell in cells])
    x = torch.tensor(columns, dtype=torch.double).T
    y = torch.tensor([row["income"].startswith(">") for row in rows]).long()
    train = torch.tensor([row["split"] == "train" for row in rows])
    kept = train.nonzero()[:, 0][:8000]
    found = ig.explain.interpretable_models(
        x[kept], y[kept], names=names, categorical=categorical, held_out=(x[~train], y[~train])
    )
    by_kind = {entry.kind: entry for entry in found.entries}
    assert by_kind["additive model"].accuracy >= by_kind["random forest"].accuracy - 0.005
    assert by_kind["additive model"].accuracy >= 0.85
    assert by_kind["additive model"].parts <= len(names)
