"""The bound on held-out text: what a run is judged by while it trains and after."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from ..diffusion.likelihood import Bound
from ..diffusion.loss import seeded, stratified
from ..model.objective import Objective
from ..text.batches import Batches
from .processes import rank, total, world

GOLDEN = (5**0.5 - 1) / 2


class HeldOut(NamedTuple):
    """The bound on a set of examples: nats per token, each an upper bound in expectation.

    The total is the sum of the four parts. error is its standard error over sequences; tokens
    counts EOS.
    """

    total: float
    prior: float
    diffusion: float
    reconstruction: float
    length: float  # -log p(length); 0 where it is not drawn apart from the text
    error: float
    sequences: int
    tokens: int


def held_out_bound(
    model: Objective,
    batches: Batches,
    length_weights: Sequence[int],
    *,
    examples: int,
    draws: int = 8,
    seed: int = 0,
    device: torch.device,
    estimate: Callable[..., Bound] | None = None,
    quiet: bool = True,
) -> HeldOut:
    """The bound on (up to) the given number of examples, `draws` noise draws each, if it has noise.

    The model of a line is p(length) p(ids | length), and both are paid for; p(length) is the
    histogram `length_weights` (index: tokens, EOS included), smoothed. A model that writes its
    own length has paid for it.

    estimate is what to call for each batch, by default the model's own `bound`. quiet: no bar of
    progress on a terminal.

    Noise levels are stratified over the whole set, and the draws of a text stand evenly apart: of
    texts whose positions take on noise one after the other, each draw then measures others. The
    examples are a fixed choice and all noise is a function of the seed, of the draw and of the
    batch: two models are compared on the same draws, and any number of processes, which take turns
    at the batches, finds the same.
    """
    estimate = model.bound if estimate is None else estimate
    draws = 1 if model.writes_length else draws
    was_training = model.training
    model.eval()
    chosen = batches.spread(examples)
    count = sum(map(len, chosen))
    parts = torch.zeros(4, count, dtype=torch.float64)  # means over draws
    lengths = torch.zeros(count, dtype=torch.int64)
    first = stratified(count, seeded(seed))
    end = 0
    for number, indices in enumerate(tqdm(chosen, "measuring", disable=quiet or None)):
        batch = batches.batch(0, indices)
        rows = slice(end, end := end + len(indices))
        lengths[rows] = batch.length_mask.sum(1)
        if number % world() == rank():
            ids, length_mask, cond_mask, _ = (x.to(device) for x in batch)
            bounds = []
            for draw in range(draws):
                u = apart(first[rows], draw, draws).to(device)
                generator = seeded(seed, draw, number)
                bounds.append(torch.stack(estimate(ids, length_mask, cond_mask, u, generator)))
            parts[:, rows] = torch.stack(bounds).cpu().double().mean(0)
    model.train(was_training)
    free_length = batches.stream or model.writes_length
    length = torch.zeros(count) if free_length else length_cost(lengths, length_weights)
    prior, diffusion, reconstruction, tokens = total(parts)  # the others' columns are zero here
    return _summary(prior, diffusion, reconstruction, tokens, length)


def apart(first: Float[Tensor, " B"], draw: int, draws: int) -> Float[Tensor, " B"]:
    """The number in [0, 1) of one of several draws, each in another of as many equal parts.

    And each elsewhere in its part, by the golden ratio: along a path of about as many positions
    the draws of a text would all find one at the same level. Uniform where `first` is.
    """
    part = first * draws
    return ((part.floor() + draw) % draws + (part + draw * GOLDEN) % 1) / draws


def length_cost(lengths: Int[Tensor, " B"], length_weights: Sequence[int]) -> Float[Tensor, " B"]:
    """-log p(length) in nats. Half a count is added to each length, so that none is impossible."""
    counts = torch.tensor(length_weights[1:], dtype=torch.float64) + 0.5
    return -(counts / counts.sum()).log()[lengths - 1]


def _summary(
    prior: Tensor, diffusion: Tensor, reconstruction: Tensor, tokens: Tensor, length: Tensor
) -> HeldOut:
    """Means per token of what each sequence costs in nats."""
    nats = prior + diffusion + reconstruction + length
    mean = nats.sum() / tokens.sum()
    # The standard error of a ratio of sums over independent sequences.
    spread = (nats - mean * tokens).std() * len(tokens) ** 0.5 / tokens.sum()
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
