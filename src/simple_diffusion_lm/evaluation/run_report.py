"""report.html: one or several runs on a page of its own: curves, noise, table, text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ..core import Config
from ..core.denoiser import Batch
from ..core.generate import Frame, Sampling
from ..core.noise import make_keys
from ..corpus.tokenizer import SPACE
from ..errors import UserError
from ..runs.checkpoint import run_of, write_atomically
from ..runs.log import read_metrics
from ..runs.run import about_run
from ..writing.model import DiffusionLM
from ..writing.requests import write_rows
from ..writing.watching import Onlooker, Shown, evenly
from .figures import as_svg, frequent_words, noise_figure, table_figure
from .report import pyplot, training_figure

NEIGHBOURS_OF = 24  # of the most frequent whole words
SHOWN_STEPS = 12  # of writing one text
SAMPLE_STEPS = 12  # validations whose samples are shown


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Writes the report of some runs to `out`. Its table and its texts are those of the first.

    Raises UserError where there is no run or no checkpoint, and without the extra `plot`.
    """
    pyplot()
    seen = [(run_of(run), DiffusionLM.from_pretrained(run)) for run in runs]
    names, (run, model) = [run.resolve().name for run, _ in seen], seen[0]
    training = training_figure([run for run, _ in seen])
    figures = {"training": training, "table": table_figure(model)}
    if hasattr(model.model, "schedule"):
        figures["noise"] = noise_figure(seen)
    page = Environment(loader=PackageLoader(__package__), autoescape=True, trim_blocks=True)
    content = page.get_template("report.html.jinja").render(
        title=", ".join(names),
        runs=[(name, _facts(*each)) for name, each in zip(names, seen, strict=True)],
        settings=_settings([model for _, model in seen]),
        figures={name: Markup(as_svg(figure)) for name, figure in figures.items()},
        neighbours=_neighbours(model),
        samples=_samples(run),
        way=_way(model),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content.encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None


def _facts(run: Path, model: DiffusionLM) -> Mapping[str, str]:
    """What was run, in words."""
    about, nothing = about_run(run), {"step": 0, "seconds": 0, "tokens": 0}
    last = [nothing, *read_metrics(run, "train")][-1]
    facts = {
        "objective": about["config"]["objective"],
        "parameters": f"{sum(p.numel() for p in model.model.parameters()):,}",
        "vocabulary": f"{len(model.tokenizer):,}",
        "trained for": f"{last['step']:,} steps, {last['tokens']:,} tokens, "
        f"{last['seconds'] / 60:.1f} minutes",
        "torch": about["torch"],
        "command": about["command"],
    }
    for record in read_metrics(run, "valid"):
        if "bound" in record:
            bound = f"{record['bound']:.3f} ± {record['bound_error']:.3f} nats per token"
            facts["held-out text"] = bound if model.model.writes_length else f"≤ {bound}"
    return facts


def _settings(models: Sequence[DiffusionLM]) -> list[tuple[str, list[str], bool]]:
    """Every field of the configuration: name, its value in each run, whether one is unusual."""
    rows = []
    for name, usual in vars(Config()).items():
        values = [getattr(model.config, name) for model in models]
        rows.append((name, list(map(str, values)), any(value != usual for value in values)))
    return sorted(rows, key=lambda row: not row[2])


def _neighbours(model: DiffusionLM) -> list[tuple[str, list[str]]]:
    """Frequent words, and the tokens whose rows of the table are nearest to theirs."""
    table = model.model.embedding.table.detach().float().cpu()
    words = [(i, word) for i, word in frequent_words(model).items() if len(word) > 2][:NEIGHBOURS_OF]
    nearest = {word: (table - table[i]).norm(dim=1).argsort()[1:6].tolist() for i, word in words}
    return [(word, [model.pieces[i].replace(SPACE, "") for i in ids]) for word, ids in nearest.items()]


def _samples(run: Path) -> list[tuple[str, list[str]]]:
    """(step, lines) of some validations, evenly over the run."""
    path = run / "samples.txt"
    by_step: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        step, _, text = line.removeprefix("step ").partition("\t")
        by_step.setdefault(step, []).append(text)
    return evenly(list(by_step.items()), SAMPLE_STEPS)


def _way(model: DiffusionLM) -> list[tuple[int, list[Shown]]]:
    """One text from noise to the end: (step, its tokens), some steps of it."""
    onlooker, frames = Onlooker(model), list[list[Shown]]()
    # Not by model.write: other processes, if there are any, are not here.
    encoded, widths = model.choose_lengths(model.request(), np.random.default_rng(0), 0.5)
    row = encoded.row(widths, model.end, 0, make_keys(0))

    def watch(batch: Batch, frame: Frame) -> None:
        frames.extend(onlooker(batch, frame).values())

    list(write_rows(model.model, [row], model.forbidden(), Sampling(), watch=watch))
    return evenly(list(enumerate(frames, start=1)), SHOWN_STEPS)
