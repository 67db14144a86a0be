"""The pictures of report.html: training, noise, and the table of embeddings."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

import torch

from ..errors import UserError
from ..generation import DiffusionLM
from ..model.continuous import Continuous
from ..text.corpus import Corpus
from ..text.tokenizer import SPACE
from .metrics import plain_batches
from .noise import by_level
from .report import pyplot

ON_THE_MAP = 160


class Seen(NamedTuple):
    """A run and what it left."""

    name: str
    about: dict[str, Any]
    train: list[dict[str, Any]]
    valid: list[dict[str, Any]]
    model: DiffusionLM


def training_figure(seen: Sequence[Seen]) -> Any:
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


def noise_figure(seen: Sequence[Seen], runs: Sequence[Path]) -> Any:
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
            for axis in (nats, accuracy):
                axis.text(0.5, 0.5, "its corpus is not here", ha="center", transform=axis.transAxes)
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


def table_figure(model: DiffusionLM) -> Any:
    """The table in two dimensions (principal components), and the norms of its rows."""
    table = model.model.embedding.table.detach().float().cpu()
    figure, (plane, norms) = pyplot().subplots(
        1, 2, figsize=(14, 7), layout="constrained", width_ratios=[4, 1]
    )
    centred = table - table.mean(0)
    flat = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    words = frequent_words(model)[:ON_THE_MAP]
    plane.scatter(*flat.T, s=3, color="0.8")
    for i in words:
        word = model.writer.pieces[i].replace(SPACE, "").replace("$", r"\$")
        plane.annotate(word, tuple(flat[i].tolist()), fontsize=7, ha="center")
    plane.set(title=f"the table, two of its {table.shape[1]} dimensions", xticks=[], yticks=[])
    norms.hist(table.norm(dim=-1).tolist(), bins=40, color="C0")
    norms.set(title="norms of its rows")
    return figure


def frequent_words(model: DiffusionLM) -> list[int]:
    """Ids of whole words; a SentencePiece vocabulary begins with what was merged first."""
    pieces = enumerate(model.writer.pieces)
    return [i for i, piece in pieces if piece.startswith(SPACE) and piece[1:].isalpha()]


def as_svg(figure: Any) -> str:
    """The figure as SVG with its text as text; closes it."""
    plt = pyplot()
    content = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), catch_warnings():
        simplefilter("ignore")  # a font here may lack what the reader's has
        figure.savefig(content, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = content.getvalue()
    return svg[svg.index("<svg") :]
