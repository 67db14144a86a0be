"""The original script's flags, read as a configuration of the `original` recipe."""

import argparse
from dataclasses import replace
from pathlib import Path

from .exits import exit_cleanly
from .run import check_free, run_training
from .text.corpus import open_prepared, prepare
from .training.config import Config
from .training.processes import on_rank_0
from .training.recipes import original


def parser() -> argparse.ArgumentParser:
    """The original's flags with its defaults."""
    flags = argparse.ArgumentParser(
        prog="train.py", description="python train.py -d=corpus.txt -spm=tokenizer.model -ckpt=run"
    )
    flags.add_argument("-d", "--data_path", required=True, help="text, one example a line")
    flags.add_argument("-spm", "--spm_model", required=True, type=Path, help="SentencePiece model")
    flags.add_argument("-ckpt", "--checkpoint", required=True, type=Path, help="run directory")
    flags.add_argument("-ep", "--epochs", type=int, default=100)
    flags.add_argument("-b", "--batch_size", type=int, default=256, help="examples")
    flags.add_argument("-lr", "--learning_rate", type=float, default=1e-4)
    flags.add_argument("-wup", "--warmup_steps", type=int, default=2000)
    flags.add_argument("-decs", "--decay_steps", type=int, default=800_000, help="to a tenth")
    flags.add_argument("-wd", "--weight_decay", type=float, default=1e-4)
    flags.add_argument("-acc", "--accumulation_steps", type=int, default=1, help="batches a step")
    flags.add_argument("-edim", "--embedding_dim", type=int, default=64)
    flags.add_argument("-mdim", "--model_dim", type=int, default=512)
    flags.add_argument("-numl", "--num_layers", type=int, default=8)
    flags.add_argument("-do", "--dropout_prob", type=float, default=0.1)
    flags.add_argument("-ld", "--layerdrop_prob", type=float, default=0.0)
    flags.add_argument("-cl", "--crop_length", type=int, default=64, help="tokens")
    flags.add_argument("-ngen", "--num_examples", type=int, default=8, help="samples shown")
    return flags


def configuration(flags: argparse.Namespace) -> Config:
    """The original recipe at the numbers the flags give; eight heads, as the script has."""
    return replace(
        original(),
        epochs=flags.epochs,
        batch_size=flags.batch_size,
        batch_tokens=flags.batch_size * flags.crop_length,
        optimizer="adamw",
        learning_rate=flags.learning_rate,
        warmup_steps=flags.warmup_steps,
        decay_steps=flags.decay_steps,
        weight_decay=flags.weight_decay,
        accumulate=flags.accumulation_steps,
        embedding_dim=flags.embedding_dim,
        model_dim=flags.model_dim,
        layers=flags.num_layers,
        heads=8,
        dropout=flags.dropout_prob,
        dropout_from=0,
        layer_drop=flags.layerdrop_prob,
        crop=flags.crop_length,
        samples=flags.num_examples,
    )


def train_from_flags() -> None:
    flags = parser().parse_args()
    config = configuration(flags)
    config.check()
    on_rank_0(lambda: check_free(flags.checkpoint))
    corpus = flags.checkpoint / "corpus"
    on_rank_0(lambda: prepare([flags.data_path], corpus, tokenizer=flags.spm_model))
    run_training(config, open_prepared(corpus), flags.checkpoint)


def main() -> None:
    exit_cleanly(train_from_flags)
