"""The page of the report in a real browser: what it shows, on what screen, and that it asks for
nothing.
"""

import json
import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import comparisons
import pytest

from coach_mlx import report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 812}


class Opened(NamedTuple):
    page: Any
    facts: dict[str, Any]
    requested: list[str]
    refused: list[str | None]
    """Why a request came to nothing."""
    complaints: list[str]
    """Of the console, and errors of the script."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    metrics = comparisons.metrics()
    report.write_comparison(comparisons.make(scenarios=24, turns=2), metrics, folder / "judged")
    unsafe = comparisons.make(word="unsafe", judged=False, scenarios=24, turns=2)
    report.write_comparison(unsafe, metrics, folder / "unsafe")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser: Any, reports: Path) -> Iterator[Any]:
    contexts = []

    def opened(screen: dict[str, int] = DESKTOP, name: str = "judged", **options: Any) -> Opened:
        context = browser.new_context(viewport=screen, reduced_motion="reduce", **options)
        contexts.append(context)
        page, requested, refused, complaints = context.new_page(), [], [], []
        page.on("request", lambda request: requested.append(request.url))
        page.on("requestfailed", lambda request: refused.append(request.failure))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        path = reports / name / "comparison_report.html"
        page.goto(path.as_uri())
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return Opened(page, facts, requested, refused, complaints)

    yield opened
    for context in contexts:
        context.close()


def at(facts: Any, key: str) -> Any:
    for step in key.split("."):
        facts = facts[int(step)] if isinstance(facts, list) else facts[step]
    return facts


def until(page: Any, true: str) -> None:
    """The page's policy allows no `eval`, and playwright's own waiting is one."""
    for _ in range(100):
        if page.evaluate(true):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"it never came true: {true}")


def shown(page: Any) -> int:
    found: int = page.locator(".talk:visible").count()
    return found


def test_it_asks_for_nothing_and_complains_of_nothing(open_page: Any) -> None:
    opened = open_page()
    opened.page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    opened.page.wait_for_timeout(200)
    assert opened.requested == [opened.page.url]
    assert opened.complaints == []
    assert opened.page.evaluate("'broken' in window") is False


def test_a_script_that_came_in_would_not_run(open_page: Any) -> None:
    """Were a word of a model ever taken for markup: the page's policy stops it."""
    opened = open_page()
    opened.page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', "
        "`<img src=x onerror='window.broken=1'><img src='http://127.0.0.1:9/x.png'>`)"
    )
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate("'broken' in window") is False
    assert opened.refused == ["csp", "csp"]


@pytest.mark.parametrize("name", ["judged", "unsafe"])
def test_the_numbers_are_those_of_the_json(open_page: Any, name: str) -> None:
    opened = open_page(name=name)
    cells = opened.page.evaluate(
        "[...document.querySelectorAll('[data-key]')].map((one) => "
        "[one.dataset.key, one.dataset.value, one.textContent])"
    )
    assert len(cells) > 300
    for key, value, text in cells:
        assert json.loads(value) == at(opened.facts, key), key
        assert (text == "—") == (value == "null"), key
    first = opened.facts["score"][0]["difference"]
    tile = opened.page.locator('.tiles [data-key="score.0.difference"]').inner_text()
    assert tile == ("—" if first is None else f"{first:+.3f}")


@pytest.mark.parametrize(("name", "title"), [("judged", "Deploy"), ("unsafe", "Unsafe")])
def test_the_first_screen_holds_the_decision(
    open_page: Any, name: str, title: str, tmp_path: Path
) -> None:
    page = open_page(name=name).page
    page.screenshot(path=tmp_path / f"{name}.png")
    for place in ("#decision", "#reason", ".decision .icon", ".next", ".unsaid", ".tiles"):
        box = page.locator(place).bounding_box()
        assert box is not None, place
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= DESKTOP["height"], place
    assert page.locator("#decision").inner_text() == title
    assert page.locator("#reason").inner_text()


@pytest.mark.parametrize("name", ["judged", "unsafe"])
def test_a_phone_scrolls_in_one_direction(open_page: Any, name: str, tmp_path: Path) -> None:
    page = open_page(PHONE, name).page
    page.screenshot(path=tmp_path / "phone.png")
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    replies = page.locator("#talk-0 .turn").first.locator(".reply")
    first, second = replies.nth(0).bounding_box(), replies.nth(1).bounding_box()
    assert first["x"] == second["x"]
    assert first["y"] < second["y"]
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.plot text')]"
        ".map((one) => one.getBoundingClientRect().height))"
    )
    assert smallest > 9


def test_arms_stand_side_by_side_on_a_desk(open_page: Any) -> None:
    page = open_page().page
    page.locator("#talk-0 > summary").click()
    replies = page.locator("#talk-0 .turn").first.locator(".reply")
    tops = {replies.nth(number).bounding_box()["y"] for number in range(3)}
    assert len(tops) == 1


def test_the_dark_is_dark(open_page: Any, tmp_path: Path) -> None:
    def colors(page: Any) -> tuple[list[int], list[int]]:
        style = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('svg.plot text')).fill]"
        )
        first, second = ([int(one) for one in re.findall(r"\d+", color)[:3]] for color in style)
        return first, second

    light, dark = open_page().page, open_page(color_scheme="dark").page
    dark.screenshot(path=tmp_path / "dark.png")
    assert min(colors(light)[0]) > 230
    assert max(colors(light)[1]) < 130
    assert max(colors(dark)[0]) < 40
    assert min(colors(dark)[1]) > 130


def test_hostile_words_are_read_as_they_were_written(open_page: Any) -> None:
    page = open_page().page
    page.locator("#talk-1 > summary").click()
    said = page.locator("#talk-1 .turn").first
    assert (
        said.locator(".person").text_content() == f"A zebra in the kitchen. {comparisons.HOSTILE}"
    )
    assert said.locator(".reply").nth(2).locator("p").text_content() == comparisons.HOSTILE
    assert page.locator(".finding blockquote").first.text_content().endswith(comparisons.HOSTILE)


def test_looking_for_words(open_page: Any) -> None:
    page = open_page().page
    total = page.locator(".talk").count()
    count = page.locator("#count")
    assert count.inner_text() == f"{total} of {total} conversations"
    page.locator("#search").fill("KITCHEN zebra")
    until(page, "document.querySelectorAll('.talk:not([hidden])').length === 1")
    assert shown(page) == 1
    assert count.inner_text() == f"1 of {total} conversations"
    page.locator("#search").fill("holdout-007")
    until(page, "document.querySelector('#talk-7:not([hidden])')")
    assert shown(page) == 1
    page.locator("#search").fill("nobody ever said this")
    until(page, "!document.querySelector('#nothing').hidden")
    assert count.inner_text() == f"0 of {total} conversations"
    page.locator("#clear").click()
    assert shown(page) == total
    assert page.evaluate("document.activeElement.id") == "search"


FITS: tuple[tuple[str, str, Any], ...] = (
    ("kind", "probe", lambda one: one["kind"] == "probe"),
    ("outcome", "unjudged", lambda one: not one["verdicts"]),
    (
        "outcome",
        "gained",
        lambda one: (
            one["verdicts"]
            and one["verdicts"]["gguf"]["passed"]
            and not one["verdicts"]["base"]["passed"]
        ),
    ),
    ("failed", "CQ3", lambda one: any("CQ3" in v["failed"] for v in one["verdicts"].values())),
    ("failed", "D14", lambda one: bool(one["findings"])),
)


def test_filters(open_page: Any) -> None:
    opened = open_page()
    page, talks = opened.page, opened.facts["transcripts"]
    for field, value, fits in FITS:
        expected = sum(map(bool, map(fits, talks)))
        assert 0 < expected < len(talks), value
        choice = page.locator(f"#{field} option[value='{value}']").text_content()
        assert choice.endswith(f"({expected})")
        page.locator(f"#{field}").select_option(value)
        text = f"{expected} of {len(talks)} conversations"
        until(page, f"document.querySelector('#count').textContent === '{text}'")
        assert shown(page) == expected
        page.locator("#clear").click()


def test_the_worst_first(open_page: Any) -> None:
    page = open_page().page
    page.locator("#order").select_option("worst")
    until(page, "document.querySelector('.talk').id !== 'talk-0'")
    gains = page.evaluate("[...document.querySelectorAll('.talk')].map((one) => one.dataset.gain)")
    known = [float(gain) for gain in gains if gain is not None]
    assert known == sorted(known)
    assert gains[-1] is None


def test_by_keyboard(open_page: Any) -> None:
    page = open_page().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("#clear").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.parentElement.id") == "talk-0"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#talk-0").get_attribute("open") is not None
    page.keyboard.press("Enter")
    assert page.locator("#talk-0").get_attribute("open") is None


def test_a_finding_leads_to_its_conversation(open_page: Any) -> None:
    page = open_page().page
    assert page.locator(".finding").first.locator(".seal").inner_text() == "Confirmed"
    link = page.locator(".finding a").first
    target = link.get_attribute("href")
    link.click()
    until(page, f"document.querySelector('{target}').open")


def test_on_paper_everything_is_open(open_page: Any) -> None:
    page = open_page().page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator(".filters").is_visible()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_without_its_script_it_can_be_read(open_page: Any) -> None:
    page = open_page(java_script_enabled=False).page
    assert page.locator("#decision").inner_text() == "Deploy"
    assert not page.locator(".filters").is_visible()
    page.locator("#talk-1 > summary").click()
    assert page.locator("#talk-1 .turn").first.is_visible()


def test_it_is_built_for_readers_of_screens(open_page: Any) -> None:
    page = open_page().page
    assert page.locator("html").get_attribute("lang") == "en"
    for place in ("header", "main", "nav[aria-label]", "[role=search]", "h1"):
        assert page.locator(place).count() == 1, place
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select')].filter((one) => !one.labels.length).length"
    )
    assert unnamed == 0
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].map((one) => +one.tagName[1])"
    )
    assert all(after - before <= 1 for before, after in pairwise(levels))
