"""Texts while continuous diffusion writes them: what is given so far, and what a sampler sees."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..diffusion.loss import Targets, numbers
from ..diffusion.sampler import Prediction
from ..diffusion.schedule import Level, Path, Schedule
from .denoiser import Denoiser
from .slots import Slots, Vocabulary, draw_ids, forbid


class Page:
    """Texts while they are written: what a sampler sees of a model, with what is given so far."""

    def __init__(
        self, denoiser: Denoiser, schedule: Schedule, group: Slots, temperature: float
    ) -> None:
        self.denoiser = denoiser
        self.ids = group.ids.clone()
        self.given = group.cond_mask.clone()
        self.group = group
        self.temperature = temperature
        self.noise = schedule(torch.ones((), device=self.ids.device)).log_snr

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
