"""The processes that torchrun started for one run: which one this is, and what they agree on.

Rank 0 alone writes files and prints. Also: the device of each, and how many threads it takes.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ..errors import UserError, first_line

PATIENCE = timedelta(hours=6)  # the others wait while rank 0 prepares a corpus or saves
BEFORE_SPEAKING = timedelta(seconds=10)  # that rank 0 has to report an error which all have
# oneDNN keeps code for each of 1,024 sizes of product that it met: 32 take no longer, and 240 MB less.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")

_store: Any = None  # what the processes first met through; None: there is only one
_chosen: torch.device | None = None  # by use_device


def world() -> int:
    """How many processes share the run."""
    return 1 if _store is None else dist.get_world_size()


def rank() -> int:
    """The number of this one, from 0."""
    return 0 if _store is None else dist.get_rank()


def device_named(name: str) -> torch.device:
    """cpu, cuda, cuda:1, mps: torch's. Raises UserError where it finds no such device here."""
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # "meta" has no numbers to compute with
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name}: {first_line(error)}") from None
    return probe.device


def use_device(name: str | None) -> None:
    """What pick_device is to pick, if any. Raises UserError as device_named does."""
    global _chosen
    _chosen = None if name is None else device_named(name)


def pick_device() -> torch.device:
    """The chosen one; else CUDA (each process of a machine its own), Apple's MPS, or the processor."""
    if _chosen is not None:
        return _chosen
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def keep_to_quota(groups: Path = Path("/sys/fs/cgroup")) -> None:
    """Takes no more threads than a container's share of processors allows (cgroup v2 or v1), of which torch
    knows nothing: it would take one for each processor of the machine, and they would wait for each other."""
    with suppress(OSError, ValueError):
        if (groups / "cpu.max").exists():
            quota, period = (groups / "cpu.max").read_text().split()  # or "max"
        else:
            quota, period = ((groups / f"cpu/cpu.cfs_{n}_us").read_text() for n in ("quota", "period"))
        allowed = math.ceil(int(quota) / int(period))
        if "OMP_NUM_THREADS" not in os.environ and 0 < allowed < torch.get_num_threads():
            torch.set_num_threads(allowed)


keep_to_quota()  # here, before anything computes, whether from the command line or from Python


@contextmanager
def joined() -> Iterator[None]:
    """Meets the other processes that torchrun started, if it did. All but rank 0 print nothing.
    Raises UserError when there are more processes on this machine than it has CUDA devices."""
    global _store
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield
        return
    cuda = torch.cuda.is_available()
    store, number, count = next(iter(rendezvous("env://", timeout=PATIENCE)))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    _store = store
    if cuda:
        here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > gpus:
            raise UserError(f"{here} processes for {gpus} CUDA devices: torchrun --nproc-per-node={gpus}")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with open(os.devnull, "w") as nowhere:
        out, err = (nowhere, nowhere) if number else (sys.stdout, sys.stderr)
        with redirect_stdout(out), redirect_stderr(err):
            yield
    _leave()  # after an error say_once does: it still needs the store


def _leave() -> None:
    global _store
    _store = None
    dist.destroy_process_group()


def alone(command: str) -> None:
    """Raises UserError where several processes run what is written for one."""
    if world() > 1:
        raise UserError(f"{command} runs in one process: start it without torchrun")


def say_once(message: str) -> None:
    """Prints on stderr what ends the run. Rank 0 speaks for all.

    The others end only after it: torchrun kills everyone as soon as one has ended with an error.
    Where rank 0 has nothing to say the error is another's own.
    """
    said = False
    if rank() > 0:
        with suppress(dist.DistError):  # in time
            _store.wait(["said"], BEFORE_SPEAKING)
            said = True
    if not said:
        print(message, file=sys.stderr, flush=True)
    if world() > 1:
        _store.set("said", "")
        _leave()


def on_rank_0(work: Callable[[], object]) -> None:
    """Does something once, while the others wait. A UserError of rank 0 is raised by all."""
    faults = {}
    if rank() == 0:
        try:
            work()
        except UserError as error:
            faults[0] = str(error)
    for fault in gathered(faults).values():
        raise UserError(fault)


def largest(number: float) -> float:
    """The largest of the processes' numbers: how all come to the same clock, the same signal."""
    return max(gathered({rank(): number}).values())


def gathered(mine: dict[Any, Any]) -> dict[Any, Any]:
    """The dictionaries of all processes as one, in the order of their ranks."""
    if world() == 1:
        return mine
    dictionaries: list[dict[Any, Any]] = [{} for _ in range(world())]
    dist.all_gather_object(dictionaries, mine)
    return {key: value for each in dictionaries for key, value in each.items()}
