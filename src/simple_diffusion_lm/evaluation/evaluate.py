"""How good is a run? Its likelihood on held-out text, and what can be said of its samples."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..generation import DiffusionLM
from ..model.slots import SAMPLER, STEPS, TEMPERATURE
from ..text.corpus import Corpus, Prepared, prepare
from ..text.tokenizer import Tokenizer
from ..training.checkpoint import run_of
from .metrics import Likelihood, example_texts, likelihood, plain_batches
from .samples import FEWEST_LINES, Reference, SampleMetrics, sample_metrics, shuffled_words

REFERENCE_TOKENS = 5_000_000  # of the training part, for the judge and for what is copied


@dataclass(frozen=True)
class Evaluation:
    """A likelihood, and the same figures for sets of lines: real ones, shuffled ones, samples."""

    likelihood: Likelihood
    lines: dict[str, SampleMetrics]


def evaluate_run(
    run: Path,
    data: Sequence[str | Path] = (),
    *,
    examples: int = 2000,
    samples: int = 500,
    estimate: str = "two-pass",
    steps: int = STEPS,
    sampler: str = SAMPLER,
    temperature: float = TEMPERATURE,
    seed: int = 0,
) -> Evaluation:
    """Measures a run on the given files, or on its own held-out part.

    samples is how many lines are generated, 0 for the likelihood alone; they are held against as
    many held-out ones, and need the corpus the run was trained on. estimate:
    as for `likelihood`.

    Raises UserError when there is no run, when nothing was held out and no file is given, and, for
    samples, without the extra `eval`.
    """
    model = DiffusionLM.from_pretrained(run)
    with tempfile.TemporaryDirectory() as directory:
        if data:
            tokenizer = run_of(run) / "tokenizer.model"
            corpus = prepare_for(tokenizer, data, Path(directory) / "corpus").train
        else:
            corpus = DiffusionLM.trained_on(run).valid
            if not len(corpus):
                raise UserError(f"{run}: nothing was held out from its corpus; give --data FILE")
        result = likelihood(model, corpus, examples=examples, seed=seed, estimate=estimate)
        if not samples:
            return Evaluation(result, {})
        real = example_texts(model, corpus, samples)
        if min(len(real), samples) < FEWEST_LINES:
            raise UserError(
                f"{min(len(real), samples)} texts are too few to measure samples by: "
                f"give --samples 0, or {FEWEST_LINES} or more of both"
            )
        reference = Reference.of(reference_texts(model, DiffusionLM.trained_on(run).train), real)
    lines = model.generate(
        samples, steps=steps, sampler=sampler, temperature=temperature, seed=seed
    )
    return Evaluation(result, {**real_rows(reference), "samples": sample_metrics(lines, reference)})


def reference_texts(model: DiffusionLM, train: Corpus) -> list[str]:
    """Texts of the training part: all, or as many as have REFERENCE_TOKENS together."""
    mean = float(plain_batches(model, train).lengths.mean())
    return example_texts(model, train, int(REFERENCE_TOKENS / mean))


def real_rows(reference: Reference) -> dict[str, SampleMetrics]:
    """The rows that every table has: held-out text, and the same with its words shuffled."""
    return {
        "held-out text": sample_metrics(reference.valid, reference),
        "its words shuffled": sample_metrics(shuffled_words(reference.valid), reference),
    }


def prepare_for(tokenizer_file: Path, data: Sequence[str | Path], directory: Path) -> Prepared:
    """Encodes files whole with a run's tokenizer, none of them held out."""
    Tokenizer.load(tokenizer_file)
    return prepare(data, directory, tokenizer=tokenizer_file, valid=data, quiet=True)
