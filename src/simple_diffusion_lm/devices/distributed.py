"""A batch, its loss and a model divided among the processes of a run (processes.py).

Each computes its rows of every batch, and gradients are averaged: by DistributedDataParallel, or by FSDP2,
which also divides parameters and optimiser among them. All that is random but dropout is drawn as
one process draws it: the loss and its gradient are the same for any number of processes.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..core import Config
from ..core.data import Batches
from ..core.denoiser import Batch
from ..core.generate import TextModel
from ..core.loss import Draws, Loss, Losses
from ..core.train import State, make_optimizers
from .processes import gathered, rank, world


class OwnRows(Batches):
    """Batches of which each process gets its own rows.

    A process that is left without gets one row with all of it given: nothing is predicted there.
    """

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


def divided_loss(config: Config, state: State, own: Loss, shard: bool) -> Loss:
    """The loss of a whole batch, for core.train.train, from each process's rows of it (OwnRows).

    own: the loss of those rows. shard: first leaves each process a share of every tensor of the state.
    """
    module: nn.Module = _Loss(state.model, own)
    module = _divided(config, state, module) if shard else DistributedDataParallel(module)

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


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process has a share; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _divided(config: Config, state: State, module: nn.Module) -> nn.Module:
    """Leaves each process a share of every tensor of the state; for a step all are gathered.

    All at once, not layer by layer: self-conditioning runs a layer twice, but once where no text of a
    process is shown its first prediction, and processes that gather in different orders never meet.
    """
    from torch.distributed.checkpoint import state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    options = state_dict.StateDictOptions(full_state_dict=True, strict=False)
    known = state_dict.get_optimizer_state_dict(state.model, state.optimizers.values(), options=options)
    mesh = init_device_mesh(state.model.embedding.weight.device.type, (world(),))
    fully_shard(module, mesh=mesh, reshard_after_forward=False)
    state.optimizers = optimizers = make_optimizers(config, state.model)
    if "muon" in optimizers:
        optimizers["muon"].register_step_pre_hook(_gather_gradients)
    if state.progress.step:
        state_dict.set_optimizer_state_dict(state.model, optimizers.values(), known, options=options)
    return module


def _gather_gradients(optimizer: Optimizer, *_: Any) -> None:
    """A hook for an optimiser whose step is of whole matrices: it gets gradients and momentum whole.

    On shares each of Muon's products would exchange something, and sum in another order (docs/log.md).
    """
    from torch.distributed.tensor import Replicate

    for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
        p.grad = p.grad.redistribute(placements=[Replicate()])
        for name, tensor in optimizer.state[p].items():  # in shares when out of a checkpoint
            optimizer.state[p][name] = tensor.redistribute(placements=[Replicate()])
