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
from simple_diffusion_lm.core.embedding import log_frequencies
from simple_diffusion_lm.core.train import Diffusion


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


VARIANTS = {"tied": Tied}
