"""Continuous diffusion: a denoiser and its schedule, trained, measured and sampled."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from ..diffusion.likelihood import (
    Bound,
    Proposal,
    carried_bound,
    probability_flow,
    variational_bound,
)
from ..diffusion.loss import ALL, Draws, Losses, Part, diffusion_loss, draw
from ..diffusion.sampler import Denoise, Prediction, sample
from ..diffusion.schedule import FittedSchedule, Level, Path, Schedule
from .denoiser import Denoiser
from .embedding import TokenEmbedding
from .objective import Objective
from .slots import Settings, Slot, Slots, Vocabulary, batches_of, forbid

FLOW_STEPS = 64  # of the flow's likelihood; on the exact model of the tests, 0.01 nats too high
CARRIED_STEPS = 128  # of the ancestral sampler's bound


class Continuous(Objective):
    """Learns to take Gaussian noise off embeddings (see model/objective.py for the methods).

    schedule is a formula, or a module that each training batch fits a little better.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: Schedule,
        *,
        mse_weight: float,
        ce_weight: float,
        self_cond_rate: float,
        stagger: float,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule
        self.mse_weight = mse_weight
        self.ce_weight = ce_weight
        self.self_cond_rate = self_cond_rate
        self.stagger = stagger

    @property
    def embedding(self) -> TokenEmbedding:
        return self.denoiser.embedding

    def start_from_counts(self, counts: Int[Tensor, " V"]) -> None:
        self.denoiser.start_from_counts(counts)

    def loss(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        index: Int[Tensor, " B"],
        *,
        seed: int,
        step: int,
        part: Part = ALL,
    ) -> Losses:
        lengths, dim = length_mask.cpu(), self.embedding.dim
        draws = draw(seed, step, index, lengths, dim, self.self_cond_rate, part)
        losses = diffusion_loss(
            self.denoiser,
            self.schedule,
            ids,
            length_mask,
            cond_mask,
            Draws(*(x.to(ids.device) for x in draws)),
            stagger=self.stagger,
            mse_weight=self.mse_weight,
            ce_weight=self.ce_weight,
        )
        if isinstance(self.schedule, FittedSchedule):
            self.schedule.update(losses.log_snr, losses.rate, part.total)
        return losses

    def bound(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        u: Float[Tensor, " B"],
        generator: Generator,
    ) -> Bound:
        dim = self.embedding.dim
        eps = torch.randn(2, *ids.shape, dim, generator=generator).to(ids.device)
        path = self._path(length_mask & ~cond_mask, generator)
        proposal = Proposal.of(self.schedule, dim, ids.device)
        return variational_bound(self.denoiser, proposal, ids, length_mask, cond_mask, u, eps, path)

    def _path(self, free: Bool[Tensor, "B L"], generator: Generator) -> Path:
        """In a random order."""
        order = torch.rand(free.shape, generator=generator)
        return Path.of(order.to(free.device), free, self.stagger)

    def carried(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        u: Float[Tensor, " B"],
        generator: Generator,
    ) -> Bound:
        """The bound of the ancestral sampler as it is, at CARRIED_STEPS levels."""
        shape = (*ids.shape, self.embedding.dim)
        edges = Proposal.of(self.schedule, shape[-1], ids.device, CARRIED_STEPS // 2).edges
        # Half of the levels as the schedule has them, half evenly: its last steps are long ones.
        even = torch.linspace(edges[0].item(), edges[-1].item(), CARRIED_STEPS // 2 + 2)[1:-1]
        levels = Proposal(torch.cat([edges, even.to(edges)]).sort(descending=True).values)
        path = self._path(length_mask & ~cond_mask, generator)
        times = torch.linspace(0, 1, len(levels.edges), device=ids.device)
        return carried_bound(
            self.denoiser,
            [levels.draw(path(t))[0] for t in times],
            ids,
            length_mask,
            cond_mask,
            lambda: torch.randn(shape, generator=generator).to(ids.device),
        )

    def flow(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        u: Float[Tensor, " B"],
        generator: Generator,
    ) -> Bound:
        """The second estimate: of the deterministic sampler, by the change of variables."""
        dim = self.embedding.dim
        eps = torch.randn(*ids.shape, dim, generator=generator).to(ids.device)
        probe = (torch.rand(*ids.shape, dim, generator=generator) < 0.5).to(eps) * 2 - 1
        path = self._path(length_mask & ~cond_mask, generator)
        steps = round(FLOW_STEPS * (1 + self.stagger))  # each position crosses its part of them
        proposal = Proposal.of(self.schedule, dim, ids.device)
        return probability_flow(
            self.denoiser, proposal, ids, length_mask, cond_mask, eps, probe, path, steps
        )

    def generate(
        self,
        slots: Iterable[Slot],
        settings: Settings,
        vocabulary: Vocabulary,
        batch_size: int = 64,
    ) -> Iterator[tuple[int, Int[Tensor, " L"]]]:
        """Ids out of noise: the reverse process, then the most probable allowed ids."""
        self.eval()
        device = self.denoiser.log_unigram.device
        for group in batches_of(slots, batch_size, settings.seed, device):
            denoise = denoise_with(self.denoiser, group.ids, group.cond_mask, settings.temperature)
            draw_noise = noise_source(group, self.embedding.dim)
            path = Path.of(order_of(group), ~group.cond_mask, self.stagger)
            schedule = partial(level_along, self.schedule, path)
            steps = sample(denoise, draw_noise, schedule, settings.steps, settings.sampler)
            _, prediction = deque(steps, maxlen=1).pop()
            chosen = choose(prediction.logits, group.word_start, vocabulary)
            result = torch.where(group.cond_mask, group.ids, chosen).cpu()
            yield from zip(group.numbers, result, strict=True)


def denoise_with(
    denoiser: Denoiser,
    ids: Int[Tensor, "B L"],
    cond_mask: Bool[Tensor, "B L"],
    temperature: float,
) -> Denoise:
    """The function a sampler sees: given tokens and temperature wrapped around the network.

    x0_hat is the mean embedding under the tempered logits, in either recipe.
    """
    length_mask = torch.ones_like(cond_mask)

    def denoise(x_t: Tensor, level: Level, x0_prev: Tensor) -> Prediction:
        logits = denoiser(
            x_t, level, x0_prev, ids=ids, cond_mask=cond_mask, length_mask=length_mask
        ).logits
        logits = logits / temperature
        return Prediction(denoiser.interpolate(logits), logits)

    return denoise


def level_along(schedule: Schedule, path: Path, t: Float[Tensor, ""]) -> Level:
    """The level of each position, (B, L, 1), when the text is at time t."""
    return schedule(path(t)[..., None])


def order_of(group: Slots) -> Float[Tensor, "B L"]:
    """A random order of the positions of each text, from its own generator."""
    length = group.ids.shape[1]
    order = [torch.rand(length, generator=generator) for generator in group.generators]
    return torch.stack(order).to(group.ids.device)


def noise_source(group: Slots, dim: int) -> Callable[[], Float[Tensor, "B L D"]]:
    """Fresh noise for each text from a generator of its own."""
    device, length = group.ids.device, group.ids.shape[1]
    return lambda: torch.stack(
        [torch.randn(length, dim, generator=generator) for generator in group.generators]
    ).to(device)


def choose(
    logits: Float[Tensor, "B L V"], word_start: Bool[Tensor, "B L"], vocabulary: Vocabulary
) -> Int[Tensor, "B L"]:
    """The most probable allowed ids."""
    ids = forbid(logits, word_start, vocabulary).argmax(-1)
    if vocabulary.last is not None:
        ids[:, -1] = vocabulary.last
    return ids


ESTIMATES = {"two-pass": Continuous.bound, "carried": Continuous.carried, "flow": Continuous.flow}
