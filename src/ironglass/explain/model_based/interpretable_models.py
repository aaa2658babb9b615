"""Interpretable models beside black boxes, trained on the same table."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from ironglass.core import findings
from ironglass.core.errors import InputError, extra
from ironglass.core.statistics import wilson

from .additive_model import additive_model
from .columns import Categories, Table, expand, table
from .decision_tree import decision_tree
from .linear_model import linear_model
from .rule_list import rule_list

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Phase = Literal["model-based", "black box"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model: what it is, what a person would have to read of it, and how often it is right on held-out rows.

    Args:
        kind: of model; several sizes of one kind share it.
        phase: whether it is its own explanation.
        parts: leaves, rules, coefficients, curves or weights in all.
        noun: what the parts are.
        correct: held-out rows it gets right.
        rows: held-out rows.
        model: the fitted model: rows ``(N, d)`` to scores ``(N, classes)``.
    """

    kind: str
    phase: Phase
    parts: int
    noun: str
    correct: int
    rows: int
    model: Callable[[Tensor], Tensor]

    @property
    def accuracy(self) -> float:
        """The share of held-out rows it gets right."""
        return self.correct / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of that share."""
        return wilson(self.correct, self.rows)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models on one table, from the same training rows, judged on the same held-out rows."""

    entries: tuple[Entry, ...]

    def simplest(self, points: float = 0.02) -> Entry:
        """Returns the model of fewest parts among those that come within so much of the best accuracy.

        Args:
            points: of accuracy that may be lost; 0.02 are two percentage points.
        """
        best = max(entry.accuracy for entry in self.entries)
        near = [entry for entry in self.entries if entry.accuracy >= best - points - 1e-12]
        return min(near, key=lambda entry: (entry.parts, -entry.accuracy))

    def table(self) -> findings.Table:
        """Returns a row a model, the most accurate first."""
        rows = []
        for entry in sorted(self.entries, key=lambda entry: (-entry.accuracy, entry.parts)):
            low, high = entry.interval
            figures = (f"{entry.accuracy:.1%}", f"{low:.1%} to {high:.1%}", f"{entry.parts:,} {entry.noun}")
            rows.append((entry.kind, entry.phase, *figures))
        return findings.Table(
            id="interpretable-models",
            caption=f"Accuracy on {self.entries[0].rows} held-out rows, and what a person would have to read",
            columns=("model", "kind", "accuracy", "95 % interval", "to read"),
            rows=tuple(rows),
        )

    def curve(self) -> findings.Curve:
        """Returns accuracy against parts: a line a kind of model, a point a size."""
        kinds = list(dict.fromkeys(entry.kind for entry in self.entries))
        series = []
        for kind in kinds:
            line = sorted((entry for entry in self.entries if entry.kind == kind), key=lambda entry: entry.parts)
            low, high = zip(*(entry.interval for entry in line), strict=True)
            series.append(
                findings.Series(
                    label=kind if line[0].phase == "model-based" else f"{kind} (black box)",
                    x=tuple(float(entry.parts) for entry in line),
                    y=tuple(entry.accuracy for entry in line),
                    low=low,
                    high=high,
                    role="proof" if line[0].phase == "model-based" else "attack",
                )
            )
        return findings.Curve(
            id="accuracy-explainability",
            caption="Accuracy against explainability",
            x_label="leaves, rules, coefficients, curves or weights to read",
            y_label="accuracy on held-out rows",
            series=tuple(series),
            log_x=True,
        )

    def plot(self) -> Figure:
        """Returns the accuracy-versus-explainability figure; simple is left, accurate is up."""
        drawn: Figure = importlib.import_module("ironglass.report.curves").figure(self.curve())
        return drawn


class Recipe(NamedTuple):
    """How a model is trained: its kind, its phase, the function that fits it, and what its parts are."""

    kind: str
    phase: Phase
    fit: Callable[[], tuple[Callable[[Tensor], Tensor], int]]
    noun: str


def interpretable_models(
    x: Tensor,
    y: Tensor,
    *,
    names: Sequence[str] = (),
    categorical: Categories = (),
    held_out: tuple[Tensor, Tensor] | float = 0.3,
    leaves: Sequence[int] = (2, 4, 8, 16),
    rules: Sequence[int] = (1, 2, 4, 8),
    black_boxes: bool = True,
    seed: int = 0,
) -> Comparison:
    """Train models that explain themselves beside black boxes, and see what explainability costs.

    Rudin (rudin2019) asks to try a model that needs no explanation before explaining one that does: on tables it is
    often as accurate. A linear model, an additive model, decision trees and rule lists of several sizes stand beside a
    random forest, gradient boosting and a neural network. What a person would have to read is counted as parts: the
    coefficients, curves, leaves, rules or weights. Parts of different kinds are not equally easy.

    Args:
        x: ``(N, d)`` numbers; pictures flattened.
        y: classes ``(N,)`` from 0.
        names: of the columns.
        categorical: the columns that hold categories, or the names of their categories by column.
        held_out: rows and classes to judge on, or the share of the rows that is kept for it.
        leaves: sizes of decision trees.
        rules: sizes of rule lists, without the last rule that takes what is left.
        black_boxes: train those, too; this takes most of the time.
        seed: of the split, and of what the black boxes draw.

    Raises:
        InputError: if this is no table with classes, or nothing is held out.
        MissingExtra: if scikit-learn is not installed.
    """
    train, judged = _split(table(x, y, names, categorical), held_out, seed)
    given: dict[str, Any] = {"names": train.names, "categorical": train.labels or tuple(train.values)}
    entries = []
    for recipe in _recipes(train, given, leaves, rules, black_boxes, seed):
        model, parts = recipe.fit()
        correct = int((model(judged.x).argmax(1) == judged.y).sum())
        entries.append(Entry(recipe.kind, recipe.phase, parts, recipe.noun, correct, len(judged.y), model))
    unique = {(entry.kind, entry.parts): entry for entry in entries}  # a list that ends early is the same list
    return Comparison(tuple(unique.values()))


def _split(data: Table, held_out: tuple[Tensor, Tensor] | float, seed: int) -> tuple[Table, Table]:
    if isinstance(held_out, tuple):
        x, y = held_out
        if x.ndim != 2 or x.shape[1] != data.x.shape[1] or y.shape != x.shape[:1] or not len(y):
            raise InputError(f"held_out of shapes {tuple(x.shape)}, {tuple(y.shape)}", "give rows like x, and classes")
        return data, data._replace(x=x.detach().cpu().double(), y=y.detach().cpu().long())
    count = round(held_out * len(data.x))
    if not 0 < count < len(data.x):
        raise InputError(f"held_out={held_out} of {len(data.x)} rows leaves none on one side", "e.g. held_out=0.3")
    order = torch.randperm(len(data.x), generator=torch.Generator().manual_seed(seed))
    kept, rest = order[:count], order[count:]
    if int(data.y[rest].max()) + 1 < data.classes:
        raise InputError(f"class {data.classes - 1} has no training rows", "hold out fewer rows, or try another seed")
    return data._replace(x=data.x[rest], y=data.y[rest]), data._replace(x=data.x[kept], y=data.y[kept])


def _recipes(
    data: Table, given: dict[str, Any], leaves: Sequence[int], rules: Sequence[int], black_boxes: bool, seed: int
) -> Iterator[Recipe]:
    def fitted(function: Callable[..., Any], **options: Any) -> Callable[[], tuple[Callable[[Tensor], Tensor], int]]:
        def fit() -> tuple[Callable[[Tensor], Tensor], int]:
            model = function(data.x, data.y, **given, **options)
            return model, model.parts

        return fit

    yield Recipe("linear model", "model-based", fitted(linear_model), "coefficients")
    yield Recipe("additive model", "model-based", fitted(additive_model), "curves")
    for size in leaves:
        yield Recipe("decision tree", "model-based", fitted(decision_tree, leaves=size, seed=seed), "leaves")
    for size in rules:
        yield Recipe("rule list", "model-based", fitted(rule_list, rules=size), "rules")
    if black_boxes:
        yield Recipe("random forest", "black box", lambda: _forest(data, seed), "leaves")
        yield Recipe("gradient boosting", "black box", lambda: _boosting(data, seed), "leaves")
        yield Recipe("neural network", "black box", lambda: _network(data, seed), "weights")


@dataclass(frozen=True, slots=True, eq=False)
class BlackBox:
    """A trained scikit-learn classifier; called on rows ``(N, d)`` it gives probabilities ``(N, classes)``.

    Args:
        trained: the classifier.
        data: the table it was trained on, for its classes and categories.
        center: what is taken off the columns first ``(e,)``.
        spread: what they are divided by then ``(e,)``.
    """

    trained: Any
    data: Table
    center: Tensor
    spread: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the probabilities; 0 for classes that it has not seen."""
        found = torch.from_numpy(self.trained.predict_proba(self.enter(x).numpy())).double()
        whole = found.new_zeros(len(x), self.data.classes)
        return whole.index_copy(1, torch.as_tensor(self.trained.classes_), found).to(x)

    def enter(self, x: Tensor) -> Tensor:
        """Returns rows as the classifier takes them."""
        return (expand(x.detach().cpu().double(), self.data.values) - self.center) / self.spread


def _trained(data: Table, classifier: Any, scaled: bool = False) -> BlackBox:
    columns = expand(data.x, data.values)
    spread, center = torch.std_mean(columns, 0, correction=0)
    if scaled:
        box = BlackBox(classifier, data, center, spread.where(spread > 0, 1))
    else:
        box = BlackBox(classifier, data, torch.zeros_like(center), torch.ones_like(spread))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Stochastic Optimizer: Maximum iterations")
        classifier.fit(box.enter(data.x).numpy(), data.y.numpy())
    return box


def _forest(data: Table, seed: int) -> tuple[BlackBox, int]:
    forest = _sklearn("ensemble").RandomForestClassifier(n_estimators=100, random_state=seed)
    box = _trained(data, forest)
    return box, sum(tree.tree_.n_leaves for tree in forest.estimators_)


def _boosting(data: Table, seed: int) -> tuple[BlackBox, int]:
    boosted = _sklearn("ensemble").GradientBoostingClassifier(random_state=seed)
    box = _trained(data, boosted)
    return box, sum(tree.tree_.n_leaves for tree in boosted.estimators_.flat)


def _network(data: Table, seed: int) -> tuple[BlackBox, int]:
    network = _sklearn("neural_network").MLPClassifier((64,), random_state=seed)
    box = _trained(data, network, scaled=True)
    return box, sum(part.size for part in (*network.coefs_, *network.intercepts_))


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError:
        raise extra("sklearn", "scikit-learn") from None
