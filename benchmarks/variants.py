"""Changes to the recipe that no setting makes, each a few lines: for benchmarks/ablations.py.

A variant is a context inside of which the library is changed. Whoever has an idea of their own
writes another one, gives it a name in ablations.py, and has it compared. What came of these stands
in docs/log.md; what won is in the library instead.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from simple_diffusion_lm.diffusion.loss import Losses, diffusion_loss
from simple_diffusion_lm.diffusion.network import Network, Output, Targets
from simple_diffusion_lm.diffusion.schedule import FittedSchedule, Schedule
from simple_diffusion_lm.model import continuous, transformer
from simple_diffusion_lm.model.continuous import Continuous
from simple_diffusion_lm.model.denoiser import Denoiser
from simple_diffusion_lm.model.transformer import LevelEmbedding, Transformer
from simple_diffusion_lm.training import loop, objectives
from simple_diffusion_lm.training.config import Config
from simple_diffusion_lm.training.optimizers import OPTIMIZERS, muon

Variant = Callable[[], AbstractContextManager[Any]]


def together(*changes: Variant) -> Variant:
    """All of these at once."""

    @contextmanager
    def inside() -> Iterator[None]:
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(change())
            yield

    return inside


# How the schedule is fitted.


def floor(share: float) -> Variant:
    """Another part of the time spread evenly over all levels."""
    return lambda: patch.object(FittedSchedule, "FLOOR", share)


def memory(keep: float) -> Variant:
    """Another share of a bin's old value that one new position leaves."""
    return lambda: patch.object(FittedSchedule, "MEMORY", keep)


def gumbel() -> AbstractContextManager[Any]:
    """The Gumbel distribution over noise with the histogram's mean and variance (LangFlow)."""

    def density(schedule: FittedSchedule) -> Tensor:
        noise = -(schedule.edges[1:] + schedule.edges[:-1]) / 2
        share = schedule.rate / schedule.rate.sum()
        mean = (share * noise).sum()
        scale = (share * (noise - mean) ** 2).sum().sqrt() * math.sqrt(6) / math.pi
        location = mean - 0.5772 * scale
        return torch.exp(-torch.exp(-(-schedule.edges - location) / scale)).diff()

    return patch.object(FittedSchedule, "density", property(density))


class CrossEntropySlope(FittedSchedule):
    """Time by the fall of cross-entropy with log-SNR, as in CDCD; `rate` holds cross-entropies."""

    def __init__(self, embedding_dim: int, vocab_size: int) -> None:
        super().__init__(embedding_dim, vocab_size)
        falls = self.rate * (self.edges[:-1] - self.edges[1:])
        self.rate.copy_(falls.cumsum(0) - falls / 2)

    @property
    def density(self) -> Tensor:
        padded = F.pad(self.rate[None, None], (2, 2), mode="replicate")
        smooth = F.avg_pool1d(padded, 3, stride=1).flatten()
        return (smooth[2:] - smooth[:-2]).clamp(min=0)

    @property
    def information(self) -> Tensor:
        return self.rate[-1]


@contextmanager
def cross_entropy_slope() -> Iterator[None]:
    """CDCD's way to fit the schedule."""

    def losses(heard: "Heard", ids: Tensor, found: Losses, schedule: Schedule) -> Losses:
        return found._replace(rate=heard.cross_entropies(ids)[: len(found.rate)].detach())

    with patch.object(objectives, "FittedSchedule", CrossEntropySlope), another_loss(losses):
        yield


# What is optimised.


class Heard:
    """A network, how often it was asked, and what it said last."""

    targets: Targets
    output: Output
    passes = 0

    def __init__(self, model: Network) -> None:
        self.model = model
        self.embed, self.interpolate, self.read = model.embed, model.interpolate, model.read

    def __call__(self, *state: Any, targets: Targets, **known: Any) -> Output:
        self.targets, self.passes = targets, self.passes + 1
        self.output = self.model(*state, targets=targets, **known)
        return self.output

    def cross_entropies(self, ids: Tensor) -> Tensor:
        """Of each target."""
        return F.cross_entropy(
            self.output.logits, ids.flatten()[self.targets.all], reduction="none"
        )


def another_loss(
    losses: Callable[[Heard, Tensor, Losses, Schedule], Losses],
) -> AbstractContextManager[Any]:
    """The losses of batches on noise made into others."""

    def changed(
        model: Network, schedule: Schedule, ids: Tensor, *rest: Any, **weights: Any
    ) -> Losses:
        heard = Heard(model)
        found = diffusion_loss(heard, schedule, ids, *rest, **weights)
        return losses(heard, ids, found, schedule)

    return patch.object(continuous, "diffusion_loss", changed)


def bound(weight: float, cross_entropy: float, late: bool = False) -> Variant:
    """The integrand of the bound, in nats a token, with or instead of the cross-entropy.

    late: after it, once there is self-conditioning.
    """

    def losses(heard: Heard, ids: Tensor, found: Losses, schedule: Schedule) -> Losses:
        if late and heard.passes < 2:
            return found
        schedule = cast(FittedSchedule, schedule)
        moving = heard.targets.moving
        x0_hat = heard.interpolate(heard.output.logits[: len(moving)])
        x0 = heard.embed(ids).detach().flatten(0, 1)[moving]
        width = schedule.edges[0] - schedule.edges[1]
        per_time = width / schedule.cumulative.diff()[schedule.bins(found.log_snr)]  # dlog-SNR / dt
        integrand = 0.5 * found.log_snr.exp() * (x0_hat - x0).square().sum(-1) * per_time
        total = cross_entropy * found.total + weight * integrand.sum() / max(len(moving), 1)
        return found._replace(total=total)

    return lambda: another_loss(losses)


def silent(weight: float) -> Variant:
    """Positions at pure noise, most of them too far from what is known, weigh less."""

    def losses(heard: Heard, ids: Tensor, found: Losses, schedule: Schedule) -> Losses:
        weights = torch.ones(len(heard.output.logits), device=ids.device)
        weights[len(heard.targets.moving) :] = weight
        total = (weights * heard.cross_entropies(ids)).sum() / weights.sum().clamp(min=1)
        return found._replace(total=total)

    return lambda: another_loss(losses)


def two_draws() -> AbstractContextManager[Any]:
    """Batches on noise hold half as many texts, each at two noise levels."""
    once = Continuous.loss

    def loss(
        self: Continuous, ids: Tensor, length: Tensor, cond: Tensor, index: Tensor, **how: Any
    ) -> Losses:
        if not self.is_causal_at(how["step"]):
            half = (len(ids) + 1) // 2
            rows = torch.arange(half).repeat(2)[: len(ids)]
            ids, length, cond, index = ids[rows], length[rows], cond[rows], index[rows]
            index[half:] += 2**40  # numbers of no other text: noise is drawn by them
        return once(self, ids, length, cond, index, **how)

    return patch.object(Continuous, "loss", loss)


def is_read_again(model: nn.Module) -> bool:
    """Whether the corpus has been read so often that there is dropout."""
    return any(m.training for m in model.modules() if isinstance(m, nn.Dropout))


def words_left_out(rate: float, late: bool = False) -> Variant:
    """Causal batches are shown a blank for this share of the words before; late: with dropout."""

    go_on = Denoiser.go_on

    def with_blanks(self: Denoiser, *text: Tensor) -> Tensor:
        if not self.training or (late and not is_read_again(self)):
            return go_on(self, *text)
        whole = self.embedding.forward

        def embed(ids: Tensor) -> Tensor:
            return whole(ids) * (torch.rand(*ids.shape, 1, device=ids.device) >= rate)

        with patch.object(self.embedding, "forward", embed):
            return go_on(self, *text)

    return lambda: patch.object(Denoiser, "go_on", with_blanks)


def late_causal(share: float) -> Variant:
    """Another share of causal batches once there is dropout."""

    def is_causal_at(self: Continuous, step: int) -> bool:
        causal = share if is_read_again(self) else self.causal
        return int((step + 1) * causal) > int(step * causal)

    return lambda: patch.object(Continuous, "is_causal_at", is_causal_at)


# The network, and how it is moved.


class SharedFilm(LevelEmbedding):
    """One set of scales and shifts, the same for all layers."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__(dim, 1)
        self.repeats = layers

    def forward(self, log_snr: Tensor) -> Tensor:
        return super().forward(log_snr).repeat(self.repeats, 1, 1, 1, 1)


def told_to_each_layer(*sizes: int, **how: Any) -> Transformer:
    """Scales and shifts of every layer by each position's log-SNR, as where x_t itself is shown."""
    return Transformer(*sizes, **{**how, "told_level": True})


def told_to_all_alike(*sizes: int, **how: Any) -> Transformer:
    """The same scales and shifts for all layers."""
    with patch.object(transformer, "LevelEmbedding", SharedFilm):
        return told_to_each_layer(*sizes, **how)


class AddedLevel(Transformer):
    """The level is a vector added to the input, and scales and shifts are plain weights."""

    def __init__(self, input_dim: int, *sizes: int, **how: Any) -> None:
        super().__init__(input_dim, *sizes, **how)
        self.level = LevelEmbedding(input_dim, 1)

    def forward(self, x: Tensor, log_snr: Tensor, *rest: Any, **how: Any) -> Tensor:
        return super().forward(x + self.level(log_snr)[0, :, :, 0], log_snr, *rest, **how)


def another_trunk(build: Callable[..., Transformer]) -> Variant:
    """The transformer built in another way."""
    return lambda: patch.object(objectives, "Transformer", build)


def told_at_the_start() -> AbstractContextManager[Any]:
    """How many tokens a text has is told at its start alone."""
    embed = nn.Embedding.forward

    def forward(self: nn.Embedding, to_come: Tensor) -> Tensor:
        return F.pad(embed(self, to_come)[:, :1], (0, 0, 0, to_come.shape[1] - 1))

    return patch.object(nn.Embedding, "forward", forward)


class Tied(nn.Module):
    """A head whose rows are those of the table of embeddings."""

    def __init__(self, embedding: nn.Module, model_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(model_dim, embedding.dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.of = (embedding,)  # in a tuple: a module of this one's would be saved twice

    @property
    def weight(self) -> Tensor:
        """What start_from_counts sets to zero."""
        return self.project.weight

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(self.project(hidden), self.of[0].table, self.bias)


def tied() -> AbstractContextManager[Any]:
    """Head and table share their weights."""
    build = Denoiser.__init__

    def with_tied_head(
        self: Denoiser, embedding: Any, transformer: Any, model_dim: int, **how: Any
    ) -> None:
        build(self, embedding, transformer, model_dim, **how)
        self.head = Tied(embedding, model_dim, len(embedding.weight))

    return patch.object(Denoiser, "__init__", with_tied_head)


def table_rate(factor: float) -> Variant:
    """The table moves this many times as far in a step as the other weights."""

    def optimizers(model: nn.Module, *numbers: float) -> dict[str, Optimizer]:
        found = muon(model, *numbers)
        table = cast(Any, model).embedding.weight
        before = torch.empty_like(table.data)

        def keep(*_: Any) -> None:
            before.copy_(table.data)

        def go_further(*_: Any) -> None:
            table.data.copy_(before + factor * (table.data - before))

        found["adamw"].register_step_pre_hook(keep)
        found["adamw"].register_step_post_hook(go_further)
        return found

    return lambda: patch.dict(OPTIMIZERS, {"muon": optimizers})


def rate_schedule(share: Callable[[float], float]) -> Variant:
    """The learning rate as a function of the budget spent, after the warm-up."""
    with_cosine = loop.learning_rate

    def learning_rate(config: Config, step: int, fraction: float) -> float:
        return with_cosine(config, step, 0.0) * share(min(fraction, 1))  # there the cosine is 1

    return lambda: patch.object(loop, "learning_rate", learning_rate)


def constant_then_down(decay: float) -> Variant:
    """Constant, and over the last part linear to zero (WSD, 2404.06395)."""
    return rate_schedule(lambda done: min(1.0, (1 - done) / decay))
