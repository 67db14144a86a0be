"""One run on several processes, started by torchrun: all that any of them knows of the others.

Each computes its rows of every batch, and the gradients are averaged: DistributedDataParallel, or
FSDP2 (`fully_shard`), which also divides gradients, optimiser and average among the processes. Rank
0 alone writes files and talks. In a run of one process everything here does nothing.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ..diffusion.loss import Losses, Part
from ..errors import UserError
from ..model.objective import Objective
from ..model.transformer import Layer
from ..text.batches import Batch, Batches
from .config import Config

PATIENCE = timedelta(hours=6)  # the others wait while rank 0 prepares a corpus or saves
BEFORE_SPEAKING = timedelta(seconds=10)  # that rank 0 has to report an error which all have

_store: Any = None  # what the processes first met through; None: there is only one


def world() -> int:
    """How many processes share the run."""
    return 1 if _store is None else dist.get_world_size()


def rank() -> int:
    """The number of this one, from 0."""
    return 0 if _store is None else dist.get_rank()


@contextmanager
def joined() -> Iterator[None]:
    """Meets the other processes that torchrun started, if it did. All but rank 0 fall silent.

    Raises UserError when there are more processes on this machine than it has CUDA devices.
    """
    global _store
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    store, number, count = next(iter(rendezvous("env://", timeout=PATIENCE)))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=store,
        rank=number,
        world_size=count,
        timeout=PATIENCE,
    )
    _store = store
    if cuda:
        here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > devices:
            raise UserError(
                f"{here} processes for {devices} CUDA devices: torchrun --nproc-per-node={devices}"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with ExitStack() as stack:
        if number:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield
    dist.destroy_process_group()
    _store = None


def say_once(message: str) -> None:
    """Says on stderr what ends the run. Rank 0 speaks for all.

    The others end only after it: torchrun kills everyone as soon as one has ended with an error.
    Where rank 0 has nothing to say the error is another's own.
    """
    if _store is not None and rank() > 0:
        try:
            _store.wait(["said"], BEFORE_SPEAKING)
            return
        except dist.DistError:
            pass
    print(message, file=sys.stderr, flush=True)
    if _store is not None:
        _store.set("said", "")


def on_rank_0(work: Callable[[], object]) -> None:
    """Does something once, while the others wait. A UserError of rank 0 is raised by all."""
    fault: list[str | None] = [None]
    if rank() == 0:
        try:
            work()
        except UserError as error:
            fault = [str(error)]
    if world() > 1:
        dist.broadcast_object_list(fault, src=0, device=torch.device("cpu"))
    if fault[0] is not None:
        raise UserError(fault[0])


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if world() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def largest(number: float) -> float:
    """The largest of the processes' numbers: how all come to the same clock, the same signal."""
    if world() == 1:
        return number
    numbers = torch.tensor(number, dtype=torch.float64)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return numbers.item()


def gathered(mine: dict[Any, Any]) -> dict[Any, Any]:
    """The dictionaries of all processes as one."""
    if world() == 1:
        return mine
    dictionaries: list[dict[Any, Any]] = [{} for _ in range(world())]
    dist.all_gather_object(dictionaries, mine)
    return {key: value for each in dictionaries for key, value in each.items()}


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


def check_divisible(config: Config) -> None:
    """Raises UserError where a model cannot be divided among the processes."""
    if world() == 1:
        raise UserError("--shard divides a model among processes: start them with torchrun")
    if config.layer_drop > 0:
        raise UserError("--shard needs the same layers on all processes: set layer_drop=0")


def divide(model: Objective) -> None:
    """Leaves each process a share of every parameter, gathered layer by layer when it is needed.

    Not given up between forward and backward: with self-conditioning a layer runs twice, and on a
    process where no text is shown its first prediction only once.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (world(),))
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    for module in (*layers, model):
        fully_shard(module, mesh=mesh, reshard_after_forward=False)
    register_fsdp_forward_method(model, "loss")


def is_divided(tensor: Tensor) -> bool:
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
