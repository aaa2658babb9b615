"""scikit-learn classifiers as models: with gradients where they can be written in PyTorch, else scores or labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ironglass.core.errors import InputError, extra

from .sklearn_torch import as_torch, steps

if TYPE_CHECKING:
    from .adapter import Adapter

Array = np.ndarray[Any, Any]
PICKLES = (".joblib", ".pkl", ".pickle")
_FLOOR = 1e-12  # the least probability, so that its logarithm is finite


@dataclass(frozen=True)
class Outputs:
    """What an estimator gives for a batch: ``decision``, ``log-probabilities`` or ``labels``.

    Args:
        estimator: fitted.
        kind: which of the three.
        mean: subtracted from the input first.
        std: divided by then.
    """

    estimator: Any
    kind: str
    mean: Array | float
    std: Array | float

    def __call__(self, batch: Array) -> Array:
        """Returns scores ``(n, classes)``, or class numbers ``(n,)``."""
        x = (batch.reshape(len(batch), -1).astype(np.float64) - self.mean) / self.std
        if self.kind == "labels":
            return np.asarray(np.searchsorted(self.estimator.classes_, self.estimator.predict(x)))
        if self.kind == "decision":
            f = np.asarray(self.estimator.decision_function(x))
            return np.stack([-f / 2, f / 2], 1) if f.ndim == 1 else f
        return np.asarray(np.log(np.maximum(self.estimator.predict_proba(x), _FLOOR)))


def sklearn_model(
    estimator: Any,
    *,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    labels: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    name: str = "",
    **options: Any,
) -> Adapter:
    """Wraps a fitted scikit-learn classifier.

    Linear classifiers, perceptrons and binary support vector machines, also behind scalers, are written in PyTorch
    (float64) and have gradients. Any other gives scores: the logarithm of its probabilities (no less than 1e-12; the
    model's name says so), or its decision function where it is a support vector machine or has no probabilities; or,
    where it only predicts, labels.

    Args:
        estimator: fitted; a grid search stands for its best estimator.
        mean: subtracted inside, a number or one a feature: `load_data` gives it with scaled tables.
        std: divided by inside, so that the estimator is fed its raw units.
        labels: class names; those of the estimator where None.
        shape: of one sample; ``(features,)`` where None.
        name: for reports; the estimator's type where empty.
        options: passed on to `wrap`: ``bounds``, ``access``, ``max_queries``.

    Raises:
        InputError: if it is no fitted single-label classifier.
        MissingExtra: if scikit-learn is not installed.
    """
    from .adapter import wrap

    _check(estimator)
    last = steps(estimator)[-1]
    title = type(last).__name__
    classes = len(estimator.classes_)
    if options.get("classes", classes) != classes:
        raise InputError(
            f"{title} tells {classes} classes apart, {options['classes']} were declared", "correct classes="
        )
    options |= {
        "labels": tuple(labels) if labels is not None else tuple(str(label) for label in estimator.classes_),
        "classes": classes,
        "shape": tuple(shape) if shape is not None else (int(estimator.n_features_in_),),
    }
    net = as_torch(estimator)
    if net is not None:
        return wrap(net, mean=mean, std=std, name=name or title, **options)
    kind = _kind(estimator, title)
    if kind == "decision" and classes > 2 and getattr(last, "decision_function_shape", "ovr") == "ovo":
        raise InputError(
            f"{title} scores pairs of classes", "set decision_function_shape='ovr' on it: no new fit is needed"
        )
    function = Outputs(estimator, kind, _flat(mean, 0.0), _flat(std, 1.0))
    suffix = " (log-probabilities)" if kind == "log-probabilities" else ""
    return wrap(function, arrays="numpy", name=(name or title) + suffix, **options)


def load_skops(path: Path, trust_pickle: bool) -> Any:
    """Loads an estimator from ``.skops``, or from a pickle where that is trusted.

    Args:
        path: ``.skops``, ``.joblib``, ``.pkl`` or ``.pickle``.
        trust_pickle: whether pickles, and types that skops does not know, may be loaded: they can run any code.

    Raises:
        InputError: if it is not trusted, or damaged.
        MissingExtra: if skops or scikit-learn is not installed.
    """
    if path.suffix in PICKLES:
        if not trust_pickle:
            raise InputError(
                f"{path.name} is a pickle, which can run any code when it is read",
                "skops.io.dump(estimator, 'model.skops'), or trust the file: --trust-pickle (trust_pickle=True)",
            )
        try:
            import joblib  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise extra("sklearn", "scikit-learn") from None
        return _read(path, lambda: joblib.load(path))
    try:
        from skops import io
    except ImportError:
        raise extra("sklearn", "skops") from None
    unknown = _read(path, lambda: io.get_untrusted_types(file=path))
    if unknown and not trust_pickle:
        raise InputError(
            f"{path.name} holds types that are not known to be safe: {', '.join(sorted(unknown))}",
            "save an estimator of scikit-learn's own types, or trust the file: --trust-pickle (trust_pickle=True)",
        )
    return _read(path, lambda: io.load(path, trusted=unknown))


def _read(path: Path, read: Any) -> Any:
    try:
        return read()
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(
            f"cannot read {path.name}: {type(error).__name__}: {error}",
            "write it anew, with the installed scikit-learn",
        ) from error


def _check(estimator: Any) -> None:
    try:
        from sklearn.base import is_classifier
        from sklearn.exceptions import NotFittedError
        from sklearn.utils.validation import check_is_fitted
    except ImportError:
        raise extra("sklearn", "scikit-learn") from None
    kind = type(estimator).__name__
    if not hasattr(estimator, "predict") or not is_classifier(estimator):
        raise InputError(f"{kind} is no scikit-learn classifier", "give an estimator that predicts classes")
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise InputError(f"{kind} is not fitted", "call fit(X, y) first") from None
    if not isinstance(estimator.classes_, np.ndarray) or estimator.classes_.ndim != 1:
        raise InputError(f"{kind} gives several labels a sample", "examine one label at a time: fit it by itself")
    if not hasattr(estimator, "n_features_in_"):
        raise InputError(f"{kind} does not take numbers (N, features)", "give wrap(function) its numeric part")


def _kind(estimator: Any, title: str) -> str:
    """Returns what to ask of the estimator: the most that goes with what it predicts."""
    if title == "NearestCentroid":  # predicts by distance, which its probabilities need not follow
        return "labels"
    decides = hasattr(estimator, "decision_function")
    if hasattr(estimator, "predict_proba") and not (decides and title in ("SVC", "NuSVC")):
        return "log-probabilities"
    return "decision" if decides else "labels"


def _flat(value: Sequence[float] | float | None, default: float) -> Array | float:
    return default if value is None else np.asarray(value, dtype=np.float64).reshape(-1)
