"""The original project's training and sampling, driven from its own file.

Its model, collation, padding, loss, optimiser and sampler are imported from a checkout
(pytorch/train.py); nothing of it is kept here. Two things are ours. Its examples come as ids,
so its reading and tokenising, done by four more processes there, cost nothing here. And its coin
for self-conditioning falls alternately, so that two steps already have the mean cost.
"""

import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import torch
from measure import counting
from torch import Tensor

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.text.corpus import Prepared

BATCH_SIZE, CROP, DROPOUT = 256, 64, 0.1  # the defaults of its command line
LEARNING_RATE, BETAS, WEIGHT_DECAY = 1e-4, (0.9, 0.99), 1e-4
COUNTED = 32  # examples whose FLOPs are counted
SELF_CONDITIONED, PLAIN = 0.0, 1.0  # what its coin shows


def load(checkout: Path) -> ModuleType:
    """Its script as a module.

    Raises UserError when it is not there, or needs a package that is not.
    """
    path = checkout / "pytorch" / "train.py"
    if not path.is_file():
        raise UserError(f"{checkout}: no pytorch/train.py: give a checkout of the original project")
    spec = importlib.util.spec_from_file_location("original_train", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} needs the package {error.name}: install it (with its dependencies) in "
            f"{sys.prefix}, or leave out --original"
        ) from None
    return module


class OriginalTraining:
    """Its training, a step at a time; the same methods as measure.Training."""

    unit = 2  # one step with self-conditioning, one without
    dtype = torch.float32

    def __init__(self, script: ModuleType, data: Prepared, model_dim: int, layers: int) -> None:
        torch.manual_seed(0)
        random.seed(0)
        self.script = script
        self.data = data
        self.model = script.DiffusionLM(
            num_embeddings=len(data.tokenizer),
            model_dim=model_dim,
            num_layers=layers,
            dropout_prob=DROPOUT,
        )
        self.model.train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        self.collate = script.Collate(
            crop_length=CROP,
            eos_id=data.tokenizer.eos_id,
            pad_id=data.tokenizer.pad_id,
            length_includes_pad=True,
        )
        self.source = self._batches()
        self.taken = 0

    def _batches(self) -> Iterator[list[int]]:
        """The numbers of the examples of each batch: shuffled, as its DataLoader does."""
        while True:
            order = torch.randperm(len(self.data.train)).tolist()
            for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
                yield order[start : start + BATCH_SIZE]

    def _collated(self, numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(ids, lengths with random padding, conditional mask) as its Collate makes them."""
        return self.collate([self.data.train[i][:-1].tolist() for i in numbers])

    def _loss(self, batch: tuple[Tensor, Tensor, Tensor], coin: float) -> tuple[Tensor, ...]:
        with patch.object(self.script.random, "uniform", lambda a, b: coin):
            return self.model.compute_loss(*batch)

    def step(self) -> int:
        """Takes a step as its `train` does. Returns the real tokens of it."""
        numbers = next(self.source)
        losses = self._loss(self._collated(numbers), (SELF_CONDITIONED, PLAIN)[self.taken % 2])
        for part in losses:
            part.item()  # for its progress bar
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.taken += 1
        return self._tokens(numbers)

    def _tokens(self, numbers: list[int]) -> int:
        return sum(min(len(self.data.train[i]), CROP) for i in numbers)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def padding(self) -> float:
        """The share of positions that are no text."""
        batches = [next(self.source) for _ in range(5)]
        positions = sum(self._collated(numbers)[0].numel() for numbers in batches)
        return 1 - sum(map(self._tokens, batches)) / positions

    def flops(self) -> tuple[float, float, int]:
        """As measure.Training.flops. AdamW has no matrix products."""
        numbers = sorted(next(self.source), key=lambda i: len(self.data.train[i]))
        every = BATCH_SIZE // COUNTED
        some = numbers[every - 1 :: every]  # the longest too: it decides what is padding
        by_length: dict[int, list[int]] = {}
        for i in some:
            by_length.setdefault(min(len(self.data.train[i]), CROP), []).append(i)
        needed = self._count(list(by_length.values())) / self._tokens(some)
        executed = self._count([some]) / self._tokens(some)
        return needed, executed, 0

    def _count(self, groups: list[list[int]]) -> float:
        """Of the mean of its two kinds of step."""
        with counting() as counted:
            for numbers in groups:
                batch = self._collated(numbers)
                for coin in (SELF_CONDITIONED, PLAIN):
                    self._loss(batch, coin)[0].backward()
        self.optimizer.zero_grad()
        return counted[0].model / 2


def generate(model: torch.nn.Module, count: int, length: int, evaluations: int) -> Tensor:
    """Its own sampler, as its `forward` calls it, with another number of steps.

    The network is evaluated once more than there are steps.
    """
    model.eval()
    with torch.no_grad():
        noise = torch.randn(count, length, model.embedding_dim)
        _, latent = model.diffusion.reverse_diffusion(noise, evaluations - 1)
        return model.get_logits(latent).argmax(dim=-1)
