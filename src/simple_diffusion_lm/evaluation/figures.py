"""Pictures of report.html that need the models: noise, and the table of embeddings."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch

from ..corpus.tokenizer import SPACE
from ..errors import UserError
from ..writing.model import DiffusionLM
from .likelihood import plain_batches
from .noise import by_level
from .report import pyplot

ON_THE_MAP = 160


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
    """The table in two dimensions (principal components), and the norms of its rows."""
    table = model.model.embedding.table.detach().float().cpu()
    settings = {"figsize": (14, 7), "layout": "constrained", "width_ratios": [4, 1]}
    figure, (plane, norms) = pyplot().subplots(1, 2, **settings)
    centred = table - table.mean(0)
    flat = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    plane.scatter(*flat.T, s=3, color="0.8")
    for i, word in list(frequent_words(model).items())[:ON_THE_MAP]:
        plane.annotate(word, tuple(flat[i].tolist()), fontsize=7, ha="center")
    plane.set(title=f"the table, two of its {table.shape[1]} dimensions", xticks=[], yticks=[])
    norms.hist(table.norm(dim=-1).tolist(), bins=40, color="C0")
    norms.set(title="norms of its rows")
    return figure


def frequent_words(model: DiffusionLM) -> dict[int, str]:
    """Ids and whole words; a SentencePiece vocabulary begins with what was merged first."""
    pieces = enumerate(model.pieces)
    return {i: piece[1:] for i, piece in pieces if piece.startswith(SPACE) and piece[1:].isalpha()}


def as_svg(figure: Any) -> str:
    """The figure as SVG with its text as text; closes it."""
    plt, content = pyplot(), io.StringIO()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), catch_warnings():
        simplefilter("ignore")  # a font here may lack what the reader's has
        figure.savefig(content, format="svg", metadata={"Date": None})
    plt.close(figure)
    return "<svg" + content.getvalue().partition("<svg")[2]
