"""The recipes side by side: equal minutes on one corpus, held-out bound, uncurated samples.

    python benchmarks/recipes.py --train train.txt --valid valid.txt --minutes 20 \
        --out benchmarks/results/captions.json

The recipes are trained one after the other with nothing else running; each is a run directory under
--work, so an interrupted benchmark goes on where it was. What is written names the commands, the
machine, the commit and the date.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--valid", required=True, type=Path)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--recipes", nargs="+", default=["modern", "original"])
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--extra", nargs="*", default=[], help="further --set settings, for all")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def sdlm(*words: object) -> str:
    """Runs the command line as a user would; returns what it prints."""
    command = [sys.executable, "-m", "simple_diffusion_lm", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    commit = ["git", "rev-parse", "--short", "HEAD"]
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": f"{capabilities.get('cpu_name', platform.processor())}, "
        f"{capabilities.get('num_physical_cores', '?')} cores",
        "bfloat16": bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def measure(recipe: str, prepared: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Trains one recipe, then asks for its bound and its samples."""
    run = options.work / recipe
    train = ["train", prepared, "--out", run, "--recipe", recipe, "--minutes", options.minutes]
    if options.extra:
        train += ["--set", *options.extra]
    sdlm(*train)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    return {
        # The names alone: where the files lay is nobody's business.
        "command": " ".join(["sdlm", *(x.name if isinstance(x, Path) else str(x) for x in train)]),
        "steps": last["step"],
        "tokens_seen": last["tokens"],
        "held_out": json.loads(sdlm("evaluate", run, "--examples", 5000, "--json")),
        "samples": sdlm("generate", run, "--count", options.samples).splitlines(),
    }


def main() -> None:
    options = arguments()
    prepared = options.work / "corpus"
    sdlm("prepare", options.train, "--valid", options.valid, "--out", prepared)
    results = {"minutes": options.minutes, "machine": machine(), "recipes": {}}
    for recipe in options.recipes:
        results["recipes"][recipe] = measure(recipe, prepared, options)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        print(f"{recipe}: {results['recipes'][recipe]['held_out']}", file=sys.stderr)


if __name__ == "__main__":
    main()
