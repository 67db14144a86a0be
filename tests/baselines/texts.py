"""Baselines with random weights, and texts for them."""

from typing import Any

import torch
from small_models import small
from torch import Tensor

from simple_diffusion_lm.baselines import MODELS
from simple_diffusion_lm.baselines.predictor import TokenPredictor
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Frame, Group, Sampling
from simple_diffusion_lm.core.noise import make_keys
from simple_diffusion_lm.core.train import Config

NAMES = ("autoregressive", "masked")


def network(name: str, vocab: int, std: float = 0.3, **changes: object) -> TokenPredictor:
    """Untrained, but with nothing left at zero, so that every part matters."""
    torch.manual_seed(0)
    model = MODELS[name](small(Config(), **changes), vocab)
    assert isinstance(model, TokenPredictor)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()


def random_ids(count: int, length: int, vocab: int) -> Tensor:
    return torch.randint(vocab, (count, length), generator=torch.Generator().manual_seed(1))


def batch_of(ids: Tensor, lengths: list[int] | None = None, cond_mask: Tensor | None = None) -> Batch:
    """Texts of these lengths, by default all as long as they can be, of which nothing is given."""
    count, length = ids.shape
    length_mask = torch.arange(length) < torch.tensor(lengths or [length] * count)[:, None]
    given = torch.zeros_like(length_mask) if cond_mask is None else cond_mask & length_mask
    number = torch.arange(count)
    return Batch(ids, length_mask, given, number, number / count)


def sample(model: TokenPredictor, group: Group, steps: int = 4, **sampling: Any) -> list[Frame]:
    return list(model.sample(group, Sampling(steps, **{"temperature": 1.0} | sampling)))


def group_of(batch: Batch, seed: int = 0) -> Group:
    return Group(batch, make_keys(seed, batch.number))
