"""Networks of Hugging Face Transformers and of timm, with the normalization and class names of their training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ironglass.core.errors import InputError, extra, suggest

from . import weights


@dataclass(frozen=True)
class Net:
    """A network and how it wants to be fed, for inputs in [0, 1]."""

    net: nn.Module
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...] | None = None


def from_transformers(folder: str, shape: Sequence[int] | None = None) -> Net:
    """Loads an image classifier from a local folder that ``save_pretrained`` wrote; nothing is downloaded.

    The normalization is measured: flat pictures go through the folder's own image processor.

    Args:
        folder: with ``config.json``, weights and ``preprocessor_config.json``.
        shape: ``(C, H, W)`` of one sample; the processor's where None.

    Raises:
        InputError: if the folder is not complete, or its processor does more than normalize.
        MissingExtra: if Transformers is not installed.
    """
    try:
        from transformers import AutoImageProcessor, AutoModelForImageClassification
    except ImportError:
        raise extra("hf", "transformers") from None
    if not (Path(folder) / "config.json").is_file():
        raise InputError(
            f"there is no config.json in {folder}", "give a local folder written by save_pretrained: hf:path/to/folder"
        )
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet():
            net, report = AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True, **options)
            processor = AutoImageProcessor.from_pretrained(folder, **options)
    except Exception as error:  # the library raises many kinds for damaged folders
        raise InputError(
            f"Transformers cannot load an image classifier from {folder}: {(str(error).splitlines() or [''])[0]}",
            "save both there: net.save_pretrained(folder), processor.save_pretrained(folder)",
        ) from error
    absent = sorted(report.get("missing_keys", ())) + sorted(str(key) for key in report.get("mismatched_keys", ()))
    if absent:
        raise InputError(
            f"the weights in {folder} lack {len(absent)} tensors of the classifier, such as {absent[0]}",
            "save a network that was trained to classify, with as many classes as its config says",
        )
    mean, std, own = _measured(processor, folder)
    names = getattr(net.config, "id2label", None) or {}
    labels = tuple(str(names[number]) for number in sorted(names))
    return Net(net.eval(), tuple(shape) if shape else own, mean, std, labels or None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Transformers from writing progress bars and hints, and lets it speak again."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _measured(processor: Any, where: str) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Returns mean and std for inputs in [0, 1], and the shape, from what black, white, red and green come to."""

    def run(*colour: int) -> np.ndarray[Any, Any]:
        picture = np.full((64, 64, 3), colour, dtype=np.uint8)
        return np.asarray(processor(picture, return_tensors="np")["pixel_values"][0], dtype=np.float64)

    black, white = run(0, 0, 0), run(255, 255, 255)
    low, high = black.mean((1, 2)), white.mean((1, 2))
    mixed, share = run(51, 102, 204), np.array([0.2, 0.4, 0.8])
    expected = low + (high - low) * (share if len(low) == 3 else np.nan)
    if not np.allclose(mixed.mean((1, 2)), expected, atol=1e-4) or not np.allclose(
        black, low[:, None, None], atol=1e-6
    ):
        raise InputError(
            f"the image processor in {where} does more than resize and normalize RGB",
            "build the network in a Python file and wrap() it with the steps it needs: file.py:factory",
        )
    std = 1 / (high - low)
    return tuple((-low * std).tolist()), tuple(std.tolist()), tuple(black.shape)


def from_timm(name: str, path: Path | None = None, classes: int | None = None) -> Net:
    """Builds a network of timm by name, with its pretrained weights or with weights from a file.

    Args:
        name: such as ``resnet18.a1_in1k``.
        path: weights; where None, the pretrained ones are downloaded by timm, or taken from its cache.
        classes: how many, if not as pretrained.

    Raises:
        InputError: if there is no such network, or its weights cannot be had.
        MissingExtra: if timm, or torchvision which it needs, is not installed.
    """
    try:
        import timm
    except ImportError:
        raise extra("timm", "timm") from None
    except RuntimeError as error:  # torchvision built for another torch
        raise InputError(
            f"timm cannot be imported: {(str(error).splitlines() or [''])[0]}",
            "install the torchvision of your torch build",
        ) from error
    if not timm.is_model(name):
        raise InputError(f"timm has no network '{name}'", suggest(name.split(".")[0], timm.list_models()))
    try:
        known = timm.get_pretrained_cfg_value(name, "num_classes")
        net = timm.create_model(name, pretrained=path is None, num_classes=classes or known or 1000)
    except Exception as error:  # network, cache or an unknown tag
        raise InputError(
            f"timm cannot build {name}: {(str(error).splitlines() or [''])[0]}",
            "give weights from a file (weights=), or go online once so that timm can fetch them",
        ) from error
    if path is None and classes not in (None, known):
        raise InputError(
            f"the pretrained {name} has {known} classes, not {classes}", "leave classes out, or give your own weights="
        )
    if path is not None:
        weights.load(net, path)
    recipe = net.pretrained_cfg
    labels = _imagenet_names(recipe, int(net.num_classes))
    return Net(net.eval(), tuple(recipe["input_size"]), tuple(recipe["mean"]), tuple(recipe["std"]), labels)


def _imagenet_names(recipe: Any, classes: int) -> tuple[str, ...] | None:
    """Returns the names where the network tells the 1000 ImageNet classes apart."""
    from .demo import imagenet_names

    names = recipe.get("label_names")
    if names:
        return tuple(names) if len(names) == classes else None
    return imagenet_names() if classes == 1000 and recipe.get("num_classes") == 1000 else None
