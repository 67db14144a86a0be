"""The page in a real browser, as someone new would use it.

Needs the extra `browser` and a Chromium (apt-get install chromium); left out without.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers import serving

from simple_diffusion_lm.core.generate import ORDERS, Sampling
from simple_diffusion_lm.core.sampler import SAMPLERS
from simple_diffusion_lm.serving.answers import Model
from simple_diffusion_lm.serving.app import make_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
LINE = "every morning the old woman feeds her goats ."


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser", address: str) -> Iterator["Page"]:
    """A page that has asked nothing of anyone else and had no error, when the test is over."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#form")
    yield page
    assert all(url.startswith(address) for url in asked)
    assert errors == []
    context.close()


def written(page: "Page") -> list[str]:
    """Waits until the text is written; the chosen lines, as the newest card has them."""
    page.wait_for_selector("#form")
    page.wait_for_selector("#stop", state="hidden", timeout=30_000)
    playwright.expect(page.locator("#message")).not_to_have_class("bad")
    playwright.expect(page.locator("#play")).to_have_text("▶", timeout=30_000)
    return page.locator("#cards li").first.locator("p:not(.how)").all_inner_texts()


def shown(page: "Page") -> list[str]:
    return [" ".join(text.split()) for text in page.locator("#lines .text").all_inner_texts()]


def test_a_gap_is_filled_and_looked_at(page: "Page") -> None:
    playwright.expect(page.locator("#card")).to_contain_text("million parameters, continuous")
    page.fill("#template", "yesterday the ___ .")
    page.click("#go")
    (text,) = written(page)
    assert text.startswith("yesterday the ")
    assert text in shown(page)
    assert page.locator(".token.given").count() >= 2
    last = page.locator("#step-text").inner_text()
    page.locator("#step").focus()
    page.keyboard.press("Home")
    assert page.locator("#step-text").inner_text() == f"step 1 of {Sampling().steps}" != last
    page.keyboard.press("End")
    assert text in shown(page)
    page.locator(".token.written").first.hover()
    assert page.locator("#rivals li").count() >= 2
    assert page.locator("#chart polyline").count() == 1


def test_everything_there_is_can_be_chosen(page: "Page") -> None:
    assert page.locator("#sampler option").all_inner_texts() == list(SAMPLERS)
    assert page.locator("#order option").all_inner_texts() == list(ORDERS)
    for name, usual in asdict(Sampling()).items():
        assert page.input_value(f"#{name}") == str(usual)


def test_every_token_is_reached_by_the_keyboard(page: "Page") -> None:
    page.fill("#template", "")
    page.fill("#tokens", "5")
    page.press("#tokens", "Enter")
    written(page)
    first = page.locator("#lines .token").first
    first.focus()
    assert page.locator("#token-view").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.classList.contains('token')")
    assert "probability" in page.evaluate("document.activeElement.getAttribute('aria-label')")


def test_lines_are_varied_and_blended(page: "Page") -> None:
    page.click("text=Vary")
    page.fill("#first", LINE)
    page.locator("#strength").fill("0.05")
    page.click("#go")
    assert written(page)
    page.click("text=Blend")
    page.fill("#second", "yesterday the king slept .")
    page.click("#go")
    texts = written(page)
    assert len(texts) == 9
    assert page.locator("#step-text").inner_text() == "line 9 of 9"


def test_a_link_writes_the_same_in_another_tab(page: "Page", browser: "Browser") -> None:
    page.fill("#template", "the ___ goats .")
    page.fill("#seed", "7")
    page.click("#go")
    first = written(page)
    other = page.context.new_page()
    other.goto(page.url)
    assert written(other) == first
    assert other.input_value("#template") == "the ___ goats ."
    other.reload()
    assert written(other) == first


def test_markup_stays_text(page: "Page") -> None:
    given = "<img src=x> <b>go</b> ___"
    page.fill("#template", given)
    page.click("#go")
    (text,) = written(page)
    assert text.startswith(given.removesuffix(" ___"))
    page.locator(".token.written").first.hover()
    assert page.locator("#stage img, #stage b, #kept img, #kept b").count() == 0
    assert page.title() == "Text out of noise"


def test_what_cannot_be_is_said(page: "Page") -> None:
    page.fill("#template", "a [[0]] b")
    page.click("#go")
    playwright.expect(page.locator("#message.bad")).to_contain_text("character 3")


def test_a_lost_connection_is_said_and_mended(page: "Page") -> None:
    page.context.set_offline(True)
    page.click("#go")
    playwright.expect(page.locator("#message.bad")).to_contain_text("try again")
    page.context.set_offline(False)
    page.click("#go")
    assert written(page)


def test_stop_stops(page: "Page", served: Model) -> None:
    page.evaluate("document.getElementById('steps').max = 512")
    page.locator("#steps").fill("512")
    page.locator("#candidates").fill("16")
    page.click("#go")
    page.click("#stop")
    playwright.expect(page.locator("#message")).to_have_text("stopped")


def test_a_token_is_asked_for(browser: "Browser", toy_run: Path) -> None:
    with serving(make_app(Model(toy_run), token="secret")) as address:
        page = browser.new_page()
        page.goto(address)
        playwright.expect(page.locator("#token-field")).to_be_visible()
        page.fill("#token", "secret")
        page.press("#token", "Tab")
        playwright.expect(page.locator("#card")).to_contain_text("million")
        page.click("#go")
        assert written(page)


@pytest.mark.parametrize("width", [360, 768, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_out_of_the_page(browser: "Browser", address: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(address)
    page.fill("#template", "yesterday the ___ .")
    page.click("#go")
    written(page)
    page.locator(".token.written").first.hover()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()
