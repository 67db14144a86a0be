"""Noise: levels, schedules, the forward process, and the random numbers that all of it uses.

A schedule maps a time t in [0, 1] to a noise level (alpha, sigma) with

    x_t = alpha * x0 + sigma * eps,        t = 0 is clean, t = 1 is noise.

Letters in shapes, here and everywhere: B batch, L length, D embedding, M model, V vocabulary,
H heads, K head dimension, N predicted positions, S any shape. Masks are True for what they name.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

X = Float[Tensor, "B L D"]  # a vector at each position
Mask = Bool[Tensor, "B L"]
Logits = Float[Tensor, "N V"]
PerText = Float[Tensor, " B"]
Keys = Int[Tensor, " B"]  # of random numbers: one for each text


class Level(NamedTuple):
    """A noise level: the weights of signal and of noise. They broadcast against embeddings (B, L, D):
    (B, 1, 1) is a level for each text. All positions of a text share it."""

    alpha: Float[Tensor, "*S"]
    sigma: Float[Tensor, "*S"]

    @property
    def log_snr(self) -> Float[Tensor, "*S"]:
        """log(alpha^2 / sigma^2): what a network may be told, never t, so that any schedule may sample."""
        return 2 * (self.alpha.log() - self.sigma.log())

    def at(self, where: Mask) -> "Level":
        """The levels (N, 1) of some positions."""
        return Level(*(part.expand(*where.shape, 1)[where] for part in self))

    def add_noise(self, x0: X, eps: X) -> X:
        """The forward process: x_t, for eps standard normal."""
        return self.alpha * x0 + self.sigma * eps

    def add_more(self, x_t: X, further: "Level", eps: X) -> X:
        """The forward process from x_t at this level to a noisier one (VDM, 2107.00630, appendix A): what x_t
        was before a step of `ddpm`. The result says nothing of the text that x_t does not say."""
        ratio = further.alpha / self.alpha
        return ratio * x_t + (further.sigma**2 - (ratio * self.sigma) ** 2).clamp(min=0).sqrt() * eps


Schedule = Callable[[Float[Tensor, "*S"]], Level]


def level_at(log_snr: Float[Tensor, "*S"]) -> Level:
    """The variance-preserving level (alpha^2 + sigma^2 = 1) of a log-SNR. sigma is never computed as
    sqrt(1 - alpha^2), which loses all digits at the clean end."""
    return Level(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt())


def cosine(t: Float[Tensor, "*S"]) -> Level:
    """The cosine of Analog Bits (2208.04202), with its ns = 0.0002 and ds = 0.00025."""
    angle = (t + 0.0002) / 1.00025 * math.pi / 2
    return Level(angle.cos(), angle.sin())


def bell_times(u: PerText) -> PerText:
    """Times of density 6 t (1 - t), from uniform numbers: the root of 3 t^2 - 2 t^3 = u. (2605.13026)"""
    return 0.5 - torch.sin(torch.asin(1 - 2 * u) / 3)


def useful_range(embedding_dim: int) -> tuple[float, float]:
    """The log-SNRs between which embeddings of norm sqrt(D) go from pure noise to certain.

    Below the first, the prior term of the bound is under 0.001 nats a token. At the second, random
    embeddings are 40 noise deviations apart, which leaves room for learned ones that are closer.
    """
    return -math.log(500 * embedding_dim), math.log(41 / embedding_dim) + 3


def gumbel(embedding_dim: int, vocab_size: int) -> Schedule:
    """A schedule that spends time where it is decided which token a point is (LangFlow, 2604.11748).
    At a log-SNR of about -log(D / (2 ln V)) the nearest of V wrong rows of length sqrt(D) is as near to x_t
    as the right one; above it the right one is nearest. How fast the uncertainty falls around this level
    looks like a Gumbel density of -log-SNR, of scale 0.85 (LangFlow fitted 0.852), and time is its quantile:
    equal time is about equal information. t = 0 is set apart: the clean end, which training never sees.
    Whether fitting the curve to the model is better is not settled (docs/log.md)."""
    low, high = useful_range(embedding_dim)
    centre = math.log(embedding_dim / (2 * math.log(vocab_size)))

    def schedule(t: Float[Tensor, "*S"]) -> Level:
        noise = centre - 0.85 * torch.log(-torch.log(t.clamp(1e-6, 1 - 1e-6)))  # -log-SNR
        log_snr = torch.where(t <= 0, high, (-noise).clamp(low, high))
        return level_at(torch.where(t >= 1, low, log_snr))

    return schedule


# Each is made from (embedding_dim, vocab_size). To add one, write it and add a line.
SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {"cosine": lambda *_: cosine, "gumbel": gumbel}


# Random numbers. Each is a hash of (seed, step, example, position): a text's noise depends neither
# on the rest of the batch nor on the number of devices, and nothing has a state to be saved.


def hash_bits(x: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
    """64 well-mixed bits of each 64-bit number: splitmix64 (Steele, Lea, Flood 2014). Arithmetic on int64
    wraps around, as the method wants; its constants are written as signed."""
    x = x - 0x61C8864680B583EB
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def make_keys(*numbers: int | Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
    """A key for random numbers: a function of these numbers, and of their order."""
    key = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        key = hash_bits(key.to(number.device) + number if isinstance(number, Tensor) else key + number)
    return key


def uniform(keys: Int[Tensor, "*B"], count: int) -> Float[Tensor, "*B count"]:
    """`count` numbers in [0, 1) for each key, in float64 (on Apple's MPS, which has none, float32)."""
    bits = hash_bits(keys[..., None] + torch.arange(count, device=keys.device) * 0x5851F42D4C957F2D)
    kind = torch.float32 if keys.device.type == "mps" else torch.float64
    digits = 24 if kind == torch.float32 else 53
    return ((bits >> (64 - digits)) & (2**digits - 1)).to(kind) * 2.0**-digits


def normal(keys: Keys, length: int, dim: int) -> X:
    """Standard normal numbers (Box-Muller). Those of a position do not depend on the length."""
    pairs = length * (dim + dim % 2)
    u = uniform(keys, pairs).view(len(keys), length, 2, -1).float()
    below_1 = u[:, :, 0].clamp(max=1 - 2**-24)  # as float32 the largest would be 1, and its log infinite
    radius, angle = (-2 * torch.log1p(-below_1)).sqrt(), 2 * math.pi * u[:, :, 1]
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=-1)[..., :dim]
