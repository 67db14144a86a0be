"""Continuous diffusion: a denoiser and its schedule, trained, measured and sampled."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from ..diffusion.likelihood import (
    Bound,
    Proposal,
    Text,
    carried_bound,
    probability_flow,
    variational_bound,
)
from ..diffusion.loss import (
    ALL,
    Draws,
    Losses,
    Part,
    Targets,
    diffusion_loss,
    draw,
    numbers,
    seeded,
)
from ..diffusion.sampler import Prediction, sample
from ..diffusion.schedule import FittedSchedule, Level, Path, Schedule
from .denoiser import Denoiser
from .embedding import TokenEmbedding
from .objective import Objective
from .slots import Settings, Slot, Slots, Vocabulary, batches_of, draw_ids, forbid

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
        text, proposal = self._text(ids, length_mask, cond_mask)
        eps = torch.randn(2, *ids.shape, self.embedding.dim, generator=generator).to(ids.device)
        return variational_bound(self.denoiser, proposal, text, u, eps)

    def _text(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
    ) -> tuple[Text, Proposal]:
        """What is to be measured, by the schedule's own levels.

        Along a path in random order, the same at every call: draws at several times of a text then
        add up to its whole path.
        """
        order = torch.rand(ids.shape, generator=seeded(0)).to(ids.device)
        path = Path.of(order, length_mask & ~cond_mask, self.stagger)
        proposal = Proposal.of(self.schedule, self.embedding.dim, ids.device)
        return Text(ids, length_mask, cond_mask, path), proposal

    def carried(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        u: Float[Tensor, " B"],
        generator: Generator,
    ) -> Bound:
        """The bound of the ancestral sampler as it is, in CARRIED_STEPS steps."""
        text, proposal = self._text(ids, length_mask, cond_mask)
        shape = (*ids.shape, self.embedding.dim)
        return carried_bound(
            self.denoiser,
            proposal,
            text,
            CARRIED_STEPS,
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
        text, proposal = self._text(ids, length_mask, cond_mask)
        shape = (*ids.shape, self.embedding.dim)
        eps = torch.randn(shape, generator=generator).to(ids.device)
        probe = (torch.rand(shape, generator=generator) < 0.5).to(eps) * 2 - 1
        steps = round(FLOW_STEPS * (1 + self.stagger))  # each position crosses its part of them
        return probability_flow(self.denoiser, proposal, text, eps, probe, steps)

    def generate(
        self,
        slots: Iterable[Slot],
        settings: Settings,
        vocabulary: Vocabulary,
        batch_size: int = 64,
    ) -> Iterator[tuple[int, Int[Tensor, " L"]]]:
        """Ids out of noise: the reverse process. A position that is clean is written, and given."""
        self.eval()
        device = self.denoiser.log_unigram.device
        for group in batches_of(slots, batch_size, settings.seed, device):
            ids = self._write(group, settings, vocabulary)
            yield from zip(group.numbers, ids.cpu(), strict=True)

    @torch.no_grad()
    def _write(
        self, group: Slots, settings: Settings, vocabulary: Vocabulary
    ) -> Int[Tensor, "B L"]:
        path = Path.of(order_of(group), ~group.cond_mask, self.stagger)
        page = Page(self, group, settings.temperature)
        draw_noise = noise_source(group, self.embedding.dim)
        schedule = partial(level_along, self.schedule, path)
        steps = sample(page.denoise, draw_noise, schedule, settings.steps, settings.sampler)
        for number, (_, prediction) in enumerate(steps, start=1):
            t = path(torch.tensor(1 - number / settings.steps, device=group.ids.device))
            page.write(prediction, t == 0, vocabulary, draws=settings.sampler.draws_tokens)
        return page.ids


class Page:
    """Texts while they are written: what a sampler sees of a model, with what is given so far."""

    def __init__(self, model: Continuous, group: Slots, temperature: float) -> None:
        self.denoiser = model.denoiser
        self.ids = group.ids.clone()
        self.given = group.cond_mask.clone()
        self.group = group
        self.temperature = temperature
        self.noise = model.schedule(torch.ones((), device=self.ids.device)).log_snr

    def denoise(self, x_t: Float[Tensor, "B L D"], level: Level, x0_prev: Tensor) -> Prediction:
        """The mean embedding under the tempered logits, in either recipe."""
        silent = (level.log_snr <= self.noise).squeeze(-1)
        free = ~self.given
        targets = Targets(numbers(free & ~silent), numbers(free & silent))
        output = self.denoiser(
            x_t,
            level,
            x0_prev,
            ids=self.ids,
            cond_mask=self.given,
            length_mask=torch.ones_like(self.given),
            targets=targets,
        )
        logits = output.logits / self.temperature
        x0_hat = targets.put(self.denoiser.interpolate(logits), torch.zeros_like(x_t))
        return Prediction(x0_hat, logits, targets)

    def write(
        self,
        prediction: Prediction,
        clean: Bool[Tensor, "B L_or_1"],
        vocabulary: Vocabulary,
        *,
        draws: bool,
    ) -> None:
        """Writes the tokens of positions that have just become clean."""
        done = clean & ~self.given
        if not done.any():
            return
        at = prediction.targets.all
        logits = prediction.logits.new_zeros(done.numel(), prediction.logits.shape[1])
        logits = logits.index_copy(0, at, prediction.logits).view(*done.shape, -1)
        allowed = forbid(logits, self.group.word_start, vocabulary)
        tokens = draw_ids(allowed, self.group.generators) if draws else allowed.argmax(-1)
        if vocabulary.last is not None:
            tokens[:, -1] = vocabulary.last
        self.ids = torch.where(done, tokens, self.ids)
        self.given = self.given | done


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


ESTIMATES = {"two-pass": Continuous.bound, "carried": Continuous.carried, "flow": Continuous.flow}
