"""A transformer: vectors to vectors. It knows nothing of diffusion.

Where it is told the noise level (the recipe `original`; `modern` does without), its layers are scaled and
shifted by that.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from . import Config
from .noise import Mask

Hidden = Float[Tensor, "B L M"]
Heads = Float[Tensor, "B H L K"]
Attended = Bool[Tensor, "B 1 L_or_1 L"]  # the keys that each query attends to
Angles = Float[Tensor, "2 L K_half"]
LogSNR = Float[Tensor, "B L_or_1"]


def rotary_angles(length: int, dim: int, device: torch.device) -> Angles:
    """Cosines and sines of rotary position embedding (RoFormer, 2104.09864, section 3.2.2)."""
    frequencies = 10_000 ** (-torch.arange(0, dim, 2, device=device) / dim)
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Float[Tensor, "*S L K"], angles: Angles) -> Float[Tensor, "*S L K"]:
    """Turns each pair of coordinates by an angle that grows with position."""
    cos, sin = angles.to(x.dtype)
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)


def attend_on_cpu(q: Heads, k: Tensor, v: Tensor, attended: Attended) -> Heads:
    """Scaled dot-product attention. torch's own is made for long texts: with 14 to 64 tokens its
    bfloat16 backward pass took five to ten times as long as this, 41% of a step (docs/log.md)."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill(~attended, -torch.inf).softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions on queries and keys."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, dim = config.heads, config.model_dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Hidden, angles: Angles, attended: Attended) -> Hidden:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        (q, k), v = rotate(qkv[:2], angles), qkv[2]
        attend = attend_on_cpu if x.device.type == "cpu" else F.scaled_dot_product_attention
        mixed = attend(q, k, v, attended)
        return self.out(mixed.transpose(1, 2).flatten(2))


class ShortConvolution(nn.Module):
    """One filter a channel: each position adds a weighted sum of its neighbours (causal: of the left).
    Attention has to learn where "next to" is before it can learn what words do there; this says it.
    Starts at zero (related: Primer, 2109.08668)."""

    def __init__(self, dim: int, width: int, causal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, dim))
        self.before = width - 1 if causal else width // 2

    def forward(self, x: Hidden, length_mask: Mask) -> Hidden:
        after = len(self.weight) - 1 - self.before
        text = F.pad(x * length_mask[..., None], (0, 0, self.before, after))
        for offset, weight in enumerate(self.weight):
            x = x + weight * text[:, offset : offset + x.shape[1]]
        return x


class Layer(nn.Module):
    """Pre-norm encoder layer. film (B, L_or_1, 4, M): scales and shifts of the two LayerNorms, if told."""

    def __init__(self, config: Config, told_level: bool, causal: bool) -> None:
        super().__init__()
        dim, width = config.model_dim, config.width
        self.convolution = ShortConvolution(dim, width, causal) if width else None
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=not told_level)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=not told_level)
        self.attention = Attention(config)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Hidden, film: Tensor | None, angles: Angles, length_mask: Mask, attended: Attended
    ) -> Hidden:
        scale1, shift1, scale2, shift2 = (0, 0, 0, 0) if film is None else film.unbind(2)
        if self.convolution is not None:
            x = self.convolution(x, length_mask)
        x = x + self.dropout(self.attention(self.norm1(x) * (1 + scale1) + shift1, angles, attended))
        return x + self.dropout(self.mlp(self.norm2(x) * (1 + scale2) + shift2))


class LevelEmbedding(nn.Module):
    """log-SNR (B, L_or_1) -> scales and shifts (layers, B, L_or_1, 4, M): FiLM (1709.07871), 0 at first."""

    frequencies: Tensor

    def __init__(self, dim: int, layers: int, features: int = 128) -> None:
        super().__init__()
        # From one turn in 200 units of log-SNR to one in 0.6: its range is 35 units (cosine) or 13 (gumbel).
        self.register_buffer("frequencies", torch.logspace(-2, 0.5, features // 2) * math.pi)
        self.hidden = nn.Linear(features, features)
        self.out = nn.Linear(features, layers * 4 * dim)
        self.shape = (layers, 4, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, log_snr: LogSNR) -> Tensor:
        angles = log_snr[..., None] * self.frequencies
        features = F.gelu(self.hidden(torch.cat([angles.sin(), angles.cos()], dim=-1)))
        return self.out(features).unflatten(-1, self.shape).movedim(-3, 0)


class Transformer(nn.Module):
    """Inputs (B, L, I), and log-SNR (B, L_or_1) where it is told -> normalised hidden vectors (B, L, M).

    inputs: how many embeddings stand side by side in the input. told_level: the layers' scales and
    shifts are a function of log-SNR, not LayerNorm's own weights. causal: no position sees a later one.
    """

    def __init__(
        self, config: Config, inputs: int, *, told_level: bool = False, causal: bool = False
    ) -> None:
        super().__init__()
        dim, layers = config.model_dim, config.layers
        self.project = nn.Linear(inputs * config.embedding_dim + config.cond_dim, dim)
        self.film = LevelEmbedding(dim, layers) if told_level else None
        self.layers = nn.ModuleList(Layer(config, told_level, causal) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        self.head_dim = dim // config.heads
        self.causal = causal

    def forward(self, x: Float[Tensor, "B L I"], log_snr: LogSNR | None, length_mask: Mask) -> Hidden:
        length = x.shape[1]
        angles = rotary_angles(length, self.head_dim, x.device)
        attended = length_mask[:, None, None, :]
        if self.causal:
            attended = attended & attended.new_ones(length, length).tril()
        films = [None] * len(self.layers) if self.film is None else self.film(log_snr)
        x = self.dropout(self.project(x)).float()  # the residual stream is float32 whatever the autocast
        for layer, film in zip(self.layers, films, strict=True):
            x = layer(x, film, angles, length_mask, attended)
        return self.norm(x)
