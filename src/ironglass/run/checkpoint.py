"""A training's checkpoint: one safetensors file, written whole or not at all, that knows whose it is."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ironglass.core.errors import InputError
from ironglass.core.method import Method
from ironglass.core.training import plain
from ironglass.core.values import Threat
from ironglass.models.adapter import Adapter

KIND = "Ironglass checkpoint"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a training is kept between its epochs.

    Args:
        path: of the file.
        key: the hash of the request: method, options, network, data and threat.
    """

    path: Path
    key: str

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Returns the tensors and the record of the last epoch; None where there is no file yet.

        Raises:
            InputError: if the file is no checkpoint, or one of another training.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                record: dict[str, Any] = json.loads((file.metadata() or {}).get("ironglass", "{}"))
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise InputError(f"cannot read {self.path}: {error}", "name another file for the checkpoint") from error
        if record.get("kind") != KIND:
            raise InputError(f"{self.path} holds no checkpoint", "name a file that is not there yet")
        if record["key"] != self.key:
            raise InputError(
                f"{self.path} is of another training: its method, options, network, data or threat differ",
                "name another file, or delete this one",
            )
        return tensors, record

    def save(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Writes an epoch; a half-written file is never left under its name.

        Raises:
            InputError: if it cannot be written.
        """
        from safetensors.torch import save_file

        half = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        try:
            save_file(
                own, str(half), metadata={"ironglass": json.dumps({"kind": KIND, "key": self.key} | dict(record))}
            )
            half.replace(self.path)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error}", "give a file in a folder that exists") from error
        finally:
            half.unlink(missing_ok=True)


def place_of(given: str | Path, name: str) -> Path:
    """Returns the file: in a folder, one of the method's name.

    Raises:
        InputError: if its folder is missing.
    """
    path = Path(given)
    if path.is_dir():
        return path / f"{name}.safetensors"
    if not path.parent.is_dir():
        raise InputError(f"{path} lies in a folder that does not exist", "make the folder, or name another file")
    return path


def key_of(
    method: Method[Any], options: Mapping[str, Any], model: Adapter, data: tuple[Tensor, Tensor], threat: Threat | None
) -> str:
    """Returns the hash of all that a training depends on but the code and the number of threads."""
    digest = hashlib.blake2b(digest_size=20)
    request = [method.card.name, {name: plain(value) for name, value in options.items()}, plain(threat)]
    bounds = [model.bounds.low, model.bounds.high]
    digest.update(json.dumps([*request, bounds, model.identity()], sort_keys=True).encode())
    mask = [] if threat is None or threat.mask is None else [threat.mask]
    for tensor in (*data, *mask):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{flat.dtype}{tuple(flat.shape)}".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
