"""The commands of `sdlm` that share a trained model."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from ..runs.export import push
from ..writing.model import DiffusionLM
from .options import Run


@dataclass(kw_only=True)
class Export:
    """sdlm export run --out my-model

    A model by itself: weights, configuration, tokenizer and a model card, nothing of this machine. All
    commands take it in place of a run.
    """

    run: Positional[Run]  # a run directory
    out: Path  # directory to make
    license: str = "unknown"  # of the model, as the Hugging Face Hub names it, for the card
    half: bool = False  # weights in bfloat16, which take half the room

    def __call__(self) -> None:
        model = DiffusionLM.from_pretrained(self.run)
        model.save_pretrained(self.out, license=self.license, half=self.half)
        print(f"exported; read {self.out}/README.md. Then: sdlm push {self.out} USER/NAME", file=sys.stderr)


@dataclass(kw_only=True)
class Push:
    """sdlm push my-model USER/NAME

    Puts an exported model on the Hugging Face Hub, where all commands find it by USER/NAME.
    """

    model: Positional[Path]  # a directory that sdlm export made
    name: Positional[str]  # on the hub, as USER/NAME

    def __call__(self) -> None:
        print(push(self.model, self.name))
