"""The page in a real browser: no accessibility violation, no request, no sideways scrolling, and it prints."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from ironglass.core.findings import Report
from ironglass.report.html import page

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.fixture(scope="module")
def file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "audit.html"
    path.write_text(page(report), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def axe() -> str:
    pytest.importorskip("axe_playwright_python", reason="needs axe-core: pip install axe-playwright-python")
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def violations(browser: Any, axe: str) -> list[str]:
    browser.evaluate(f"{axe}; 0")
    options = f"{{runOnly: {{type: 'tag', values: {TAGS}}}, resultTypes: ['violations']}}"
    found = browser.evaluate(
        f"axe.run(document, {options})"
        ".then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' | ')))"
    )
    return list(found)


@pytest.mark.parametrize("width", [1280, 640, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser: Any, axe: str, file: Path, scheme: str, width: int) -> None:
    browser.open(file, width=width, scheme=scheme)
    assert browser.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    assert browser.evaluate("innerWidth") == width
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert violations(browser, axe) == []


def test_axe_finds_what_is_broken_on_purpose(browser: Any, axe: str, file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = file.read_text(encoding="utf-8").replace('lang="en"', "").replace("--muted:#535f6c", "--muted:#b9bfc6")
    broken.write_text(text, encoding="utf-8")
    browser.open(broken)
    assert {found.split(":")[0] for found in violations(browser, axe)} >= {"html-has-lang", "color-contrast"}


@pytest.mark.parametrize("width", [320, 360, 640, 1280, 1920])
def test_the_page_never_scrolls_sideways(browser: Any, file: Path, width: int) -> None:
    browser.open(file, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    shown = "[...document.querySelectorAll('.chart svg')].filter(s => s.getBoundingClientRect().width).length"
    assert browser.evaluate(shown) == browser.evaluate("document.querySelectorAll('.chart').length")


def test_wide_tables_scroll_in_their_own_focusable_region(browser: Any, file: Path) -> None:
    browser.open(file, width=360)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    scrolling = (
        "[...document.querySelectorAll('*')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX == 'auto')"
    )
    assert browser.evaluate(f"{scrolling}.length") > 0
    assert browser.evaluate(f"{scrolling}.every(e => e.tabIndex == 0 && e.getAttribute('role') == 'region')")


def test_the_first_tab_shows_the_skip_link(browser: Any, file: Path) -> None:
    browser.open(file)
    assert browser.evaluate("document.querySelector('.skip').getBoundingClientRect().bottom") < 0
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate("document.querySelector('.skip').getBoundingClientRect().top") >= 0
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(("width", "shown"), [(1280, True), (360, False)])
def test_the_contents_are_open_beside_wide_pages_and_folded_above_narrow_ones(
    browser: Any, file: Path, width: int, shown: bool
) -> None:
    browser.open(file, width=width)
    link = "document.querySelector('nav a[href=\"#limits\"]')"
    assert browser.evaluate(f"{link}.checkVisibility({{contentVisibilityAuto: true}})") == shown
    assert browser.evaluate(f"({link}.focus(), document.activeElement === {link})") == shown
    assert browser.evaluate("document.querySelector('nav summary').checkVisibility()") != shown


def test_print_is_light_open_and_without_navigation(browser: Any, file: Path, tmp_path: Path) -> None:
    browser.open(file, width=700, scheme="dark", media="print")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(24, 33, 43)"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    closed = (
        "[...document.querySelectorAll('details.data table')]"
        ".filter(t => !t.checkVisibility({contentVisibilityAuto: true}) || !t.getBoundingClientRect().height)"
    )
    assert browser.evaluate(f"{closed}.length") == 0
    assert browser.evaluate("document.querySelectorAll('details.data table').length") > 0
    browser.pdf(tmp_path / "audit.pdf")
    pdf = (tmp_path / "audit.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")


@pytest.fixture
def served(file: Path) -> Iterator[tuple[str, list[str]]]:
    """The page over HTTP on this machine, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(file.read_bytes())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_request_and_no_script(browser: Any, served: tuple[str, list[str]]) -> None:
    address, asked = served
    browser.open(address)
    assert asked == ["/"]
    assert [url for url in browser.requests if not url.startswith("data:")] == [address]
    assert browser.evaluate("document.scripts.length") == 0
    blocked = "fetch('/more').then(() => 'fetched', () => 'blocked')"
    assert browser.evaluate(blocked) == "blocked"
    image = (
        "new Promise(done => {const i = new Image(); i.onload = () => done('loaded');"
        "i.onerror = () => done('blocked'); i.src = '/x.png'})"
    )
    assert browser.evaluate(image) == "blocked"
    assert asked == ["/"]
