"""State dicts: read without unpickling code, and loaded strictly."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ironglass.core.errors import InputError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_INSIDE = ("state_dict", "model_state_dict", "model")


def read(path: Path) -> dict[str, Tensor]:
    """Reads a state dict from ``.safetensors``, or from ``.pt`` with ``weights_only``.

    A state dict inside a checkpoint is found by its usual names; the prefix of ``DataParallel`` is dropped.

    Raises:
        InputError: if the file is missing, damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}", "check the path, relative to where you are")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path.name} is no file of weights", f"give one of: {', '.join(SUFFIXES)}")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    state = _state_in(content)
    if state is None:
        raise InputError(
            f"{path.name} holds {type(content).__name__}, not tensors by name", "torch.save(net.state_dict(), path)"
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def load(net: nn.Module, path: Path) -> None:
    """Loads weights into a network; every name and shape must fit.

    Raises:
        InputError: naming what is missing, what is unexpected, and which shapes differ.
    """
    state, own = read(path), net.state_dict()
    missing, unexpected = [name for name in own if name not in state], [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network"
        for name in own
        if name in state and isinstance(own[name], Tensor) and state[name].shape != own[name].shape
    ]
    wrong = (("missing in it", missing), ("unknown to the network", unexpected), ("of other shape", shapes))
    told = "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in wrong if names)
    if told:
        raise InputError(
            f"{path.name} does not fit {type(net).__name__}: {told}",
            "build the network as it was trained (layers, width, classes), or name other weights",
        )
    net.load_state_dict(state)


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path.name} is damaged or no safetensors file: {error}", "write it anew") from error


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        what = (
            f"holds {named[1]}, which could run code when it is unpickled" if named else "is damaged or no PyTorch file"
        )
        raise InputError(f"{path.name} {what}", "torch.save(net.state_dict(), path), or write safetensors") from error
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"{path.name} is damaged or no PyTorch file: {_first_line(error)}", "write it anew") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _state_in(content: Any) -> dict[str, Tensor] | None:
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        return dict(content)
    return next((_state_in(content[name]) for name in _INSIDE if isinstance(content.get(name), Mapping)), None)
