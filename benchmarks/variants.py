"""Changes to the recipe that no setting makes, each a few lines: for benchmarks/ablations.py.

A variant is an entry of one of the core's dicts, so that a configuration can name it: here a model in
MODELS, core.train.Diffusion with a method of its own. Schedules, samplers and normalisations have such
dicts too. Its runs are opened by whoever imports this file. What came of these stands in docs/log.md.
"""

from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from simple_diffusion_lm.cli.options import Settings
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.bound import PIECES
from simple_diffusion_lm.core.denoiser import Batch, Output
from simple_diffusion_lm.core.embedding import log_frequencies
from simple_diffusion_lm.core.loss import Draws, Losses
from simple_diffusion_lm.core.noise import Level, X
from simple_diffusion_lm.core.train import Diffusion
from simple_diffusion_lm.core.transformer import Transformer

CLOSE = 1e-3  # log-SNRs as close as this are the same


class PureNoise(Diffusion):
    """Positions at pure noise, most of them far from what is known, weigh 0.3 of the others."""

    def forward(self, x_t: X, level: Level, x0_prev: X, batch: Batch, temperature: float = 1.0) -> Output:
        logits, x0_hat = super().forward(x_t, level, x0_prev, batch, temperature)
        last = self.schedule(torch.ones(1, device=x_t.device)).log_snr
        weight = torch.where(level.at(batch.free).log_snr > last + CLOSE, 1.0, 0.3)
        return Output(torch.lerp(logits.detach(), logits, weight), x0_hat)  # of the gradient


class BoundIntegrand(Diffusion):
    """The MSE, weighed so that it is the bound's integrand, in nats a token (see core/bound.py)."""

    def forward(self, x_t: X, level: Level, x0_prev: X, batch: Batch, temperature: float = 1.0) -> Output:
        logits, _ = super().forward(x_t, level, x0_prev, batch, temperature)
        x0_hat, log_snr = self.embedding.interpolate(logits), level.at(batch.free).log_snr
        edges = self.schedule(torch.linspace(0, 1, PIECES + 1, device=x_t.device)).log_snr
        place = torch.searchsorted(-edges, -log_snr).clamp(1, PIECES)
        fall = (edges[place - 1] - edges[place]) * PIECES  # -d log-SNR / dt, of a position's own time
        # The MSE is a mean over coordinates and over positions, and of these some are at pure noise.
        scale = self.embedding.dim * (1 + self.config.stagger / 2)
        weight = torch.where(log_snr > edges[-1] + CLOSE, 0.5 * log_snr.exp() * fall * scale, 0.0)
        return Output(logits, torch.lerp(x0_hat.detach(), x0_hat, weight))  # of the gradient


class TwoDraws(Diffusion):
    """Batches of half as many texts, each at two noise levels."""

    def loss(self, batch: Batch, draws: Draws) -> Losses:
        rows = torch.arange((len(batch.ids) + 1) // 2).repeat(2)[: len(batch.ids)]
        return super().loss(batch.each(lambda x: x[rows.to(x.device)]), draws)


class ToldLevel(Diffusion):
    """Scales and shifts of every layer by each position's log-SNR, as where x_t alone is shown."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.transformer = Transformer(config, inputs=4, told_level=True)


class Tied(Diffusion):
    """A head whose rows are those of the table of embeddings."""

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        del self.head
        self.project = nn.Linear(config.model_dim, self.embedding.dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def head(self, hidden: Tensor) -> Tensor:
        return F.linear(self.project(hidden), self.embedding.table, self.bias)

    @torch.no_grad()
    def start_from_counts(self, counts: Tensor) -> None:
        self.log_unigram.copy_(log_frequencies(counts))
        self.project.weight.zero_()


def settings_of(name: str) -> dict[str, Any]:
    """NAME=VALUE,NAME=VALUE as the flags of `sdlm train` have it."""
    flags = [word for setting in name.split(",") for word in f"--{setting}".split("=")]
    return tyro.cli(Settings, args=flags)  # type: ignore[call-overload]


VARIANTS = {
    "pure_noise": PureNoise,
    "bound": BoundIntegrand,
    "two_draws": TwoDraws,
    "told_level": ToldLevel,
    "tied": Tied,
}
