"""A trained model by itself, to be kept, sent to somebody, or put on the Hugging Face Hub.

Its directory has config.json, as of a run but for what that says of its machine, model.safetensors and
manifest.json, as of a checkpoint, the tokenizer, and README.md, the model card.
"""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..core import Config
from ..corpus.sealing import sealed
from ..errors import UserError, first_line, installed, writing_to
from . import checkpoint
from .config import MAY_CHANGE
from .run import Loaded, load_run

LOCAL = ("prepared", "machine", "command")  # what config.json of a run says of its machine
HUB = ("huggingface_hub", "the hub needs huggingface_hub", "simple-diffusion-lm[hub]")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
KINDS = {
    "continuous": "A continuous diffusion language model: text is written whole, in a few passes",
    "masked": "A masked diffusion language model: text is written in any order, some tokens at a time",
    "autoregressive": "An autoregressive language model: text is written from left to right, token by token",
}
CARD_LINES = 8  # texts in a model card
TOY = Path(__file__).with_name("models") / "toy"  # an export that the package has (make toy-model)
CARD = Path(__file__).with_name("card.md")  # the model card, with its facts to be filled in


def export_run(run: Path, out: Path, lines: list[str], license: str = "unknown", half: bool = False) -> None:
    """Writes a model, which load_run reads, and its card with these lines into a new directory `out`.

    half: weights in bfloat16, which take half the room. Raises UserError where there is no run, or where
    `out` is taken or cannot be written, of which nothing is left then.
    """
    loaded = load_run(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already: choose another --out")
    tensors = loaded.model.state_dict()
    if half:  # buffers stay as they are: of a rounded frequency the sine is another number
        tensors |= {name: p.detach().to(torch.bfloat16) for name, p in loaded.model.named_parameters()}
    about = sealed({key: value for key, value in loaded.about.items() if key not in LOCAL})
    manifest = {"progress": asdict(loaded.progress), "run": checkpoint.identity(about), "bound": loaded.bound}
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            made = Path(temporary) / out.name
            checkpoint.write(made, {checkpoint.MODEL: tensors}, manifest)
            (made / "config.json").write_text(json.dumps(about, indent=1))
            for file in checkpoint.run_of(run).glob("tokenizer.*"):
                shutil.copy(file, made)
            (made / "README.md").write_text(card_of(out.name, loaded, lines, license), encoding="utf-8")
            made.replace(out)


def card_of(name: str, loaded: Loaded, lines: list[str], license: str) -> str:
    """The model card."""
    config, progress, usual = asdict(loaded.model.config), loaded.progress, asdict(Config())
    facts = {
        "parameters": f"{sum(p.numel() for p in loaded.model.parameters()):,}",
        "objective": loaded.model.config.objective,
        "vocabulary": f"{len(loaded.tokenizer):,} tokens",
        "trained for": f"{progress.step:,} steps, {progress.tokens:,} tokens",
        "corpus (SHA-256)": f"`{loaded.about['corpus']}`",
    }
    if loaded.bound is not None:
        sign = "" if loaded.model.writes_length else "at most "
        facts["held-out text"] = f"{sign}{loaded.bound:.3f} nats a token"
    own = (key for key in config if config[key] != usual[key] and key not in MAY_CHANGE)
    return CARD.read_text(encoding="utf-8").format(
        name=name,
        kind=KINDS.get(loaded.model.config.objective, "A language model"),
        license=license,
        facts="\n".join(f"| {what} | {value} |" for what, value in facts.items()),
        settings=", ".join(f"`{key}={config[key]}`" for key in own) or "none",
        lines="\n".join(f"    {line}" for text in lines for line in text.splitlines()),
    )


def find_run(run: str | Path) -> Path:
    """Where the model of a name is: in this directory, or, where there is none, in the package (`toy`), or on
    the Hugging Face Hub (USER/NAME), from where it is fetched. Raises UserError as push does."""
    if str(run) == TOY.name and not Path(run).is_dir():
        return TOY
    if not HUB_NAME.fullmatch(str(run)) or Path(str(run).split("/")[0]).exists():
        return Path(run)
    hub = installed(*HUB)
    try:
        return Path(hub.snapshot_download(str(run)))
    except Exception as error:
        raise UserError(f"{run}: no such directory, and the hub refuses ({first_line(error)})") from None


def push(folder: Path, name: str) -> str:
    """Puts an exported model on the Hugging Face Hub as USER/NAME, and returns its address.
    Raises UserError where it is none, without the extra `hub`, and for what the hub refuses."""
    if not checkpoint.is_exported(folder):
        raise UserError(f"{folder} is no exported model: sdlm export makes one of a run")
    hub = installed(*HUB)
    try:
        hub.HfApi().create_repo(name, exist_ok=True)
        return str(hub.HfApi().upload_folder(repo_id=name, folder_path=folder))
    except Exception as error:  # of the network, of the hub, or of the name
        raise UserError(f"{name}: the hub refuses ({first_line(error)})") from None
