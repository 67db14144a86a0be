"""The bound on held-out text: what a run is judged by while it trains and after."""

from typing import NamedTuple

import numpy as np
import torch

from ..diffusion.likelihood import Proposal, variational_bound
from ..diffusion.loss import seeded
from ..diffusion.schedule import Schedule
from ..model.denoiser import Denoiser
from ..text.batches import Batches


class HeldOut(NamedTuple):
    """The bound on a set of examples: nats per token, each an upper bound in expectation.

    error is the standard error of the total over sequences; tokens counts EOS.
    """

    total: float
    prior: float
    diffusion: float
    reconstruction: float
    error: float
    sequences: int
    tokens: int


def held_out_bound(
    denoiser: Denoiser,
    schedule: Schedule,
    batches: Batches,
    *,
    examples: int,
    draws: int = 1,
    seed: int = 0,
    device: torch.device,
) -> HeldOut:
    """The bound on (up to) the given number of examples, `draws` noise draws each.

    Noise levels are stratified over the whole set. The examples, and all noise, are a function of
    the seed: two models are compared on the same draws.
    """
    was_training = denoiser.training
    denoiser.eval()
    proposal = Proposal.of(schedule, denoiser.embedding.dim, device)
    batched = [batches.batch(0, indices) for indices in _first(batches, examples)]
    count = sum(len(batch.ids) for batch in batched)
    parts = []
    for number in range(draws):
        generator = seeded(seed, number)
        strata = torch.randperm(count, generator=generator)
        u = (strata + torch.rand(count, generator=generator)) / count
        for batch in batched:
            eps = torch.randn(2, *batch.ids.shape, denoiser.embedding.dim, generator=generator)
            mine, u = u[: len(batch.ids)], u[len(batch.ids) :]
            ids, length_mask, cond_mask, _ = (x.to(device) for x in batch)
            bound = variational_bound(
                denoiser, proposal, ids, length_mask, cond_mask, mine.to(device), eps.to(device)
            )
            parts.append(torch.stack(bound).double().cpu())
    denoiser.train(was_training)
    return _summary(torch.cat(parts, dim=1).reshape(4, draws, count).mean(1))


def _first(batches: Batches, examples: int) -> list[np.ndarray]:
    """The example numbers of the first epoch's batches, cut to so many examples."""
    chosen = []
    for indices in batches.order(0):
        if examples <= 0:
            break
        chosen.append(indices[:examples])
        examples -= len(indices)
    return chosen


def _summary(parts: torch.Tensor) -> HeldOut:
    """Means per token of (prior, diffusion, reconstruction, tokens) for each sequence."""
    prior, diffusion, reconstruction, tokens = parts
    total = prior + diffusion + reconstruction
    mean = total.sum() / tokens.sum()
    # The standard error of a ratio of sums over independent sequences.
    spread = (total - mean * tokens).std() * len(tokens) ** 0.5 / tokens.sum()
    return HeldOut(
        total=mean.item(),
        prior=(prior.sum() / tokens.sum()).item(),
        diffusion=(diffusion.sum() / tokens.sum()).item(),
        reconstruction=(reconstruction.sum() / tokens.sum()).item(),
        error=spread.item(),
        sequences=len(tokens),
        tokens=int(tokens.sum()),
    )
