"""What is examined: the model and the samples that the flags name. Torch is imported here, when it is needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from ironglass.cli.guards import Guard, behind
from ironglass.cli.kinds import kind_of
from ironglass.core.catalogue import Card, find
from ironglass.core.config import Config, read_config
from ironglass.core.errors import InputError

if TYPE_CHECKING:
    from ironglass.models.adapter import Adapter
    from ironglass.models.data import Data

DEMO = "demo"
CONFIGURED = ("norm", "eps", "samples", "seed", "workers", "time", "max_queries")
PICKLED = (".skops", ".joblib", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, the samples it is examined on, and where both came from."""

    model: Adapter
    data: Data
    source: tuple[tuple[str, str], ...] = ()

    def part(self, rows: Sequence[slice]) -> Subject:
        """Returns the model with these samples alone.

        Raises:
            InputError: if there are none of them.
        """
        import torch

        size = len(self.data)
        index = [i for each in rows for i in range(*each.indices(size))]
        if not index or any(each.start is not None and each.start >= size for each in rows):
            raise InputError(
                f"--index names samples that are not there: there are {size}", f"count from 0 to {size - 1}"
            )
        return replace(self, data=self.data.take(torch.tensor(index)))


def named(model: str | None, data: str | None) -> tuple[str, str]:
    """Returns the model's and the data's name: the demo's where neither was given.

    Raises:
        InputError: if one was given without the other; the demo's pictures would not fit another model.
    """
    if data is None and model not in (None, DEMO):
        raise InputError(f"no data to examine {model} on", "give --data, e.g. --data test.npz")
    if model is None and data not in (None, DEMO):
        raise InputError(f"no model to examine on {data}", "name the model first, e.g. net.py:make")
    return model or DEMO, data or DEMO


def configured(flags: Mapping[str, Any], **more: Any) -> Config:
    """Returns the configuration: the file's values, then the flags that were given.

    Raises:
        InputError: if the file names a method or an option that does not exist, or a value that is not of its type.
    """
    config = read_config(flags["config"], {name: flags.get(name) for name in CONFIGURED} | more)
    options = {name: _typed(find(name), given, flags["config"]) for name, given in config.options.items()}
    return msgspec.structs.replace(config, options=options)


def _typed(card: Card, given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Returns a method's options in the types that its card declares, read as they would be on the command line."""
    card.filled(given)
    typed = {}
    for option in card.options:
        if option.name not in given:
            continue
        value, kind = given[option.name], kind_of(option.type, card.module)
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        try:
            typed[option.name] = value if kind is None else kind.convert(text, None, None)
        except click.UsageError as error:
            raise InputError(
                f"{path}: options.{card.name}.{option.name}: {error.message}", f"ironglass show {card.name}"
            ) from error
    return typed


def load(flags: Mapping[str, Any], config: Config) -> Subject:
    """Loads the model and its samples.

    Raises:
        InputError: if one of them cannot be loaded, or is not what the flags say.
    """
    model_name, data_name = named(flags["model"], flags["data"])
    options = _asked(flags)
    from ironglass.models.data import load_data
    from ironglass.models.sources import load_model

    model = load_model(model_name, **options)
    data = load_data(data_name, shape=model.shape, labels=model.names, samples=config.samples, seed=config.seed)
    learned = _learned(model, data, flags, model_name)
    if learned:
        model = load_model(model_name, **(options | learned))
    if options["device"] is not None:
        data = replace(data, x=data.x.to(options["device"]), y=data.y.to(options["device"]))
    model.probe(data.x)
    if not model.names and data.labels is not None and len(data.labels) == model.classes:
        model.names = data.labels
    if flags["defence"]:
        model = behind(model, flags["defence"])
        model.probe(data.x)
    return Subject(model, data, _source(flags, model_name, data_name))


def others(
    flags: Mapping[str, Any], names: Sequence[str], guards: Sequence[Guard], case: Subject
) -> dict[str, Adapter]:
    """Loads more models for the same samples, and returns all of them by name, the first included.

    The first behind each defence of the flags is one more.

    Raises:
        InputError: if one cannot be loaded, or weights were given that could be anyone's.
    """
    from ironglass.models.sources import load_model

    if names and flags["weights"] is not None:
        raise InputError("--weights was given with several models", "let each file's factory load its own")
    models, specs = [case.model], [flags["model"] or DEMO, *names]
    for name in names:
        model = load_model(name, **_asked(flags))
        learned = _learned(model, case.data, flags, name)
        models.append(load_model(name, **(_asked(flags) | learned)) if learned else model)
    called = [model.name or spec for model, spec in zip(models, specs, strict=True)]
    if len(set(called)) < len(called):
        called = list(specs)
    models += [behind(case.model, [each]) for each in guards]
    called += [f"{called[0]} behind {each.text}" for each in guards]
    if len(set(called)) < len(called):
        raise InputError(f"a model is given twice: {', '.join(called)}", "name each once")
    return dict(zip(called, models, strict=True))


def _asked(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the flags say about the model."""
    options = {name: flags[name] for name in ("weights", "bounds", "classes", "trust_pickle", "access")}
    options |= {"mean": _single(flags["mean"]), "std": _single(flags["std"]), "labels": read_names(flags["labels"])}
    return options | {"device": device(flags["device"])}


def _learned(model: Adapter, data: Data, flags: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns what only the data tells about the model.

    One mean a feature needs a sample's shape. A set that was brought to [0, 1] is brought back to its raw units for an
    estimator from a file, which was fitted on them.
    """
    learned: dict[str, Any] = {}
    if model.shape is None and (flags["mean"] or flags["std"]):
        learned["shape"] = tuple(data.x.shape[1:])
    if data.scale is not None and not (flags["mean"] or flags["std"]) and name.endswith(PICKLED):
        learned["mean"], learned["std"] = data.scale
    return learned


def _single(values: tuple[float, ...] | None) -> tuple[float, ...] | float | None:
    return values[0] if values is not None and len(values) == 1 else values


def read_names(path: Path | None) -> tuple[str, ...] | None:
    """Returns the class names in a file, one a line.

    Raises:
        InputError: if it cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}", "give a text file, a class name a line") from error
    if not names:
        raise InputError(f"{path} is empty", "write a class name a line, in the order of the logits")
    return names


def device(name: str) -> str | None:
    """Returns where the network runs: ``auto`` is the accelerator if there is one; None leaves it on the processor.

    Raises:
        InputError: if there is no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else None
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"there is no device '{name}': {reason}", "--device cpu; see `ironglass doctor`") from error
    return None if name == "cpu" else name


def _source(flags: Mapping[str, Any], model: str, data: str) -> tuple[tuple[str, str], ...]:
    """Returns the files that went in, with their hashes, the defences, and whether a pickle was trusted."""
    files = (("Model", model.rpartition(":")[0] or model), ("Weights", flags["weights"]), ("Data", data))
    found = [
        (f"{what} file", f"{path}, SHA-256 {_hash(Path(path))}") for what, path in files if path and _is_file(path)
    ]
    trusted = [("Pickle", "trusted: unpickling was allowed for this run")] if flags["trust_pickle"] else []
    guards = [("Defence", each.text) for each in flags["defence"]]
    return (*found, *guards, *trusted)


def _is_file(path: str | Path) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def writable(path: Path, endings: tuple[str, ...]) -> Path:
    """Returns a file's path if it can be written, so that a long run is not lost at its end.

    Raises:
        InputError: if its ending is unknown, its folder is missing, or it is a folder.
    """
    if path.suffix not in endings:
        raise InputError(f"cannot tell what to write from '{path.name}'", f"end it in {' or '.join(endings)}")
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else "lies in a folder that does not exist"
        raise InputError(f"{path} {problem}", "give a file in a folder that exists")
    return path


def folder(path: Path) -> Path:
    """Returns a folder that can be written into; it is made if missing.

    Raises:
        InputError: if it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {path}: {error.strerror}", "give another folder with -o") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"cannot write into {path}: no permission", "give another folder with -o")
    return path
