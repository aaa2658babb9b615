"""A report as a model card: Markdown whose front matter the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ironglass._version import __version__
from ironglass.core.findings import Report

from .markdown import escape, findings, limits, table
from .text import visible

TAGS = ("ironglass", "robustness", "interpretability", "adversarial-machine-learning")


def card(report: Report) -> str:
    """Returns the report as a model card.

    Its metrics stand in the front matter's ``model-index`` under their own names. What the audit does not know, such
    as the licence, the training data and the intended use, is left to the model's owner and is not made up.
    """
    parts = [
        "\n".join(_front_matter(report)),
        f"# Model card for {escape(report.model)}",
        f"{escape(report.title)}.".replace("..", "."),
        "## What was audited",
        table(("Fact", "Value"), (("Data", report.data), ("Date", report.created), *report.facts)),
        "## Findings",
        findings(report) if report.findings else "The audit has no findings.",
        *(f"## {escape(section.title)}\n\n{escape(section.sentence)}" for section in report.sections),
        "## Limits of this audit",
        limits(report.limits) if report.limits else "None was recorded.",
        "## How to reproduce it",
        table(("What", "Value"), report.reproduce) if report.reproduce else "The report does not say how.",
        f"Written by Ironglass {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(report: Report) -> Iterable[str]:
    """Yields the YAML block; each text is a double-quoted scalar, so it cannot end its line or change the structure."""
    yield "---"
    yield "tags:"
    yield from (f"- {tag}" for tag in TAGS)
    if report.metrics:
        yield "model-index:"
        yield f"- name: {_quoted(report.model)}"
        yield "  results:"
        yield "  - task:"
        yield "      type: other"
        yield "      name: Robustness and interpretability audit"
        yield "    dataset:"
        yield f"      name: {_quoted(report.data)}"
        yield "      type: other"
        yield "    metrics:"
        for name, value in sorted(report.metrics.items()):
            yield f"    - type: {_quoted(name)}"
            yield f"      name: {_quoted(name)}"
            yield f"      value: {_yaml_number(value)}"
    yield "---"


def _yaml_number(value: float) -> str:
    """Returns a number that every YAML reader takes for one: an exponent needs a decimal point before it."""
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


def _quoted(text: str) -> str:
    return json.dumps(visible(text), ensure_ascii=False)
