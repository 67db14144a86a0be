"""How many Sudoku puzzles each contender solves, by the number of clues and of steps.

    python benchmarks/sudoku.py --out DIR --size 6 --minutes 20 --seeds 2

All train for the same minutes, by turns, or for as many steps, on the same grids, a token a cell, with cells
given here and there; the autoregressive baseline on lines that have the clues first, which are twice as long:
of steps it gets twice as many, for as many grids. Temperatures are chosen on other puzzles than those that
are reported. Writes DIR/sudoku.json, and prints a table of the puzzles with fewest clues.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from measure import settings_of

from simple_diffusion_lm.cli.demo import CELLS, LINES, written
from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.cli.options import Settings
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.generate import ORDERS, Sampling
from simple_diffusion_lm.evaluation.compare import CONTENDERS, train_by_turns
from simple_diffusion_lm.evaluation.evaluate import puzzle_scores
from simple_diffusion_lm.evaluation.report import shown, table
from simple_diffusion_lm.runs.config import with_settings
from simple_diffusion_lm.runs.run import machine
from simple_diffusion_lm.tasks.sudoku import CLUES, Sudoku
from simple_diffusion_lm.writing.model import DiffusionLM

STEPS = (1, 2, 4, 8, 16, 64)
TEMPERATURES = (0.05, 0.3, 0.6)


def points(model: DiffusionLM, sudoku: Sudoku, count: int) -> Iterator[dict[str, Any]]:
    """The shares solved in every order of revealing and every number of steps, at the best temperature."""
    for order in ORDERS if model.model.takes_turns else (None,):
        for steps in (max(STEPS),) if model.model.writes_length else STEPS:
            about = {"steps": steps, "order": order or Sampling.order}
            ways = [model.sampling({**about, "temperature": t}) for t in TEMPERATURES]
            tried = [puzzle_scores(model, sudoku, way, count=count, seed=1) for way in ways]
            best = max(range(len(ways)), key=lambda i: sum(score["solved"] for score in tried[i]))
            scores = puzzle_scores(model, sudoku, ways[best], count=count, seed=2)
            yield {"order": order, "steps": steps, "temperature": TEMPERATURES[best], "puzzles": scores}


@dataclass(kw_only=True)
class Solve:
    """Trains contenders on grids for the same minutes, by turns, and gives them puzzles."""

    out: Path  # directory for the runs and the results
    size: int = 6  # 4, 6 or 9
    seeds: int = 1  # runs of each
    # As `sdlm compare` names them, or settings of the recipe.
    contenders: tuple[str, ...] = ("modern", "masked", "autoregressive")
    count: int = 200  # puzzles of each number of clues
    settings: Settings  # as for `sdlm train`, for all of them; 20 minutes when no budget is given

    def __call__(self) -> None:
        sudoku = Sudoku(self.size)
        grids = written(sudoku.lines(LINES, seed=0), self.out / "grids", "grids.txt", **CELLS)
        lines = sudoku.lines(LINES, seed=0, clues_first=True)
        clues_first = written(lines, self.out / "clues-first", "lines.txt", **CELLS)
        runs = {}
        for seed in range(self.seeds):
            for name in self.contenders:
                changed = {} if name in CONTENDERS else settings_of(name)
                # Cells are given in most examples, here and there.
                own = {"seed": seed, "cond_rate": 0.9, "span_share": 0.0, **changed}
                config, data = CONTENDERS.get(name, Config()), grids
                if config.objective == "autoregressive":
                    own, data = own | {"cond_rate": 0.0}, clues_first
                config = with_settings(config, {**own, **self.settings})
                if data is clues_first and config.steps:
                    config = replace(config, steps=2 * config.steps)
                runs[self.out / f"{name}-{seed}"] = config, data
        train_by_turns(runs)
        results: dict[str, Any] = {"settings": {"size": self.size, **self.settings}, "runs": {}}
        for run in runs:
            model = DiffusionLM.from_pretrained(run)
            about = {"machine": machine(), "progress": asdict(model.progress)}  # type: ignore[call-overload]
            results["runs"][run.name] = {**about, "points": list(points(model, sudoku, self.count))}
            (self.out / "sudoku.json").write_text(json.dumps(results, indent=1))
        print(solved_table(results))


def solved(results: Mapping[str, Any]) -> dict[str, dict[int, list[float]]]:
    """The share solved of the puzzles with fewest clues, of each seed: by contender and order of writing, and
    by steps."""
    found = dict[str, dict[int, list[float]]]()
    for run, own in results["runs"].items():
        for point in own["points"]:
            name = ", ".join(filter(None, (run.rpartition("-")[0], point["order"])))
            at_steps = found.setdefault(name, {}).setdefault(point["steps"], [])
            at_steps.append(point["puzzles"][0]["solved"])
    return found


def solved_table(results: Mapping[str, Any]) -> str:
    """The same as a table."""
    size, found = results["settings"]["size"], solved(results)
    head = [f"solved, {size} x {size}, {CLUES[size][0]} clues; steps:", *map(str, STEPS)]
    rows = [[name, *(shown(by_steps.get(each, [])) for each in STEPS)] for name, by_steps in found.items()]
    return table([head, *rows])


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(Solve)())
