"""No likelihood may be lower than the entropy of the source; a trained one comes near it."""

from dataclasses import replace

import pytest

from simple_diffusion_lm.evaluation.metrics import likelihood
from simple_diffusion_lm.generation import DiffusionLM
from simple_diffusion_lm.run import run_training
from simple_diffusion_lm.text.corpus import prepare
from simple_diffusion_lm.text.toy import ToyLanguage
from simple_diffusion_lm.training.recipes import modern, original, with_objective


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "most"),
    [
        (modern(), 0.4),
        (original(), 4.0),
        (with_objective(modern(), "masked"), 0.6),
        (with_objective(modern(), "autoregressive"), 0.4),
    ],
    ids=["modern", "original", "masked", "autoregressive"],
)
def test_the_likelihood_stays_above_the_entropy_and_comes_near(config, most, tmp_path):
    """The gap, the model's divergence from the language, in nats per token."""
    language = ToyLanguage()
    text, fresh = tmp_path / "toy.txt", tmp_path / "fresh.txt"
    text.write_text("\n".join(language.lines(20_000, seed=0)))
    fresh.write_text("\n".join(language.lines(2_000, seed=1)))
    data = prepare([text], tmp_path / "corpus", vocab_size=640, valid=[fresh], quiet=True)
    run_training(replace(config, steps=400, samples=1), data, tmp_path / "run", quiet=True)
    model = DiffusionLM.from_pretrained(tmp_path / "run")
    found = likelihood(model, data.valid, examples=1000)
    gap = found.nats_per_token - language.entropy() * found.texts / found.tokens
    print(f"{config.objective}: gap {gap:.3f} ± {found.standard_error:.3f}")
    assert -3 * found.standard_error < gap < most
