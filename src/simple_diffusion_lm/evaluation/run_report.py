"""report.html: one or several runs on a page of its own: curves, noise, table, text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ..diffusion.sampler import SAMPLERS
from ..errors import UserError
from ..generation import DiffusionLM, about_run
from ..model.continuous import Continuous
from ..model.slots import SAMPLER, TEMPERATURE, Frame, Settings, Slots
from ..run_log import read_metrics
from ..text.tokenizer import SPACE
from ..training.checkpoint import run_of, write_atomically
from ..training.recipes import modern
from ..watching import Onlooker, Shown
from .figures import Seen, as_svg, frequent_words, noise_figure, table_figure, training_figure
from .report import pyplot

Item = TypeVar("Item")
NEIGHBOURS_OF = 24  # of the most frequent whole words
WAY_STEPS = 64
SHOWN_STEPS = 12
SAMPLE_STEPS = 12  # validations whose samples are shown


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Writes the report of some runs to `out`; what can be seen of one only, is of the first.

    Raises UserError where there is no run or no checkpoint, and without the extra `plot`.
    """
    pyplot()
    seen = [_see(run) for run in runs]
    runs = [run_of(run) for run in runs]
    first = seen[0]
    figures = {"training": training_figure(seen), "table": table_figure(first.model)}
    if isinstance(first.model.model, Continuous):
        figures["noise"] = noise_figure(seen, runs)
    page = Environment(loader=PackageLoader(__package__), autoescape=True, trim_blocks=True)
    content = page.get_template("report.html.jinja").render(
        title=", ".join(each.name for each in seen),
        runs=[(each.name, _facts(each)) for each in seen],
        settings=_settings(seen),
        figures={name: Markup(as_svg(figure)) for name, figure in figures.items()},
        neighbours=_neighbours(first.model),
        samples=_samples(runs[0]),
        way=_way(first.model),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content.encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None


def _see(run: Path) -> Seen:
    model = DiffusionLM.from_pretrained(run)
    run = run_of(run)
    train, valid = read_metrics(run, "train"), read_metrics(run, "valid")
    return Seen(run.resolve().name, about_run(run), train, valid, model)


def _facts(seen: Seen) -> Mapping[str, str]:
    """What was run, in words."""
    last = (seen.train or [{"step": 0, "seconds": 0, "tokens": 0}])[-1]
    facts = {
        "objective": seen.about["config"]["objective"],
        "parameters": f"{sum(p.numel() for p in seen.model.model.parameters()):,}",
        "vocabulary": f"{len(seen.model.tokenizer):,}",
        "trained for": f"{last['step']:,} steps, {last['tokens']:,} tokens, "
        f"{last['seconds'] / 60:.1f} minutes",
        "torch": seen.about["torch"],
        "command": seen.about["command"],
    }
    bounds = [record for record in seen.valid if "bound" in record]
    if bounds:
        sign = "" if seen.model.model.writes_length else "≤ "
        last = bounds[-1]
        facts["held-out text"] = (
            f"{sign}{last['bound']:.3f} ± {last['bound_error']:.3f} nats per token"
        )
    return facts


def _settings(seen: Sequence[Seen]) -> list[tuple[str, list[str], bool]]:
    """Every field of the configuration: name, its value in each run, whether one is unusual."""
    usual = vars(modern())
    rows = []
    for name in usual:
        values = [each.about["config"].get(name) for each in seen]
        unusual = any(value != usual[name] for value in values)
        rows.append((name, [str(value) for value in values], unusual))
    return sorted(rows, key=lambda row: not row[2])


def _neighbours(model: DiffusionLM) -> list[tuple[str, list[str]]]:
    table = model.model.embedding.table.detach().float().cpu()
    long = [i for i in frequent_words(model) if len(model.writer.pieces[i]) > 3][:NEIGHBOURS_OF]
    rows = []
    for i, distances in zip(long, torch.cdist(table[long], table), strict=True):
        distances[i] = torch.inf
        nearest = distances.topk(5, largest=False).indices.tolist()
        texts = [model.writer.pieces[n].replace(SPACE, "") for n in [i, *nearest]]
        rows.append((texts[0], texts[1:]))
    return rows


def _samples(run: Path) -> list[tuple[str, list[str]]]:
    """(step, lines) of some validations, evenly over the run."""
    path = run / "samples.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    by_step: dict[str, list[str]] = {}
    for line in lines:
        step, _, text = line.removeprefix("step ").partition("\t")
        by_step.setdefault(step, []).append(text)
    return evenly(list(by_step.items()), SAMPLE_STEPS)


def _way(model: DiffusionLM) -> list[tuple[int, list[Shown]]]:
    """One text from noise to the end: (step, its tokens), some steps of it."""
    onlooker = Onlooker(model.writer)
    frames: list[list[Shown]] = []

    def watch(group: Slots, frame: Frame) -> None:
        frames.extend(onlooker(group, frame).values())

    # Not through the writer: other processes, if there are any, are not here.
    writer = model.writer
    draft = writer.draft(model.wish(), np.random.default_rng(0), 0.5)
    slot = draft.form.slot(draft.widths, writer.end, 0, (1, 0))
    settings = Settings(SAMPLERS[SAMPLER], WAY_STEPS, TEMPERATURE)
    list(model.model.generate([slot], settings, writer.vocabulary(), watch=watch))
    return evenly(list(enumerate(frames, start=1)), SHOWN_STEPS)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly from the first to the last."""
    count = min(most, len(items))
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]
