"""report.html: one or several runs on a page of its own: curves, noise, table, text."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import torch
import torch.nn.functional as F
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ..core import Config
from ..core.data import Batches
from ..core.noise import make_keys, normal
from ..core.train import Diffusion
from ..errors import UserError, writing_to
from ..runs.checkpoint import run_of, write_atomically
from ..runs.log import read_metrics
from ..runs.run import about_run
from ..writing.model import DiffusionLM
from ..writing.templates import spaced
from ..writing.watching import evenly
from .likelihood import plain_batches
from .report import evaluation_tables, likelihood_lines, new_figure, training_figure

NEIGHBOURS_OF = 24  # of the most frequent whole words
SHOWN = 12  # steps of writing one text, and validations with their samples
BINS = 24  # of noise levels
FEWEST = 20  # positions that make a mean


def write_report(runs: Sequence[Path], out: Path, *, training: bool = False) -> None:
    """Writes the report of some runs to `out`. Its table and its texts are those of the first.

    training: they are under way, and what needs no model is shown, which takes half a second.
    Raises UserError where there is no run or no checkpoint, and without the extra `plot`.
    """
    places, shown = [run_of(run) for run in runs], dict[str, Any]()
    figures = {"training": training_figure(places)}
    if not training:
        models = [DiffusionLM.from_pretrained(run) for run in runs]
        if models[0].model.is_guided:
            seen = [each for each in zip(places, models, strict=True) if each[1].model.is_guided]
            figures["noise"] = noise_figure(seen)
        way = evenly(list(enumerate(models[0].unfold().steps, start=1)), SHOWN)
        sizes = [sum(p.numel() for p in model.model.parameters()) for model in models]
        shown = {"models": models, "sizes": sizes, "neighbours": _neighbours(models[0]), "way": way}
    page = Environment(loader=PackageLoader(__package__), autoescape=True, trim_blocks=True)
    page.globals.update(likelihood_lines=likelihood_lines, evaluation_tables=evaluation_tables)
    known = [_known(run) for run in places]
    content = page.get_template("report.html.jinja").render(
        training=training,
        runs=known,
        settings=_settings([Config(**each["about"]["config"]) for each in known]),
        figures={name: as_svgs(figure) for name, figure in figures.items()},
        samples=_samples(places[0]),
        **shown,
    )
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, content.encode())


def _known(run: Path) -> dict[str, Any]:
    """What the files of a run say of it; no corpus where that is not here."""
    known: dict[str, Any] = {kind: read_metrics(run, kind) for kind in ("train", "valid", "evaluation")}
    with suppress(UserError):
        known["corpus"] = DiffusionLM.trained_on(run).meta
    return {"name": run.resolve().name, "about": about_run(run), **known}


def _settings(configs: Sequence[Config]) -> list[tuple[str, list[Any], Any]]:
    """Every field of the configuration: its name, its value in each run, the default. Unusual ones first."""
    rows = [(name, [vars(each)[name] for each in configs], usual) for name, usual in vars(Config()).items()]
    return sorted(rows, key=lambda row: all(value == row[2] for value in row[1]))


def _neighbours(model: DiffusionLM) -> list[tuple[str, list[str]]]:
    """Frequent words (a vocabulary begins with them), and the tokens of text whose rows are nearest."""
    table = model.model.embedding.table.detach().float().cpu()
    table = table.index_fill(0, torch.tensor(model.tokenizer.special_ids), torch.inf)
    pieces = ((i, piece, piece.strip()) for i, piece in enumerate(model.pieces))
    whole = [(i, word) for i, piece, word in pieces if word.isalpha() and spaced(word).startswith(piece)]
    words = [(i, word) for i, word in whole if len(word.encode()) > 2][:NEIGHBOURS_OF]
    nearest = {word: (table - table[i]).norm(dim=1).argsort()[1:6].tolist() for i, word in words}
    return [(word, [model.pieces[i].strip() for i in ids]) for word, ids in nearest.items()]


def _samples(run: Path) -> list[tuple[str, list[str]]]:
    """(step, lines) of some validations, evenly over the run."""
    path, by_step = run / "samples.txt", dict[str, dict[str, None]]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        step, _, text = line.removeprefix("step ").partition("\t")
        by_step.setdefault(step, {})[text] = None  # once: a run that was killed may write it again
    return evenly([(step, list(texts)) for step, texts in by_step.items()], SHOWN)


def noise_figure(seen: Sequence[tuple[Path, DiffusionLM]]) -> Any:
    """The schedule, and what is known at each level. Of models with noise."""
    figure = new_figure(14, 3.6)
    schedule, *known = figure.subplots(1, 3)
    for number, (run, model) in enumerate(seen):
        network: Any = model.model
        style, t = {"color": f"C{number}"}, torch.linspace(0, 1, 101)
        schedule.plot(t, network.schedule(t.to(network.embedding.weight.device)).log_snr.cpu(), **style)
        with suppress(UserError):  # its corpus is not here
            data = DiffusionLM.trained_on(run)
            held_out = data.valid if len(data.valid) else data.train
            log_snr, *figures = by_level(network, plain_batches(model, held_out))
            for axis, together, alone in zip(known, figures[:2], figures[2:], strict=True):
                axis.plot(log_snr, together, **style)
                axis.plot(log_snr, alone, linestyle=":", **style)
    schedule.set(title="the schedule", xlabel="time t", ylabel="log-SNR")
    for axis, what in zip(known, ("cross-entropy", "accuracy"), strict=True):
        axis.set(title=f"{what} (dotted: token alone)", xlabel="log-SNR")
    return figure


def as_svgs(figure: Any) -> list[Markup]:
    """Each of the figure's axes as an SVG without a background, its text as text."""
    from matplotlib import rc_context

    pictures = []
    figure.draw_without_rendering()  # finds a place for each beside the others
    figure.set_layout_engine("none")
    options = {"format": "svg", "bbox_inches": "tight", "transparent": True, "metadata": {"Date": None}}
    for axis in figure.axes:
        for other in figure.axes:
            other.set_visible(other is axis)
        content = io.StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), catch_warnings(action="ignore"):
            figure.savefig(content, **options)  # warns where a font here lacks what the reader's has
        pictures.append(Markup("<svg" + content.getvalue().partition("<svg")[2]))
    return pictures


@torch.no_grad()
def by_level(model: Diffusion, batches: Batches, *, texts: int = 256, draws: int = 16) -> list[list[float]]:
    """Measures the model on held-out texts, at the levels that it is trained and sampled at.

    Returns log-SNR, the mean cross-entropy and accuracy near it, and both again of tokens by their x_t alone.
    """
    model.eval()
    device = model.embedding.weight.device
    columns = []
    for numbers in batches.spread(texts):
        text = batches.batch(0, numbers).each(lambda x: x.to(device))
        x0, length = model.embedding(text.ids), text.ids.shape[1]
        for draw in range(draws):
            t = (text.place + (draw + 0.5) / draws) % 1
            level = model.schedule(t[:, None, None])
            x_t = level.add_noise(x0, normal(make_keys(draw, text.number), length, model.embedding.dim))
            logits = model(x_t, level, torch.zeros_like(x_t), text).logits
            ids, here = text.ids[text.free], level.at(text.free)
            figures = [here.log_snr.squeeze(-1)]
            for said in (logits, model.posterior_logits(x_t[text.free], here)):
                figures += [F.cross_entropy(said, ids, reduction="none"), (said.argmax(-1) == ids).float()]
            columns.append(torch.stack(figures).cpu().double())
    rows = torch.cat(columns, 1)
    edges = torch.linspace(rows[0].min().item(), rows[0].max().item() + 1e-6, BINS + 1).double()
    place = torch.searchsorted(edges, rows[0], right=True) - 1
    count = torch.bincount(place, minlength=BINS)
    return [(torch.bincount(place, row, BINS) / count)[count > FEWEST].tolist() for row in rows]
