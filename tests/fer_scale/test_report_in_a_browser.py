"""The page of `fer-scale report` in a real browser: Debian's chromium, driven by playwright, looked at by axe.

Skipped where there is no chromium: `apt-get install chromium`, or `DEBIAN_PACKAGES=install bash launch/test.sh`.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reported

from fer_scale.report import gather, page

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]
Page = Any  # of playwright


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of runs of both kinds, a hostile one among them, and of a sweep."""
    place = tmp_path_factory.mktemp("runs")
    folders = [reported.pretrain(place / "base"), reported.pretrain(place / "higher", lr=4e-3)]
    folders += [reported.hostile(place), reported.sweep(place / "ladder")]
    page.write(place / "report.html", page.text(*gather.gather(folders, reported.NOW), reported.NOW))
    return place / "report.html"


def opened(browser: Any, report: Path, *, wide: int = 1280, scheme: str = "light") -> tuple[Page, list[str]]:
    """The page, and what it asked for, said or failed of."""
    seen: list[str] = []
    shown = browser.new_page(viewport={"width": wide, "height": 800}, color_scheme=scheme)
    shown.on("request", lambda request: seen.append(request.url))
    shown.on("console", lambda message: seen.append(message.text))
    shown.on("pageerror", lambda error: seen.append(str(error)))
    shown.on("dialog", lambda dialog: seen.append(dialog.message))
    shown.goto(report.as_uri())
    return shown, seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, report: Path, scheme: str) -> None:
    """By all rules of axe-core, in the dark by that of contrast: the others see no colours. What can be opened is."""
    shown, seen = opened(browser, report, scheme=scheme)
    shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    rules = {"runOnly": ["color-contrast"]} if dark else {}
    found = axe.Axe().run(shown, options={"resultTypes": ["violations"]} | rules).response["violations"]
    assert not [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]
    assert seen == [report.as_uri()]  # nothing but itself was asked for, and nothing was complained of
    assert shown.evaluate("window.hacked") is None
    shown.close()


def test_its_policy_lets_nothing_be_loaded_or_run(browser: Any, report: Path) -> None:
    shown, _ = opened(browser, report)
    refused = shown.evaluate(
        """async () => {
            const told = []
            document.addEventListener('securitypolicyviolation', event => told.push(event.effectiveDirective))
            for (const [name, key, value] of [
                ['img', 'src', 'http://127.0.0.1:9/x.png'], ['script', 'src', 'http://127.0.0.1:9/x.js'],
                ['iframe', 'src', 'http://127.0.0.1:9/'], ['style', 'textContent', 'body { color: red }'],
                ['script', 'textContent', 'window.hacked = 1'],
            ]) document.body.append(Object.assign(document.createElement(name), { [key]: value }))
            await fetch('http://127.0.0.1:9/').catch(() => 0)
            await new Promise(done => setTimeout(done, 200))
            return told
        }"""
    )
    assert {"img-src", "script-src-elem", "frame-src", "style-src-elem", "connect-src"} <= set(refused)
    assert shown.evaluate("window.hacked") is None
    shown.close()


def test_on_a_phone_only_tables_scroll_sideways_and_the_keyboard_reaches_them(browser: Any, report: Path) -> None:
    shown, _ = opened(browser, report, wide=390)
    assert shown.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [390, 390]
    boxes = shown.evaluate(
        """[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth)
            .map(box => [box.tabIndex, getComputedStyle(box).overflowX, box.getAttribute('aria-label').length > 0])"""
    )
    assert boxes and all(box == [0, "auto", True] for box in boxes)
    small = shown.evaluate(
        """[...document.querySelectorAll('svg[role=img] text')].map(text => text.getBoundingClientRect().height)
            .filter(tall => tall && tall < 9).length"""
    )
    assert small == 0  # labels of the curves can be read
    shown.close()


def test_on_paper_it_is_light_whole_and_without_what_one_clicks(browser: Any, report: Path) -> None:
    shown, _ = opened(browser, report, scheme="dark")
    shown.emulate_media(media="print", color_scheme="dark")
    seen = shown.evaluate(
        """({ paper: getComputedStyle(document.body).backgroundColor,
            nav: getComputedStyle(document.querySelector('nav')).display,
            closed: [...document.querySelectorAll('details table')].filter(one => !one.checkVisibility(
                { contentVisibilityAuto: true })).length,
            tall: Math.min(...[...document.querySelectorAll('details table')].map(one => one.offsetHeight)) })"""
    )
    assert seen["paper"] == "rgb(255, 255, 255)" and seen["nav"] == "none" and not seen["closed"] and seen["tall"] > 0
    assert shown.pdf(format="A4")[:5] == b"%PDF-"
    shown.close()
