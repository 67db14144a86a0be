"""A batch and its loss divided among the processes of a run (processes.py).

Each computes its rows of every batch, and gradients are averaged (DistributedDataParallel). All that is
random but dropout is drawn as one process draws it: loss and gradient are the same for any number of them.
"""

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..core.data import Batches
from ..core.denoiser import Batch
from ..core.generate import TextModel
from ..core.loss import Draws, Loss, Losses
from .processes import gathered, rank, world


class OwnRows(Batches):
    """Batches of which each process gets its own rows.
    A process that is left without gets one row with all of it given: nothing is predicted there."""

    def batch(self, epoch: int, numbers: Int[np.ndarray, " B"], rows: slice = slice(None)) -> Batch:
        first, end = len(numbers) * rank() // world(), len(numbers) * (rank() + 1) // world()
        batch = super().batch(epoch, numbers, slice(first, max(end, first + 1)))
        return batch._replace(cond_mask=batch.cond_mask | (first == end))


class _Loss(nn.Module):
    """The loss as a module's forward, which is where gradients are synchronised."""

    def __init__(self, model: TextModel, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        return self.loss(batch, draws)


def divided_loss(model: TextModel, own: Loss) -> Loss:
    """The loss of a whole batch, for core.train.train, from `own`, that of each process's rows (OwnRows)."""
    module = DistributedDataParallel(_Loss(model, own))

    def loss(batch: Batch, draws: Draws) -> Losses:
        torch.manual_seed((torch.initial_seed() + rank()) % 2**64)  # for dropout: each has its own
        return of_whole_batch(module(batch, draws))

    return loss


def of_whole_batch(losses: Losses) -> Losses:
    """The losses of the whole batch, from those of this process's rows.

    The batch's mean is the sum of each process's mean times its share of the tokens. `total` has that
    value, and the gradient of this process's term times the number of processes, as gradients are averaged
    over them. What is known of each position is of all processes' rows: the log has their means.
    """
    parts = gathered({rank(): [x.detach().cpu() for x in losses]}).values()
    totals, counts, *positions = zip(*parts, strict=True)
    count = torch.stack(counts).sum()
    shares = torch.stack(counts) / count.clamp(min=1)
    mean = (torch.stack(totals) * shares).sum()
    own = losses.total * (shares[rank()] * world()).item()
    total = own + (mean.to(own) - own).detach()
    return Losses(total, count.to(own.device), *(torch.cat(x).to(own.device) for x in positions))
