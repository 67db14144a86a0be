"""What a run keeps on disk: tensors and JSON, nothing that can execute, nothing half written.

checkpoints/step-N/
    model.safetensors   the weights
    state.safetensors   what resuming needs besides: what the optimisers know
    manifest.json       the step, counters, and SHA-256 of both files and of itself; written last

The newest stay, and the one whose bound on held-out text was lowest. A checkpoint is built under a
temporary name, synced to the disk, and renamed into place, so it is there whole or not at all.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ..baselines import MODELS
from ..core import Config
from ..core.generate import TextModel
from ..core.train import Progress, State
from ..corpus.sealing import digest_of, sealed
from ..devices.processes import pick_device
from ..errors import UserError
from .config import CHOICES, MAY_CHANGE

MODEL, STATE, MANIFEST = "model.safetensors", "state.safetensors", "manifest.json"
KEPT = 2  # the newest checkpoints that stay on disk, besides the best
Tensors = dict[str, Tensor]  # by their names
TOO_OLD = "use the version that made this, or train anew (another --out)"


class Checkpoint(NamedTuple):
    """One that is whole."""

    path: Path
    manifest: dict[str, Any]

    def read(self, name: str) -> Tensors:
        """The weights (MODEL), or what resuming needs besides (STATE: state_tensors)."""
        return safetensors.torch.load_file(self.path / name)

    def load_into(self, model: TextModel, otherwise: str = TOO_OLD) -> None:
        """Loads the weights. Raises UserError where they do not fit; otherwise: what to do then."""
        own = model.state_dict()  # a student's checkpoint has its critic too, which only training loads
        tensors = {n: t for n, t in self.read(MODEL).items() if n in own or not n.startswith("critic.")}
        if {n: t.shape for n, t in tensors.items()} != {n: t.shape for n, t in own.items()}:
            raise UserError(f"{self.path}: holds another network than this: {otherwise}")
        model.load_state_dict(tensors)

    def restore(self, state: State) -> None:
        """Puts back all that was saved. Raises UserError where it is of another network."""
        self.load_into(state.model)
        known = {kind: optimizer.state_dict() for kind, optimizer in state.optimizers.items()}
        for key, tensor in self.read(STATE).items():
            kind, number, what = key.split(".")
            known[kind]["state"].setdefault(int(number), {})[what] = tensor
        for kind, optimizer in state.optimizers.items():
            optimizer.load_state_dict(known[kind])
        state.progress = Progress(**self.manifest["progress"])


def model_of(about: dict[str, Any]) -> TextModel:
    """The untrained model that config.json describes, on the device where it is to be used."""
    config = Config(**about["config"])
    for name, known in CHOICES.items():
        if (chosen := getattr(config, name)) not in known:
            raise UserError(f"{name} {chosen!r} is not known here: load it in Python, after what adds it")
    return MODELS[config.objective](config, about["vocab_size"]).to(pick_device()).eval()


def state_tensors(state: State) -> Tensors:
    """What resuming needs besides."""
    tensors = Tensors()
    for kind, optimizer in state.optimizers.items():
        for number, known in optimizer.state_dict()["state"].items():
            tensors |= {f"{kind}.{number}.{what}": tensor for what, tensor in known.items()}
    return tensors


def sync_directory(path: Path) -> None:
    """Makes a rename in this directory survive a power cut, where the system can: Windows opens no
    directories, and some network file systems do not sync them."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):  # the disk, not what it can do
            raise


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file and waits until it is on the disk. (safetensors' own save does not.)"""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(temporary, content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write(folder: Path, files: dict[str, Tensors], about: dict[str, Any]) -> None:
    """Makes a directory with these files of tensors, and a manifest of `about` and their SHA-256s."""
    digests = {}
    folder.mkdir()
    for name, tensors in files.items():
        content = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
        digests[name] = hashlib.sha256(content).hexdigest()
        write_synced(folder / name, content)
    manifest = sealed({**about, "sha256": digests})
    write_synced(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    sync_directory(folder)


def save(run: Path, step: int, model: Tensors, state: Tensors, about: dict[str, Any]) -> Path:
    """Writes checkpoints/step-N and removes all but the newest and the best. Returns its path.

    The manifest holds `about`. Its "bound", if any, decides which checkpoint is the best, "bound_error" how
    sure that is. Raises UserError when the disk refuses; the checkpoints before it are untouched.
    """
    folder = run / "checkpoints"
    final, temporary = folder / f"step-{step}", folder / f".step-{step}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".step-*.tmp"):  # by a kill
            shutil.rmtree(left)
        write(temporary, {MODEL: model, STATE: state}, {**about, "step": step})
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync_directory(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        advice = "checkpoints before it are whole: make room or rights there, and run the same command again"
        raise UserError(f"{final}: cannot save it ({error.strerror}); {advice}") from error
    *_, best = min(_bounds(run), default=(None,))
    for old in _steps(run)[KEPT:]:
        if old not in (best, final):  # damaged ones, which were passed over, may be of later steps
            shutil.rmtree(old)
    return final


def identity(about: dict[str, Any]) -> str:
    """A digest of all in config.json that a model's weights mean nothing without."""
    config = {k: v for k, v in about["config"].items() if k not in MAY_CHANGE}
    config = {k: float(v) if type(v) is int else v for k, v in config.items()}  # 0 is 0.0
    fixed = [about[key] for key in ("vocab_size", "tokenizer", "corpus", "stream", "lengths")]
    return digest_of([config, fixed])


def to_use(run: Path) -> Checkpoint | None:
    """The newest, unless an earlier one was better on held-out text, by more than the error.
    A small corpus is memorised before the budget is spent (docs/log.md). `run` may be a checkpoint, too."""
    if bounds := _bounds(run):
        (bound, error, _), (lowest, _, earlier) = bounds[0], min(bounds)
        if bound - lowest > error:
            return newest(earlier) or newest(run)
    return newest(run)


def _bounds(run: Path) -> list[tuple[float, float, Path]]:
    """Held-out bound, its error and the checkpoint, of those that have one, newest first."""
    bounds = []
    for path in _steps(run):
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            bounds.append((float(manifest["bound"]), float(manifest["bound_error"]), path))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return bounds


def run_of(path: Path) -> Path:
    """The run directory that a path names: itself, or that of a checkpoint in it."""
    is_checkpoint = path.parent.name == "checkpoints" and (path / MANIFEST).is_file()
    return path.parent.parent if is_checkpoint and not is_exported(path) else path


def is_exported(path: Path) -> bool:
    """Whether a directory holds a model by itself (runs/export.py): it is its own checkpoint."""
    return all((path / name).is_file() for name in (MANIFEST, "config.json"))


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named on stderr and passed over.
    run may be a checkpoint too, which is then the one."""
    for path in [run] if (run / MANIFEST).is_file() else _steps(run):
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            if manifest != sealed(manifest):
                raise ValueError(f"{MANIFEST} is not what was written")
            for name, digest in manifest["sha256"].items():  # only a digest notices a flipped bit
                with (path / name).open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                        raise ValueError(f"{name} is not what was written")
                with safetensors.safe_open(path / name, framework="pt"):
                    pass  # nor is anything read that could execute
            return Checkpoint(path, manifest)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            print(f"passing over {path}: {type(error).__name__}: {error}", file=sys.stderr)
    return None


def _steps(run: Path) -> list[Path]:
    """The checkpoint directories, newest first."""
    found = [p for p in (run / "checkpoints").glob("step-*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)
