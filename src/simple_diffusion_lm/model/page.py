"""Texts while continuous diffusion writes them: what is given so far, and what a sampler sees."""

import torch
from jaxtyping import Bool, Float, Int
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
        self,
        denoiser: Denoiser,
        schedule: Schedule,
        group: Slots,
        settings: Settings,
        vocabulary: Vocabulary,
        *,
        draws: bool,
    ) -> None:
        self.denoiser = denoiser
        self.ids = group.ids.clone()
        self.free = group.free  # not written yet
        self.group = group
        self.settings = settings
        self.vocabulary = vocabulary
        self.draws = draws
        self.uniform = group.uniform()
        self.noise = schedule(torch.ones((), device=self.ids.device)).log_snr

    def denoise(self, x_t: Float[Tensor, "B L D"], level: Level, x0_prev: Tensor) -> Prediction:
        """Tokens by the guided, tempered logits, and their embeddings or the mean one."""
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
        ids = self._choose(logits, targets)
        values = self.denoiser.embed(ids) if self.draws else self.denoiser.interpolate(logits)
        return Prediction(targets.put(values, torch.zeros_like(x_t)), logits, ids, targets)

    def _choose(self, logits: Float[Tensor, "N V"], targets: Targets) -> Int[Tensor, " N"]:
        """A token for each target, of those that are allowed: drawn anew in each step, or fixed.

        Where steps go towards the mean, noise has chosen what is not silent any more, and the most
        probable token is taken. What is still at pure noise has had nothing to choose for it.
        """
        allowed = self.group.allowed(logits, targets.all, self.vocabulary)
        if self.draws:
            ids = draw_ids(allowed, self.group.uniform().flatten()[targets.all])
        else:
            ids, silent = allowed.argmax(-1), slice(len(targets.moving), None)
            ids[silent] = draw_ids(allowed[silent], self.uniform.flatten()[targets.silent])
        if self.vocabulary.last is not None:
            ids = ids.masked_fill(self.group.ends.flatten()[targets.all], self.vocabulary.last)
        return ids

    def write(self, prediction: Prediction, clean: Bool[Tensor, "B L_or_1"]) -> None:
        """Writes the tokens of positions that have just become clean."""
        done = (clean & self.free).flatten()
        here = done[prediction.targets.all]
        at = prediction.targets.all[here]
        self.ids = self.ids.flatten().index_copy(0, at, prediction.ids[here]).view_as(self.ids)
        self.free = self.free & ~done.view_as(self.free)


def level_along(schedule: Schedule, path: Path, t: Float[Tensor, ""]) -> Level:
    """The level of each position, (B, L, 1), when the text is at time t."""
    return schedule(path(t)[..., None])
