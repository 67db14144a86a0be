"""Corpora written and read back."""

from pathlib import Path

from simple_diffusion_lm.core.data import Corpus
from simple_diffusion_lm.corpus.prepare import Prepared


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def decoded(prepared: Prepared, part: Corpus) -> list[str]:
    assert all(ids[-1] == prepared.tokenizer.eos_id for ids in part)
    return [prepared.tokenizer.decode(ids) for ids in part]
