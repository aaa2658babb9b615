"""``doctor``: what is installed, what this machine has, and whether the toolkit gives the answers that are known."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import click

from ironglass._version import __version__
from ironglass.cli.flags import Verb
from ironglass.cli.screen import Screen
from ironglass.core.errors import IronglassError

if TYPE_CHECKING:
    from ironglass.core.results import AttackResult, Attribution

LIBRARIES = ("torch", "numpy", "scipy", "safetensors", "pillow", "matplotlib", "msgspec", "click", "rich", "jinja2")
FOR_DEVELOPERS = ("dev", "docs", "peers")


def _doctor() -> int:
    screen = click.get_current_context().ensure_object(Screen)
    facts: dict[str, Any] = {
        "ironglass": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "extras": extras(),
        **machine(),
    }
    screen.note("testing an attack and an explanation …")
    facts["self_test"] = self_test()
    screen.show(facts, _lines(facts, screen))
    return 0 if all(row["ok"] for row in facts["self_test"]) else IronglassError.exit_code


def extras() -> dict[str, dict[str, Any]]:
    """Returns each optional extra: which of its libraries are missing, and the line that installs it."""
    found: dict[str, dict[str, Any]] = {}
    for line in metadata.requires("ironglass") or []:
        match = re.match(r"([A-Za-z0-9._-]+).*\bextra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if match is None or match[2] in FOR_DEVELOPERS:
            continue
        row = found.setdefault(match[2], {"missing": [], "install": f"pip install 'ironglass[{match[2]}]'"})
        if _version(match[1]) is None:
            row["missing"].append(match[1])
    return found


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def machine() -> dict[str, Any]:
    """Returns the processors, the accelerators and how memory is kept."""
    import torch

    from ironglass.models.allocator import keep_memory

    return {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "keeps_memory": bool(keep_memory()),
    }


def self_test() -> list[dict[str, Any]]:
    r"""Runs methods on a linear model of two classes, where the answers are known.

    With :math:`f(x) = Wx + b` and the box out of reach, the margin falls by exactly
    :math:`\varepsilon\|w_y - w_{\bar y}\|_1` in linf: an attack succeeds where the margin is smaller, and nowhere else.
    """
    import torch
    from torch import nn

    from ironglass.core.method import get
    from ironglass.core.values import Linf
    from ironglass.run import Runner

    eps, samples, size = 0.05, 64, 20
    draw = torch.Generator().manual_seed(0)
    net = nn.Linear(size, 2).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.randn(2, size, generator=draw, dtype=torch.double))
        net.bias.copy_(-net.weight.sum(1) / 2)
    x = 0.3 + 0.4 * torch.rand(samples, size, generator=draw, dtype=torch.double)
    with torch.no_grad():
        scores = net(x)
    y, w = scores.argmax(1), net.weight.detach()
    falls = (
        scores.gather(1, y[:, None])[:, 0] - scores.gather(1, 1 - y[:, None])[:, 0] < eps * (w[0] - w[1]).abs().sum()
    )

    def attacked() -> bool:
        result = cast("AttackResult", Runner(net)(get("pgd"), x, y, Linf(eps), steps=10, seed=0))
        inside = float((result.adversarial - x).abs().max()) <= eps + 1e-9
        return inside and bool(torch.equal(result.success, falls))

    def explained() -> bool:
        result = cast("Attribution", Runner(net)(get("saliency"), x, None))
        return bool(torch.allclose(result.values.abs(), w[result.target].abs()))

    return [_tried("pgd", attacked), _tried("saliency", explained)]


def _tried(name: str, test: Any) -> dict[str, Any]:
    start = perf_counter()
    try:
        ok, why = test(), ""
    except Exception as error:  # a broken installation may raise anything, and this is where to say so
        ok, why = False, f"{type(error).__name__}: {error}"
    return {"name": name, "ok": ok, "seconds": perf_counter() - start, "error": why}


def _lines(facts: dict[str, Any], screen: Screen) -> Iterator[str]:
    def mark(ok: bool, good: str, bad: str) -> str:
        return screen.style(good, fg="green") if ok else screen.style(bad, fg="red")

    yield f"ironglass {facts['ironglass']}, Python {facts['python']}, {facts['platform']}"
    for name, version in facts["libraries"].items():
        yield f"  {name:12} {version or mark(False, '', 'missing')}"
    yield f"processors: {facts['cpus']}; threads a pass: {facts['threads']}"
    yield f"accelerators: {', '.join(facts['devices']) or 'none'}"
    yield f"memory: {'kept between passes' if facts['keeps_memory'] else 'given back after each pass'}"
    yield "extras"
    for name, row in facts["extras"].items():
        missing = ", ".join(row["missing"])
        yield f"  {name:12} " + (
            f"{mark(False, '', 'missing')} {missing}: {row['install']}" if missing else mark(True, "ok", "")
        )
    yield "self-test, against closed forms on a linear model"
    for row in facts["self_test"]:
        yield f"  {row['name']:12} {mark(row['ok'], 'ok', 'failed')} in {row['seconds']:.2f} s {row['error']}".rstrip()


VERBS = {
    "doctor": Verb("doctor", callback=_doctor, help="Check the installation, and test it for some seconds."),
}
