"""What a continuous model knows at each noise level between noise and text."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..diffusion.loss import seeded, stratified
from ..diffusion.network import Targets, numbers
from ..model.continuous import Continuous
from ..text.batches import Batches

BINS = 24


@dataclass(frozen=True)
class ByLevel:
    """Figures of positions at a noise level, as means over those whose log-SNR is near it.

    `alone` is of each token read off its own x_t, and knows nothing of its neighbours.
    """

    log_snr: list[float]
    nats: list[float]  # cross-entropy of the tokens
    nats_alone: list[float]
    accuracy: list[float]
    accuracy_alone: list[float]


@torch.no_grad()
def by_level(
    model: Continuous, batches: Batches, *, examples: int = 256, draws: int = 16
) -> ByLevel:
    """Measures the model on held-out texts along the path it is sampled on."""
    model.eval()
    device = model.embedding.weight.device
    columns = []
    for number, indices in enumerate(batches.spread(examples)):
        ids, length_mask, cond_mask, _ = (x.to(device) for x in batches.batch(0, indices))
        text, _ = model.text(ids, length_mask, cond_mask)
        for draw in range(draws):
            generator = seeded(number, draw)
            t = text.path(stratified(len(ids), generator).to(device))
            eps = torch.randn(*ids.shape, model.embedding.dim, generator=generator).to(device)
            level = model.schedule(t[..., None])
            x_t = level.noise(model.embedding(ids), eps)
            moving = Targets.of(t, text.free).moving
            targets = Targets(moving, moving[:0])
            nothing = torch.zeros_like(x_t)
            logits = model.denoiser(x_t, level, nothing, **text.known(t), targets=targets)
            alone = model.denoiser.read(x_t.flatten(0, 1)[moving], level.at(ids.shape, moving))
            there = ids.flatten()[moving]
            log_snr = level.log_snr.expand(*ids.shape, 1).flatten()[moving]
            figures = [log_snr]
            for said in (logits.logits, alone):
                figures.append(F.cross_entropy(said, there, reduction="none"))
                figures.append((said.argmax(-1) == there).float())
            columns.append(torch.stack(figures).cpu().double())
    log_snr, nats, right, nats_alone, right_alone = torch.cat(columns, 1)
    edges = torch.linspace(log_snr.min().item(), log_snr.max().item() + 1e-6, BINS + 1).double()
    place = torch.searchsorted(edges, log_snr, right=True) - 1
    count = torch.bincount(place, minlength=BINS)
    kept = numbers(count[:, None] > 20)

    def means(values: torch.Tensor) -> list[float]:
        return (torch.bincount(place, values, BINS) / count)[kept].tolist()

    return ByLevel(means(log_snr), means(nats), means(nats_alone), means(right), means(right_alone))
