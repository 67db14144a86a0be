"""What training, measuring and sampling need of a model, whatever it was trained to do.

Three classes have it: model/continuous.py, and its twins on the same trunk, twins/masked.py and
twins/autoregressive.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from ..diffusion.likelihood import Bound
from ..diffusion.loss import ALL, Losses, Part
from .embedding import TokenEmbedding
from .slots import Frame, Settings, Slot, Slots, Vocabulary, Watch, batches_of


class Objective(nn.Module, ABC):
    """A network together with what it is trained for.

    writes_length: it ends its lines itself, so that their length is paid for in its likelihood and
    cannot be prescribed.
    is_guided: it can be led on (see model/guidance.py).
    """

    writes_length = False
    is_guided = False

    @property
    @abstractmethod
    def embedding(self) -> TokenEmbedding:
        """The table of its tokens."""

    @abstractmethod
    def start_from_counts(self, counts: Int[Tensor, " V"]) -> None:
        """Begins with the frequencies of the tokens."""

    @abstractmethod
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
        """The training loss of these rows. All noise is a function of (seed, step, index).

        done is the share of the training budget that is spent.
        """

    @abstractmethod
    def bound(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        u: Float[Tensor, " B"],
        generator: Generator,
    ) -> Bound:
        """Nats for each text: an upper bound of -log p in expectation over the noise.

        u, uniform on [0, 1) and stratified over all texts that are measured, chooses the noise
        level; the generator is for the rest.
        """

    @abstractmethod
    def surprise(
        self,
        ids: Int[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        known: Bool[Tensor, "B L"],
        at: Int[Tensor, " N"],
    ) -> Float[Tensor, " N"]:
        """-log p of the tokens at positions b L + l that are not known, each given the known ones.

        Of a model that looks back only: given all before it.
        """

    @abstractmethod
    def write(self, group: Slots, settings: Settings, vocabulary: Vocabulary) -> Iterator[Frame]:
        """Writes texts, and yields after each step; the last frame has all that is to be had."""

    @torch.no_grad()
    def generate(
        self,
        slots: Iterable[Slot],
        settings: Settings,
        vocabulary: Vocabulary,
        batch_size: int = 64,
        watch: Watch | None = None,
    ) -> Iterator[tuple[int, Int[Tensor, " L"]]]:
        """Yields (number, ids) for each slot, in the order they are done. watch sees each step."""
        self.eval()
        for group in batches_of(slots, batch_size, self.embedding.weight.device):
            for frame in self.write(group, settings, vocabulary):
                if watch is not None:
                    watch(group, frame)
            yield from group.texts(frame.ids)
