"""-log p of single texts, against models that are known exactly."""

import math

import pytest
import torch
from small_models import small

from simple_diffusion_lm.baselines import MODELS
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.bound import Bound
from simple_diffusion_lm.core.train import Diffusion
from simple_diffusion_lm.corpus.tokenizer import Tokenizer
from simple_diffusion_lm.writing.writer import DRAWS, Writer

V, EOS = 7, 1


class Tokens(Tokenizer):
    """Ids without spellings."""

    def __init__(self):
        self.eos_id = EOS
        self.texts = list(map(str, range(V)))

    def __len__(self):
        return V


def writer(model, weights=(0, 0, 3, 5), stream=False):
    return Writer(model, Tokens(), weights, stream=stream)


class Draws(Diffusion):
    """Remembers what its bound is asked for, and says so many nats a token as the first id is."""

    def __init__(self):
        super().__init__(small(Config()), V)
        self.asked = []

    def bound(self, batch, u, keys):
        self.asked.append((batch, u, keys))
        nats, nothing = batch.ids[:, 0] * batch.free.sum(1) * 2.0 * u, torch.zeros_like(u)
        return Bound(nothing, nothing, nats, batch.free.sum(1))


def test_the_bound_is_averaged_over_noise_that_all_texts_have_in_common():
    model = Draws()
    nats = writer(model, stream=True).nats([[3, 5], [2, 5, 5], [4, 5]])
    assert nats == pytest.approx([6, 6, 8])
    assert len(model.asked) == DRAWS
    for _, u, keys in model.asked:
        assert len(u.unique()) == len(keys.unique()) == 1
    assert len({float(u[0]) for _, u, _ in model.asked}) == DRAWS


def test_the_length_is_paid_for_and_the_end_is_not():
    (without,) = writer(Draws(), stream=True).nats([[3, 4]])
    (paid,) = writer(Draws()).nats([[3, 4, EOS]])
    assert paid - without == pytest.approx(-math.log(5.5 / 9.5))


@pytest.mark.parametrize("objective", ["masked", "autoregressive"])
def test_over_all_texts_the_probabilities_add_up_to_one(objective):
    """Exactly for the autoregressive model; a bound adds up to one at most."""
    torch.manual_seed(0)
    model = MODELS[objective](small(Config(objective=objective)), V)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    nats = writer(model, stream=True).nats([[a, b] for a in range(V) for b in range(V)])
    total = sum(math.exp(-n) for n in nats)
    assert total == pytest.approx(1, abs=1e-4) if model.writes_length else 0.5 < total <= 1 + 1e-4


@pytest.mark.parametrize("objective", list(MODELS))
def test_a_text_costs_the_same_beside_others(objective):
    torch.manual_seed(0)
    model = MODELS[objective](small(Config(objective=objective)), V)
    texts = [[2, 3, 4, EOS], [5, EOS], [6, 2, EOS]]
    weights = (0, 0, 3, 5, 4)
    together = writer(model, weights).nats(texts)
    assert together == pytest.approx([writer(model, weights).nats([text])[0] for text in texts], rel=1e-4)
