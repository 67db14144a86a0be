"""The autoregressive model: the same trunk with a causal mask predicts the next token.

Its likelihood is exact, no bound, and it is the standard that text models are measured by.
"""

from collections.abc import Iterable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..core.denoiser import Batch
from ..core.embedding import in_blocks
from ..core.generate import FOR_TOKENS, Frame, Group, Sampling, draw_ids
from ..core.noise import Keys, PerText, X, make_keys, uniform
from ..core.transformer import Layer, Transformer, rotary_angles, rotate
from .predictor import Cost, TokenPredictor, with_condition


class Autoregressive(TokenPredictor):
    """p(ids) as the product of p(id | ids before it). The blank stands before the first token."""

    writes_length = True
    causal = True

    def before(self, ids: Int[Tensor, "B L"]) -> X:
        """What each position is shown: the token before it."""
        first = self.blank.expand(len(ids), 1, -1)
        return torch.cat([first, self.embedding(ids[:, :-1])], dim=1)

    def draw_bound(self, batch: Batch, u: PerText, keys: Keys) -> Cost:
        """Exactly -log p, where given tokens come first. Nothing is drawn."""
        return self.cost(self.before(batch.ids), batch, batch.free)

    @torch.no_grad()
    def sample(self, group: Group, sampling: Sampling) -> Iterator[Frame]:
        """One token after the other. `steps` and `sampler` have no meaning here.

        Given tokens must come first, but for a text's last. That one is its EOS: the text is over where
        the model writes it, at its full length at the latest, and all after it is EOS too.
        """
        batch, ids, free = group.batch, group.batch.ids, group.batch.free
        length = ids.shape[1]
        place = torch.arange(length, device=ids.device)
        last = batch.length_mask.sum(1, keepdim=True) - 1
        end = torch.where(batch.cond_mask & (place == last), ids, -1).amax(1, keepdim=True)  # -1: none
        u = uniform(make_keys(group.keys, FOR_TOKENS), length)
        cache = Cache(self.transformer, length)
        for i in range(length):
            inputs = with_condition(self.before(ids), batch.cond)[:, i : i + 1]
            here = free & (place == i)
            hidden = cache.step(i, inputs)[here[:, i]]
            logits = in_blocks(self.head, hidden).float() / sampling.temperature
            logits = group.constrain(logits, here)
            ids = ids.masked_scatter(here, draw_ids(logits, u[here]))
            over, later = (here & (ids == end)).any(1, keepdim=True), free & (place > i)
            ids, free = torch.where(over & later, end, ids), later & ~over
            yield Frame(ids, free, here, logits)
            if not free.any():
                return


class Cache:
    """A causal trunk, one position at a time: what its layers need of those before is kept."""

    def __init__(self, trunk: Transformer, length: int) -> None:
        self.trunk = trunk
        self.angles = rotary_angles(length, trunk.head_dim, trunk.norm.weight.device)
        self.kept: dict[tuple[int, str], Tensor] = {}

    def _join(self, layer: int, name: str, new: Tensor, dim: int) -> Tensor:
        """All positions so far along dim, the new one last."""
        if (layer, name) in self.kept:
            new = torch.cat([self.kept[layer, name], new], dim)
        self.kept[layer, name] = new
        return new

    def step(self, i: int, inputs: Float[Tensor, "B 1 I"]) -> Float[Tensor, "B M"]:
        """The hidden vectors of position i, after those before it. There is no dropout."""
        angles, x = self.angles[:, i : i + 1], self.trunk.project(inputs)
        for n, layer in enumerate(cast(Iterable[Layer], self.trunk.layers)):
            if layer.convolution is not None:
                seen = self._join(n, "inputs", x, dim=1)[:, -len(layer.convolution.weight) :]
                x = layer.convolution(seen, seen.new_ones(seen.shape[:2], dtype=torch.bool))[:, -1:]
            qkv = layer.attention.qkv(layer.norm1(x)).unflatten(-1, (3, layer.attention.heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            keys, values = self._join(n, "kv", torch.stack([rotate(k, angles), v]), dim=3)
            mixed = F.scaled_dot_product_attention(rotate(q, angles), keys, values)
            x = x + layer.attention.out(mixed.transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.norm2(x))
        return self.trunk.norm(x).squeeze(1)
