"""report.html: one or several runs on a page of its own: curves, noise, table, text."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

import torch
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ..errors import UserError
from ..generation import DiffusionLM
from ..model.continuous import Continuous
from ..model.slots import Frame, Slots
from ..text.corpus import Corpus
from ..text.tokenizer import SPACE
from ..training.checkpoint import run_of, write_atomically
from ..training.recipes import modern
from ..watching import Onlooker, Shown
from .metrics import plain_batches
from .noise import by_level
from .report import pyplot, read_metrics

NEIGHBOURS_OF = 24  # of the most frequent whole words
ON_THE_MAP = 160
WAY_STEPS = 64
SHOWN_STEPS = 12
SAMPLE_STEPS = 12  # validations whose samples are shown


class Seen(NamedTuple):
    """A run and what it left."""

    name: str
    about: dict[str, Any]
    train: list[dict[str, Any]]
    valid: list[dict[str, Any]]
    model: DiffusionLM


def write_report(runs: Sequence[Path], out: Path) -> None:
    """Writes the report of some runs to `out`; what can be seen of one only, is of the first.

    Raises UserError where there is no run or no checkpoint, and without the extra `plot`.
    """
    pyplot()
    seen = [_see(run) for run in runs]
    runs = [run_of(run) for run in runs]
    first = seen[0]
    figures = {"training": _training(seen), "table": _map(first.model)}
    if isinstance(first.model.model, Continuous):
        figures["noise"] = _noise(seen, runs)
    page = Environment(loader=PackageLoader(__package__), autoescape=True, trim_blocks=True)
    content = page.get_template("report.html.jinja").render(
        title=", ".join(each.name for each in seen),
        runs=[(each.name, _facts(each)) for each in seen],
        settings=_settings(seen),
        figures={name: Markup(_svg(figure)) for name, figure in figures.items()},
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
    about = json.loads((run / "config.json").read_text())
    train, valid = read_metrics(run, "train"), read_metrics(run, "valid")
    return Seen(run.resolve().name, about, train, valid, model)


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


def _training(seen: Sequence[Seen]) -> Any:
    """Losses, the bound, accuracy, gradient, learning rate and throughput, against minutes."""
    panels = {
        "ce": "cross-entropy, nats per token",
        "accuracy": "accuracy",
        "mse": "mean squared error of x0",
        "grad_norm": "norm of the gradient",
        "learning_rate": "learning rate",
        "tokens_per_second": "tokens a second",
    }
    figure, axes = pyplot().subplots(2, 4, figsize=(14, 6), layout="constrained")
    (bound, spread), rest = axes[:, 0], axes[:, 1:].flatten()
    for number, each in enumerate(seen):
        style = {"color": f"C{number}", "label": each.name}
        minutes = [record["seconds"] / 60 for record in each.train]
        for axis, name in zip(rest, panels, strict=True):
            axis.plot(minutes, [record[name] for record in each.train], **style, linewidth=1)
        bounds = [record for record in each.valid if "bound" in record]
        at = [record["seconds"] / 60 for record in bounds]
        values, errors = ([r[k] for r in bounds] for k in ("bound", "bound_error"))
        bound.errorbar(at, values, errors, marker="o", markersize=3, **style)
        at = [record["seconds"] / 60 for record in each.valid]
        spread.plot(at, [record["nearest_mean"] for record in each.valid], "o-", **style)
    bound.set(title="held-out text, nats per token")
    spread.set(title="nearest rows of the table, apart")
    for axis, title in zip(rest, panels.values(), strict=True):
        axis.set(title=title)
    for axis in axes[1]:
        axis.set(xlabel="minutes")
    if len(seen) > 1:
        bound.legend()
    return figure


def _noise(seen: Sequence[Seen], runs: Sequence[Path]) -> Any:
    """The schedule, where uncertainty falls, and what is known at each level."""
    figure, axes = pyplot().subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    schedule, rate, nats, accuracy = axes
    t = torch.linspace(0, 1, 101)
    for number, (each, run) in enumerate(zip(seen, runs, strict=True)):
        model = each.model.model
        if not isinstance(model, Continuous):
            continue
        colour = f"C{number}"
        schedules = [record for record in each.valid if "levels" in record]
        for place, record in enumerate(schedules):
            levels = record["levels"]
            shade = 0.1 + 0.5 * place / len(schedules)
            schedule.plot(torch.linspace(0, 1, len(levels)), levels, color=colour, alpha=shade)
        log_snr = model.schedule(t.to(model.embedding.weight.device)).log_snr.cpu()
        schedule.plot(t, log_snr, color=colour, linewidth=2, label=each.name)
        per_level = -torch.diff(t) / torch.diff(log_snr)
        rate.plot((log_snr[1:] + log_snr[:-1]) / 2, per_level, color=colour)
        held_out = _held_out(run)
        if held_out is None:
            continue
        found = by_level(model, plain_batches(each.model, held_out))
        nats.plot(found.log_snr, found.nats, color=colour)
        nats.plot(found.log_snr, found.nats_alone, color=colour, linestyle=":")
        accuracy.plot(found.log_snr, found.accuracy, color=colour)
        accuracy.plot(found.log_snr, found.accuracy_alone, color=colour, linestyle=":")
    schedule.set(title="the schedule, as it was fitted", xlabel="time t", ylabel="log-SNR")
    rate.set(title="where uncertainty falls", xlabel="log-SNR", ylabel="share of t, per unit")
    nats.set(title="cross-entropy (dotted: token alone)", xlabel="log-SNR")
    accuracy.set(title="accuracy (dotted: token alone)", xlabel="log-SNR")
    return figure


def _held_out(run: Path) -> Corpus | None:
    """What a run was not trained on, or where nothing was held out what it was; if it is there."""
    try:
        data = DiffusionLM.trained_on(run)
    except UserError:
        return None
    return data.valid if len(data.valid) else data.train


def _map(model: DiffusionLM) -> Any:
    """The table in two dimensions (principal components), and the norms of its rows."""
    table = model.model.embedding.table.detach().float().cpu()
    figure, (plane, norms) = pyplot().subplots(
        1, 2, figsize=(14, 7), layout="constrained", width_ratios=[4, 1]
    )
    centred = table - table.mean(0)
    flat = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    words = _frequent_words(model)[:ON_THE_MAP]
    plane.scatter(*flat.T, s=3, color="0.8")
    for i in words:
        word = model.writer.pieces[i].replace(SPACE, "").replace("$", r"\$")
        plane.annotate(word, tuple(flat[i].tolist()), fontsize=7, ha="center")
    plane.set(title=f"the table, two of its {table.shape[1]} dimensions", xticks=[], yticks=[])
    norms.hist(table.norm(dim=-1).tolist(), bins=40, color="C0")
    norms.set(title="norms of its rows")
    return figure


def _frequent_words(model: DiffusionLM) -> list[int]:
    """Ids of whole words; a SentencePiece vocabulary begins with what was merged first."""
    pieces = enumerate(model.writer.pieces)
    return [i for i, piece in pieces if piece.startswith(SPACE) and piece[1:].isalpha()]


def _neighbours(model: DiffusionLM) -> list[tuple[str, list[str]]]:
    table = model.model.embedding.table.detach().float().cpu()
    distances = torch.cdist(table, table).fill_diagonal_(torch.inf)
    rows = []
    for i in [i for i in _frequent_words(model) if len(model.writer.pieces[i]) > 3][:NEIGHBOURS_OF]:
        nearest = distances[i].topk(5, largest=False).indices.tolist()
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
    steps = list(by_step)
    chosen = steps if len(steps) <= SAMPLE_STEPS else [
        steps[round(i * (len(steps) - 1) / (SAMPLE_STEPS - 1))] for i in range(SAMPLE_STEPS)
    ]  # fmt: skip
    return [(step, by_step[step]) for step in chosen]


def _way(model: DiffusionLM) -> list[tuple[int, list[Shown]]]:
    """One text from noise to the end: (step, its tokens), some steps of it."""
    onlooker = Onlooker(model.writer)
    frames: list[list[Shown]] = []

    def watch(group: Slots, frame: Frame) -> None:
        frames.extend(onlooker(group, frame).values())

    model.generate(1, steps=WAY_STEPS, seed=1, watch=watch)
    count = min(SHOWN_STEPS, len(frames))
    places = [round(i * (len(frames) - 1) / max(count - 1, 1)) for i in range(count)]
    return [(place + 1, frames[place]) for place in places]


def _svg(figure: Any) -> str:
    """The figure as SVG with its text as text; closes it."""
    plt = pyplot()
    content = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), catch_warnings():
        simplefilter("ignore")  # a font here may lack what the reader's has
        figure.savefig(content, format="svg", metadata={"Date": None})
    plt.close(figure)
    return content.getvalue().partition("<svg")[1] + content.getvalue().partition("<svg")[2]
