"""Pictures of a run for the README: a terminal in which text comes out of noise, and the page.

    python benchmarks/pictures.py RUN --out docs/pictures

Writes terminal.svg, which moves, and, where there is a Chromium and the extra
`browser`, page.png, page-dark.png and page-phone.png.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import escape

import tyro
from torture_server import serving
from tyro.conf import Positional

from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Frame
from simple_diffusion_lm.evaluation.run_report import evenly
from simple_diffusion_lm.writing.model import DiffusionLM
from simple_diffusion_lm.writing.watching import UNKNOWN, Onlooker, Shown

STEPS, LINES, SEED = 64, 6, 3
FRAMES, SECONDS, PAUSE = 32, 5.0, 0.3  # of the moving terminal; the pause is a share at its end
SURE, UNSURE = (94, 234, 212), (251, 191, 36)
PAGES = (("page", 1200, 800, "light"), ("page-dark", 1200, 800, "dark"), ("page-phone", 390, 844, "light"))
GREY, FONT = "#8b949e", "15px ui-monospace, Menlo, Consolas, monospace"


def frames_of(model: DiffusionLM) -> list[list[list[Shown]]]:
    """Step after step, the tokens of each line."""
    onlooker = Onlooker(model)
    by_line: dict[int, list[list[Shown]]] = {}

    def watch(batch: Batch, frame: Frame) -> None:
        for number, line in onlooker(batch, frame).items():
            by_line.setdefault(number, []).append(line)

    model.generate(LINES, steps=STEPS, seed=SEED, watch=watch)
    return [[by_line[n][step] for n in sorted(by_line)] for step in range(STEPS)]


def spans(line: Sequence[Shown]) -> str:
    """A line as SVG: the colour tells the probability, paler what is not settled."""
    parts = []
    for token in line:
        share = token.probability
        colour = "".join(f"{round(u + (s - u) * share):02x}" for s, u in zip(SURE, UNSURE, strict=True))
        fill = GREY if token.text == UNKNOWN else f"#{colour}"
        faint = "" if token.written else f' fill-opacity="{0.35 + 0.5 * share:.2f}"'
        parts.append(f'<tspan fill="{fill}"{faint}>{escape(token.text)}</tspan>')
    return "".join(parts)


def svg(width: int, height: int, body: str, style: str = "") -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">\n'
        f"<style>text {{ font: {FONT}; white-space: pre; }}{style}</style>\n"
        f'<rect width="{width}" height="{height}" rx="10" fill="#0d1117"/>\n{body}</svg>\n'
    )


def terminal(frames: list[list[list[Shown]]], command: str) -> str:
    """A terminal in which lines come out of noise, over and over."""
    share = (1 - PAUSE) / FRAMES * 100
    style, body = "", [f'<text x="20" y="36" fill="#e6edf3">$ {escape(command)}</text>\n']
    for number, shown in enumerate(evenly(frames, FRAMES)):
        first = number * share
        last = 100.0 if number == FRAMES - 1 else (number + 1) * share
        style += (
            f" @keyframes f{number} {{ 0%, {first:.2f}% {{ visibility: hidden }} "
            f"{first + 0.01:.2f}%, {last - 0.01:.2f}% {{ visibility: visible }} "
            f"{last:.2f}%, 100% {{ visibility: {'visible' if last == 100 else 'hidden'} }} }}"
            f" #f{number} {{ animation: f{number} {SECONDS}s step-end infinite;"
            f" visibility: {'visible' if last == 100 else 'hidden'} }}"
        )
        lines = "".join(
            f'<text x="20" y="{66 + 28 * row}" xml:space="preserve">{spans(line)}</text>\n'
            for row, line in enumerate(shown)
        )
        body.append(f'<g id="f{number}">\n{lines}</g>\n')
    return svg(860, 28 * LINES + 60, "".join(body), style)


def photograph(run: Path, out: Path, template: str, chromium: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    with serving(run) as server, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium)
        for name, width, height, scheme in PAGES:
            size = {"width": width, "height": height}
            page = browser.new_page(device_scale_factor=1.5, viewport=size, color_scheme=scheme)
            page.goto(f"http://127.0.0.1:{server.port}")
            for text in ("", template):
                page.fill("#template", text)
                page.evaluate("document.getElementById('seed').value = 5")
                page.click("#go")
                page.wait_for_selector("#stop", state="hidden")
                expect(page.locator("#play")).to_have_text("▶", timeout=30_000)
            page.locator("#step").fill("20")
            page.locator(".token.open").first.hover()
            page.screenshot(path=out / f"{name}.png", full_page=name == "page-phone")
        browser.close()


@dataclass(kw_only=True)
class Pictures:
    """Draws a run."""

    run: Positional[Path]  # a run directory
    out: Path = Path("docs/pictures")  # directory for the pictures
    template: str = "yesterday the ___ because she was ___ ."  # what is written on the page

    def __call__(self) -> None:
        frames = frames_of(DiffusionLM.from_pretrained(self.run))
        self.out.mkdir(parents=True, exist_ok=True)
        command = f"sdlm generate run --count {LINES} --watch"
        (self.out / "terminal.svg").write_text(terminal(frames, command), encoding="utf-8")
        chromium = shutil.which("chromium")
        if chromium is None or find_spec("playwright") is None:
            print("no Chromium or no extra `browser` here: no pictures of the page", file=sys.stderr)
        else:
            photograph(self.run, self.out, self.template, chromium)


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(Pictures)())
