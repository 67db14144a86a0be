"""What the mathematics asks of a network, and where it asks: predictions of some positions."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .schedule import Level, Path


def numbers(mask: Bool[Tensor, "B L"]) -> Int[Tensor, " N"]:
    """The numbers b L + l of the positions where the mask is True."""
    return mask.flatten().nonzero().squeeze(1)


def sum_texts(
    values: Float[Tensor, " N"], at: Int[Tensor, " N"], like: Tensor
) -> Float[Tensor, " B"]:
    """Sums of values at positions `at` over each text of a (B, L) tensor."""
    count, length = like.shape
    return values.new_zeros(count).index_add(0, at // length, values)


class Targets(NamedTuple):
    """The N positions that are to be predicted, as numbers b L + l.

    Logits are the largest tensors there are: nobody makes them for a position that is given.
    """

    moving: Int[Tensor, " N_moving"]  # between clean and noise
    silent: Int[Tensor, " N_silent"]  # at pure noise, which says nothing of the token

    @classmethod
    def of(cls, t: Float[Tensor, "B L_or_1"], free: Bool[Tensor, "B L"]) -> "Targets":
        """The free positions by their times; at time 0 they are as good as given."""
        silent = free & (t == 1)
        moving = free & (t > 0) & ~silent
        return cls(numbers(moving), numbers(silent))

    @property
    def all(self) -> Int[Tensor, " N"]:
        return torch.cat([self.moving, self.silent])

    def put(self, values: Float[Tensor, "N D"], into: Float[Tensor, "B L D"]) -> Tensor:
        """(B, L, D): `into` with values at the targets."""
        return into.flatten(0, 1).index_copy(0, self.all, values).view_as(into)


class Text(NamedTuple):
    """Texts, their given positions, and the way they take on noise."""

    ids: Int[Tensor, "B L"]
    length_mask: Bool[Tensor, "B L"]
    cond_mask: Bool[Tensor, "B L"]
    path: Path

    @property
    def free(self) -> Bool[Tensor, "B L"]:
        return self.length_mask & ~self.cond_mask

    def known(self, t: Float[Tensor, "B L_or_1"]) -> dict[str, Tensor]:
        """What the network is told at these times: a position at time 0 is as good as given."""
        given = self.cond_mask | (self.free & (t == 0))
        return {"ids": self.ids, "cond_mask": given, "length_mask": self.length_mask}


class Output(NamedTuple):
    """What a network says of the N targets, in the order of `Targets.all`.

    regressed is its own estimate of the embeddings, where it has a head for one; every other
    estimate of them is the mean under the logits.
    """

    logits: Float[Tensor, "N V"]
    regressed: Float[Tensor, "N D"] | None = None


@runtime_checkable
class Network(Protocol):
    """What the loss and the bound need of a model: embeddings, and predictions of them.

    read gives the logits of each position from its own x_t alone.
    """

    def embed(self, ids: Int[Tensor, "*S"]) -> Float[Tensor, "*S D"]: ...

    def interpolate(self, logits: Float[Tensor, "*S V"]) -> Float[Tensor, "*S D"]: ...

    def read(self, x_t: Float[Tensor, "*S D"], level: Level) -> Float[Tensor, "*S V"]: ...

    def __call__(
        self,
        x_t: Float[Tensor, "B L D"],
        level: Level,
        x0_prev: Float[Tensor, "B L D"],
        *,
        ids: Int[Tensor, "B L"],
        cond_mask: Bool[Tensor, "B L"],
        length_mask: Bool[Tensor, "B L"],
        targets: Targets,
    ) -> Output: ...
