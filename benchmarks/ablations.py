"""What each part of the recipe is worth: the recipe with one thing changed, at equal minutes or steps.

    python benchmarks/ablations.py CORPUS --out DIR --only width=0 dropout=0 --steps 1200 --seeds 2

Trains, measures and resumes as `sdlm compare` does; without CORPUS on the built-in toy language.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro
from measure import settings_of
from tyro.conf import Positional

from simple_diffusion_lm.cli.demo import toy_data
from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.cli.options import Settings, TextOptions
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.evaluation.compare import run_compare
from simple_diffusion_lm.runs.config import with_settings

# What is changed in the recipe, as flags have it: each is a contender of that name, beside the recipe itself.
INGREDIENTS = (
    *("posterior=False", "cooccurrence=False", "optimizer=adamw,learning_rate=2e-3", "self_cond_rate=0"),
    *("bell_times=False", "late_given=False", "width=0", "cond_rate=0", "schedule=cosine"),
    "objective=masked",  # the control: blanks in place of noise
)


@dataclass(kw_only=True)
class Ablate(TextOptions):
    """Trains the recipe and its ablations for the same budget, and measures all."""

    out: Path  # directory for the runs and the results
    corpus: Positional[tuple[str, ...]] = ()  # as for `sdlm train`; by default the built-in toy language
    only: tuple[str, ...] = INGREDIENTS  # what to change, one at a time (dropout=0)
    seeds: int = 1  # runs of each
    examples: int = 2000  # the most held-out texts to measure
    lines: int = 200  # to generate at each way of sampling
    settings: Settings  # as for `sdlm train`, for all of them

    def __call__(self) -> None:
        tables = run_compare(
            self.open(self.corpus, self.out) if self.corpus else toy_data(self.out, self),
            self.out,
            contenders={"modern": Config()}
            | {name: with_settings(Config(), settings_of(name)) for name in self.only},
            seeds=range(self.seed, self.seed + self.seeds),
            examples=self.examples,
            samples=self.lines,
            settings=self.settings,
            steps=(64, 16, 8, 4),
            orders=("random",),
        )
        print(tables)


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(Ablate)())
