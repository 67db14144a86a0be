"""What the benchmarks share: how results are written and shown."""

import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import tyro

from simple_diffusion_lm.cli.options import Settings
from simple_diffusion_lm.errors import writing_to
from simple_diffusion_lm.evaluation.report import table
from simple_diffusion_lm.runs.checkpoint import write_atomically
from simple_diffusion_lm.runs.run import machine


def about() -> dict[str, Any]:
    """With which command, on what machine, at which commit and when."""
    command = shlex.join(["python", *sys.argv])
    return {"command": command, "machine": machine(), "load": os.getloadavg()[0]}  # of other work


def settings_of(name: str) -> dict[str, Any]:
    """NAME=VALUE,NAME=VALUE as the flags of `sdlm train` have it."""
    flags = [word for setting in name.split(",") for word in f"--{setting}".split("=")]
    return tyro.cli(Settings, args=flags)  # type: ignore[call-overload]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and spread of repeated measurements, for the results."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def shown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table with the first row's columns. A summary is its median (least to most)."""

    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return f"{cell(value['median'])} ({cell(value['min'])} to {cell(value['max'])})"
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        return "" if value is None else str(value)

    return table([list(rows[0]), *([cell(row.get(name)) for name in rows[0]] for row in rows)])


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Raises UserError where the path cannot be written: call it before anything takes long."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode())


def literal(text: str) -> str:
    """Text as a template has it, where it is given as it stands."""
    return text.replace("[[", "\\[[").replace("___", "\\___")


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
