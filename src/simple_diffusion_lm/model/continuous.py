"""Continuous diffusion: a denoiser and its schedule, trained, measured and sampled."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from ..diffusion.likelihood import (
    Bound,
    Proposal,
    carried_bound,
    probability_flow,
    variational_bound,
)
from ..diffusion.loss import ALL, Draws, Losses, Part, diffusion_loss, draw, seeded
from ..diffusion.network import Targets, Text, numbers
from ..diffusion.sampler import sample
from ..diffusion.schedule import FittedSchedule, Path, Schedule, reading_order
from .denoiser import Denoiser
from .embedding import TokenEmbedding
from .objective import Objective
from .page import Page, level_along
from .slots import Frame, Settings, Slots, Vocabulary

FLOW_STEPS = 64  # of the flow's likelihood; on the exact model of the tests, 0.01 nats too high
CARRIED_STEPS = 128  # of the ddpm sampler's bound


class Continuous(Objective):
    """Learns to take Gaussian noise off embeddings (see model/objective.py for the methods).

    schedule is a formula, or a module that each training batch fits a little better.
    """

    is_guided = True

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: Schedule,
        *,
        mse_weight: float,
        ce_weight: float,
        self_cond_rate: float,
        self_cond_from: float,
        stagger: float,
        left_to_right: float,
        causal: float,
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.schedule = schedule
        self.mse_weight = mse_weight
        self.ce_weight = ce_weight
        self.self_cond_rate = self_cond_rate
        self.self_cond_from = self_cond_from
        self.stagger = stagger
        self.left_to_right = left_to_right
        self.causal = causal

    @property
    def embedding(self) -> TokenEmbedding:
        return self.denoiser.embedding

    def start_from_counts(self, counts: Int[Tensor, " V"]) -> None:
        self.denoiser.start_from_counts(counts)

    def is_causal_at(self, step: int) -> bool:
        """Whether the batch of this number teaches to go on from a text: batches take turns."""
        return int((step + 1) * self.causal) > int(step * self.causal)

    def loss(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        index: Int[Tensor, " B"],
        *,
        seed: int,
        step: int,
        done: float = 1.0,
        part: Part = ALL,
    ) -> Losses:
        if self.is_causal_at(step):
            # What another process lends, all of it given, is no text of this one.
            return self._loss_of_going_on(ids, length_mask & ~cond_mask.all(1, keepdim=True))
        rate = self.self_cond_rate if done >= self.self_cond_from else 0.0
        lengths, dim = length_mask.cpu(), self.embedding.dim
        draws = draw(seed, step, index, lengths, dim, rate, self.left_to_right, part)
        losses = diffusion_loss(
            self.denoiser,
            self.schedule,
            ids,
            length_mask,
            cond_mask,
            Draws(*(x.to(ids.device) for x in draws)),
            stagger=self.in_turn(length_mask & ~cond_mask, self.stagger),
            mse_weight=self.mse_weight,
            ce_weight=self.ce_weight,
        )
        if isinstance(self.schedule, FittedSchedule):
            self.schedule.update(losses.log_snr, losses.rate, part.total)
        return losses

    def _loss_of_going_on(
        self, ids: Int[Tensor, "B L"], length_mask: Bool[Tensor, "B L"]
    ) -> Losses:
        """The cross-entropy of every token given those before it: no noise, nothing drawn."""
        at = numbers(length_mask)
        logits, there = self.denoiser.go_on(ids, length_mask, at), ids.flatten()[at]
        ce = F.cross_entropy(logits, there, reduction="sum") / max(len(at), 1)
        right, count = logits.argmax(-1) == there, ids.new_tensor(len(at))
        return Losses.plain(ce, ce, right.float().mean(), count, count)

    def bound(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        u: Float[Tensor, " B"],
        generator: Generator,
    ) -> Bound:
        text, proposal = self.text(ids, length_mask, cond_mask)
        eps = torch.randn(2, *ids.shape, self.embedding.dim, generator=generator).to(ids.device)
        return variational_bound(self.denoiser, proposal.precise(), text, u, eps)

    def in_turn(self, free: Bool[Tensor, "B L"], at_least: float) -> float | Float[Tensor, "B 1"]:
        """A stagger for each text with which no position begins before the last one is clean.

        Where the recipe writes from left to right in turn; else it is the recipe's own.
        """
        if not (self.stagger and self.left_to_right):
            return self.stagger
        return (free.sum(1, keepdim=True) - 1.0).clamp(min=at_least)

    def text(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
    ) -> tuple[Text, Proposal]:
        """What is to be measured, by the schedule's own levels.

        Along the same path at every call: draws at several times of a text then add up to its whole
        path.
        """
        if self.left_to_right:
            order = reading_order(length_mask)
        else:
            order = torch.rand(ids.shape, generator=seeded(0)).to(ids.device)
        free = length_mask & ~cond_mask
        # At 0 there are no pauses between the positions of a short text, where a draw sees nothing.
        path = Path.of(order, free, self.in_turn(free, at_least=0.0))
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
        """The bound of the ddpm sampler as it is, in CARRIED_STEPS steps."""
        text, proposal = self.text(ids, length_mask, cond_mask)
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
        text, proposal = self.text(ids, length_mask, cond_mask)
        shape = (*ids.shape, self.embedding.dim)
        eps = torch.randn(shape, generator=generator).to(ids.device)
        probe = (torch.rand(shape, generator=generator) < 0.5).to(eps) * 2 - 1
        stagger = torch.as_tensor(text.path.stagger).max().item()
        steps = round(FLOW_STEPS * (1 + stagger))  # each position crosses its part of them
        return probability_flow(self.denoiser, proposal, text, eps, probe, steps)

    @torch.no_grad()
    def surprise(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        known: Bool[Tensor, "B L"],
        at: Int[Tensor, " N"],
    ) -> Float[Tensor, " N"]:
        """What is not known is at pure noise, which a network that is shown posteriors sees not."""
        noise = self.schedule(torch.ones(len(ids), 1, 1, device=ids.device))
        eps = torch.randn(*ids.shape, self.embedding.dim, generator=seeded(0)).to(ids.device)
        targets = Targets(at[:0], at)
        given = {"ids": ids, "cond_mask": known, "length_mask": length_mask, "targets": targets}
        logits = self.denoiser(eps, noise, torch.zeros_like(eps), **given).logits
        return F.cross_entropy(logits, ids.flatten()[at], reduction="none")

    @torch.no_grad()
    def write(self, group: Slots, settings: Settings, vocabulary: Vocabulary) -> Iterator[Frame]:
        """Ids out of noise: the reverse process. A position that is clean is written, and given."""
        order, first, start = group.uniform(), 1.0, None
        if settings.strength is not None and self.stagger:
            group = group.losing(settings.strength, order, vocabulary)
        if self.left_to_right:
            order = reading_order(group.free, settings.steps)
        draws = settings.sampler.draws and self.stagger > 0
        stagger = self.in_turn(group.free, self.stagger) if draws else self.stagger
        path = Path.of(order, group.free, stagger)
        page = Page(self.denoiser, self.schedule, group, settings, vocabulary, draws=draws)
        draw_noise = partial(group.normal, self.embedding.dim)
        schedule = partial(level_along, self.schedule, path)
        if settings.strength is not None and not self.stagger:  # some way, from what stands there
            first = settings.strength
            t = torch.tensor(first, device=group.ids.device)
            start = schedule(t).noise(self.embedding(group.ids), draw_noise()), first
        steps = sample(page.denoise, draw_noise, schedule, settings.steps, settings.sampler, start)
        for number, (_, prediction) in enumerate(steps, start=1):
            t = path(torch.tensor(first * (1 - number / settings.steps), device=group.ids.device))
            page.write(prediction, t == 0)
            yield Frame(page.ids, page.free, prediction.targets.all, prediction.logits)


ESTIMATES = {"two-pass": Continuous.bound, "carried": Continuous.carried, "flow": Continuous.flow}
