"""One call from a model and data to a report."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ironglass._version import __version__
from ironglass.core.config import Config, read_config
from ironglass.core.errors import InputError
from ironglass.core.findings import Finding, Limit, Report
from ironglass.models.adapter import Adapter, check, wrap
from ironglass.run import Runner
from ironglass.run.cache import Cache
from ironglass.run.pools import Processes, Serial

from .evidence import Evidence, Gatherer
from .findings import judge
from .planning import Plan, make_plan
from .sections import Writer, balance

Tick = Callable[[str, int, int], None]


class Samples(Protocol):
    """Labelled samples with names, as the loaders bring them."""

    @property
    def x(self) -> Tensor:
        """Samples ``(N, *shape)``."""

    @property
    def y(self) -> Tensor:
        """Labels ``(N,)``."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The samples' names."""

    @property
    def name(self) -> str:
        """The data's name."""


class Interrupted(KeyboardInterrupt):
    """The user stopped the audit; ``report`` holds what was done."""

    def __init__(self, report: Report) -> None:
        super().__init__("interrupted")
        self.report = report


def plan(model: Adapter, data: Samples | tuple[Tensor, Tensor], config: Config | None = None) -> Plan:
    """Returns what an audit would do, without doing it: its ``steps`` with their expected passes, and its ``limits``.

    Args:
        model: what `wrap` made.
        data: samples and labels.
        config: options.
    """
    x, y, _, _ = _parts(data)
    check(model, x, y)
    return make_plan(model, x, config or Config())


def audit(
    model: object,
    data: Samples | tuple[Tensor, Tensor],
    *,
    config: Config | None = None,
    out: Path | str | None = None,
    tick: Tick | None = None,
    source: Sequence[tuple[str, str]] = (),
    bounds: tuple[float, float] = (0, 1),
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    labels: Sequence[str] | None = None,
    name: str = "",
    **options: Any,
) -> Report:
    """Audits a model on labelled samples.

    Args:
        model: a network, a function, or what `wrap` made of it.
        data: ``(x, y)``, or what a loader brought.
        config: options as one value; or give them one by one, e.g. ``eps=8/255, suite="standard"``.
        out: a folder for finished work: a second run with the same request takes up where the first one stopped.
        tick: told ``(what, steps done, steps in all)``.
        source: facts for the report's last section, such as the command and the files' hashes.
        bounds: as for `wrap`, if the model is not wrapped yet.
        mean: as for `wrap`.
        std: as for `wrap`.
        labels: as for `wrap`.
        name: of the model, for the report.
        **options: fields of `Config`.

    Returns:
        The report; ``report.save("audit.html")`` writes it.

    Raises:
        InputError: before any work is done, if the request is wrong.
        Interrupted: on Ctrl-C, with the partial report.
        MethodFailed: if something is both proven and broken, which is a bug of ours.
    """
    if config is None:
        config = read_config(None, options)
    elif options:
        raise InputError(f"config= and {', '.join(options)}= were both given", "give one or the other")
    ready = wrap(model, bounds, mean, std, labels, name=name)  # type: ignore[arg-type]
    x, y, ids, data_name = _parts(data)
    check(ready, x, y)
    steps = make_plan(ready, x, config)
    pool = Processes(config.workers) if config.workers > 1 else Serial()
    cache = Cache(Path(out) / ".cache") if out is not None else None
    runner = Runner(ready, pool=pool, cache=cache, max_queries=config.max_queries)
    try:
        found = Gatherer(runner, steps, x, y, config.time, tick).gather()
    finally:
        pool.close()
    report = _report(ready, steps, found, config, ids, data_name, source)
    if found.interrupted:
        raise Interrupted(report)
    return report


def _parts(data: Samples | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, tuple[str, ...], str]:
    if isinstance(data, tuple):
        if len(data) != 2:
            raise InputError(f"data is a tuple of {len(data)}", "give (x, y): samples and their labels")
        x, y = data
        return x, y, tuple(f"sample {i}" for i in range(len(x))), "samples in memory"
    return data.x, data.y, data.ids, data.name


def _report(
    model: Adapter,
    steps: Plan,
    found: Evidence,
    config: Config,
    ids: tuple[str, ...],
    data_name: str,
    source: Sequence[tuple[str, str]],
) -> Report:
    findings = judge(found, steps)
    failed = any(limit.failed for limit in found.limits)
    name = model.name or "The model"
    facts = (
        ("Access", model.access),
        ("Classes", str(model.classes)),
        (
            "Input",
            " × ".join(map(str, found.x.shape[1:])) + f", values in [{model.bounds.low:g}, {model.bounds.high:g}]",
        ),
        ("Samples", f"{len(found.x)}, {balance(found.y)}"),
        ("Threat", f"{steps.threat}, in input units"),
        ("Suite", f"{config.suite}, seed {config.seed}"),
        *(() if model.backend.parameters() is None else (("Parameters", f"{model.backend.parameters():,}"),)),
    )
    return Report(
        title=_title(name, findings),
        model=name,
        data=data_name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        status="failed" if failed else "partial" if found.out_of_time or found.interrupted else "complete",
        facts=facts,
        findings=findings,
        sections=Writer(model, found, steps, findings, ids).sections(),
        limits=_together(found.limits),
        reproduce=(
            *source,
            ("Seed", str(config.seed)),
            ("Versions", f"Ironglass {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}"),
            ("Threads", str(torch.get_num_threads())),
            ("Identity of the model", model.identity() or "a function, not hashed"),
        ),
        metrics={finding.rule: finding.value for finding in findings if finding.value is not None},
    )


def _together(limits: Sequence[Limit]) -> tuple[Limit, ...]:
    """Returns the limits with those of one reason as one, in the order of their first; failures stay apart."""
    reasons: dict[tuple[str, object], list[Limit]] = {}
    for place, limit in enumerate(limits):
        reasons.setdefault((limit.why, place if limit.failed else None), []).append(limit)
    return tuple(
        Limit(what=", ".join(dict.fromkeys(each.what for each in same)), why=why, failed=same[0].failed)
        for (why, _), same in reasons.items()
    )


def _title(name: str, findings: Sequence[Finding]) -> str:
    if not findings:
        return f"{name}: nothing could be measured"
    verdict = findings[0].verdict
    return f"{name}: {verdict[0].lower()}{verdict[1:]}"
