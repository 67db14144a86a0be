"""report.html: one or several runs on a page of its own: curves, noise, table, text."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

import torch
import torch.nn.functional as F
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ..core import Config
from ..core.data import Batches
from ..core.noise import make_keys, normal, position_times, uniform
from ..core.train import Diffusion
from ..errors import UserError
from ..runs.checkpoint import run_of, write_atomically
from ..runs.log import read_metrics
from ..runs.run import about_run
from ..writing.model import DiffusionLM
from ..writing.templates import spaced
from ..writing.watching import evenly
from .likelihood import plain_batches
from .report import pyplot, training_figure

NEIGHBOURS_OF = 24  # of the most frequent whole words
SHOWN_STEPS = 12  # of writing one text
SAMPLE_STEPS = 12  # validations whose samples are shown
ON_THE_MAP = 160  # words of the table
BINS = 24  # of noise levels
FEWEST = 20  # positions that make a mean


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
        way=evenly(list(enumerate(model.unfold().steps, start=1)), SHOWN_STEPS),
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
    words = [(i, w) for i, w in frequent_words(model).items() if len(w.encode()) > 2][:NEIGHBOURS_OF]
    nearest = {word: (table - table[i]).norm(dim=1).argsort()[1:6].tolist() for i, word in words}
    return [(word, [model.pieces[i].strip() for i in ids]) for word, ids in nearest.items()]


def _samples(run: Path) -> list[tuple[str, list[str]]]:
    """(step, lines) of some validations, evenly over the run."""
    path = run / "samples.txt"
    by_step: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        step, _, text = line.removeprefix("step ").partition("\t")
        by_step.setdefault(step, []).append(text)
    return evenly(list(by_step.items()), SAMPLE_STEPS)


def noise_figure(seen: Sequence[tuple[Path, DiffusionLM]]) -> Any:
    """The schedule, and what is known at each level. Of models with noise."""
    figure, (schedule, *known) = pyplot().subplots(1, 3, figsize=(14, 3.6), layout="constrained")
    for number, (run, model) in enumerate(seen):
        network: Any = model.model
        if not hasattr(network, "schedule"):
            continue
        style, t = {"color": f"C{number}"}, torch.linspace(0, 1, 101)
        schedule.plot(t, network.schedule(t.to(network.embedding.weight.device)).log_snr.cpu(), **style)
        try:
            data = DiffusionLM.trained_on(run)
        except UserError:
            for axis in known:
                axis.text(0.5, 0.5, "its corpus is not here", ha="center", transform=axis.transAxes)
            continue
        held_out = data.valid if len(data.valid) else data.train
        log_snr, *figures = by_level(network, plain_batches(model, held_out))
        for axis, together, alone in zip(known, figures[:2], figures[2:], strict=True):
            axis.plot(log_snr, together, **style)
            axis.plot(log_snr, alone, linestyle=":", **style)
    schedule.set(title="the schedule", xlabel="time t", ylabel="log-SNR")
    for axis, what in zip(known, ("cross-entropy", "accuracy"), strict=True):
        axis.set(title=f"{what} (dotted: token alone)", xlabel="log-SNR")
    return figure


def table_figure(model: DiffusionLM) -> Any:
    """The table in two dimensions (principal components)."""
    table = model.model.embedding.table.detach().float().cpu()
    figure, plane = pyplot().subplots(figsize=(11, 7), layout="constrained")
    centred = table - table.mean(0)
    flat = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    plane.scatter(*flat.T, s=3, color="0.8")
    for i, word in list(frequent_words(model).items())[:ON_THE_MAP]:
        plane.annotate(word, tuple(flat[i].tolist()), fontsize=7, ha="center")
    plane.set(title=f"the table, two of its {table.shape[1]} dimensions", xticks=[], yticks=[])
    return figure


def frequent_words(model: DiffusionLM) -> dict[int, str]:
    """Ids and whole words; a SentencePiece vocabulary begins with what was merged first."""
    words = ((i, piece, piece.strip()) for i, piece in enumerate(model.pieces))
    return {i: word for i, piece, word in words if word.isalpha() and spaced(word).startswith(piece)}


def as_svg(figure: Any) -> str:
    """The figure as SVG with its text as text; closes it."""
    plt, content = pyplot(), io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), catch_warnings():
        simplefilter("ignore")  # a font here may lack what the reader's has
        figure.savefig(content, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "<svg" + content.getvalue().partition("<svg")[2]


class ByLevel(NamedTuple):
    """Figures of positions at a noise level, as means over those whose log-SNR is near it.

    `alone` is of each token read off its own x_t, and knows nothing of its neighbours.
    """

    log_snr: list[float]
    nats: list[float]  # cross-entropy of the tokens
    accuracy: list[float]
    nats_alone: list[float]
    accuracy_alone: list[float]


@torch.no_grad()
def by_level(model: Diffusion, batches: Batches, *, examples: int = 256, draws: int = 16) -> ByLevel:
    """Measures the model on held-out texts, at the levels that it is trained and sampled at."""
    model.eval()
    device = model.embedding.weight.device
    columns = []
    for numbers in batches.spread(examples):
        text = batches.batch(0, numbers).each(lambda x: x.to(device))
        x0, length = model.embedding(text.ids), text.ids.shape[1]
        order = uniform(make_keys(0, text.number), length).float()
        for draw in range(draws):
            t = (text.place + (draw + 0.5) / draws) % 1
            times = position_times(t, order, text.free, model.config.stagger)
            batch, level = text.where_clean(times), model.schedule(times[..., None])
            x_t = level.add_noise(x0, normal(make_keys(draw, text.number), length, model.embedding.dim))
            logits = model(x_t, level, torch.zeros_like(x_t), batch).logits
            ids, here = text.ids[batch.free], level.at(batch.free)
            figures = [here.log_snr.squeeze(-1)]
            for said in (logits, model.posterior_logits(x_t[batch.free], here)):
                figures += [F.cross_entropy(said, ids, reduction="none"), (said.argmax(-1) == ids).float()]
            columns.append(torch.stack(figures).cpu().double())
    rows = torch.cat(columns, 1)
    edges = torch.linspace(rows[0].min().item(), rows[0].max().item() + 1e-6, BINS + 1).double()
    place = torch.searchsorted(edges, rows[0], right=True) - 1
    count = torch.bincount(place, minlength=BINS)
    return ByLevel(*((torch.bincount(place, row, BINS) / count)[count > FEWEST].tolist() for row in rows))
