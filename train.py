"""The original command line: python train.py -d=TXT_CORPUS -spm=SPM_MODEL -ckpt=CHECKPOINTING_PATH

Its flags mean what they meant; the checkpointing path is now a run directory. Everything else is
`sdlm train --recipe original`.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from simple_diffusion_lm.cli.exits import exit_cleanly
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.corpus.prepare import open_prepared, prepare
from simple_diffusion_lm.devices.processes import on_rank_0
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.runs.config import RECIPES, check
from simple_diffusion_lm.runs.run import check_free, run_training

# Short flag, long flag, the field of Config that it sets, the script's default, help.
FLAGS: tuple[tuple[str, str, str, float, str], ...] = (
    ("-ep", "--epochs", "epochs", 100, ""),
    ("-b", "--batch_size", "batch_size", 256, "examples"),
    ("-lr", "--learning_rate", "learning_rate", 1e-4, ""),
    ("-wup", "--warmup_steps", "warmup_steps", 2000, ""),
    ("-decs", "--decay_steps", "decay_steps", 800_000, "to a tenth"),
    ("-wd", "--weight_decay", "weight_decay", 1e-4, ""),
    ("-acc", "--accumulation_steps", "accumulate", 1, "batches a step"),
    ("-edim", "--embedding_dim", "embedding_dim", 64, ""),
    ("-mdim", "--model_dim", "model_dim", 512, ""),
    ("-numl", "--num_layers", "layers", 8, ""),
    ("-do", "--dropout_prob", "dropout", 0.1, ""),
    ("-ld", "--layerdrop_prob", "layer_drop", 0.0, "0: layers are not dropped any more"),
    ("-cl", "--crop_length", "crop", 64, "tokens"),
    ("-ngen", "--num_examples", "samples", 8, "samples shown"),
)


def parser() -> argparse.ArgumentParser:
    """The original's flags with its defaults."""
    usage = "python train.py -d=corpus.txt -spm=tokenizer.model -ckpt=run"
    flags = argparse.ArgumentParser(prog="train.py", description=usage)
    flags.add_argument("-d", "--data_path", required=True, help="text, one example a line")
    flags.add_argument("-spm", "--spm_model", required=True, type=Path, help="SentencePiece model")
    flags.add_argument("-ckpt", "--checkpoint", required=True, type=Path, help="run directory")
    for short, long, field, default, text in FLAGS:
        flags.add_argument(short, long, dest=field, type=type(default), default=default, help=text)
    return flags


def configuration(flags: argparse.Namespace) -> Config:
    """The original recipe at the numbers the flags give; eight heads, as the script has."""
    numbers: dict[str, Any] = {field: getattr(flags, field) for _, _, field, _, _ in FLAGS}
    if numbers.pop("layer_drop"):
        raise UserError("-ld must be 0: layers are not dropped any more")
    batch_tokens = numbers["batch_size"] * numbers["crop"]
    fixed = {"batch_tokens": batch_tokens, "optimizer": "adamw", "heads": 8, "dropout_from": 0}
    return replace(RECIPES["original"], **fixed, **numbers)


def train() -> None:
    """Trains as the flags say."""
    flags = parser().parse_args()
    if flags.checkpoint.is_file():
        raise UserError(
            f"{flags.checkpoint}: a checkpoint of the original script cannot be read, since the network is "
            "another one (docs/theory.md): train anew, with a directory as -ckpt"
        )
    config, run = configuration(flags), flags.checkpoint
    check(config)
    on_rank_0(lambda: check_free(run))
    on_rank_0(lambda: prepare([flags.data_path], run / "corpus", tokenizer=flags.spm_model))
    run_training(config, open_prepared(run / "corpus"), run)


if __name__ == "__main__":
    exit_cleanly(train)
