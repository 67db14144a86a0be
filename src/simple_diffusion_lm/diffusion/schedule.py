"""Noise schedules: how much signal and how much noise a sequence holds at time t.

Every schedule maps t in [0, 1] to a noise level (alpha, sigma) with

    x_t = alpha * x0 + sigma * eps,        t = 0 clean, t = 1 noise.

The fixed schedules are plain functions: to add one, write it and add its name to SCHEDULES. The
fitted one is a module with the same call, whose histogram follows the model in training.

Letters in shapes, here and everywhere: B batch, L length, D embedding, M model, V vocabulary,
H heads, K head dimension, N any number of tokens.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def finest(device: torch.device) -> torch.dtype:
    """float64, or what stands for it on Apple's MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


class Level(NamedTuple):
    """A noise level: the weights of signal and of noise.

    Both broadcast against embeddings (B, L, D): shape (B, 1, 1) is a level for each sequence,
    (B, L, 1) one for each position.
    """

    alpha: Float[Tensor, "*S"]
    sigma: Float[Tensor, "*S"]

    @property
    def log_snr(self) -> Float[Tensor, "*S"]:
        """log(alpha^2 / sigma^2): what the network is told, whatever schedule made the noise."""
        return 2 * (self.alpha.log() - self.sigma.log())

    def at(self, shape: Sequence[int], at: Int[Tensor, " N"]) -> "Level":
        """That of each of N positions, numbers b L + l in texts of this shape (B, L, ...)."""
        return Level(*(part.expand(*shape[:2], 1).flatten(0, 1)[at] for part in self))

    def noise(self, x0: Float[Tensor, "B L D"], eps: Float[Tensor, "B L D"]) -> Tensor:
        """The forward process: x_t (B, L, D) at this level, for eps standard normal."""
        return self.alpha * x0 + self.sigma * eps


Schedule = Callable[[Float[Tensor, "*S"]], Level]


def interpolated(
    x: Float[Tensor, "*S"], xs: Float[Tensor, " N"], ys: Float[Tensor, " N"]
) -> Float[Tensor, "*S"]:
    """The line through the points (xs, ys), xs rising, at x; level beyond both ends."""
    right = torch.searchsorted(xs, x.contiguous()).clamp(1, len(xs) - 1)
    step = (xs[right] - xs[right - 1]).clamp(min=1e-12)  # equal ones may be there
    part = (x - xs[right - 1]) / step
    return torch.lerp(ys[right - 1], ys[right], part.clamp(0, 1))


def accumulated(share: Float[Tensor, " N"]) -> Float[Tensor, " N_plus_1"]:
    """The running sum of shares of a whole, from 0 to exactly 1.

    share.sum() rounds differently from the last running sum: with it, t = 1 may miss the end.
    """
    sums = F.pad(share.cumsum(0), (1, 0))
    return sums / sums[-1]


def level_at(log_snr: Float[Tensor, "*S"]) -> Level:
    """The variance-preserving level (alpha^2 + sigma^2 = 1) of a log-SNR.

    sigma is never computed as 1 - alpha^2, which loses all its digits at the clean end.
    """
    return Level(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt())


def cosine(t: Float[Tensor, "*S"]) -> Level:
    """Analog Bits (2208.04202), Algorithm 1, with its ns = 0.0002 and ds = 0.00025."""
    angle = (t + 0.0002) / 1.00025 * math.pi / 2
    return Level(angle.cos(), angle.sin())


def linear(t: Float[Tensor, "*S"]) -> Level:
    """alpha^2 = 1 - t (Chen, 2301.10972, section 2), kept off the ends where it is infinite."""
    t = t.clamp(1e-7, 1 - 1e-7)
    return Level((1 - t).sqrt(), t.sqrt())


def sqrt(t: Float[Tensor, "*S"]) -> Level:
    """alpha^2 = 1 - sqrt(t + 0.0001) (Diffusion-LM, 2205.14217, Appendix A)."""
    variance = (t + 1e-4).sqrt().clamp(max=1 - 1e-7)
    return Level((1 - variance).sqrt(), variance.sqrt())


class Path(NamedTuple):
    """Each position's own time, from that of its text.

        t_i = clamp((1 + w) t - w place_i, 0, 1)

    With a stagger w of 0 all positions take on noise together, as in plain diffusion; with a large
    one they do one after the other, as in masked diffusion, and at any time about 1 / (1 + w) of
    them are between clean and noise. From t = 1 to 0 the last in place is written first.
    Kin: Rolling Diffusion (2402.09470), Diffusion Forcing (2407.01392).
    """

    place: Float[Tensor, "B L"]  # from 0 to 1; infinity where a position is always clean
    stagger: float | Float[Tensor, "B 1"]  # of all texts, or of each

    @classmethod
    def of(
        cls,
        order: Float[Tensor, "B L"],
        free: Bool[Tensor, "B L"],
        stagger: float | Float[Tensor, "B 1"],
    ) -> "Path":
        """The free positions of each text in the order of these numbers, evenly apart."""
        rank = order.masked_fill(~free, torch.inf).argsort(1).argsort(1)
        place = rank / (free.sum(1, keepdim=True) - 1).clamp(min=1)
        return cls(place.masked_fill(~free, torch.inf), stagger)

    def __call__(self, t: Float[Tensor, "*B"]) -> Float[Tensor, "B L_or_1"]:
        """The times of the positions at time t, or at one t for each text."""
        t = t.expand(len(self.place))[:, None]
        if isinstance(self.stagger, float) and self.stagger == 0:
            return t
        return ((1 + self.stagger) * t - self.stagger * self.place).clamp(0, 1)


def reading_order(free: Bool[Tensor, "B L"], steps: int | None = None) -> Float[Tensor, "B L"]:
    """Numbers whose order along a path is that texts are written from left to right.

    Where there are fewer steps than tokens to write, each step has to decide several. Neighbours
    decided at once do not know of each other, so they are far apart: n tokens in S steps are
    written at ceil(n / S) places at once, each with its own part of the text before it.
    """
    turn = free.cumsum(1) - 1
    if steps is not None:
        count = free.sum(1, keepdim=True)
        places = (count / steps).ceil().clamp(min=1)
        turn = turn % (count / places).ceil().clamp(min=1)
    return -turn.argsort(dim=1, stable=True).argsort(1).float()


def useful_range(embedding_dim: int) -> tuple[float, float]:
    """The log-SNRs between which rows of norm sqrt(D) go from all noise to certain.

    Below the first, the prior costs under 0.001 nats a token. At the second, random rows stand
    40 deviations of the noise apart, enough for learned ones that are nearer.
    """
    return -math.log(500 * embedding_dim), math.log(41 / embedding_dim) + 3


class FittedSchedule(nn.Module):
    """A schedule that spends equal time on equal information, fitted online.

    By the I-MMSE relation (Guo, Shamai, Verdu 2005), the uncertainty about a text falls with
    log-SNR at the rate 1/2 snr E||x0 - x0_hat||^2 nats, which is also the integrand of the
    variational bound. The schedule keeps a histogram of that rate over log-SNR and makes its
    cumulative sum the time: levels where nothing is learned get almost no t.
    Kin: CDCD's time warping (2211.15089, section 3.4), LangFlow's Gumbel schedule (2604.11748).
    """

    FLOOR = 0.02  # share of the time spread evenly over all levels, so that none is never seen
    MEMORY = 0.998  # how much of a bin's old value one new position leaves

    rate: Tensor
    edges: Tensor

    def __init__(self, embedding_dim: int, vocab_size: int, bins: int = 64) -> None:
        super().__init__()
        low, high = useful_range(embedding_dim)
        edges = torch.linspace(high, low, bins + 1)  # falling: time runs from clean to noise
        # A random code of V words and energy D is read at log-SNR about -log(D / (2 ln V)); a
        # Gumbel density there is LangFlow's model of the rate, and the histogram's start.
        z = (
            -(edges[1:] + edges[:-1]) / 2 - math.log(embedding_dim / (2 * math.log(vocab_size)))
        ) / 0.85
        self.register_buffer("rate", torch.exp(-z - torch.exp(-z)) * math.log(vocab_size) / 0.85)
        self.register_buffer("edges", edges)

    @property
    def density(self) -> Float[Tensor, " bins"]:
        """What time is proportional to, but for the floor: the histogram, smoothed."""
        padded = F.pad(self.rate[None, None], (1, 1), mode="replicate")
        return F.avg_pool1d(padded, 3, stride=1).flatten()

    @property
    def cumulative(self) -> Float[Tensor, " bins_plus_1"]:
        """The time at each edge: 0 at the clean one, 1 at the noisy one."""
        density = self.density
        share = (1 - self.FLOOR) * density / density.sum() + self.FLOOR / len(density)
        return accumulated(share)

    def bins(self, log_snr: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
        """The number of the bin that each log-SNR is in."""
        count = len(self.rate)
        width = (self.edges[-1] - self.edges[0]) / count
        return ((log_snr - self.edges[0]) / width).long().clamp(0, count - 1)

    def forward(self, t: Float[Tensor, "*S"]) -> Level:
        """The level at time t, by linear interpolation of the inverse cumulative histogram."""
        return level_at(interpolated(t, self.cumulative, self.edges))

    @torch.no_grad()
    def update(
        self,
        log_snr: Float[Tensor, " N"],
        rate: Float[Tensor, " N"],
        total: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        """Takes in the rates (nats per unit of log-SNR) of N positions, each at its level.

        total sums a tensor over the processes that share a batch.
        """
        index = self.bins(log_snr)
        count = torch.zeros_like(self.rate).index_add_(0, index, torch.ones_like(rate))
        summed = torch.zeros_like(self.rate).index_add_(0, index, rate)
        count, summed = total(torch.stack([count, summed]))
        keep = self.MEMORY**count
        self.rate.mul_(keep).add_((1 - keep) * summed / count.clamp(min=1))

    @property
    def information(self) -> Float[Tensor, ""]:
        """The area under the histogram, nats a token: a running estimate of the bound."""
        return (self.rate * (self.edges[:-1] - self.edges[1:])).sum()


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "linear": linear, "sqrt": sqrt}
