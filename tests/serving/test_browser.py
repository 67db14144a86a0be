"""The page in a real browser, as someone new would use it.

Needs the extra `browser` and a Chromium (apt-get install chromium); left out without.
"""

import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from servers import serving

from simple_diffusion_lm.core.generate import ORDERS, Sampling
from simple_diffusion_lm.core.sampler import SAMPLERS
from simple_diffusion_lm.serving.answers import Model
from simple_diffusion_lm.serving.app import make_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

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
    assert page.locator("[data-needs=order]").evaluate("field => field.hidden")  # its tokens take no turns
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


def test_the_model_is_told_in_plain_words_and_in_numbers(page: "Page") -> None:
    playwright.expect(page.locator("#card")).to_contain_text("all words of a text at once")
    assert not page.locator("#facts").is_visible()
    page.click("#about summary")
    playwright.expect(page.locator("#facts")).to_contain_text("parameters, continuous")


@pytest.mark.parametrize("name", ["A new text", "Fill a gap", "Vary a text", "Go from one text to another"])
def test_there_is_something_to_click_on_first_sight(page: "Page", name: str) -> None:
    page.evaluate("document.getElementById('strength').value = 0.1")
    page.click(f"#examples >> text={name}")
    assert written(page)
    assert not page.locator("#examples").is_visible()
    again = page.context.new_page()  # a link has its own text
    again.goto(page.url)
    assert written(again)
    assert not again.locator("#examples").is_visible()


def test_what_was_kept_is_marked_although_playback_keeps_up(browser: "Browser", address: str) -> None:
    page = browser.new_page()
    page.add_init_script("const own = setInterval; window.setInterval = (act) => own(act, 1)")
    page.goto(address)
    page.fill("#template", "yesterday the ___ .")
    page.evaluate("document.getElementById('count').value = 2")
    page.click("#go")
    texts = written(page)
    assert len(texts) == 2
    assert [" ".join(text.split()) for text in page.locator("#lines .chosen").all_inner_texts()] == texts
    assert page.locator("#lines .passed").count() == 6
    page.locator("#step").fill("1")
    assert page.locator("#lines .chosen, #lines .passed").count() == 0
    page.close()


def test_lines_are_varied_and_what_changed_is_marked(page: "Page") -> None:
    page.click("text=Vary")
    page.fill("#first", LINE)
    page.evaluate("document.getElementById('count').value = 3")
    page.click("#go")
    texts = written(page)
    assert len(texts) == 3
    playwright.expect(page.locator("#before")).to_contain_text(LINE)
    for number, text in enumerate(texts):
        left = len(text.split()) - common(LINE.split(), text.split())
        assert page.locator("#cards .kept").nth(number).locator("mark").count() == left
        changed = page.locator("#lines .text").nth(number).locator(".changed").all_inner_texts()
        marked = page.locator("#cards .kept").nth(number).locator("mark").all_inner_texts()
        assert "".join(changed) == "".join(marked)


def common(first: list[str], second: list[str]) -> int:
    """The length of a longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        last, row = row, [0]
        for i, other in enumerate(second):
            row.append(last[i] + 1 if word == other else max(last[i + 1], row[i]))
    return row[-1]


def test_changes_are_all_but_a_longest_common_subsequence(page: "Page") -> None:
    rng = Random(0)
    for _ in range(50):
        first, second = (rng.choices("abc", k=rng.randrange(8)) for _ in range(2))
        script = "async ([a, b]) => [...(await import('./page/changes.js')).changes(a, b)]"
        changed = page.evaluate(script, [" ".join(first), " ".join(second)])
        left = [word for i, word in enumerate(second) if i not in changed]
        assert len(left) == common(first, second)
        assert common(first, left) == len(left)


def test_blending_shows_what_it_does_until_it_is_done(page: "Page") -> None:
    held: list[Route] = []
    page.route("**/v1/blend", lambda route: held.append(route))
    page.click("text=Blend")
    page.fill("#first", LINE)
    page.fill("#second", "yesterday the king slept .")
    page.click("#go")
    playwright.expect(page.locator("#message")).to_contain_text("noise")
    assert shown(page) == [LINE, *["· · ·"] * 7, "yesterday the king slept ."]
    held[0].continue_()
    texts = written(page)
    assert len(texts) == 9
    assert shown(page) == texts
    assert page.locator("#step-text").inner_text() == "line 9 of 9"


@pytest.mark.parametrize("secure", [True, False])
def test_a_text_is_copied(page: "Page", secure: bool) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("navigator.clipboard.writeText('something else')")
    if not secure:  # as for pages of other machines over HTTP
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.click("#go")
    (text,) = written(page)
    page.click("#cards .kept button")
    playwright.expect(page.locator("#cards .kept button")).to_have_text("Copied")
    page.focus("#template")
    page.keyboard.press("Control+V")
    assert page.input_value("#template") == text
    playwright.expect(page.locator("#cards .kept button")).to_have_text("Copy")


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
        playwright.expect(page.locator("#card")).to_contain_text("words")
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
    page.locator(".token.written").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    playwright.expect(page.locator("#token-view")).to_be_in_viewport(ratio=0.99)
    page.close()
