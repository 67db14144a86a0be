"""What a model with noise knows at each level between noise and text."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..core.data import Batches
from ..core.noise import make_keys, normal, position_times, uniform
from ..core.train import Diffusion

BINS = 24
FEWEST = 20  # positions that make a mean


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
