"""How probable a model finds single texts: exactly, for a way of writing them."""

from collections.abc import Sequence

import torch

from .model.objective import Objective
from .model.slots import Slot
from .training.validation import length_cost

ROWS = 512  # texts that are read at a time


@torch.no_grad()
def nats_of(
    model: Objective, texts: Sequence[Slot], length_weights: Sequence[int] | None
) -> list[float]:
    """-log p of what is not given in each text, in nats.

    It is that of the model writing its tokens one after the other from left to right, each drawn
    given all that is given and those before it: a sum of logarithms, exact, where the bound of one
    text takes hundreds of draws. The reader of many texts at once wants `likelihood`.

    length_weights are those of held_out_bound; None: the length is not paid for.
    """
    model.eval()
    nats = []
    for text in texts:
        free = (~text.cond_mask).nonzero().squeeze(1)
        total = 0.0
        for part in torch.split(free, ROWS):
            ids = text.ids.expand(len(part), -1).to(model.embedding.weight.device)
            places = torch.arange(len(text.ids))
            known = text.cond_mask | (places < part[:, None])
            at = torch.arange(len(part)) * len(text.ids) + part
            everywhere = torch.ones_like(ids, dtype=torch.bool)
            surprise = model.surprise(ids, everywhere, known.to(ids.device), at.to(ids.device))
            total += surprise.sum().item()
        if length_weights is not None:
            total += length_cost(torch.tensor([len(text.ids)]), length_weights).item()
        nats.append(total)
    return nats
