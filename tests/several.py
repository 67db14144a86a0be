"""Tasks on several processes, as torchrun would start them, without its seconds of starting.

They are forked from one process that has imported torch and done nothing else.
"""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

from simple_diffusion_lm.core import train
from simple_diffusion_lm.devices.processes import joined

SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(["several", "torch.distributed.fsdp", "torch.distributed.tensor"])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _one(settings: dict[str, str], task: Callable[..., Any], args: Any, results: Any) -> None:
    os.environ.update(settings)
    train.autocast_dtype = lambda device: None  # float32: bfloat16 would hide what is wrong
    try:
        with joined():
            results.put((settings["RANK"], task(*args)))
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        raise


def on_processes(count: int, task: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function returns on each of `count` processes, in float32. It must be importable."""
    port, results = free_port(), SPAWN.Queue()
    processes = [
        SPAWN.Process(target=_one, args=(environment(rank, count, port), task, args, results))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=60) for _ in processes)
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    return [found[str(rank)] for rank in range(count)]
