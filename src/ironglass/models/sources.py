"""A model by one string: the demo, a Python file, a hub's folder or name, an ONNX, skops or PyTorch file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError

from . import python_file, weights

if TYPE_CHECKING:
    from .adapter import Access, Adapter

_KINDS = "demo, file.py:factory, hf:FOLDER, timm:NAME, model.onnx, model.skops, model.pt"
Options = dict[str, Any]


def load_model(
    spec: str | Path,
    *,
    weights: str | Path | None = None,
    bounds: tuple[float, float] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    labels: Sequence[str] | None = None,
    classes: int | None = None,
    shape: Sequence[int] | None = None,
    trust_pickle: bool = False,
    max_queries: int | None = None,
    access: Access | None = None,
    device: str | None = None,
) -> Adapter:
    """Loads a model.

    Args:
        spec: ``demo``; ``file.py:name``, where the name is a network, a function ``f(batch) -> scores``, a scikit-learn
            estimator, a wrapped model, or a function or class that makes one when called without arguments;
            ``hf:FOLDER``; ``timm:NAME``; ``model.onnx``; ``model.skops``; or, where pickles are trusted, ``model.pt``
            (a whole network) or ``model.joblib``.
        weights: a state dict for ``file.py:name`` or ``timm:NAME``: ``.safetensors``, or ``.pt``.
        bounds: the range of every input value, in your units; [0, 1] where None.
        mean: subtracted inside, in your units; what the source says where None.
        std: divided by inside, in your units; what the source says where None.
        labels: class names; what the source says where None.
        classes: how many; needed for functions that give labels alone.
        shape: of one sample; what the source says where None.
        trust_pickle: whether files that can run code when read may be read.
        max_queries: the most samples that may pass through the model for each sample examined.
        access: the most that methods may see of it.
        device: where the network runs.

    Returns:
        The model.

    Raises:
        InputError: if it cannot be loaded; the error says what to do.
        MissingExtra: if a library is missing.
    """
    text = str(spec)
    options: Options = {
        "bounds": bounds,
        "mean": mean,
        "std": std,
        "labels": labels,
        "classes": classes,
        "shape": shape,
        "max_queries": max_queries,
        "access": access,
        "device": device,
    }
    options = {name: value for name, value in options.items() if value is not None}
    file = Path(weights) if weights is not None else None
    if file is not None and not (python_file.is_spec(text) or text.startswith("timm:")):
        raise InputError(
            f"weights= was given with {text}, which brings its own", "give it with file.py:factory or timm:NAME"
        )
    if text == "demo":
        from .demo import demo_model
        from .efficientnet_lite import MEAN, STD

        return demo_model(**(_normalization((MEAN,) * 3, (STD,) * 3, options) | options))
    if text.startswith(("hf:", "timm:")):
        return _from_hub(text, file, options)
    if python_file.is_spec(text):
        return _from_python(text, file, options)
    return _from_file(Path(text), trust_pickle, options)


def _from_hub(text: str, file: Path | None, options: Options) -> Adapter:
    from . import hub
    from .adapter import wrap

    kind, _, name = text.partition(":")
    if kind == "hf":
        found = hub.from_transformers(name, options.get("shape"))
    else:
        found = hub.from_timm(name, file, options.get("classes"))
    recipe: Options = {"shape": found.shape, "labels": found.labels, "name": Path(name).name}
    return wrap(found.net, **(recipe | _normalization(found.mean, found.std, options) | options))


def _normalization(mean: Sequence[float], std: Sequence[float], options: Options) -> Options:
    r"""Moves a source's normalization from inputs in [0, 1] to the user's bounds; the user's own replaces it whole.

    With :math:`u = (x - l) / (h - l)`, :math:`(u - m) / s = (x - (l + m (h - l))) / (s (h - l))`.
    """
    if "mean" in options or "std" in options:
        return {"mean": None, "std": None}
    low, high = options.get("bounds", (0, 1))
    span = high - low
    return {"mean": [low + value * span for value in mean], "std": [value * span for value in std]}


def _from_python(text: str, file: Path | None, options: Options) -> Adapter:
    made = python_file.load(text)
    if isinstance(made, type) or (_is_function(made) and not python_file.required(made)):
        made = python_file.run(text, made)
    if file is not None:
        if not isinstance(made, nn.Module):
            raise InputError(
                f"weights= was given with {text}, which is {type(made).__name__}", "give it with a network"
            )
        weights.load(made, file)
    return _wrapped(made, text, options)


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, nn.Module) and not _is_estimator(value) and not _is_adapter(value)


def _is_estimator(value: object) -> bool:
    return hasattr(value, "predict") and hasattr(value, "get_params") and not isinstance(value, type)


def _is_adapter(value: object) -> bool:
    from .adapter import Adapter

    return isinstance(value, Adapter)


def _wrapped(made: Any, text: str, options: Options) -> Adapter:
    """Wraps what a file gave, whatever it is."""
    from .adapter import Adapter, wrap

    if isinstance(made, Adapter):
        if options:
            raise InputError(f"{text} is already wrapped, {', '.join(options)} would be ignored", "leave them out")
        return made
    name = text.rpartition(":")[2]
    if isinstance(made, nn.Module):
        return wrap(made.eval(), name=name, **options)
    if _is_estimator(made):
        from .sklearn_model import sklearn_model

        return sklearn_model(made, **_without(options, "device"))
    if callable(made):
        return wrap(Either(made), name=name, **options)
    raise InputError(
        f"{text} gives {type(made).__name__}",
        "give an nn.Module, a function f(batch), an estimator, or a factory of one",
    )


class Either:
    """A function of tensors or of NumPy arrays; which, its annotation or the first batch tells."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        hint = str(next((p.annotation for p in inspect.signature(function).parameters.values()), ""))
        told = "ndarray" in hint or "NDArray" in hint
        self.arrays = True if told else False if "Tensor" in hint else None

    def __call__(self, batch: Tensor) -> Any:
        """Returns what the function gives."""
        if self.arrays is None:
            return self._first(batch)
        return self.function(batch.cpu().numpy() if self.arrays else batch)

    def _first(self, batch: Tensor) -> Any:
        try:
            out, self.arrays = self.function(batch), False
        except Exception as error:
            try:
                out, self.arrays = self.function(batch.cpu().numpy()), True
            except Exception:
                raise error from None
        return out


def _from_file(path: Path, trust_pickle: bool, options: Options) -> Adapter:
    if not path.is_file():
        raise InputError(f"there is no model {path}", f"give one of: {_KINDS}")
    if path.suffix == ".onnx":
        from .onnx_model import onnx_model

        return onnx_model(path, **options)
    if path.suffix in (".skops", ".joblib", ".pkl", ".pickle"):
        from .sklearn_model import load_skops, sklearn_model

        return sklearn_model(load_skops(path, trust_pickle), name=path.stem, **_without(options, "device"))
    if path.suffix in (".pt", ".pth"):
        return _whole_network(path, trust_pickle, options)
    if path.suffix == ".safetensors":
        raise InputError(f"{path.name} holds weights, not the network", "file.py:factory with weights=" + path.name)
    raise InputError(f"{path.name} is of no known kind of model", f"give one of: {_KINDS}")


def _without(options: Options, name: str) -> Options:
    return {key: value for key, value in options.items() if key != name}


def _whole_network(path: Path, trust_pickle: bool, options: Options) -> Adapter:
    """Loads a pickled network; a state dict, which cannot run by itself, is told from it."""
    safe = f"save net.state_dict() instead, and give file.py:factory with weights={path.name}"
    try:
        weights.read(path)
    except InputError as error:
        if not trust_pickle:
            raise InputError(
                f"{path.name} is no state dict: {error.message}", f"{safe}; or trust it: --trust-pickle"
            ) from error
    else:
        raise InputError(f"{path.name} holds weights, not the network", f"file.py:factory with weights={path.name}")
    try:
        net = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle can raise anything
        raise InputError(f"cannot unpickle {path.name}: {type(error).__name__}: {error}", safe) from error
    if not isinstance(net, nn.Module):
        raise InputError(f"{path.name} holds {type(net).__name__}, not a network", safe)
    return _wrapped(net, path.stem, options)
