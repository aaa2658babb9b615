"""Training: what a method says of it, the network meanwhile, and what comes out."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from .access import Model
from .findings import Curve, Series, Table
from .results import Cost
from .statistics import wilson
from .values import Bounds, Threat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Count = tuple[int, int]
"""How many samples are right, and how many there are."""
ScheduleName = Literal["cosine", "triangular", "steps", "constant"]
RampName = Literal["linear", "smooth"]
Kind = Literal["clean", "attacked", "certified"]
"""What an accuracy is of: samples as they are, attacked by Auto-PGD, or proven."""
Tick = Callable[[int, int, "Epoch"], None]
"""Is told the epochs done, the epochs in all, and what the last one came to."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Samples to learn from.

    Args:
        x: ``(n, *shape)``, input units.
        y: labels ``(n,)``.
        threat: of this moment: its eps grows along the ramp. None where the training knows no threat.
        grown: how far the ramp has come, in [0, 1].
        step: how many steps were made before.
    """

    x: Tensor
    y: Tensor
    threat: Threat | None
    grown: float
    step: int

    def allowed(self) -> Threat:
        """Returns the threat; a training against one always has it."""
        assert self.threat is not None
        return self.threat


class Student(Protocol):
    """A network while it learns: in train mode, with a graph; every pass is counted.

    ``memory`` holds tensors from one batch to the next, and is saved with the checkpoint; ``cache`` holds what can be
    computed again. Random draws come from ``generator`` alone.
    """

    net: nn.Module
    bounds: Bounds
    generator: torch.Generator
    memory: dict[str, Tensor]
    cache: dict[str, Any]

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the scores ``(n, classes)`` in train mode, with a graph to the parameters."""

    def still(self) -> AbstractContextManager[None]:
        """In this context the network is in eval mode and its parameters have no gradients."""

    def model(self, x: Tensor) -> Model:
        """Returns the network as attacks see it: still, and metered."""

    def pay(self, forward: int, backward: int = 0) -> None:
        """Counts passes that were made past the student."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Recipe:
    """What a training method says of the loop: the loss of a batch, and the course of the step size and the radius.

    Args:
        loss: of a batch, a scalar with a graph.
        epochs: rounds over the samples.
        batch: samples a step.
        lr: the largest step size of Adam.
        schedule: how it changes, see `ops.training.schedules`.
        warm: the share of all steps before the radius grows: it is 0 meanwhile.
        ramp: the share of all steps in which it grows to the threat's.
        shape: how it grows, ``linear`` or ``smooth``.
        train_eps: the radius trained at, where it is not the threat's.
        replays: how many steps are made on each batch in a row.
        clip: the largest norm of the gradient; None for no limit.
        by: what the best epoch goes by.
        certificate: a proof of the catalogue that is tried in each epoch, if any.
        watch: the fall of the accuracy under Auto-PGD, from the lower end of the best's 95 % interval to the upper end
            of an epoch's, that ends the training; and the gap between it and that under one step that is noted. None
            watches nothing.
        seed: of all that is random.
    """

    loss: Callable[[Student, Batch], Tensor]
    epochs: int
    batch: int
    lr: float
    schedule: ScheduleName = "cosine"
    warm: float = 0.0
    ramp: float = 0.0
    shape: RampName = "linear"
    train_eps: float | None = None
    replays: int = 1
    clip: float | None = None
    by: Kind = "attacked"
    certificate: str | None = None
    watch: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What an epoch came to, on the part of the samples that is not trained on; epoch 0 is the network as given.

    ``counts`` are the right answers by kind: ``clean``, ``attacked`` by Auto-PGD, ``certified``. ``loss`` is the mean
    over the batches, ``eps`` and ``lr`` are those of the last step; ``note`` says what was noticed.
    """

    number: int
    counts: Mapping[Kind, Count]
    loss: float | None = None
    eps: float | None = None
    lr: float | None = None
    seconds: float = 0.0
    note: str = ""

    def accuracy(self, kind: Kind = "clean") -> float | None:
        """Returns the accuracy of a kind; None where it was not measured."""
        right, count = self.counts.get(kind, (0, 0))
        return right / count if count else None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Trained:
    """A stronger copy of a network, and how it came about.

    Args:
        net: the copy, in eval mode; the one that was given is as it was.
        model: the copy as `wrap` makes it, with the bounds, normalization and names of the one that was given.
        method: that trained it.
        options: of the method.
        threat: trained against; None where there is none.
        history: an entry an epoch, beginning with 0.
        best: the number of the epoch whose weights these are.
        before: right answers by kind of question (``clean``, ``attacked``, ``certified``), of the network as given.
        after: the same of the copy.
        held: what ``before`` and ``after`` were measured on, in words.
        cost: of the training; measuring it is not in it.
        partial: whether it was stopped before its end.
        seed: of all that is random.
    """

    net: nn.Module
    model: Any
    method: str
    options: Mapping[str, Any]
    threat: Threat | None
    history: tuple[Epoch, ...]
    best: int
    before: Mapping[Kind, Count]
    after: Mapping[Kind, Count]
    held: str
    cost: Cost = field(default_factory=Cost)
    partial: bool = False
    seed: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed on the way, such as catastrophic overfitting."""
        return tuple(f"epoch {epoch.number}: {epoch.note}" for epoch in self.history if epoch.note)

    def accuracy(self, kind: Kind = "clean") -> tuple[float, float]:
        """Returns the accuracy of a kind before and after."""
        (right, count), (right_now, count_now) = self.before[kind], self.after[kind]
        return right / count, right_now / count_now

    def table(self) -> Table:
        """Returns the accuracies before and after, with Wilson's intervals."""
        under: dict[Kind, str] = {
            "clean": "clean",
            "attacked": f"under Auto-PGD, {self.threat}",
            "certified": f"proven, {self.threat}",
        }
        return Table(
            id=self.method,
            caption=f"Accuracy before and after {self.method}, with 95 % intervals, on {self.held}",
            columns=("accuracy", "before", "after"),
            rows=tuple((under[kind], _share(self.before[kind]), _share(self.after[kind])) for kind in self.after),
        )

    def curve(self) -> Curve:
        """Returns the accuracies over the epochs, with Wilson's intervals."""
        lines: dict[Kind, list[tuple[int, Count]]] = {kind: [] for kind in get_args(Kind)}
        for epoch in self.history:
            for kind, count in epoch.counts.items():
                lines[kind].append((epoch.number, count))
        roles: dict[Kind, tuple[str, Literal["clean", "attack", "proof"]]] = {
            "clean": ("clean", "clean"),
            "attacked": ("under Auto-PGD", "attack"),
            "certified": ("proven", "proof"),
        }
        return Curve(
            id=f"{self.method}-history",
            caption=f"Accuracy over the epochs of {self.method}; the weights of epoch {self.best} are kept",
            x_label="epoch",
            y_label="accuracy",
            series=tuple(_line(*roles[kind], line) for kind, line in lines.items() if line),
        )

    def plot(self) -> Figure:
        """Returns a matplotlib figure of the accuracies over the epochs."""
        drawn: Figure = importlib.import_module("ironglass.report.curves").figure(self.curve())
        return drawn

    def save(self, path: str | Path) -> None:
        """Writes the weights by their names in the network, and the record as JSON in the file's header.

        Every loader of safetensors reads the weights: ``--weights`` of the command line too.
        """
        from safetensors.torch import save_file

        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.net.state_dict().items()}
        save_file(state, str(path), metadata={"ironglass": json.dumps(self.record())})

    def record(self) -> dict[str, Any]:
        """Returns all but the weights as plain data."""
        return {
            "kind": "Trained",
            "method": self.method,
            "options": {name: plain(value) for name, value in self.options.items()},
            "threat": None if self.threat is None else plain(self.threat),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best,
            "before": dict(self.before),
            "after": dict(self.after),
            "held": self.held,
            "cost": asdict(self.cost),
            "partial": self.partial,
            "seed": self.seed,
        }


def plain(value: Any) -> Any:
    """Returns what JSON can hold of an option: a threat by its norm and radius, a method as it is written."""
    if isinstance(value, Threat):
        return {"norm": value.norm, "eps": value.eps} | ({} if value.mask is None else {"mask": True})
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _share(count: Count) -> str:
    low, high = wilson(*count)
    return f"{count[0] / count[1]:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def _line(label: str, role: Literal["clean", "attack", "proof"], points: list[tuple[int, Count]]) -> Series:
    edges = [wilson(*count) for _, count in points]
    return Series(
        label=label,
        role=role,
        x=tuple(float(number) for number, _ in points),
        y=tuple(right / count for _, (right, count) in points),
        low=tuple(low for low, _ in edges),
        high=tuple(high for _, high in edges),
    )
