"""The nouns of an answer: frozen results that plot themselves and are saved without a pickle."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .errors import InputError
from .values import Threat

if TYPE_CHECKING:
    from matplotlib.figure import Figure


BUDGETS = (100, 300, 1000, 3000, 10000)
"""Queries a sample that black-box attacks are compared at."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What was paid: samples through the model forward and backward, and seconds."""

    forward: int = 0
    backward: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward, self.seconds + other.seconds)


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """What an explanation returns when it knows more than the map: its own completeness error, a row each.

    ``extras`` are tensors of N rows by name: what else it found out, such as the quality of a fit.
    """

    values: Tensor
    error: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """What a proof returns when it knows more than the margin: counterexamples ``(N, *shape)``, x where it has none."""

    margin: Tensor
    counterexample: Tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """What every method's result carries: the inputs, the method, its options, and what it cost.

    Results are saved as safetensors with JSON in the header, never as a pickle.
    """

    x: Tensor
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = Cost()
    partial: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def plot(self, *others: Result, rows: int = 6, names: Sequence[str] = ()) -> Figure:
        """Returns a matplotlib figure: maps beside their samples, or samples before and after an attack.

        Args:
            others: attributions of the same samples, side by side with this one.
            rows: samples shown.
            names: of the classes.
        """
        drawn: Figure = importlib.import_module("ironglass.report.plots").plot(self, *others, rows=rows, names=names)
        return drawn

    def _repr_png_(self) -> bytes | None:
        """Shows the figure in a notebook, where there is one of this kind."""
        try:
            return cast(bytes, importlib.import_module("ironglass.report.plots").png(self.plot()))
        except InputError:
            return None

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file that `load` reads back."""
        from safetensors.torch import save_file

        tensors, plain = {}, {"kind": type(self).__name__, "home": type(self).__module__}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                tensors[item.name] = value.detach().cpu().contiguous().clone()
            elif isinstance(value, Threat):
                plain[item.name] = json.dumps({"norm": value.norm, "eps": value.eps})
                if value.mask is not None:
                    tensors[f"{item.name}.mask"] = value.mask.detach().cpu().contiguous().clone()
            elif isinstance(value, Cost):
                plain[item.name] = json.dumps([value.forward, value.backward, value.seconds])
            elif item.name == "extras":
                tensors |= {f"extras.{name}": each.detach().cpu().contiguous().clone() for name, each in value.items()}
            elif value is not None:
                plain[item.name] = json.dumps(value, default=_said)
        save_file(tensors, str(path), metadata=plain)


def described(value: object) -> object:
    """Returns what JSON can hold of an option that is an object: its class and its fields; of a tensor, its hash."""
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {
            "dtype": str(value.dtype),
            "shape": list(value.shape),
            "hash": hashlib.blake2b(data, digest_size=20).hexdigest(),
        }
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {item.name: getattr(value, item.name) for item in fields(value)}
    raise TypeError(f"an option is a {type(value).__name__}, which a file cannot hold")


def _said(value: object) -> object:
    """Returns what a file says of an option: as `described`, and of a model its class alone."""
    try:
        return described(value)
    except TypeError:
        return f"<{type(value).__name__}>"


def load(path: str | Path) -> Result:
    """Reads a result that `Result.save` wrote.

    Raises:
        InputError: if the file is not such a result.
    """
    from safetensors import SafetensorError, safe_open

    from .diagnosis import Check  # which builds on this module

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            plain = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", "give a file that a result's save() wrote") from error
    kind = _kind(plain.get("home", ""), plain.get("kind", ""))
    if kind is None:
        raise InputError(f"{path} holds no Ironglass result", "give a file that a result's save() wrote")
    values: dict[str, Any] = {name: json.loads(value) for name, value in plain.items() if name not in ("kind", "home")}
    if "threat" in values:
        values["threat"] = Threat(**values["threat"], mask=tensors.pop("threat.mask", None))
    if "cost" in values:
        values["cost"] = Cost(*values["cost"])
    if "checks" in values:
        values["checks"] = tuple(Check(**{key: row[key] for key in Check.__slots__}) for row in values["checks"])
    extras = {name: tensors.pop(name) for name in list(tensors) if name.startswith("extras.")}
    if extras:
        values["extras"] = {name.removeprefix("extras."): extra for name, extra in extras.items()}
    return kind(**values, **tensors)


def _kind(home: str, name: str) -> type[Result] | None:
    """Returns the class of results of that name in a module of ours; no other module is ever imported."""
    parts = home.split(".")
    if parts[0] != "ironglass" or not all(part.isidentifier() for part in parts):
        return None
    try:
        found = getattr(importlib.import_module(home), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) and issubclass(found, Result) else None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AttackResult(Result):
    """What an attack found, judged on the clean model by the runner and never by the attack.

    ``adversarial`` stays within ball and bounds; where it does not reach the goal, ``success`` is False and
    ``distance`` is that of the failed try. ``queries`` counts samples through the model (forward passes) a sample;
    ``first_success`` is that count at the first query which reached the goal, -1 where none did. ``before`` and
    ``after`` are the scores, or one-hot labels where the model gives labels alone. With ``quantize="uint8"`` all of
    this is of the rounded picture, and ``unrounded`` says whether the goal was reached before rounding. Where a
    defence draws, ``share`` is that of fresh draws at which the goal is reached, and more than half make a success.
    """

    adversarial: Tensor
    success: Tensor
    distance: Tensor
    queries: Tensor
    first_success: Tensor
    before: Tensor
    after: Tensor
    goal: Tensor
    targeted: bool
    threat: Threat
    seed: int | None = None
    unrounded: Tensor | None = None
    share: Tensor | None = None

    @property
    def success_rate(self) -> float:
        """The share of samples whose goal is reached."""
        return float(self.success.double().mean())

    def success_within(self, queries: int) -> float:
        """Returns the share of samples whose goal was reached by that many queries."""
        return float((self._won & (self.first_success <= queries)).double().mean())

    def success_by_queries(self, budgets: Sequence[int] = BUDGETS) -> dict[int, float]:
        """Returns the share of samples whose goal was reached within each budget."""
        return {budget: self.success_within(budget) for budget in budgets}

    def median_queries(self, failures: int | None = None) -> float:
        """Returns the median of the queries at the first success; NaN where there is none.

        Args:
            failures: what a sample counts whose goal is not reached, such as the budget; None to leave those out.
        """
        spent = self.first_success[self._won]
        if failures is not None:
            spent = torch.cat([spent, spent.new_full((int((~self._won).sum()),), failures)])
        return float(spent.double().quantile(0.5)) if len(spent) else float("nan")

    @property
    def _won(self) -> Tensor:
        """Which samples' goal was reached by a query, and at the end ``(N,)``."""
        return self.success & (self.first_success >= 0)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Attribution(Result):
    """A map a sample: what speaks for the target (positive) and against it (negative).

    ``values`` is ``(N, *shape)`` like the input, or ``(N, H, W)`` where the method knows no channels, or of the shape
    of the layer that the option ``at`` names. ``target`` is the class explained ``(N,)``, or a pair ``(N, 2)``: why the
    first class and not the second; where the option ``unit`` names one, that is explained. ``error`` is the method's
    own completeness error relative to the explained change, where it has one; ``extras`` are tensors of N rows by
    name, what else the method found out.
    """

    values: Tensor
    target: Tensor
    error: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int | None = None

    @property
    def at(self) -> str | None:
        """The layer whose values are explained; None for the input."""
        return self.options.get("at")

    @property
    def unit(self) -> str | None:
        """The unit that is explained; None where it is a class."""
        return self.options.get("unit")

    def explained(self, row: int, name_of: Callable[[int], str]) -> str:
        """Returns what a row's map explains, in words: a class, one class rather than another, or a unit."""
        if self.unit is not None:
            return f"unit {self.unit}"
        return " rather than ".join(name_of(label) for label in self.target[row].reshape(-1).tolist())


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Certificate(Result):
    """What is proven: ``verified`` is True only where the ``margin``, a sound lower bound, is positive.

    Not verified means *not proven*, never *unsafe*: unsafe is what the runner itself has seen to be labelled otherwise.
    Methods that search for it give the ``counterexample``, a point of the ball (x where they have none), and
    ``falsified`` says where that changes the label; both are None for methods that do not search.
    """

    verified: Tensor
    margin: Tensor
    y: Tensor
    threat: Threat
    falsified: Tensor | None = None
    counterexample: Tensor | None = None

    def radius(self, model: object, rounds: int = 10) -> CertifiedRadius:
        """Returns the largest radius up to this threat's that the same method proves, as `Certify.radius` does."""
        method = importlib.import_module("ironglass.core.method").get(self.method, "certify")
        found = method.radius(model, self.x, self.y, self.threat, rounds=rounds, **self.options)
        return cast(CertifiedRadius, found)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CertifiedRadius(Result):
    """The largest radius ``(N,)`` that was proven, at most ``threat.eps``; a larger one may hold and not be proven.

    ``verified`` is False, and the radius 0, where not even the decision at x itself is proven.
    """

    radius: Tensor
    verified: Tensor
    y: Tensor
    threat: Threat


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Estimate(Result):
    """An estimated robust radius ``(N,)``, without guarantee. ``quality`` is the fit's p-value: low means no trust."""

    radius: Tensor
    quality: Tensor
    y: Tensor
    threat: Threat
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Smoothed(Result):
    """What holds of a *smoothed* classifier, with a probability: no proof, and nothing of the bare model.

    The smoothed classifier decides as the model does most often on x with noise. With probability ``confidence``, a
    sample at a time, its ``decision`` (N,) stays the same within the l2 ``radius`` (N,); where it abstains they are -1
    and 0.
    """

    decision: Tensor
    radius: Tensor
    confidence: float
    y: Tensor
    threat: Threat
    seed: int | None = None

    @property
    def holds(self) -> Tensor:
        """Whether the smoothed classifier is right, and keeps its decision under the threat ``(N,)``."""
        return (self.decision == self.y) & (self.radius > self.threat.eps)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Score(Result):
    """A figure a sample on how far an answer can be believed.

    ``values`` is ``(N,)`` or ``(N, steps)`` with ``steps`` named; ``passed`` is the metric's verdict a sample.
    ``reference``, of the same shape, is the figure that a metric holds them against, where it has one.
    """

    values: Tensor
    passed: Tensor
    steps: Sequence[str] = ()
    of: str = ""
    reference: Tensor | None = None
