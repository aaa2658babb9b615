from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ironglass.core.findings import Report
from ironglass.report.card import card
from ironglass.report.markdown import escape, summary, table
from ironglass.report.text import one_line

yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the card's front matter")
READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
MARKUP = "\\`*_{}[]()<>#+-.!|~$&@:/=\"'\n\t 12ab"


def kinds(text: str) -> set[str]:
    tokens = READER.parse(text)
    return {token.type for outer in tokens for token in [outer, *(outer.children or [])]}


def shown(text: str) -> str:
    """Returns the text that a reader of this one line of Markdown sees."""
    tokens = READER.parse(text)
    return "".join(child.content for token in tokens for child in token.children or [])


@given(st.text(MARKUP, max_size=30) | st.text(max_size=30))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    line = one_line(text)
    assert shown("x " + escape(text)).removeprefix("x ") == line if line else True
    assert shown(escape(text)) == line
    assert kinds(escape(text)) <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}


@given(st.lists(st.tuples(st.text(MARKUP, max_size=12), st.text(MARKUP, max_size=12)), min_size=1, max_size=4))
def test_a_table_keeps_its_cells(rows: list[tuple[str, str]]) -> None:
    tokens = READER.parse(table(("A", "B"), rows))
    assert [token.type for token in tokens].count("td_open") == 2 * len(rows)
    cells = [after for before, after in itertools.pairwise(tokens) if before.type == "td_open"]
    seen = ["".join(child.content for child in cell.children or []) for cell in cells]
    assert seen == [one_line(cell) for row in rows for cell in row]


@pytest.mark.parametrize("draw", [summary, card])
def test_hostile_strings_are_inert(report: Report, draw: object) -> None:
    text = draw(report)  # type: ignore[operator]
    body = text.split("---\n", 2)[2] if text.startswith("---\n") else text
    assert not kinds(body) & {"html_block", "html_inline", "image", "link_open", "code_inline", "fence", "code_block"}
    assert "http://" not in body
    assert "\u202e" not in text
    assert text == draw(report)  # type: ignore[operator]


def test_the_summary_is_short_and_says_the_verdict(report: Report) -> None:
    text = summary(report)
    assert text.startswith("# digits-cnn: a change of at most 0.1 per pixel breaks 46.3% of the correct answers\n")
    assert "1 critical, 2 high, 3 medium, 2 low, 1 info, 3 ok" in text
    assert "This audit is **partial**" in text
    assert "- **failed:** carlini_wagner" in text
    assert len(text) < 6000
    assert "**partial**" not in summary(replace(report, status="complete"))


def front(text: str) -> dict[str, object]:
    _, matter, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(matter))


def test_the_front_matter_is_the_hub_s(report: Report) -> None:
    cards = pytest.importorskip("huggingface_hub", reason="needs huggingface_hub to read the card")
    read = cards.ModelCard(card(report))
    assert read.data.tags[0] == "ironglass"
    assert read.data.model_name == report.model
    assert {result.metric_type: result.metric_value for result in read.data.eval_results} == report.metrics
    assert {result.dataset_name for result in read.data.eval_results} == {report.data}


@given(st.text(max_size=40), st.floats(allow_nan=False, allow_infinity=False))
def test_no_name_or_number_breaks_the_front_matter(name: str, value: float) -> None:
    report = Report(title="t", model=name, data=f"---\n{name}", created="", metrics={name: value})
    (model,) = front(card(report))["model-index"]  # type: ignore[misc]
    (metric,) = model["results"][0]["metrics"]
    assert metric["value"] == value
    assert isinstance(metric["value"], float)
    assert metric["name"] == model["name"]


def test_a_card_without_metrics_claims_no_results() -> None:
    text = card(Report(title="t", model="m", data="d", created="now"))
    assert "model-index" not in front(text)
    assert "licen" not in text.lower()
