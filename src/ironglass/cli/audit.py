"""``audit``: everything that fits, on one model, as one report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ironglass.cli.flags import FILE, RUNNING, SUBJECT, Flag, Verb
from ironglass.cli.kinds import NUMBER, Many, ParamType, kind_of
from ironglass.cli.screen import INTERRUPTED, Screen, safe
from ironglass.cli.subject import Subject, configured, folder, load
from ironglass.core.catalogue import find
from ironglass.core.config import Config
from ironglass.core.errors import BudgetExceeded, MethodFailed
from ironglass.core.findings import SEVERITIES, Report
from ironglass.report import FORMATS, write
from ironglass.report.text import measured, worst_first

if TYPE_CHECKING:
    from ironglass.audit import Plan

MARKS = {"critical": "■", "high": "▲", "medium": "◆", "low": "●", "info": "○", "ok": "✓"}
COLOURS = {"critical": "magenta", "high": "red", "medium": "yellow", "low": "blue", "info": "cyan", "ok": "green"}


def _run(**flags: Any) -> int:
    screen = click.get_current_context().ensure_object(Screen)
    names = ("suite", "fail_on", "only", "skip")
    config = configured(flags, **{name: flags[name] for name in names})
    for name in (*config.only, *config.skip):
        find(name)
    if flags["dry_run"]:
        return _dry(screen, load(flags, config), config)
    out = folder(flags["output"])
    return _audit(screen, load(flags, config), config, out, dict.fromkeys(("html", "json", *flags["format"])))


def _audit(screen: Screen, case: Subject, config: Config, out: Path, formats: Iterable[str]) -> int:
    from ironglass.audit import Interrupted, audit

    interrupted = False
    try:
        with screen.progress() as tick:
            source = (("Command", screen.command), *case.source)
            report = audit(case.model, case.data, config=config, out=out, tick=tick, source=source)
    except Interrupted as stop:
        report, interrupted = stop.report, True
        screen.note("ironglass: interrupted; the report has what was done")
    paths = write(report, out, formats)
    screen.show(json.loads(report.to_json()), [*summary(report, screen), *(safe(str(path)) for path in paths)])
    return INTERRUPTED if interrupted else code_of(report, config.fail_on)


def code_of(report: Report, fail_on: str) -> int:
    """Returns the exit code: what was found counts first, then what failed, then what a budget stopped."""
    if fail_on != "never" and SEVERITIES.index(report.worst) >= SEVERITIES.index(fail_on):
        return 1
    return {"failed": MethodFailed.exit_code, "partial": BudgetExceeded.exit_code, "complete": 0}[report.status]


def summary(report: Report, screen: Screen) -> Iterator[str]:
    """Yields the findings, worst first: level, sentence, value with its interval, and the fix."""
    yield screen.style(f"{safe(report.model)} on {safe(report.data)}", bold=True)
    for finding in worst_first(report):
        level = f"{MARKS[finding.severity]} {finding.severity:8}"
        value = measured(finding)
        yield f"{screen.style(level, fg=COLOURS[finding.severity])} {safe(finding.verdict)}" + (
            f": {value}" if value else ""
        )
        if finding.severity not in ("ok", "info"):
            yield f"{'':10} Fix: {safe(finding.fix)}"
    failed = [limit for limit in report.limits if limit.failed]
    for limit in failed:
        yield f"failed: {safe(limit.what)}: {safe(limit.why)}"
    if report.status != "complete":
        yield f"This report is {report.status}: its limits say what is missing, and why."


def _dry(screen: Screen, case: Subject, config: Config) -> int:
    from ironglass.audit import plan

    steps = plan(case.model, case.data, config)
    data = {
        "model": case.model.name,
        "data": case.data.name,
        "threat": {"norm": steps.threat.norm, "eps": steps.threat.eps},
        "steps": [
            {
                "method": step.name,
                "title": step.title,
                "family": step.family,
                "options": dict(step.options),
                "samples": step.samples,
                "passes_per_sample": step.passes,
                "why": step.why,
            }
            for step in steps.steps
        ],
        "limits": [{"what": limit.what, "why": limit.why} for limit in steps.limits],
        "curve": {"method": steps.curve, "radii": list(steps.radii)},
        "passes": steps.passes,
    }
    screen.show(data, _plan_lines(steps, case))
    return 0


def _plan_lines(steps: Plan, case: Subject) -> Iterator[str]:
    yield f"{safe(case.model.name)} on {len(case.data.x)} samples of {safe(case.data.name)}, {steps.threat}"
    wide = max((len(step.name) for step in steps.steps), default=0)
    for step in steps.steps:
        size = f"{step.samples:5} samples  {step.passes:9,.6g} passes each"
        yield f"  {step.name:{wide}}  {size}  {step.title}; {step.why}"
    yield f"  about {steps.passes:,.0f} passes in all, at most"
    for limit in steps.limits:
        yield f"  not run: {limit.what}: {limit.why}"


def _field(name: str) -> ParamType | None:
    """Returns the type of a field of the configuration."""
    return kind_of(Config.__annotations__[name], Config.__module__)


VERBS = {
    "audit": Verb(
        "audit",
        callback=_run,
        help="Attack, certify and explain MODEL, and write one report; without MODEL and --data, audit a demo.",
        short_help="Attack, certify and explain MODEL: one report.",
        params=(
            SUBJECT[0],
            Flag("--suite", group="Audit", type=_field("suite"), help="How much to run; quick if not given."),
            Flag("--norm", group="Audit", type=_field("norm"), help="Of the threat; linf if not given."),
            Flag("--eps", group="Audit", type=NUMBER, metavar="NUMBER", help="Radius in input units, e.g. 8/255."),
            Flag("--fail-on", group="Audit", type=_field("fail_on"), help="Exit with 1 from this level on; or never."),
            Flag("--only", group="Audit", type=Many(click.STRING), metavar="A,B", help="Run these methods alone."),
            Flag("--skip", group="Audit", type=Many(click.STRING), metavar="A,B", help="Leave these methods out."),
            Flag("--output", "-o", group="Output", type=FILE, default="ironglass-out", metavar="DIR", help="Folder."),
            Flag(
                "--format", group="Output", type=Many(click.Choice(list(FORMATS))), default=(),
                metavar="A,B", help=f"Beside html and json: {', '.join(FORMATS)}.", show_default=False,
            ),
            *SUBJECT[1:],
            *RUNNING,
        ),
    ),
}  # fmt: skip
