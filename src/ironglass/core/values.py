"""The nouns of the toolkit: frozen values that methods take and results that come back."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .access import Loss, Rows

Norm = Literal["linf", "l2", "l1", "l0", "wasserstein"]
PerSample = Tensor
"""The annotation of an option that has a row a sample: it is cut and sharded as the samples are."""
LossName = Literal["ce", "margin", "dlr"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range of every input value, in the user's units: pixels usually lie in [0, 1]."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(
                f"bounds ({self.low:g}, {self.high:g}) are empty", "give (low, high) with low < high, e.g. (0, 1)"
            )

    @property
    def span(self) -> float:
        """``high - low``."""
        return self.high - self.low


@dataclass(frozen=True, slots=True, eq=False)
class Threat:
    r"""What an adversary may do to an input: :math:`\|\delta\|_p \le \varepsilon`, within the bounds and the mask.

    Args:
        norm: ``linf``, ``l2``, ``l1``, ``l0`` or ``wasserstein``.
        eps: radius in input units (for ``l0`` a number of values, for ``wasserstein`` of pixels); ``inf`` for
            minimum-norm attacks.
        mask: true where a value may change: of a sample's shape, or ``(N, *shape)`` for one a sample; None lets all
            change.
    """

    norm: Norm
    eps: float
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise InputError(f"eps is {self.eps}", "give a radius of at least 0, in input units, e.g. 8/255")

    def take(self, rows: Rows) -> Threat:
        """Returns the threat to those samples; methods see masks ``(1 or N, *shape)``."""
        if self.mask is None or len(self.mask) == 1:
            return self
        return replace(self, mask=self.mask[rows])

    def __str__(self) -> str:
        return f"{self.norm} ≤ {self.eps:.4g}" + (" in a mask" if self.mask is not None else "")


def Linf(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat that no value moves by more than ``eps``, in input units."""
    return Threat("linf", float(eps), mask)


def L2(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat of a Euclidean ball of radius ``eps``, in input units."""
    return Threat("l2", float(eps), mask)


def L1(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat that all moves together sum to at most ``eps``, in input units."""
    return Threat("l1", float(eps), mask)


def L0(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat that at most ``eps`` values move, by any amount."""
    return Threat("l0", float(eps), mask)


def Wasserstein(eps: float, mask: Tensor | None = None) -> Threat:
    """Returns the threat that a picture's mass travels at most ``eps`` pixels on the mean, within its channel.

    The mass is what the values have above the low bound. None is made or lost; see `ops.transport`.
    """
    return Threat("wasserstein", float(eps), mask)


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """What an attack wants; made as `Avoid` or `Reach`.

    Args:
        labels: the class to leave or to reach, long ``(N,)``.
    """

    labels: Tensor
    targeted: ClassVar[bool]

    def take(self, rows: Rows) -> Self:
        """Returns the goal of those samples."""
        return replace(self, labels=self.labels[rows])

    def reached(self, scores: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns whether the scores' decision meets the goal ``(n,)``; scores that are not finite never do."""
        return self.reached_by(scores.argmax(1), rows) & scores.isfinite().all(1)

    def reached_by(self, labels: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns whether these predicted labels meet the goal ``(n,)``."""
        raise NotImplementedError

    def loss(self, name: LossName = "ce") -> Loss:
        """Returns the loss to *ascend*.

        ``ce`` is cross-entropy and ``margin`` the logit margin, positive where the goal is reached. ``dlr`` is the
        margin in units of the spread of the largest logits, so that neither shift nor scale of the logits changes it;
        where there are too few classes for a spread that can differ from the margin (2; 3 with a target), it *is* the
        margin.
        """
        raise NotImplementedError


TAIL = -15.0
"""Where cross-entropy's tail begins: below this margin it would soon have no gradient in float32."""


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy :math:`\mathrm{softplus}(u)`, with ``u`` the log-sum-exp of the other logits less the own one.

    Far below 0 both it and its gradient are :math:`e^u`, which float32 knows only to -103. There the tail
    :math:`e^{-15} / (1 - 15 - u)` takes over: of the same value and, to 1e-6, slope where it begins, rising all the
    way, and so with a gradient of the same direction.
    """
    own = scores.gather(1, labels[:, None])
    others = scores.scatter(1, labels[:, None], -torch.inf).logsumexp(1, keepdim=True)
    over = (others - own)[:, 0]
    start = math.log1p(math.exp(TAIL))
    return torch.where(over < TAIL, start / (1 + (TAIL - over).clamp(min=0)), F.softplus(over.clamp(min=TAIL)))


def _margin(scores: Tensor, labels: Tensor) -> Tensor:
    """The best other logit less the label's own, without a batch-wide stop and safe for negative logits."""
    own = scores.gather(1, labels[:, None])
    return (scores.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True) - own)[:, 0]


def spread(scores: Tensor, targeted: bool) -> Tensor:
    r"""Returns the unit of the difference of logits ratio ``(n,)``, from the sorted logits :math:`z_{\pi_i}`.

    It is :math:`z_{\pi_1} - z_{\pi_3}`, with a target :math:`z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2`; and 1 where
    there are no such classes.
    """
    low = 4 if targeted else 3
    if scores.shape[1] < low:
        return torch.ones_like(scores[:, 0])
    top = scores.topk(low, 1).values
    return top[:, 0] - top[:, 2:].mean(1) + 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Avoid(Goal):
    """The goal of any label but this one: an untargeted attack."""

    targeted: ClassVar[bool] = False

    def reached_by(self, labels: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns ``labels != y``."""
        return labels != self.labels[rows]

    def loss(self, name: LossName = "ce") -> Loss:
        """Returns cross-entropy to the label, or the best other logit less the label's, for ``dlr`` in their spread."""
        if name == "ce":
            return lambda scores, rows: _cross_entropy(scores, self.labels[rows])
        if name == "margin":
            return lambda scores, rows: _margin(scores, self.labels[rows])
        return lambda scores, rows: _margin(scores, self.labels[rows]) / spread(scores, self.targeted)


@dataclass(frozen=True, slots=True, eq=False)
class Reach(Goal):
    """The goal of exactly this label: a targeted attack."""

    targeted: ClassVar[bool] = True

    def reached_by(self, labels: Tensor, rows: Rows = slice(None)) -> Tensor:
        """Returns ``labels == t``."""
        return labels == self.labels[rows]

    def loss(self, name: LossName = "ce") -> Loss:
        """Returns minus the cross-entropy to the target, or its logit's lead, for ``dlr`` in units of the spread."""
        if name == "ce":
            return lambda scores, rows: -_cross_entropy(scores, self.labels[rows])
        if name == "margin":
            return lambda scores, rows: -_margin(scores, self.labels[rows])
        return lambda scores, rows: -_margin(scores, self.labels[rows]) / spread(scores, self.targeted)


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
            return cast(bytes, importlib.import_module("ironglass.report.plots").png(self))
        except InputError:
            return None

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file that `load` reads back."""
        from safetensors.torch import save_file

        tensors, plain = {}, {"kind": type(self).__name__}
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

    from .diagnosis import Check, Diagnosis, Study  # which builds on this module

    known = (AttackResult, Attribution, Certificate, Estimate, Score, Diagnosis, Study)
    kinds: dict[str, type[Result]] = {kind.__name__: kind for kind in known}
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            plain = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read {path}: {error}", "give a file that a result's save() wrote") from error
    if plain.get("kind") not in kinds:
        raise InputError(f"{path} holds no Ironglass result", "give a file that a result's save() wrote")
    values: dict[str, Any] = {name: json.loads(value) for name, value in plain.items() if name != "kind"}
    if "threat" in values:
        values["threat"] = Threat(**values["threat"], mask=tensors.pop("threat.mask", None))
    if "cost" in values:
        values["cost"] = Cost(*values["cost"])
    if "checks" in values:
        values["checks"] = tuple(Check(**{key: row[key] for key in Check.__slots__}) for row in values["checks"])
    extras = {name: tensors.pop(name) for name in list(tensors) if name.startswith("extras.")}
    if extras:
        values["extras"] = {name.removeprefix("extras."): extra for name, extra in extras.items()}
    result: Result = kinds[plain["kind"]](**values, **tensors)
    return result


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AttackResult(Result):
    """What an attack found, judged on the clean model by the runner and never by the attack.

    ``adversarial`` stays within ball and bounds; where it does not reach the goal, ``success`` is False and
    ``distance`` is that of the failed try. ``queries`` counts samples through the model (forward passes) a sample;
    ``first_success`` is that count at the first query which reached the goal, -1 where none did. ``before`` and
    ``after`` are the scores, or one-hot labels where the model gives labels alone. With ``quantize="uint8"`` all of
    this is of the rounded picture, and ``unrounded`` says whether the goal was reached before rounding.
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

    @property
    def success_rate(self) -> float:
        """The share of samples whose goal is reached."""
        return float(self.success.double().mean())


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

    Not verified means *not proven*, never *unsafe*.
    """

    verified: Tensor
    margin: Tensor
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
class Score(Result):
    """A figure a sample on how far an answer can be believed.

    ``values`` is ``(N,)`` or ``(N, steps)`` with ``steps`` named; ``passed`` is the metric's verdict a sample.
    """

    values: Tensor
    passed: Tensor
    steps: Sequence[str] = ()
    of: str = ""
