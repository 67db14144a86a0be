"""What each part of the recipe is worth: the recipe with one thing changed, at equal minutes.

    python benchmarks/ablations.py CORPUS --out DIR --only batch table-random --minutes 8 --seeds 2

Trains and measures as `sdlm compare` does, and resumes as it does. CORPUS is left out for the
built-in toy language. What came of it stands in docs/log.md.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import tyro
import variants
from tyro.conf import Positional, arg
from variants import Variant

from simple_diffusion_lm.cli_options import TextOptions
from simple_diffusion_lm.cli_training import overrides
from simple_diffusion_lm.demo import toy_data
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation.compare import run_compare
from simple_diffusion_lm.exits import exit_cleanly
from simple_diffusion_lm.training.config import with_overrides
from simple_diffusion_lm.training.recipes import SIZES, modern

Overrides = dict[str, str]
NOTHING_GIVEN = {"prefix_rate": "0", "span_rate": "0", "random_rate": "0"}
SMALL = {field: str(value) for field, value in SIZES["small"].items()}

# Group: name: what is changed, settings or more than that. Each group is run together with the
# recipe as it is.
ABLATIONS: dict[str, dict[str, Overrides | Variant]] = {
    "schedule": {
        "cosine": {"schedule": "cosine"},
        "linear": {"schedule": "linear"},
        "gumbel": variants.gumbel,
        "cross-entropy slope": variants.cross_entropy_slope,
        "floor 0": variants.floor(0.0),
        "floor 0.2": variants.floor(0.2),
        "slow": variants.memory(0.9998),
    },
    "stagger": {
        "stagger 0": {"stagger": "0"},
        "stagger 2": {"stagger": "2"},
        "stagger 8": {"stagger": "8"},
        "stagger 64": {"stagger": "64"},
    },
    "order": {
        "random": {"left_to_right": "0"},
        "left to right": {"left_to_right": "1"},
        "nothing causal": {"causal": "0"},
        "random and nothing causal": {"left_to_right": "0", "causal": "0"},
    },
    "causal": {
        "0.5": {"causal": "0.5"},
        "0.9": {"causal": "0.9"},
    },
    "masks": {
        "nothing given": NOTHING_GIVEN,
        "spans": {"prefix_rate": "0", "span_rate": "0.4", "random_rate": "0"},
    },
    "table": {
        "dimension 32": {"embedding_dim": "32"},
        "dimension 128": {"embedding_dim": "128"},
        "random": {"cooccurrence": "False"},
        "layer norm": {"normaliser": "layer_norm"},
        "a third of the rate": variants.table_rate(1 / 3),
        "three times the rate": variants.table_rate(3.0),
        "tied to the head": variants.tied,
    },
    "objective": {
        "mse added": {"mse_weight": "1"},
        "bound added": variants.bound(1.0, cross_entropy=1.0),
        "bound alone": variants.bound(1.0, cross_entropy=0.0),
        "bound at last": variants.bound(1.0, cross_entropy=0.0, late=True),
        "pure noise 0.3": variants.silent(0.3),
        "words left out": variants.words_left_out(0.3),
    },
    "self-conditioning": {
        "none": {"self_cond_rate": "0"},
        "half": {"self_cond_rate": "0.5"},
    },
    "network": {
        "no convolution": {"width": "0"},
        "no posterior": {"posterior": "False"},
        "deep and narrow": {"model_dim": "96", "layers": "7"},
        "shallow and wide": {"model_dim": "184", "layers": "2"},
    },
    "level": {
        "told to each layer": variants.another_trunk(variants.told_to_each_layer),
        "told to all alike": variants.another_trunk(variants.told_to_all_alike),
        "added": variants.another_trunk(variants.AddedLevel),
    },
    "length": {
        "told at the start": variants.told_at_the_start,
    },
    "batch": {
        "512 tokens": {"batch_tokens": "512"},
        "1024 tokens": {"batch_tokens": "1024"},
        "4096 tokens": {"batch_tokens": "4096"},
        "two draws": variants.two_draws,
    },
    "dropout": {
        "none": {"dropout": "0"},
        "from the start": {"dropout_from": "0"},
    },
    "repeated": {
        "dropout 0.4": {"dropout": "0.4"},
        "words left out": variants.words_left_out(0.3, late=True),
        "causal 0.3": variants.late_causal(0.3),
    },
    "size": {
        "small": SMALL,
        "small at half the rate": SMALL | {"learning_rate": "1.5e-3"},
        "small at twice the rate": SMALL | {"learning_rate": "6e-3"},
    },
    "optimiser": {
        "adamw": {"optimizer": "adamw", "learning_rate": "2e-3"},
        "half the rate": {"learning_rate": "2e-3"},
        "twice the rate": {"learning_rate": "8e-3"},
        "linear": variants.rate_schedule(lambda done: 1 - done),
        "constant then down": variants.constant_then_down(0.3),
        "constant": variants.rate_schedule(lambda done: 1.0),
        "warm-up 10": {"warmup_steps": "10"},
        "warm-up 500": {"warmup_steps": "500"},
        "average 0.9999": {"ema": "0.9999"},
        "no average": {"ema": "0"},
    },
    "promising": {
        "floor and course": variants.together(
            variants.floor(0.2), variants.constant_then_down(0.3)
        ),
    },
}


# Contender: (its group, what is changed).
ALL = {
    f"{group} {name}".replace(" ", "-"): (group, changed)
    for group, names in ABLATIONS.items()
    for name, changed in names.items()
}


def ablate(
    out: Path,
    text: tyro.conf.OmitArgPrefixes[TextOptions],
    corpus: Positional[tuple[str, ...]] = (),
    only: tuple[str, ...] = tuple(ABLATIONS),
    minutes: float = 8.0,
    seeds: int = 1,
    examples: int = 2000,
    samples: int = 200,
    set: Annotated[tuple[str, ...], arg(metavar="NAME=VALUE ...")] = (),
) -> None:
    """Trains the recipe and its ablations for the same minutes, by turns, and measures all.

    Args:
        out: directory for the runs and the results.
        corpus: as for `sdlm train`; by default the built-in toy language.
        only: groups of ablations, or some of their names, as in `table-random`.
        minutes: training time of each.
        seeds: runs of each.
        examples: the most held-out texts to measure.
        samples: lines to generate at each setting.
        set: for all of them, as for `sdlm train`.
    """
    contenders = {"modern": modern()}
    changes: dict[str, Variant] = {}
    for contender, (group, changed) in ALL.items():
        if group in only or contender in only:
            if isinstance(changed, dict):
                contenders[contender] = with_overrides(modern(), changed)
            else:
                contenders[contender], changes[contender] = modern(), changed
    groups = list(ABLATIONS)
    if unknown := [name for name in only if name not in {*groups, *ALL}]:
        raise UserError(
            f"no {unknown[0]!r}: give groups ({', '.join(groups)}) or some of their names "
            f"({', '.join(ALL)})"
        )
    print(
        run_compare(
            text.open(corpus, out) if corpus else toy_data(out),
            out,
            contenders=contenders,
            minutes=minutes,
            seeds=range(text.seed, text.seed + seeds),
            examples=examples,
            samples=samples,
            overrides=overrides(set),
            within=lambda contender: changes.get(contender, nullcontext)(),
        )
    )


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(ablate))
