from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ironglass.core.errors import InputError
from ironglass.core.findings import Bars, Finding, Gallery, Limit, Picture, Report, Section, Table
from ironglass.report.html import page
from ironglass.report.palette import DARK, LIGHT
from ironglass.report.text import number

FETCHING = {"src", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href", "manifest", "ping"}
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Reader(HTMLParser):
    """Every element with its attributes and text, and whether the elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, [])
        if tag not in VOID:
            self.open.append(tag)
            self.texts[tag].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return page(report)


@pytest.fixture(scope="module")
def read(html: str) -> Reader:
    return Reader(html)


def test_the_same_report_gives_the_same_bytes(report: Report, html: str) -> None:
    assert page(report) == html


def fetched(text: str) -> list[str]:
    """Returns every address that a browser would fetch for the page or its styles."""
    reader = Reader(text)
    found = [
        value
        for tag, attributes in reader.elements
        for name, value in attributes.items()
        if value is not None and (name in FETCHING or (name == "href" and tag != "a"))
    ]
    styles = " ".join(reader.texts["style"]) + " ".join(
        value or "" for _, attributes in reader.elements for name, value in attributes.items()
    )
    found += re.findall(r"""url\(\s*['"]?([^'")]*)""", styles) + re.findall(r"@import[^;]*", styles)
    return [address for address in found if not address.startswith(("#", "data:"))]


def test_nothing_is_fetched(html: str) -> None:
    assert fetched(html) == []


@pytest.mark.parametrize(
    "addition",
    [
        '<img src="http://example.org/x.png">',
        '<link rel="stylesheet" href="//example.org/x.css">',
        '<p style="background:url(https://example.org/x)"></p>',
        "<style>@import 'x.css';</style>",
        '<svg><image href="x.png"/></svg>',
    ],
)
def test_the_test_above_sees_what_would_be_fetched(html: str, addition: str) -> None:
    assert len(fetched(html.replace("</main>", f"{addition}</main>"))) == 1


def test_the_page_forbids_the_browser_to_fetch_or_run_anything(read: Reader) -> None:
    policy = next(meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "img-src data:" in policy
    assert "script-src" not in policy


def test_hostile_strings_make_no_element_and_no_handler(read: Reader) -> None:
    tags = {tag for tag, _ in read.elements}
    assert not tags & {
        "script",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "b onload",
        "animate",
        "set",
        "foreignobject",
    }
    names = {name for _, attributes in read.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not [a for a in read.all("a") if not (a["href"] or "").startswith("#")]


def test_hostile_strings_are_shown_as_they_are(read: Reader) -> None:
    shown = " ".join(read.texts["td"] + read.texts["th"])
    for name in ("<script>alert(1)</script>", "\"quoted\" & 'quoted'", "]]><!-- --> ]]>", "{{ 7*7 }}", "{% raw %}"):
        assert name in shown
    assert "\\u202etxt.exe\\u2066 bidi \u05e9\u05dc\u05d5\u05dd" in shown
    assert "bell\\u0007 null\\u0000 \\ud800 surrogate" in shown
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08]", shown)


def test_structure(read: Reader) -> None:
    assert read.all("html") == [{"lang": "en"}]
    assert len(read.all("h1")) == 1
    for landmark in ("header", "nav", "main", "footer"):
        assert len(read.all(landmark)) == 1
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert read.all("a")[0] == {"class": "skip", "href": "#findings"}
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for a in read.all("a")} | {(u["href"] or "")[1:] for u in read.all("use")}
    assert targets <= set(ids)
    for _, attributes in read.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
        if attributes.get("role") == "region":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    labels = [attributes["aria-label"] for _, attributes in read.elements if attributes.get("role") == "region"]
    assert len(labels) == len(set(labels))
    assert all(image["alt"] and image["width"] and image["height"] for image in read.all("img"))


def test_every_chart_has_words_a_caption_and_its_numbers(report: Report, read: Reader) -> None:
    charts = [chart for section in report.sections for chart in (*section.curves, *section.bars)]
    spoken = [attributes["aria-label"] or "" for _, attributes in read.elements if attributes.get("role") == "img"]
    assert len(spoken) == len(charts)
    cells = " ".join(read.texts["td"])
    for chart in charts:
        rows = chart.values if isinstance(chart, Bars) else [line.y for line in chart.series]
        unit = "share" if isinstance(chart, Bars) else chart.y_unit
        for value in (value for row in rows for value in row):
            assert number(value, unit) in cells
    numbers = set(re.findall(r"\d[\d.,]*%", " ".join(spoken)))
    assert numbers
    assert numbers <= set(re.findall(r"\d[\d.,]*%", cells))
    assert len(read.all("figcaption")) == len(read.all("figure"))


def test_sections_stand_in_the_order_given_and_findings_worst_first(report: Report, read: Reader) -> None:
    headings = [text.strip() for text in read.texts["h2"]]
    assert headings == ["Findings", *(section.title for section in report.sections), "Limits", "Reproduce"]
    rows = [attributes["id"] for attributes in read.all("tr") if attributes.get("id")]
    assert rows == [f"finding-{n}" for n in range(1, len(report.findings) + 1)]
    levels = [text for text in read.texts["td"] if text in ("Critical", "High", "Medium", "Low", "Info", "OK")]
    assert levels == ["Critical", "High", "High", "Medium", "Medium", "Medium", "Low", "Low", "Info", "OK", "OK", "OK"]


def test_the_numbers_are_the_report_s(report: Report, read: Reader) -> None:
    cells = [text.strip() for text in read.texts["td"]]
    for finding in report.findings:
        if finding.value is not None and len(finding.unit) < 10:
            assert number(finding.value, finding.unit) in cells
    assert read.texts["h1"] == [report.title]
    assert "This audit is partial" in " ".join(read.texts["p"])
    failed = [text for text in read.texts["li"] if text.startswith("Failed")]
    assert len(failed) == 1
    assert "carlini_wagner" in failed[0]


def test_colours_of_both_schemes_are_in_the_page_and_dark_is_for_screens(html: str) -> None:
    assert f"--paper:{LIGHT['paper']}" in html
    assert f"@media screen and (prefers-color-scheme:dark){{:root{{--paper:{DARK['paper']}" in html


def test_an_empty_report_is_a_page() -> None:
    read = Reader(page(Report(title="", model="m", data="d", created="now")))
    assert read.texts["h1"] == ["Audit of m"]
    assert "This audit has no findings" in " ".join(read.texts["p"])


def test_sections_with_the_same_or_no_id_get_their_own_anchors() -> None:
    sections = tuple(
        Section(id=name, title=name or "-", sentence="s") for name in ("a", "A", "", "", "a-2", "findings", "a-title")
    )
    read = Reader(page(Report(title="t", model="m", data="d", created="now", sections=sections)))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(read.all("section")) == len(sections) + 3


@pytest.mark.parametrize(
    "data",
    [
        "http://example.org/x.png",
        "//example.org/x.png",
        "x.png",
        "javascript:alert(1)",
        "data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=",
        "data:text/html;base64,PHA+",
        'data:image/png;base64,AAAA" onerror="alert(1)',
        "data:image/png;base64,AAAA",
        "",
    ],
)
def test_a_picture_that_is_not_embedded_is_refused(data: str) -> None:
    gallery = Gallery(id="g", caption="c", columns=(), rows=((Picture(data=data, alt="a"),),))
    section = Section(id="s", title="t", sentence="s", galleries=(gallery,))
    with pytest.raises(InputError, match="picture"):
        page(Report(title="t", model="m", data="d", created="now", sections=(section,)))


def test_pictures_keep_their_size_and_small_ones_their_pixels(read: Reader) -> None:
    sizes = {(image["class"], image["width"], image["height"]) for image in read.all("img")}
    assert sizes == {("pixels", "8", "8"), ("photo", "224", "224")}


def test_twelve_photos_and_their_maps_stay_under_two_mebibytes(photos: list[tuple[str, str]]) -> None:
    assert len(photos) == 12
    assert all(15_000 < len(photo) < 60_000 for photo, _ in photos)
    rows = tuple((Picture(data=photo, alt="photo"), Picture(data=heat, alt="map")) for photo, heat in photos)
    gallery = Gallery(id="g", caption="c", columns=("Photo", "Map"), rows=rows, colormap="cividis")
    report = Report(
        title="t",
        model="m",
        data="d",
        created="now",
        sections=(Section(id="s", title="t", sentence="s", galleries=(gallery,)),),
    )
    assert len(page(report).encode()) < 2 * 2**20


def test_columns_of_numbers_are_set_flush_right() -> None:
    table = Table(
        id="t",
        caption="c",
        columns=("a", "b", "c"),
        rows=(("x", "1,234.5", "1 of 2"), ("y", "-3%", "4"), ("z", "–", "")),
    )
    report = Report(
        title="t",
        model="m",
        data="d",
        created="n",
        sections=(Section(id="s", title="t", sentence="s", tables=(table,)),),
    )
    html = page(report)
    assert '<td class="number">1,234.5</td><td>1 of 2</td>' in html


def test_a_failed_audit_says_so() -> None:
    report = Report(
        title="t", model="m", data="d", created="n", status="failed", limits=(Limit(what="pgd", why="no", failed=True),)
    )
    assert "A method failed during this audit" in page(report)
    assert "A method failed during this audit" not in page(replace(report, status="complete"))


def test_an_interval_is_drawn_to_scale() -> None:
    finding = Finding(
        rule="r", severity="low", verdict="v", fix="f", section="s", value=0.5, low=0.25, high=0.75, unit="share"
    )
    report = Report(title="t", model="m", data="d", created="n", findings=(finding,))
    assert '<path class="span" d="M25.0 6H75.0"/><path class="value" d="M50.0 1v10"/>' in page(report)
    assert 'class="span"' not in page(replace(report, findings=(replace(finding, unit="px"),)))
