"""The denoiser: noisy embeddings, and the tokens that are given, to a prediction of the text."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..diffusion.network import Output, Targets
from ..diffusion.schedule import Level
from .embedding import TokenEmbedding, by_blocks, log_frequencies
from .transformer import Transformer


class Denoiser(nn.Module):
    """The embedding table, the transformer, and the two ways from one to the other.

    What the network is shown of x_t:
        posterior=False  x_t itself, at unit scale (the document, CDCD)
        posterior=True   the single-token posterior mean, what x_t says of each token on its own:
                         softmax(log unigram + evidence) @ E. A blank at pure noise, the token when
                         clean, and never a random vector to be mistaken for a token.
    What it returns:
        regress=True     an estimate of x0 from a linear head, and logits as its projection
        regress=False    logits; the estimate is their mean embedding, always between tokens
    With posterior=True the logits of the single-token posterior are added to the network's too: it
    has to learn only what the other positions say. At pure noise they are the unigram's.

    With posterior=False the transformer has to be told the level, as log-SNR and never as time, so
    that any schedule may sample from it; the posterior mean itself says how much is known
    (docs/log.md). The transformer takes three embeddings side by side: what is shown of x_t, the
    given tokens, and the last prediction.

    With reads_ahead, the longest text there can be, a start stands before the text, and each
    position is predicted from the vector of the one before it. The same weights then serve to go on
    from a text, looking back only (`go_on`), which they can be trained for as well (2410.17891
    adapts such models). A vector for the number of tokens still to come is added at the start and
    everywhere: looking back only, they would not know where to end.
    """

    log_unigram: Tensor

    def __init__(
        self,
        embedding: TokenEmbedding,
        transformer: Transformer,
        model_dim: int,
        *,
        regress: bool,
        posterior: bool,
        reads_ahead: int | None,
    ) -> None:
        super().__init__()
        vocab_size, embedding_dim = embedding.weight.shape
        self.embedding = embedding
        self.transformer = transformer
        self.posterior = posterior
        self.regress = nn.Linear(model_dim, embedding_dim) if regress else None
        self.head = nn.Linear(embedding_dim if regress else model_dim, vocab_size)
        self.to_come = (
            None if reads_ahead is None else nn.Embedding(reads_ahead + 1, 3 * embedding_dim)
        )
        if self.to_come is not None:
            nn.init.zeros_(self.to_come.weight)
        self.register_buffer("log_unigram", torch.zeros(vocab_size))

    @torch.no_grad()
    def start_from_counts(self, counts: Int[Tensor, " V"]) -> None:
        """Sets the unigram prior from token counts, and the logits at pure noise to just that."""
        self.log_unigram.copy_(log_frequencies(counts))
        self.head.bias.copy_(self.log_unigram * (not self.posterior))
        if self.regress is None:
            self.head.weight.zero_()

    def embed(self, ids: Int[Tensor, "*S"]) -> Float[Tensor, "*S D"]:
        """Clean embeddings x0."""
        return self.embedding(ids)

    def interpolate(self, logits: Float[Tensor, "*S V"]) -> Float[Tensor, "*S D"]:
        """The mean embedding under softmax(logits)."""
        return self.embedding.interpolate(logits)

    def forward(
        self,
        x_t: Float[Tensor, "B L D"],
        level: Level,
        x0_prev: Float[Tensor, "B L D"],
        *,
        ids: Int[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        targets: Targets,
    ) -> Output:
        """Predicts x0 and the tokens at the targets.

        ids are read only where cond_mask is True: given positions enter clean, in a place of the
        input that is theirs, and neither their x_t nor their x0_prev is looked at. x0_prev is the
        last prediction, zeros when there is none. Logits are float32 whatever the autocast.
        """
        given = cond_mask[..., None]
        shown, evidence = self.look(x_t, level, targets.moving)
        inputs = torch.cat(
            [
                shown.masked_fill(given, 0.0),
                self.embedding(ids).masked_fill(~given, 0.0),
                x0_prev.masked_fill(given, 0.0),
            ],
            dim=-1,
        )
        log_snr = level.log_snr.flatten(1).expand(len(x_t), -1)
        hidden = self._hidden(inputs, log_snr, length_mask, causal=False)
        hidden = hidden.flatten(0, 1).index_select(0, targets.all)
        regressed = None if self.regress is None else by_blocks(self.regress, hidden).float()
        logits = by_blocks(self.head, hidden if regressed is None else regressed).float()
        if evidence is not None:
            logits = logits + self.log_unigram
            logits[: len(evidence)] += evidence
        return Output(logits, regressed)

    def _hidden(
        self,
        inputs: Float[Tensor, "B L I"],
        log_snr: Float[Tensor, "B L_or_1"],
        length_mask: Bool[Tensor, "B L"],
        *,
        causal: bool,
    ) -> Float[Tensor, "B L M"]:
        """The vectors that positions are predicted from."""
        if self.to_come is None:
            return self.transformer(inputs, log_snr, length_mask, causal=causal)
        place = torch.arange(inputs.shape[1] + 1, device=inputs.device)
        to_come = (length_mask.sum(1, keepdim=True) - place).clamp(min=0)  # padding: none
        inputs = F.pad(inputs, (0, 0, 1, 0)) + self.to_come(to_come)
        log_snr = torch.cat([log_snr[:, :1], log_snr], dim=1) if log_snr.shape[1] > 1 else log_snr
        length_mask = F.pad(length_mask, (1, 0), value=True)
        return self.transformer(inputs, log_snr, length_mask, causal=causal)[:, :-1]

    def go_on(
        self, ids: Int[Tensor, "B L"], length_mask: Bool[Tensor, "B L"], at: Int[Tensor, " N"]
    ) -> Float[Tensor, "N V"]:
        """Logits at positions b L + l, each given all before it: the task of the twin that is
        autoregressive. Needs reads_ahead."""
        given = self.embedding(ids)
        nothing = torch.zeros_like(given)
        inputs = torch.cat([nothing, given, nothing], dim=-1)
        clean = inputs.new_zeros(len(ids), 1)
        hidden = self._hidden(inputs, clean, length_mask, causal=True)
        logits = by_blocks(self.head, hidden.flatten(0, 1).index_select(0, at)).float()
        return logits + self.log_unigram if self.posterior else logits

    def look(
        self, x_t: Float[Tensor, "B L D"], level: Level, moving: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "N V"] | None]:
        """What the network is shown of x_t (see the class), and the evidence of moving positions.

        The posterior mean is trained without gradient: with one, learning was no faster and a step
        took 15% longer. Outside of training it has one: a divergence is wrong without.
        """
        if not self.posterior:
            return x_t / (level.alpha**2 + level.sigma**2).sqrt(), None
        here = x_t.flatten(0, 1).index_select(0, moving)
        evidence = self.evidence(here, level.at(x_t.shape, moving))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            blank = self.interpolate(self.log_unigram)
            mean = self.interpolate(evidence + self.log_unigram)
            shown = blank.repeat(x_t.shape[:2].numel(), 1).index_copy(0, moving, mean)
        return shown.view_as(x_t), evidence

    def evidence(self, x_t: Float[Tensor, "*S D"], level: Level) -> Float[Tensor, "*S V"]:
        """log N(x_t; alpha e_v, sigma^2 I) of each token v, up to a constant in v.

        That is alpha / sigma^2 x_t . e_v - snr |e_v|^2 / 2. Both terms are one product of matrices:
        each more pass over (N, V) costs as much as a layer. In float32 whatever the autocast: at
        the clean end they are hundreds, and bfloat16 is off by nats there.
        """
        table = self.embedding.table
        snr = ((level.alpha / level.sigma) ** 2).expand(*x_t.shape[:-1], 1)
        left = torch.cat([(level.alpha / level.sigma**2) * x_t, snr], dim=-1)
        energy = 0.5 * table.square().sum(-1, keepdim=True)
        with torch.autocast(x_t.device.type, enabled=False):
            return left @ torch.cat([table, -energy], dim=1).T

    def read(self, x_t: Float[Tensor, "*S D"], level: Level) -> Float[Tensor, "*S V"]:
        """Logits of the single-token posterior: log p(v) + log N(x_t; alpha e_v, sigma^2 I)."""
        return self.evidence(x_t, level) + self.log_unigram
