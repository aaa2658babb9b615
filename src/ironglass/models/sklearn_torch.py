"""Fitted scikit-learn classifiers written anew in PyTorch, so that they have gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError

Array = np.ndarray[Any, Any]
_ACTIVATIONS = {"identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}
_VECTOR_MACHINES = ("SVC", "NuSVC")


def as_torch(estimator: Any) -> nn.Sequential | None:
    r"""Re-expresses a fitted classifier, or a pipeline of scalers and one, in float64.

    Known are linear classifiers, multilayer perceptrons, and binary support vector machines with a linear or RBF
    kernel; standard, min-max, max-abs and robust scalers, and PCA. Scalers melt into the linear layer that follows. A
    binary decision :math:`f` becomes the logits :math:`(-f/2, f/2)`, whose log-odds are :math:`f`. Where the classifier
    has probabilities, the softmax of the logits equals them (one-vs-rest ones get a log-sigmoid for that). Support
    vector machines and the modified Huber loss keep their decision function, which is what they predict by.

    Args:
        estimator: fitted.

    Returns:
        A network of standard layers ``(N, *shape) -> (N, classes)``, compared with the estimator on a few points; None
        where the estimator is of no known kind or does not agree.
    """
    *prefix, last = steps(estimator)
    layers: list[nn.Module] = []
    for part in (*map(_transformer, prefix), _classifier(last)):
        if part is None:
            return None
        layers += part
    net = nn.Sequential(nn.Flatten(), *_folded(layers)).double().eval().requires_grad_(False)
    return net if _agrees(net, estimator, last, _points(prefix, last)) else None


def steps(estimator: Any) -> list[Any]:
    """Returns the fitted steps of a pipeline, the classifier last; a search stands for its best estimator."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if not hasattr(estimator, "steps"):
        return [] if estimator is None or isinstance(estimator, str) else [estimator]
    return [inner for _, step in estimator.steps for inner in steps(step)]


class Affine(nn.Module):
    """Each feature times its scale, plus its shift."""

    def __init__(self, scale: Array, shift: Array) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float64))
        self.register_buffer("shift", torch.as_tensor(shift, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``scale x + shift``, of the input's shape."""
        return x * self.scale + self.shift


class RbfKernel(nn.Module):
    r"""Similarity to each support vector: :math:`\exp(-\gamma \|x - s\|^2)`."""

    def __init__(self, vectors: Array, gamma: float) -> None:
        super().__init__()
        self.vectors: Tensor
        self.register_buffer("vectors", torch.as_tensor(vectors, dtype=torch.float64))
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        """Returns the similarities ``(N, vectors)``."""
        squares = x.square().sum(1, keepdim=True) + self.vectors.square().sum(1)
        return torch.exp(-self.gamma * (squares - 2 * x @ self.vectors.T).clamp(min=0))


def _linear(weight: Array, bias: Array) -> nn.Linear:
    """A linear layer of given weights ``(out, in)`` and bias ``(out,)``."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # no weights are drawn
    layer.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
    layer.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))
    return layer


def _transformer(step: Any) -> list[nn.Module] | None:
    kind = type(step).__name__
    one, zero = np.ones(1), np.zeros(1)
    if kind in ("StandardScaler", "RobustScaler"):
        scale = one if step.scale_ is None else 1 / step.scale_
        centre = getattr(step, "mean_", None) if kind == "StandardScaler" else step.center_
        used = step.with_mean if kind == "StandardScaler" else step.with_centering
        return [Affine(scale, -centre * scale if used and centre is not None else zero)]
    if kind == "MinMaxScaler":
        low, high = map(float, step.feature_range)
        clip = [nn.Hardtanh(low, high)] if step.clip else []
        return [Affine(step.scale_, step.min_), *clip]
    if kind == "MaxAbsScaler":
        clip = [nn.Hardtanh(-1.0, 1.0)] if getattr(step, "clip", False) else []
        return [Affine(1 / step.scale_, zero), *clip]
    if kind == "PCA":
        rows = step.components_ / (np.sqrt(step.explained_variance_)[:, None] if step.whiten else 1)
        return [_linear(rows, -rows @ step.mean_)]
    return None


def _classifier(step: Any) -> list[nn.Module] | None:
    """Returns the layers up to the logits."""
    if type(step).__name__ in _VECTOR_MACHINES:
        return _vector_machine(step)
    if hasattr(step, "coefs_") and step.activation in _ACTIVATIONS:
        layers: list[nn.Module] = []
        for weight, bias in zip(step.coefs_, step.intercepts_, strict=True):
            layers += [_linear(weight.T, bias), _ACTIVATIONS[step.activation]()]
        *body, last, _ = layers
        if step.out_activation_ == "logistic" and step.n_outputs_ > 1:
            raise InputError(
                "the perceptron gives several labels a sample", "examine one label at a time: fit it by itself"
            )
        return [*body, _two_sided(last)]
    if hasattr(step, "coef_") and hasattr(step, "decision_function"):
        weight = step.coef_.toarray() if hasattr(step.coef_, "toarray") else np.atleast_2d(step.coef_)
        bias = np.broadcast_to(step.intercept_, (len(weight),))
        head = [nn.LogSigmoid()] if _one_vs_rest(step) else []
        return [_two_sided(_linear(weight, bias)), *head]
    return None


def _one_vs_rest(step: Any) -> bool:
    """Returns whether the probabilities are one sigmoid a class, brought to the sum one."""
    if len(step.classes_) == 2 or not hasattr(step, "predict_proba"):
        return False
    if hasattr(step, "loss"):
        return bool(step.loss == "log_loss")
    return getattr(step, "multi_class", None) == "ovr" or getattr(step, "solver", None) == "liblinear"


def _vector_machine(step: Any) -> list[nn.Module] | None:
    if len(step.classes_) != 2 or step.kernel not in ("linear", "rbf"):
        return None
    dual = step.dual_coef_.toarray() if hasattr(step.dual_coef_, "toarray") else step.dual_coef_
    vectors = step.support_vectors_.toarray() if hasattr(step.support_vectors_, "toarray") else step.support_vectors_
    if step.kernel == "linear":
        return [_two_sided(_linear(dual @ vectors, step.intercept_))]
    return [RbfKernel(vectors, float(step._gamma)), _two_sided(_linear(dual, step.intercept_))]


def _two_sided(layer: nn.Module) -> nn.Module:
    """Gives a layer of one output f the outputs (-f/2, f/2)."""
    if not isinstance(layer, nn.Linear) or layer.out_features > 1:
        return layer
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return _linear(np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2)


def _folded(layers: list[nn.Module]) -> list[nn.Module]:
    """Melts each scaler into the linear layer right after it: W (a x + b) + c = (W a) x + (W b + c)."""
    folded: list[nn.Module] = []
    for layer in layers:
        before = folded[-1] if folded else None
        if isinstance(layer, nn.Linear) and isinstance(before, Affine):
            weight = layer.weight.detach()
            shift = weight @ before.shift.expand(layer.in_features) + layer.bias.detach()
            folded[-1] = _linear((weight * before.scale).numpy(), shift.numpy())
        else:
            folded.append(layer)
    return folded


def _points(prefix: list[Any], last: Any) -> Array:
    """Draws inputs that reach the classifier well scaled, some of them its support vectors."""
    points = np.random.default_rng(0).normal(size=(16, last.n_features_in_))
    vectors = getattr(last, "support_vectors_", None)
    if vectors is not None:
        points = np.concatenate([points, (vectors.toarray() if hasattr(vectors, "toarray") else vectors)[:16]])
    for step in reversed(prefix):
        points = step.inverse_transform(points)
    return np.asarray(points)


def _agrees(net: nn.Sequential, estimator: Any, last: Any, points: Array) -> bool:
    """Compares the logits with the decision function, and their softmax with the probabilities."""
    with torch.no_grad():
        logits = net(torch.from_numpy(points))
        plain = (net[:-1] if isinstance(net[-1], nn.LogSigmoid) else net)(torch.from_numpy(points))
    pairs = []
    if hasattr(estimator, "decision_function"):
        decisions = estimator.decision_function(points)
        pairs.append((plain[:, 1] - plain[:, 0] if decisions.ndim == 1 else plain, decisions))
    by_decision = type(last).__name__ in _VECTOR_MACHINES or getattr(last, "loss", "") == "modified_huber"
    if hasattr(estimator, "predict_proba") and not by_decision:
        pairs.append((logits.softmax(1), estimator.predict_proba(points)))
    same = [own.shape == theirs.shape and np.allclose(own, theirs, rtol=1e-7, atol=1e-9) for own, theirs in pairs]
    return all(same)
