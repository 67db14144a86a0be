"""A batch, its loss and a model divided among the processes of a run (training/processes.py).

Each computes its rows of every batch, and the gradients are averaged: by DistributedDataParallel,
or by FSDP2 (`fully_shard`), which also divides gradients, optimiser and average among them. All
that is random is drawn as one process draws it, so the loss and its gradient are the same for any
number of them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..diffusion.loss import Losses, Part
from ..errors import UserError
from ..model.objective import Objective
from ..text.batches import Batch, Batches
from .processes import rank, total, world


def own_part(batches: Batches, epoch: int, indices: Any) -> tuple[Batch, Part]:
    """This process's rows of a batch.

    One that is left without gets a row of another's with all of it given: there is nothing to
    predict in it, so that it counts for nothing.
    """
    size = len(indices)
    first, end = size * rank() // world(), size * (rank() + 1) // world()
    batch = batches.batch(epoch, indices[first : max(end, first + 1)])
    if first == end:
        batch = batch._replace(cond_mask=torch.ones_like(batch.cond_mask))
    return batch, Part(first, size, total)


def tokens_of_whole_batch(batch: Batch) -> int:
    """Real tokens in the rows of all processes. (Rows of which all is given do not count: a text of
    the corpus always has something to predict.)"""
    counts = ~batch.cond_mask.all(1, keepdim=True)
    return int(total((batch.length_mask & counts).sum()))


def of_whole_batch(losses: Losses) -> Losses:
    """The losses of the whole batch, from those of this process's rows.

    A mean over the batch is the sum of each process's mean times its share of the positions. The
    gradient of `total` is this process's part of that, times the number of processes, because
    gradients are averaged over them.
    """
    if world() == 1:
        return losses
    tokens, predicted = losses.tokens, losses.predicted
    reported = torch.stack([losses.mse, losses.ce, losses.accuracy])
    sums = total(
        torch.cat(
            [
                torch.where(tokens > 0, losses.total.detach() * tokens, 0.0)[None],
                torch.where(predicted > 0, reported * predicted, 0.0),
                tokens[None],
                predicted[None],
            ]
        )
    )
    mean, reported = sums[0] / sums[4], sums[1:4] / sums[5]
    own = torch.where(tokens > 0, losses.total, 0.0) * (tokens * world() / sums[4])
    mse, ce, accuracy = reported
    # The value of the mean, the gradient of this part.
    return losses._replace(total=own + (mean - own).detach(), mse=mse, ce=ce, accuracy=accuracy)


class _Loss(nn.Module):
    """The loss as a module's forward, which is all that DistributedDataParallel looks after."""

    def __init__(self, model: Objective) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **settings: Any) -> Losses:
        return self.model.loss(*args, **settings)


def averaging_gradients(model: Objective, *, may_skip: bool) -> Callable[..., Losses]:
    """The model's loss, with gradients that are means over the processes.

    may_skip: it may leave out layers.
    """
    if world() == 1 or is_divided(next(model.parameters())):
        return model.loss
    return DistributedDataParallel(_Loss(model), find_unused_parameters=may_skip)


def check_divisible(*, may_skip: bool) -> None:
    """Raises UserError where a model cannot be divided among the processes."""
    if world() == 1:
        raise UserError("--shard divides a model among processes: start them with torchrun")
    if may_skip:
        raise UserError("--shard needs the same layers on all processes: set layer_drop=0")


def divide(model: Objective) -> None:
    """Leaves each process a share of every parameter; for a step all are gathered.

    All at once, not layer by layer: self-conditioning runs a layer twice, but only once on a
    process none of whose texts is shown its first prediction, and processes that gather in
    different orders wait for each other for ever.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    device = next(model.parameters()).device.type
    fully_shard(model, mesh=init_device_mesh(device, (world(),)), reshard_after_forward=False)
    register_fsdp_forward_method(model, "loss")


def gather_gradients(optimizer: Optimizer, *_: Any) -> None:
    """A hook for an optimiser whose step is of whole matrices: it gets their gradients whole.

    torch's Muon also works on shares, but then exchanges something in each of its multiplications
    and adds bfloat16 numbers in another order (docs/log.md).
    """
    from torch.distributed.tensor import Replicate

    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad = p.grad.redistribute(placements=[Replicate()])
            for name, slot in optimizer.state[p].items():  # momentum out of a checkpoint
                optimizer.state[p][name] = slot.redistribute(placements=[Replicate()])


def is_divided(tensor: Tensor) -> bool:
    """Whether this is a share of a tensor (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process has a share; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def divided_like(tensor: Tensor, other: Any) -> Tensor:
    """This process's share of a whole tensor, if `other` is a share of one of that shape."""
    if not is_divided(other) or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None
    )
