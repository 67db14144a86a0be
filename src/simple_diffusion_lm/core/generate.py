"""Text from a model: lengths and given tokens in, ids and text out."""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import Config
from .bound import Bound
from .data import Tokenizer
from .denoiser import Batch, Denoiser
from .embedding import TokenEmbedding
from .loss import Draws, Losses
from .noise import Keys, Level, Logits, Mask, PerText, X, make_keys, normal, uniform
from .sampler import SAMPLERS, Prediction

FOR_TOKENS = -1  # last number of a key, where the noise of steps has 0, 1, 2, ...
ORDERS = ("random", "confidence", "reading")  # in which a model writes tokens, if they take turns


@dataclass(frozen=True)
class Sampling:
    """How noise becomes text.

    Attributes:
        steps: down the noise, each a pass of the network; more is better and slower.
        sampler: the rule by which noise is removed.
        temperature: divides the network's logits; 1 is the model's own distribution, below is less varied.
            `renoise` sharpens too, with each pass: 0.9 in 64 is as varied as 0.7 in 4.
        order: of masked tokens, which take turns: random, surest first (confidence), left to right (reading).
    """

    steps: int = 64
    sampler: str = "renoise"
    temperature: float = 0.9
    order: str = "random"


class Group(NamedTuple):
    """Texts to be sampled side by side. Each has its own key, so that none depends on the others."""

    batch: Batch
    keys: Keys
    # -inf where a token may not be chosen at these positions.
    constrain: Callable[[Logits, Mask], Logits] = lambda logits, where: logits
    # Changes the logits of the free positions. Models with is_guided ask it.
    guide: Callable[[Logits, Batch], Logits] = lambda logits, batch: logits
    # Below 1 batch.ids are noised up to this time first, and written anew from there, with this share of the
    # steps. At 1 writing begins with noise alone, and only the given ids are read.
    strength: float = 1.0


class Frame(NamedTuple):
    """Texts after a step of writing them, and what the model said in that step."""

    ids: Int[Tensor, "B L"]  # of what is given or written
    free: Mask  # not written yet
    where: Mask  # the positions that were predicted
    logits: Logits


class TextModel(nn.Module, ABC):
    """What training, measuring and sampling need of a model, whatever it was trained to do."""

    writes_length = False  # it ends its texts itself: their length cannot be prescribed
    takes_turns = False  # it writes tokens one after the other, in the order that is asked for
    is_guided = False  # sample() asks a group's guide
    config: Config
    embedding: TokenEmbedding

    @abstractmethod
    def start_from_counts(self, counts: Int[Tensor, " V"]) -> None:
        """Begins with the frequencies of the tokens."""

    @abstractmethod
    def loss(self, batch: Batch, draws: Draws) -> Losses:
        """The training loss of a batch."""

    @abstractmethod
    def bound(self, batch: Batch, u: PerText, keys: Keys) -> Bound:
        """Nats for each text: an upper bound of -log p, in expectation over u and keys."""

    @abstractmethod
    def sample(self, group: Group, sampling: Sampling) -> Iterator[Frame]:
        """Writes texts, and yields after each step. In the last frame all is written."""


def draw_ids(logits: Logits, u: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Draws from softmax(logits): the id at which the cumulative probability passes u in [0, 1). In
    float64: in float32 the rarest ids are never drawn (worse with Gumbel noise: 2409.02908)."""
    cumulative = logits.to(u.dtype).softmax(-1).cumsum(-1)
    found = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True)
    return found.squeeze(1).clamp(max=logits.shape[-1] - 1)


def predictions(model: Denoiser, group: Group, sampling: Sampling) -> Iterator[Prediction]:
    """What the model says in each step of the reverse process, from the first level to the clean one."""
    batch, draw, free = group.batch, count(), group.batch.free
    texts, length = batch.ids.shape
    times = torch.linspace(group.strength, 0, sampling.steps + 1, device=group.keys.device)
    levels = [model.schedule(t.expand(texts, 1, 1)) for t in times]

    def noise() -> X:
        return normal(make_keys(group.keys, next(draw)), length, model.embedding.dim)

    def denoise(x_t: X, level: Level, x0_prev: X) -> Prediction:
        logits = model(x_t, level, x0_prev, batch, sampling.temperature).logits
        logits = group.constrain(group.guide(logits, batch), free)
        x0_hat = torch.zeros_like(x_t)
        x0_hat[free] = model.embedding.interpolate(logits)
        return Prediction(x0_hat, logits)

    x_t = levels[0].sigma * noise()
    if group.strength < 1:
        x_t = x_t + levels[0].alpha * model.embedding(batch.ids)
    for _, prediction in SAMPLERS[sampling.sampler](denoise, x_t, levels, noise):
        yield prediction


@torch.no_grad()
def sample_text(model: Denoiser, group: Group, sampling: Sampling) -> Iterator[Frame]:
    """Ids out of noise. The last step writes the most probable token at each position. x_t has settled most
    of them by then; where one step is all there is it has settled none, and they are drawn."""
    batch, free = group.batch, group.batch.free
    # Each as long as those from all noise. In floating point 100 * 0.07 is a little more than 7: no eighth.
    steps = max(1, math.ceil(sampling.steps * group.strength - 1e-6))
    for step, (_, logits) in enumerate(predictions(model, group, replace(sampling, steps=steps)), 1):
        if step < steps:
            yield Frame(batch.ids, free, free, logits)
    u = uniform(make_keys(group.keys, FOR_TOKENS), batch.ids.shape[1])[free]
    tokens = draw_ids(logits, u) if steps == 1 and group.strength == 1 else logits.argmax(-1)
    yield Frame(batch.ids.masked_scatter(free, tokens), torch.zeros_like(free), free, logits)


def generate(
    model: TextModel,
    tokenizer: Tokenizer,
    lengths: Sequence[int],
    sampling: Sampling = Sampling(),
    seed: int = 0,
    stream: bool = False,
) -> list[str]:
    """A text for each length: tokens, EOS included (DiffusionLM.generate counts without it). In running text
    (stream) EOS is a token like others, a line break."""
    length = torch.tensor(lengths)
    place = torch.arange(int(length.max())).expand(len(lengths), -1)
    length_mask, last = place < length[:, None], place == length[:, None] - 1
    given = torch.zeros_like(last) if stream else last
    number = torch.arange(len(lengths))
    ids = torch.where(last, tokenizer.eos_id, 0)
    device = model.embedding.weight.device
    batch = Batch(ids, length_mask, given, number, number / len(number)).each(lambda x: x.to(device))
    banned = torch.zeros(len(tokenizer), dtype=torch.bool, device=device)
    banned[tokenizer.special_ids] = True
    banned[tokenizer.eos_id] = not (stream or model.writes_length)  # where it is text, or ends a text
    group = Group(batch, make_keys(seed, batch.number), lambda x, where: x.masked_fill(banned, -torch.inf))
    frame = deque(model.eval().sample(group, sampling), maxlen=1).pop()  # each holds all logits: keep one
    return [tokenizer.decode(row[:n], stream) for row, n in zip(frame.ids.tolist(), lengths, strict=True)]
