"""A transformer whose layers may be scaled and shifted by the noise level.

It knows nothing of diffusion: it maps vectors, and log-SNRs if it is told them, to vectors.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


def rotary_angles(length: int, dim: int, device: torch.device) -> Float[Tensor, "2 L K_half"]:
    """Cosines and sines of rotary position embedding (RoFormer, 2104.09864, section 3.2.2)."""
    frequencies = 10_000 ** (-torch.arange(0, dim, 2, device=device) / dim)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()])


def rotate(
    x: Float[Tensor, "B H L K"], angles: Float[Tensor, "2 L K_half"]
) -> Float[Tensor, "B H L K"]:
    """Turns each pair of coordinates by an angle that grows with position."""
    cos, sin = angles.to(x.dtype)
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)


def attend_on_cpu(
    q: Float[Tensor, "B H L K"],
    k: Float[Tensor, "B H S K"],
    v: Float[Tensor, "B H S K"],
    keys: Bool[Tensor, "B 1 Q S"],
) -> Float[Tensor, "B H L K"]:
    """Scaled dot-product attention, written out. keys is True where a key is attended to.

    torch's fused kernel is made for long texts: at 14 to 64 tokens its bfloat16 backward took five
    to ten times as long as this on a processor, 41% of a training step (docs/log.md).
    """
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~keys, -torch.inf).softmax(-1).to(v.dtype) @ v


class Past:
    """What a causal layer keeps of the positions it has seen: the next then costs one."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] = {}

    def join(self, name: str, new: Tensor, dim: int) -> Tensor:
        """All positions so far, the new ones last, along dim."""
        if name in self.kept:
            new = torch.cat([self.kept[name], new], dim)
        self.kept[name] = new
        return new


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions on queries and keys."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "B L M"],
        angles: Float[Tensor, "2 L K_half"],
        keys: Bool[Tensor, "B 1 Q S"],
        past: Past | None = None,
    ) -> Float[Tensor, "B L M"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, angles), rotate(k, angles)
        if past is not None:
            k, v = past.join("k", k, 2), past.join("v", v, 2)
        attend = attend_on_cpu if x.device.type == "cpu" else F.scaled_dot_product_attention
        return self.out(attend(q, k, v, keys).transpose(1, 2).flatten(2))


class Neighbours(nn.Module):
    """A short convolution, one filter a channel: each position adds what stands next to it.

    Attention has to learn where "next to" is before it can learn what words do there; this says it.
    Starts at zero (kin: Primer, 2109.08668, section 4.2). A causal one looks back only.
    """

    def __init__(self, dim: int, width: int, causal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, dim))
        self.before = width - 1 if causal else width // 2
        self.after = width - 1 - self.before

    def forward(
        self,
        x: Float[Tensor, "B L M"],
        length_mask: Bool[Tensor, "B L"],
        causal: bool,
        past: Past | None = None,
    ) -> Float[Tensor, "B L M"]:
        text = x * length_mask[..., None]
        if past is not None:
            text = past.join("text", text, 1)
        length = x.shape[1]
        seen = text.shape[1] - length
        text = F.pad(text, (0, 0, self.before, self.after))[:, seen:]
        seen_weights = self.weight[: self.before + 1] if causal else self.weight
        for offset, weight in enumerate(seen_weights):
            x = x + weight * text[:, offset : offset + length]
        return x


class Layer(nn.Module):
    """Pre-norm encoder layer; film scales and shifts what follows each LayerNorm."""

    def __init__(self, dim: int, heads: int, dropout: float, width: int, causal: bool) -> None:
        super().__init__()
        self.neighbours = Neighbours(dim, width, causal) if width else None
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.attention = Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B L M"],
        film: Float[Tensor, "B_or_1 L_or_1 4 M"],
        angles: Float[Tensor, "2 L K_half"],
        length_mask: Bool[Tensor, "B L"],
        keys: Bool[Tensor, "B 1 Q S"],
        causal: bool,
        past: Past | None = None,
    ) -> Float[Tensor, "B L M"]:
        scale1, shift1, scale2, shift2 = film.unbind(2)
        if self.neighbours is not None:
            x = self.neighbours(x, length_mask, causal, past)
        attended = self.attention(self.norm1(x) * (1 + scale1) + shift1, angles, keys, past)
        x = x + self.dropout(attended)
        return x + self.dropout(self.mlp(self.norm2(x) * (1 + scale2) + shift2))


class LevelEmbedding(nn.Module):
    """log-SNR -> four vectors a layer: FiLM (1709.07871), as CDCD uses it.

    Starts at zero, so that an untrained network ignores the level.
    """

    frequencies: Tensor

    def __init__(self, dim: int, layers: int, features: int = 128) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-2, 0.5, features // 2) * math.pi)
        self.hidden = nn.Linear(features, features)
        self.out = nn.Linear(features, layers * 4 * dim)
        self.shape = (layers, 4, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, log_snr: Float[Tensor, "B L_or_1"]) -> Float[Tensor, "layers B L_or_1 4 M"]:
        angles = log_snr[..., None] * self.frequencies
        features = F.gelu(self.hidden(torch.cat([angles.sin(), angles.cos()], dim=-1)))
        return self.out(features).unflatten(-1, self.shape).movedim(-3, 0)


class PlainFilm(nn.Module):
    """Scales and shifts that are weights, LayerNorm's own: nothing is told of the level."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, 1, 1, 4, dim))

    def forward(self, log_snr: Float[Tensor, "B L_or_1"] | None) -> Float[Tensor, "layers 1 1 4 M"]:
        return self.weight.clone()  # what looks into modules expects no bare weight of one


class Transformer(nn.Module):
    """Inputs (B, L, I), and log-SNR (B, 1) or (B, L) -> normalised hidden vectors (B, L, M).

    told_level: the scales and shifts of the layers are a function of log-SNR, not plain weights.
    layer_drop is the chance that training skips a layer for a step (1909.11556); width is that
    of the short convolution, 0 for none. In a causal one a position sees none after it.
    """

    def __init__(
        self,
        input_dim: int,
        dim: int,
        layers: int,
        heads: int,
        *,
        dropout: float,
        layer_drop: float,
        width: int,
        told_level: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.project = nn.Linear(input_dim, dim)
        self.film = LevelEmbedding(dim, layers) if told_level else PlainFilm(dim, layers)
        self.layers = nn.ModuleList(
            Layer(dim, heads, dropout, width, causal) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.layer_drop = layer_drop
        self.head_dim = dim // heads
        self.causal = causal

    def forward(
        self,
        x: Float[Tensor, "B L I"],
        log_snr: Float[Tensor, "B L_or_1"] | None,
        length_mask: Bool[Tensor, "B L"],
        pasts: Sequence[Past] | None = None,
        *,
        causal: bool = False,
    ) -> Float[Tensor, "B L M"]:
        """log_snr is not looked at where the level is not told. causal: looks back only, this time.

        pasts, one a layer, are added to: x then goes on from the positions they hold.
        """
        seen = pasts[0].kept["k"].shape[2] if pasts and pasts[0].kept else 0
        length = x.shape[1]
        angles = rotary_angles(seen + length, self.head_dim, x.device)[:, seen:]
        keys = F.pad(length_mask, (seen, 0), value=True)[:, None, None, :]
        causal = causal or self.causal
        if causal:
            keys = keys & keys.new_ones(length, seen + length).tril(seen)
        films = self.film(log_snr)
        x = self.dropout(self.project(x))
        each: Sequence[Past | None] = pasts or [None] * len(self.layers)
        for layer, film, past in zip(self.layers, films, each, strict=True):
            if self.training and self.layer_drop > 0 and torch.rand(()) < self.layer_drop:
                continue
            x = layer(x, film, angles, length_mask, keys, causal, past)
        return self.norm(x)
