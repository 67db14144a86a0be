"""The denoiser: noisy embeddings, and the tokens that are given, to a prediction of the text."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import Config
from .embedding import NORMALISERS, TokenEmbedding, in_blocks, log_frequencies
from .noise import SCHEDULES, Level, Logits, Mask, PerText, X
from .transformer import Transformer


class Batch(NamedTuple):
    """Texts side by side. Outside of a text ids are padding, and both masks are False."""

    ids: Int[Tensor, "B L"]
    length_mask: Mask  # True: a token of the text, EOS included
    cond_mask: Mask  # True: given (conditioned on), neither noised nor predicted
    number: Int[Tensor, " B"]  # of each text in its corpus: its random numbers are made from this
    place: PerText  # of each text in the batch, in [0, 1): noise levels are spread by it
    cond: Float[Tensor, "B L_or_1 C"] | None = None  # what else the text is conditioned on

    @property
    def free(self) -> Mask:
        """What is noised and predicted."""
        return self.length_mask & ~self.cond_mask

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same change made to every tensor: another device, or some of the texts."""
        return Batch(*(None if x is None else change(x) for x in self))  # type: ignore[arg-type]


class Output(NamedTuple):
    """What the denoiser says of the N free positions."""

    logits: Logits
    regressed: Float[Tensor, "N D"] | None  # a linear head's estimate, for the squared error alone


class Denoiser(nn.Module):
    """The embedding table, the transformer, and the two ways from one to the other.

    The transformer's input is embeddings side by side: what is seen of x_t, the given tokens, and the
    previous prediction; then the condition, if there is one. What is seen of x_t:
        posterior=False  x_t at unit scale (the original README, CDCD), and the level is told
        posterior=True   the posterior mean of each token by itself: softmax(log unigram + log-likelihood
                         of x_t) @ E. It is the unigram mean at pure noise, where x_t looks like some
                         token or other and would distract, and the token when clean. It shows how much
                         is known, so the level need not be told. The log-likelihood is added to the
                         network's logits too: it has to learn only what the other positions say (Plaid,
                         2305.18619; LangFlow, 2604.11748).
    regress=True: the squared error is of a linear head's estimate; x0_hat is the mean embedding either way.
    """

    log_unigram: Tensor

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.config = config
        self.embedding = TokenEmbedding(vocab_size, dim, NORMALISERS[config.normaliser])
        self.transformer = Transformer(config, inputs=3, told_level=not config.posterior)
        self.schedule = SCHEDULES[config.schedule](dim, vocab_size)
        self.regress = nn.Linear(config.model_dim, dim) if config.regress else None
        self.head = nn.Linear(config.model_dim, vocab_size)
        self.register_buffer("log_unigram", torch.zeros(vocab_size))

    @torch.no_grad()
    def start_from_counts(self, counts: Int[Tensor, " V"]) -> None:
        """Sets the unigram distribution: all that is said at first, by the head's bias or by `forward`."""
        self.log_unigram.copy_(log_frequencies(counts))
        self.head.bias.copy_(self.log_unigram * (not self.config.posterior))
        self.head.weight.zero_()

    def forward(self, x_t: X, level: Level, x0_prev: X, batch: Batch, temperature: float = 1.0) -> Output:
        """Predicts the tokens at the free positions. batch.ids are read only where they are given: there
        neither x_t nor x0_prev is. x0_prev is the previous prediction, or zeros. Logits are float32.

        The temperature divides what is learned, the unigram too, not the likelihood: sharper text is
        p(x0)^(1/T) (exact where the rest is known); else noise would be taken for knowledge.
        """
        free, log_snr = batch.free, level.log_snr.squeeze(-1)
        seen, likelihood = self.network_input(x_t, level, free)
        given = self.embedding(batch.ids).masked_fill(~batch.cond_mask[..., None], 0.0)
        unseen = batch.cond_mask | (self.config.self_cond_rate == 0)  # what training never showed
        inputs = [seen, given, x0_prev.masked_fill(unseen[..., None], 0.0)]
        if batch.cond is not None:
            inputs.append(batch.cond.expand(-1, x_t.shape[1], -1))
        hidden = self.transformer(torch.cat(inputs, dim=-1), log_snr, batch.length_mask)[free]
        regressed = None if self.regress is None else in_blocks(self.regress, hidden).float()
        logits = in_blocks(self.head, hidden).float()
        if likelihood is None:
            return Output(logits / temperature, regressed)
        logits.add_(self.log_unigram).div_(temperature)  # in place: copies of (N, V) cost time
        return Output(logits.add_(likelihood), regressed)

    def network_input(self, x_t: X, level: Level, free: Mask) -> tuple[X, Float[Tensor, "N V"] | None]:
        """What the network sees of x_t, and the log-likelihood of x_t under each token where it is free."""
        if not self.config.posterior:
            scale = (level.alpha**2 + level.sigma**2).sqrt()
            return (x_t / scale).masked_fill(~free[..., None], 0.0), None
        likelihood, seen = self.log_likelihood(x_t[free], level.at(free)), torch.zeros_like(x_t)
        with torch.no_grad():  # a gradient did not help, and took 15% of a step (docs/log.md)
            seen[free] = self.embedding.interpolate(likelihood + self.log_unigram)
        return seen, likelihood

    def log_likelihood(self, x_t: Float[Tensor, "*S D"], level: Level) -> Float[Tensor, "*S V"]:
        """log N(x_t; alpha e_v, sigma^2 I) of each token v, up to what is the same for all v: x_t alone, and
        |e_v|, as rows have one length. In float32: in bfloat16 the clean end is wrong by whole nats."""
        with torch.autocast(x_t.device.type, enabled=False):
            return (level.alpha / level.sigma**2 * x_t) @ self.embedding.table.T

    def posterior_logits(self, x_t: Float[Tensor, "*S D"], level: Level) -> Float[Tensor, "*S V"]:
        """log p(v) + log N(x_t; alpha e_v, sigma^2 I): a token's posterior from its own x_t alone."""
        return self.log_likelihood(x_t, level) + self.log_unigram
