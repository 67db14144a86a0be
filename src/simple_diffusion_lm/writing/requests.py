"""Single texts to be written (rows), and groups of them that a model writes side by side.

batches_of puts rows of similar lengths together, group_of makes a core.generate.Group of them, and
write_rows does all of it. A row has its own key for random numbers, so its text does not depend on
the others: rows of several users may be written together if all else that write_rows takes is equal.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..core.denoiser import Batch
from ..core.generate import Frame, Group, Sampling, TextModel
from ..core.noise import Logits, Mask, make_keys
from .guidance import Score, raise_score

Watch = Callable[[Batch, Frame], None]  # called after each step with the texts as they are
Forbidden = Bool[Tensor, "R V"]  # row r: the tokens that may not be chosen under rule r
ANYTHING, BEGINS_WORD, CONTINUES_WORD = range(3)  # the rules of Writer.forbidden

MOST_PADDED = 1.5  # the longest row of a batch over its shortest: padding costs as much as text


class Row(NamedTuple):
    """One text to be written."""

    ids: Int[Tensor, " L"]  # read where given, and everywhere if the text is varied
    cond_mask: Bool[Tensor, " L"]  # True: given
    rule: Int[Tensor, " L"]  # the row of the table of forbidden tokens that holds at each position
    key: Int[Tensor, ""]  # of its random numbers
    number: int  # by which it is known; Batch.number of a group

    @classmethod
    def of(cls, ids: Sequence[int], end: Sequence[int], number: int = 0, seed: int = 0) -> "Row":
        """A text of which nothing is given but its end (EOS or nothing)."""
        cond_mask = torch.tensor([False] * len(ids) + [True] * len(end))
        rule = torch.full(cond_mask.shape, ANYTHING)
        return cls(torch.tensor([*ids, *end]), cond_mask, rule, make_keys(seed, number), number)

    def part(self, start: int, end: int) -> "Row":
        """The positions from start to end."""
        ids, cond_mask, rule = (numbers[start:end] for numbers in self[:3])
        return self._replace(ids=ids, cond_mask=cond_mask, rule=rule)

    def after(self, written: Sequence[int], start: int) -> "Row":
        """The row from a position on, its beginning given as it was written; with other random numbers."""
        ids, cond_mask = self.ids.clone(), self.cond_mask.clone()
        ids[: len(written)], cond_mask[: len(written)] = torch.tensor(written), True
        whole = self._replace(ids=ids, cond_mask=cond_mask, key=make_keys(self.key, start))
        return whole.part(start, len(ids))


def batches_of(rows: Iterable[Row], batch_size: int) -> Iterator[list[Row]]:
    """Rows in batches of at most batch_size, sorted by length, so that little is padding."""
    some: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if some and (len(some) == batch_size or len(row.ids) > MOST_PADDED * len(some[0].ids)):
            yield some
            some = []
        some.append(row)
    if some:
        yield some


def batch_of(rows: Sequence[Row], device: torch.device) -> Batch:
    """Rows side by side, padded."""
    ids = pad_sequence([row.ids for row in rows], batch_first=True)
    cond_mask = pad_sequence([row.cond_mask for row in rows], batch_first=True)
    lengths = torch.tensor([len(row.ids) for row in rows])
    length_mask = torch.arange(ids.shape[1]) < lengths[:, None]
    number = torch.tensor([row.number for row in rows])
    return Batch(ids, length_mask, cond_mask, number, torch.zeros(len(rows))).each(lambda x: x.to(device))


def group_of(rows: Sequence[Row], forbidden: Forbidden, device: torch.device, strength: float = 1.0) -> Group:
    """Rows as what a model samples. strength: the time to which their ids are noised first."""
    rule = pad_sequence([row.rule for row in rows], batch_first=True).to(device)
    forbidden = forbidden.to(device)

    def constrain(logits: Logits, where: Mask) -> Logits:
        return logits.masked_fill(forbidden[rule[where]], -torch.inf)

    keys = torch.stack([row.key for row in rows]).to(device)
    return Group(batch_of(rows, device), keys, constrain, strength=strength)


def nucleus(group: Group, top_p: float) -> Group:
    """The group with only the most probable tokens of each position, which have this probability together
    (1904.09751)."""

    def constrain(logits: Logits, where: Mask) -> Logits:
        logits = group.constrain(logits, where)
        probability, ids = logits.softmax(-1).sort(descending=True)
        beyond = probability.cumsum(-1) - probability >= top_p  # those before it are enough
        return logits.masked_fill(beyond.gather(-1, ids.argsort(-1)), -torch.inf)

    return group._replace(constrain=constrain)


def write_rows(
    model: TextModel,
    rows: Iterable[Row],
    forbidden: Forbidden,
    sampling: Sampling,
    *,
    strength: float = 1.0,
    batch_size: int = 64,
    top_p: float = 1.0,
    guidance: Score | None = None,
    watch: Watch | None = None,
) -> Iterator[tuple[int, list[int]]]:
    """(number, ids) of each row, in the order they are done."""
    model.eval()
    for some in batches_of(rows, batch_size):
        group = group_of(some, forbidden, model.embedding.weight.device, strength)
        group = nucleus(group, top_p) if top_p < 1 else group
        if guidance is not None:
            group = group._replace(guide=partial(raise_score, guidance))
        for frame in model.sample(group, sampling):
            if watch is not None:
                watch(group.batch, frame)
        for row, ids in zip(some, frame.ids.tolist(), strict=True):
            yield row.number, ids[: len(row.ids)]
