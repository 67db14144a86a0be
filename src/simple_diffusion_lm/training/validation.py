"""The bound on held-out text: what a run is judged by while it trains and after."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..diffusion.likelihood import Proposal, variational_bound
from ..diffusion.loss import seeded
from ..diffusion.schedule import Schedule
from ..model.denoiser import Denoiser
from ..text.batches import Batches


class HeldOut(NamedTuple):
    """The bound on a set of examples: nats per token, each an upper bound in expectation.

    The total is the sum of the four parts. error is its standard error over sequences; tokens
    counts EOS.
    """

    total: float
    prior: float
    diffusion: float
    reconstruction: float
    length: float  # -log p(length); 0 in stream mode, where all windows are equally long
    error: float
    sequences: int
    tokens: int


def held_out_bound(
    denoiser: Denoiser,
    schedule: Schedule,
    batches: Batches,
    length_weights: Sequence[int],
    *,
    examples: int,
    draws: int = 1,
    seed: int = 0,
    device: torch.device,
) -> HeldOut:
    """The bound on (up to) the given number of examples, `draws` noise draws each.

    The model of a line is p(length) p(ids | length), and both are paid for; p(length) is the
    histogram `length_weights` (index: tokens, EOS included), smoothed.

    Noise levels are stratified over the whole set. The examples are a fixed choice and all noise is
    a function of the seed: two models are compared on the same draws.
    """
    was_training = denoiser.training
    denoiser.eval()
    proposal = Proposal.of(schedule, denoiser.embedding.dim, device)
    batched = [batches.batch(0, indices) for indices in batches.spread(examples)]
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
    means = torch.cat(parts, dim=1).reshape(4, draws, count).mean(1)
    lengths = torch.cat([batch.length_mask.sum(1) for batch in batched])
    length = torch.zeros(count) if batches.stream else length_cost(lengths, length_weights)
    prior, diffusion, reconstruction, tokens = means
    return _summary(prior, diffusion, reconstruction, tokens, length)


def length_cost(lengths: Int[Tensor, " B"], length_weights: Sequence[int]) -> Float[Tensor, " B"]:
    """-log p(length) in nats. Half a count is added to each length, so that none is impossible."""
    counts = torch.tensor(length_weights[1:], dtype=torch.float64) + 0.5
    return -(counts / counts.sum()).log()[lengths - 1]


def _summary(
    prior: Tensor, diffusion: Tensor, reconstruction: Tensor, tokens: Tensor, length: Tensor
) -> HeldOut:
    """Means per token of what each sequence costs in nats."""
    total = prior + diffusion + reconstruction + length
    mean = total.sum() / tokens.sum()
    # The standard error of a ratio of sums over independent sequences.
    spread = (total - mean * tokens).std() * len(tokens) ** 0.5 / tokens.sum()
    return HeldOut(
        total=mean.item(),
        prior=(prior.sum() / tokens.sum()).item(),
        diffusion=(diffusion.sum() / tokens.sum()).item(),
        reconstruction=(reconstruction.sum() / tokens.sum()).item(),
        length=(length.sum() / tokens.sum()).item(),
        error=spread.item(),
        sequences=len(tokens),
        tokens=int(tokens.sum()),
    )
