"""A cache of finished shards: what an interrupted run has done is not done again."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ironglass.core.catalogue import PACKAGE
from ironglass.core.results import Result, described, load
from ironglass.core.values import Goal, Threat
from ironglass.models.adapter import Adapter

from .judge import Job


class Cache:
    """Results by the hash of everything they depend on, one safetensors file each.

    Args:
        folder: made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Result | None:
        """Returns a finished result, or None."""
        path = self.folder / f"{key}.safetensors"
        return load(path) if path.exists() else None

    def put(self, key: str, result: Result) -> None:
        """Keeps a finished result; a half-written file is never left under its name."""
        path = self.folder / f"{key}.safetensors"
        half = path.with_suffix(f".{os.getpid()}.part")
        result.save(half)
        half.replace(path)


def key_of(model: Adapter, job: Job) -> str | None:
    """Returns the hash of weights, data, request, our code and versions; None for a model without identity."""
    identity = model.identity()
    if identity is None:
        return None
    digest = hashlib.blake2b(digest_size=20)
    for text in (identity, _code(), torch.__version__, str(torch.get_num_threads()), job.method.card.name):
        digest.update(text.encode() + b"\0")
    digest.update(json.dumps([job.options, job.max_queries], sort_keys=True, default=described).encode())
    for value in (job.x, *job.inputs):
        _update(digest, value)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, Goal):
        digest.update(type(value).__name__.encode())
        _update(digest, value.labels)
    elif isinstance(value, Threat):
        digest.update(f"{value.norm}{value.eps!r}".encode())
        if value.mask is not None:
            _update(digest, value.mask)
    elif isinstance(value, Result):
        digest.update(json.dumps([value.method, dict(value.options)], sort_keys=True, default=described).encode())
        for name in ("values", "target"):
            _update(digest, getattr(value, name))


@cache
def _code() -> str:
    """Our own source, hashed: a method's answer depends on all that it calls."""
    digest = hashlib.blake2b(digest_size=20)
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
