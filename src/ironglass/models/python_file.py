"""A name out of a user's Python file: ``file.py:name``."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ironglass.core.errors import InputError, IronglassError, suggest

PREFIX = "ironglass_user_"


def is_spec(spec: str) -> bool:
    """Returns whether this names a Python file, with or without what is wanted from it."""
    return spec.endswith(".py") or spec.rpartition(":")[0].endswith(".py")


def load(spec: str) -> Any:
    """Runs the file and returns what the name stands for.

    Args:
        spec: ``path/file.py:name``.

    Raises:
        InputError: if there is no such file or name, or the file raises.
    """
    file, _, name = spec.rpartition(":")
    if not file.endswith(".py"):
        raise InputError(f"{spec} does not say what to take from the file", f"{spec}:name")
    module = _run_file(Path(file))
    if not hasattr(module, name):
        public = [word for word in vars(module) if not word.startswith("_")]
        raise InputError(f"{Path(file).name} has no '{name}'", suggest(name, public))
    return getattr(module, name)


def run(spec: str, function: Callable[[], Any]) -> Any:
    """Calls a function of the file without arguments.

    Raises:
        InputError: if it raises, or needs arguments.
    """
    needed = required(function)
    if needed:
        raise InputError(
            f"{spec} needs arguments ({', '.join(needed)})", "give them defaults, or name a function without"
        )
    try:
        return function()
    except IronglassError:
        raise
    except Exception as error:
        raise InputError(f"{spec} raised {_told(error)}", "correct the function") from error


def required(function: Callable[..., Any]) -> list[str]:
    """Returns the names of the arguments that a call must give."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    by_place = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in by_place]


def files() -> tuple[str, ...]:
    """Returns the user's files that were run here; another process runs them too before it unpacks what they define."""
    return tuple(str(module.__file__) for name, module in sys.modules.items() if name.startswith(PREFIX))


def run_files(paths: tuple[str, ...]) -> None:
    """Runs files that another process has run."""
    for path in paths:
        _run_file(Path(path))


def _run_file(path: Path) -> ModuleType:
    """Runs a file once for each of its contents; it may import modules from its own folder."""
    if not path.is_file():
        raise InputError(f"there is no file {path}", "check the path, relative to where you are")
    source = path.read_bytes()
    digest = hashlib.sha256(str(path.resolve()).encode() + source).hexdigest()[:16]
    name = f"{PREFIX}{path.stem}_{digest}".replace("-", "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file", "give file.py:name")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(
            f"{path.name} raised {_told(error, path)}", "correct the file: it must import without error"
        ) from error
    finally:
        sys.path.remove(folder)
    return module


def _told(error: Exception, path: Path | None = None) -> str:
    """Returns the error in a line, with the file's line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if path and Path(frame.filename).resolve() == path.resolve()]
    return f"{type(error).__name__}{f' at line {lines[-1]}' if lines else ''}: {error}"
