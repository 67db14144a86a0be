"""What each part of the recipe is worth: the recipe with one thing changed, at equal minutes or steps.

    python benchmarks/ablations.py CORPUS --out DIR --only batch dropout=0 --steps 1200 --seeds 2

Trains and measures as `sdlm compare` does, and resumes as it does. CORPUS is left out for the
built-in toy language. What came of it stands in docs/log.md.
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
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation.compare import run_compare
from simple_diffusion_lm.runs.config import with_settings

# Group: what is changed in the recipe, as flags have it; each is a contender of that name, run together with
# the recipe as it is.
ABLATIONS: dict[str, tuple[str, ...]] = {
    # The control: blanks in place of noise.
    "noise": ("objective=masked",),
    "self-conditioning": ("self_cond_rate=0", "self_cond_rate=0.5"),
    "given": ("cond_rate=0", "span_share=0", "span_share=1"),
    "schedule": ("schedule=cosine",),
    "objective": ("mse_weight=1",),
    "network": ("width=0", "posterior=False"),
    "shape": ("model_dim=96,layers=7", "model_dim=184,layers=2"),
    "table": ("cooccurrence=False", "embedding_dim=32", "embedding_dim=128", "normaliser=layer_norm"),
    "batch": ("batch_tokens=1024", "batch_tokens=4096"),
    "dropout": ("dropout=0", "dropout=0.4", "dropout_from=0"),
    "rate": (
        *("learning_rate=2e-3", "learning_rate=8e-3", "decay_steps=1000000000"),  # the last: constant
        *("warmup_steps=10", "warmup_steps=500"),
    ),
    "optimiser": ("optimizer=adamw,learning_rate=2e-3",),
}


@dataclass(kw_only=True)
class Ablate(TextOptions):
    """Trains the recipe and its ablations for the same budget, and measures all."""

    out: Path  # directory for the runs and the results
    corpus: Positional[tuple[str, ...]] = ()  # as for `sdlm train`; by default the built-in toy language
    only: tuple[str, ...] = tuple(ABLATIONS)  # groups of ablations, or settings (dropout=0)
    seeds: int = 1  # runs of each
    examples: int = 2000  # the most held-out texts to measure
    lines: int = 200  # to generate at each way of sampling
    settings: Settings  # as for `sdlm train`, for all of them

    def __call__(self) -> None:
        if unknown := [word for word in self.only if word not in ABLATIONS and "=" not in word]:
            raise UserError(f"no group {unknown[0]!r}: the groups are {', '.join(ABLATIONS)}")
        names = [name for word in self.only for name in ABLATIONS.get(word, [word])]
        tables = run_compare(
            self.open(self.corpus, self.out) if self.corpus else toy_data(self.out),
            self.out,
            contenders={"modern": Config()}
            | {name: with_settings(Config(), settings_of(name)) for name in names},
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
