"""The adapter: any network or function as one kind of model, in the user's units."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ironglass.core.catalogue import LADDER
from ironglass.core.errors import InputError, IronglassWarning, suggest
from ironglass.core.values import Bounds, Goal, Threat, finite

from . import allocator
from .backend import Backend, Function
from .drawn import Drawn, votes
from .meter import Meter
from .network import Torch
from .session import Session

Access = Literal["labels", "scores", "gradient", "internals", "training"]


class Adapter:
    """A model as the user brought it; made by `wrap`.

    ``access`` and ``classes`` are known once the model has seen its first samples (`probe`).
    """

    samples = 1
    """Draws that a gradient is a mean of, where the model is stochastic."""

    @property
    def stochastic(self) -> bool:
        """Whether scores differ from query to query because a defence draws."""
        return self.backend.stochastic

    def __init__(
        self,
        backend: Backend,
        bounds: Bounds,
        labels: Sequence[str] | None,
        access: Access | None,
        max_queries: int | None,
        shape: tuple[int, ...] | None,
        classes: int | None,
        name: str,
    ) -> None:
        self.backend, self.bounds, self.max_queries, self.shape, self.name = backend, bounds, max_queries, shape, name
        self.names: tuple[str, ...] = tuple(labels or ())
        self.access: Access = access or ("training" if isinstance(backend, Torch) else "scores")
        self.classes = classes or 0
        self.key: str | None = None
        self._asked, self._probed = access, False

    def __getstate__(self) -> dict[str, Any]:
        """Is shown samples anew in another process, which makes its own private copy."""
        return self.__dict__ | {"_probed": False}

    def __repr__(self) -> str:
        return f"<model {self.name or 'unnamed'}: {self.access}, {self.classes or '?'} classes, bounds {self.bounds}>"

    @property
    def undefended(self) -> Adapter | None:
        """The model without its defence; None where it has none."""
        return None

    def session(
        self, x: Tensor, allowed: str = "training", goal: Goal | None = None, max_queries: int | None = None
    ) -> tuple[Session, Meter]:
        """Returns the model ready to work on these samples, and the ledger of what they pay.

        Args:
            x: samples ``(N, *shape)``, checked.
            allowed: the access the method declares.
            goal: watched, if given.
            max_queries: budget a sample; the model's own where None.
        """
        if not self._probed:
            self.probe(x)
        meter = Meter(x, goal, self.max_queries if max_queries is None else max_queries)
        return self.open(x, meter, allowed), meter

    def open(self, x: Tensor, meter: Meter, allowed: str = "training", ids: Tensor | None = None) -> Session:
        """Returns the model at work on these samples, charged to a ledger's rows ``ids``."""
        return (Drawn if self.stochastic else Session)(self, x, meter, allowed, ids)

    def verdict(self, x: Tensor, points: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """Returns the scores of points, and at which share of fresh draws each reaches its goal: without draws 0 or 1.

        Args:
            x: the samples ``(n, *shape)``.
            points: what came of them ``(n, *shape)``.
            goal: of the n samples.
        """
        if self.stochastic:
            return votes(self, x, points, goal)
        scores = self.outputs(points)
        return scores, goal.reached(scores).double()

    def scores(self, x: Tensor) -> Tensor:
        """Returns the logits ``(N, classes)`` of samples in the user's units."""
        self.probe(x)
        return self.backend.scores(x)

    def labels(self, x: Tensor) -> Tensor:
        """Returns the predicted labels ``(N,)``."""
        self.probe(x)
        return self.backend.labels(x)

    def outputs(self, x: Tensor, backend: Backend | None = None) -> Tensor:
        """Returns the scores, or one-hot labels where a probed model gives labels alone ``(N, classes)``."""
        runs = self.backend if backend is None else backend
        if self.access == "labels":
            return nn.functional.one_hot(runs.labels(x), self.classes).to(x.dtype)
        return runs.scores(x)

    def identity(self) -> str | None:
        """Returns a hash of what the model is, for caches; None for a function whose loader knows no file behind it."""
        return self.key or self.backend.identity()

    def name_of(self, label: int) -> str:
        """Returns a class's name, or its number."""
        return self.names[label] if label < len(self.names) else f"class {label}"

    def probe(self, x: Tensor) -> None:
        """Shows the model a few samples: its classes, its access, and whether its outputs are logits.

        Raises:
            InputError: if it cannot run on them, or gives other than ``(n, classes)`` scores or ``(n,)`` labels.
        """
        if self._probed:
            self.backend.prepare(x)
            return
        few = x[:8]
        try:
            self.backend.prepare(few)
            out = self.backend.raw(few)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the model fails on a batch of shape {tuple(few.shape)}: {type(error).__name__}: {error}",
                "give inputs (N, *shape) of the shape it expects; a NumPy function wants wrap(f, arrays='numpy')",
            ) from error
        if self.backend.function and out.ndim == 1 and len(out) == len(few):
            self.access = "labels"
            self.classes = self.classes or len(self.names)
            if not self.classes:
                raise InputError("a model that gives labels alone does not tell its classes", "wrap(f, classes=10)")
        elif out.ndim != 2 or len(out) != len(few) or out.shape[1] < 2:
            raise InputError(
                f"the model gives shape {tuple(out.shape)} for {len(few)} samples",
                "return logits (n, classes), classes ≥ 2",
            )
        else:
            if self.classes and self.classes != out.shape[1]:
                raise InputError(
                    f"the model gives {out.shape[1]} classes, {self.classes} were declared", "correct classes="
                )
            self.classes = out.shape[1]
            _warn_of_probabilities(out)
        if self._asked is not None and LADDER.index(self._asked) > LADDER.index(self.access):
            raise InputError(f"access '{self._asked}' was asked of a model that gives {self.access}", "lower access=")
        self.access = self._asked or self.access
        if self.names and len(self.names) != self.classes:
            raise InputError(
                f"{len(self.names)} labels for {self.classes} classes", "give one name a class, in their order"
            )
        self._probed = True


def _warn_of_probabilities(out: Tensor) -> None:
    if bool(((out >= 0) & (out <= 1)).all()) and bool((out.sum(1) - 1).abs().max() < 1e-3):
        warnings.warn(
            "the model's outputs look like probabilities, logits are expected: losses and gradients saturate. "
            "Fix: drop the softmax, or return log-probabilities",
            IronglassWarning,
            stacklevel=3,
        )


def wrap(
    net_or_function: nn.Module | Callable[[Any], Any] | Adapter,
    bounds: tuple[float, float] | Bounds = (0, 1),
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    labels: Sequence[str] | None = None,
    access: Access | None = None,
    max_queries: int | None = None,
    *,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    name: str = "",
    device: str | torch.device | None = None,
    arrays: Literal["torch", "numpy"] = "torch",
) -> Adapter:
    """Wraps a network or a function as a model.

    Args:
        net_or_function: an ``nn.Module`` that gives logits ``(n, classes)``, or a function ``f(batch)`` that gives
            scores ``(n, classes)`` or labels ``(n,)``.
        bounds: the range of every input value, in your units.
        mean: subtracted inside, in your units: a number, or one a channel (or a feature).
        std: divided by inside, in your units.
        labels: class names in the order of the logits.
        access: the most that methods may see, ``labels < scores < gradient < internals < training``; all by default.
        max_queries: the most samples that may pass through the model for each sample examined.
        shape: of one sample, if loaders are to bring data to it.
        classes: how many; needed for functions that give labels alone.
        name: for reports.
        device: where the network runs; None leaves it where it is.
        arrays: whether a function takes tensors or NumPy arrays.

    Returns:
        The model. The network stays yours: it is neither changed nor put in another mode.

    Raises:
        InputError: if the arguments contradict each other.
    """
    if isinstance(net_or_function, Adapter):
        return net_or_function
    if access is not None and access not in LADDER:
        raise InputError(f"access '{access}' is unknown", suggest(access, LADDER))
    limits = bounds if isinstance(bounds, Bounds) else Bounds(float(bounds[0]), float(bounds[1]))
    backend: Backend
    if isinstance(net_or_function, nn.Module):
        allocator.keep_memory()
        net = net_or_function if device is None else net_or_function.to(device)
        if net.training:
            warnings.warn(
                "the network is in train mode; it is examined in eval mode and left as it is. Fix: call net.eval()",
                IronglassWarning,
                stacklevel=2,
            )
        first = next(net.parameters(), next(net.buffers(), torch.zeros(())))
        dtype = first.dtype if first.is_floating_point() else torch.float32
        backend = Torch(
            net, _per_channel(mean, shape, first.device, dtype), _per_channel(std, shape, first.device, dtype)
        )
    elif callable(net_or_function):
        if mean is not None or std is not None:
            raise InputError("mean and std are for networks", "normalize inside the function")
        backend = Function(net_or_function, arrays)
    else:
        raise InputError(f"cannot wrap {type(net_or_function).__name__}", "give an nn.Module or a function f(batch)")
    return Adapter(backend, limits, labels, access, max_queries, tuple(shape) if shape else None, classes, name)


def _per_channel(
    value: Sequence[float] | float | None, shape: Sequence[int] | None, device: torch.device, dtype: torch.dtype
) -> Tensor | None:
    """Returns a tensor that broadcasts: one a channel for images ``(C, H, W)``, one a feature for rows ``(d,)``."""
    if value is None:
        return None
    tensor = torch.as_tensor(value, dtype=dtype, device=device)
    if tensor.ndim == 1 and not (shape is not None and len(shape) == 1):
        tensor = tensor.reshape(-1, 1, 1)
    return tensor


def check(model: Adapter, x: Tensor, y: Tensor | None = None, threat: Threat | None = None) -> None:
    """Checks samples, labels and threat before any work is done, and shows the model its samples.

    Raises:
        InputError: naming what was given, what was expected, and the fix.
    """
    check_samples(model, x)
    model.probe(x)
    check_request(model, x, y, threat)


def check_samples(model: Adapter, x: Tensor) -> None:
    """Checks samples alone, and shows them to nothing.

    Raises:
        InputError: naming what was given, what was expected, and the fix.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x is {kind}, a float tensor is expected", "x.float() / 255 for 8-bit pictures")
    if x.ndim < 2 or len(x) == 0:
        raise InputError(
            f"x has shape {tuple(x.shape)}, (N, *shape) with N ≥ 1 is expected", "add a batch dimension: x[None]"
        )
    if not finite(x):
        bad = (~x.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
        raise InputError(f"x holds NaN or infinity in samples {bad[:5]}", "drop or repair them: x.isfinite()")
    low, high = (float(end) for end in x.aminmax())
    bounds = model.bounds
    slack = 1e-6 * bounds.span
    if low < bounds.low - slack or high > bounds.high + slack:
        expected = f"[{bounds.low:g}, {bounds.high:g}]"
        pixels = (bounds.low, bounds.high) == (0, 1) and low >= 0 and 1.5 < high <= 255
        fix = (
            "x / 255"
            if pixels
            else f"wrap(..., bounds=({low:.4g}, {high:.4g})), or rescale x; normalize with mean= and std="
        )
        raise InputError(f"x ranges over [{low:.4g}, {high:.4g}] but the model's bounds are {expected}", fix)


def check_request(model: Adapter, x: Tensor, y: Tensor | None, threat: Threat | None) -> None:
    """Checks labels and threat for samples that are checked.

    Raises:
        InputError: naming what was given, what was expected, and the fix.
    """
    if y is not None:
        _check_labels(model, x, y)
    if threat is not None:
        _check_threat(model, x, threat)


def check_target(model: Adapter, x: Tensor, target: Tensor) -> None:
    """Checks what is to be explained: a class a sample ``(N,)``, or a pair of classes ``(N, 2)``.

    Raises:
        InputError: naming what was given, what was expected, and the fix.
    """
    if isinstance(target, Tensor) and target.ndim == 2 and target.shape[1] == 2:
        for classes in target.T:
            _check_labels(model, x, classes)
    else:
        _check_labels(model, x, target)


def _check_labels(model: Adapter, x: Tensor, y: Tensor) -> None:
    if not isinstance(y, Tensor) or y.is_floating_point() or y.ndim != 1:
        given = f"{str(y.dtype).removeprefix('torch.')} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise InputError(f"labels are {given}, a long tensor (N,) is expected", "torch.as_tensor(y).long()")
    if len(y) != len(x):
        raise InputError(f"{len(y)} labels for {len(x)} samples", "give one label a sample")
    if int(y.min()) < 0 or int(y.max()) >= model.classes:
        wrong = sorted(set(y[(y < 0) | (y >= model.classes)].tolist()))
        raise InputError(
            f"labels {wrong[:5]} are out of range, the model has {model.classes} classes (0 to {model.classes - 1})",
            "map the labels to the order of the model's logits",
        )


def _check_threat(model: Adapter, x: Tensor, threat: Threat) -> None:
    bounds = model.bounds
    if threat.norm == "wasserstein" and x.ndim != 4:
        raise InputError(
            f"samples are {tuple(x.shape)}, and mass can only move between the pixels of pictures (N, C, H, W)",
            "reshape them to pictures, or choose another threat, e.g. ig.Linf(0.1)",
        )
    if threat.norm == "linf" and bounds.span <= threat.eps < float("inf"):
        likely = f"did you mean eps = {threat.eps:g}/255?" if threat.eps > 1 else "give eps in the units of x"
        warnings.warn(
            f"eps {threat.eps:g} covers the whole input range [{bounds.low:g}, {bounds.high:g}]. Fix: {likely}",
            IronglassWarning,
            stacklevel=4,
        )
    if threat.mask is not None:
        try:
            threat.mask.expand(x.shape)
        except RuntimeError:
            raise InputError(
                f"a mask of shape {tuple(threat.mask.shape)} for samples of shape {tuple(x.shape)}",
                "give a mask that broadcasts over the batch, e.g. (1, H, W)",
            ) from None
