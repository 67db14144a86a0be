"""-log p of single texts, against models that are known exactly."""

import math

import pytest
import torch
from small_models import small

from simple_diffusion_lm.model.slots import Slot
from simple_diffusion_lm.scoring import nats_of
from simple_diffusion_lm.training.objectives import OBJECTIVES, embedding, trunk
from simple_diffusion_lm.training.recipes import modern, with_objective
from simple_diffusion_lm.twins.masked import Masked


class Counts(Masked):
    """p(token | k known ones) = 1 / (k + 2): every token tells how many were known."""

    def surprise(self, ids, length_mask, known, at):
        assert not known.flatten()[at].any()
        assert length_mask.all()
        return (known.sum(1)[at // ids.shape[1]] + 2.0).log()


@pytest.fixture
def counts():
    config = small(with_objective(modern(), "masked"))
    return Counts(embedding(config, 7), trunk(config), config.model_dim)


def test_each_token_is_given_all_that_is_given_and_those_before_it(counts):
    free, half = Slot.of([3, 1, 2], [0]), Slot.of([3, 1, 2, 4], [])
    half = half._replace(cond_mask=torch.tensor([False, True, True, False]))
    nats = nats_of(counts, [free, half], None)
    assert nats == pytest.approx([math.log(3 * 4 * 5), math.log(4 * 5)])


def test_the_length_is_paid_for(counts):
    text = Slot.of([3, 1], [0])
    (without,) = nats_of(counts, [text], None)
    (paid,) = nats_of(counts, [text], [0, 0, 3, 5])
    assert paid - without == pytest.approx(-math.log(5.5 / 9.5))


@pytest.mark.parametrize("objective", ["continuous", "masked", "autoregressive"])
def test_known_tokens_count_and_unknown_ones_are_not_looked_at(objective):
    """Summed over all texts of two tokens, the probabilities are 1."""
    torch.manual_seed(0)
    model = OBJECTIVES[objective](small(with_objective(modern(), objective)), 7)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    texts = [Slot.of([a, b], []) for a in range(7) for b in range(7)]
    assert sum(math.exp(-n) for n in nats_of(model, texts, None)) == pytest.approx(1, abs=1e-4)
