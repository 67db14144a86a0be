"""Texts while continuous diffusion writes them: what is given so far, and what a sampler sees."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..diffusion.network import Targets, numbers
from ..diffusion.sampler import Prediction
from ..diffusion.schedule import Level, Path, Schedule
from .denoiser import Denoiser
from .guidance import raise_score
from .slots import Settings, Slots, Vocabulary, draw_ids


class Page:
    """Texts while they are written: what a sampler sees of a model, with what is given so far."""

    def __init__(
        self, denoiser: Denoiser, schedule: Schedule, group: Slots, settings: Settings
    ) -> None:
        self.denoiser = denoiser
        self.ids = group.ids.clone()
        self.free = group.free  # not written yet
        self.group = group
        self.settings = settings
        self.uniform = group.uniform()
        self.noise = schedule(torch.ones((), device=self.ids.device)).log_snr

    def denoise(self, x_t: Float[Tensor, "B L D"], level: Level, x0_prev: Tensor) -> Prediction:
        """The mean embedding under the guided, tempered logits, in either recipe."""
        silent = (level.log_snr <= self.noise).squeeze(-1)
        targets = Targets(numbers(self.free & ~silent), numbers(self.free & silent))
        known = self.group.length_mask & ~self.free

        def logits_of(x0_prev: Tensor, cond_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "N V"]:
            return self.denoiser(
                x_t,
                level,
                x0_prev,
                ids=self.ids,
                cond_mask=cond_mask,
                length_mask=self.group.length_mask,
                targets=targets,
            ).logits

        plain = logits_of(x0_prev, known)
        logits, guidance = plain, self.settings.guidance
        if guidance.given:
            without = logits_of(x0_prev, known & ~self.group.cond_mask)
            logits = logits + guidance.given * (plain - without)
        if guidance.previous:
            without = logits_of(torch.zeros_like(x0_prev), known)
            logits = logits + guidance.previous * (plain - without)
        logits = logits / self.settings.temperature
        if guidance.score is not None:
            logits = raise_score(guidance.score, logits, targets, self.ids, self.group.length_mask)
        x0_hat = targets.put(self.denoiser.interpolate(logits), torch.zeros_like(x_t))
        return Prediction(x0_hat, logits, targets)

    def write(
        self,
        prediction: Prediction,
        clean: Bool[Tensor, "B L_or_1"],
        vocabulary: Vocabulary,
    ) -> None:
        """Writes the tokens of positions that have just become clean.

        What was still at pure noise is drawn from its distribution: nothing else has chosen. Of the
        others noise has chosen, and the most probable allowed token is taken; drawing those too
        is the same at a higher temperature (docs/log.md).
        """
        done = (clean & self.free).flatten()
        at = prediction.targets.all
        here = done[at]
        silent = (torch.arange(len(at), device=at.device) >= len(prediction.targets.moving))[here]
        at, logits = at[here], prediction.logits[here]
        allowed = self.group.allowed(logits, at, vocabulary)
        tokens = allowed.argmax(-1)
        tokens[silent] = draw_ids(allowed[silent], self.uniform.flatten()[at[silent]])
        if vocabulary.last is not None:
            tokens = tokens.masked_fill(self.group.ends.flatten()[at], vocabulary.last)
        self.ids = self.ids.flatten().index_copy(0, at, tokens).view_as(self.ids)
        self.free = self.free & ~done.view_as(self.free)


def level_along(schedule: Schedule, path: Path, t: Float[Tensor, ""]) -> Level:
    """The level of each position, (B, L, 1), when the text is at time t."""
    return schedule(path(t)[..., None])
