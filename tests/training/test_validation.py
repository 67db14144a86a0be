import json
import math

import pytest
import torch
from small_models import small

from simple_diffusion_lm.diffusion.likelihood import Bound
from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.evaluation.evaluate import evaluate_run
from simple_diffusion_lm.evaluation.metrics import likelihood, plain_batches
from simple_diffusion_lm.generation import DiffusionLM
from simple_diffusion_lm.training.objectives import OBJECTIVES
from simple_diffusion_lm.training.recipes import modern
from simple_diffusion_lm.training.validation import held_out_bound, length_cost


def test_length_cost_is_a_distribution_that_rules_nothing_out():
    weights = [0, 0, 5, 3, 0]  # lengths 2 and 3 were seen, 1 and 4 were not
    cost = length_cost(torch.tensor([1, 2, 3, 4]), weights)
    assert (-cost).exp().sum().item() == pytest.approx(1.0)
    assert cost[1].item() == pytest.approx(-math.log(5.5 / 10))
    assert cost.isfinite().all()


def test_the_total_is_the_sum_of_its_parts_and_above_the_entropy(toy_run, toy_text):
    result = evaluate_run(toy_run, [toy_text], samples=0).likelihood
    parts = result.prior + result.diffusion + result.reconstruction + result.length
    assert result.nats_per_token == pytest.approx(parts)
    assert result.nats_per_text == pytest.approx(parts * result.tokens / result.texts)
    characters = len(toy_text.read_text())
    assert result.characters == characters
    bits = result.nats_per_text * result.texts / math.log(2)
    assert result.bits_per_character == pytest.approx(bits / characters)
    assert result.length > 0
    words = len(toy_text.read_text().split()) + result.texts
    assert result.perplexity_per_word == pytest.approx(
        math.exp(result.nats_per_text * result.texts / words)
    )
    assert json.dumps(result.__dict__)


@pytest.mark.parametrize("estimate", ["carried", "flow"])
def test_other_estimates_are_of_the_same(estimate, toy_run, toy_data):
    """Of an untrained model: near its bound, though of another sampler."""
    model = DiffusionLM.from_pretrained(toy_run)
    model.model.stagger = 0.0  # at one level for all positions a draw says most
    bound = likelihood(model, toy_data.train, examples=30, draws=4)
    other = likelihood(model, toy_data.train, examples=30, estimate=estimate)
    assert other.nats_per_token == pytest.approx(bound.nats_per_token, rel=0.15)
    assert other.tokens == bound.tokens
    twin = DiffusionLM(
        OBJECTIVES["masked"](small(modern()), 300), toy_data.tokenizer, [0, 1], stream=False
    )
    with pytest.raises(UserError, match="only continuous diffusion"):
        likelihood(twin, toy_data.train, estimate=estimate)


def test_every_draw_is_spread_over_all_levels(toy_run, toy_data):
    """A cost that is u^2 at level u has the mean 1/3, at any number of draws."""
    model = DiffusionLM.from_pretrained(toy_run)

    def estimate(ids, length_mask, cond_mask, u, generator):
        assert ((u >= 0) & (u < 1)).all()
        nothing = torch.zeros(len(u))
        return Bound(nothing, u**2, nothing, torch.ones(len(u), dtype=torch.long))

    for draws in (1, 3):
        found = held_out_bound(
            model.model,
            plain_batches(model, toy_data.train),
            model.length_weights,
            examples=300,
            draws=draws,
            device=torch.device("cpu"),
            estimate=estimate,
        )
        assert found.diffusion == pytest.approx(1 / 3, abs=0.01)
