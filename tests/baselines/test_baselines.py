"""What holds for every baseline."""

import numpy as np
import pytest
import torch
from small_models import small
from texts import NAMES, batch_of, group_of, network, random_ids, sample
from torch import Tensor

from simple_diffusion_lm.baselines import MODELS
from simple_diffusion_lm.core.data import Batches, Corpus, Tokenizer
from simple_diffusion_lm.core.generate import Group, generate
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.core.train import Config, State, train
from simple_diffusion_lm.tasks.toy import ToyLanguage

V, B, L = 19, 3, 9


def test_they_are_among_the_models_that_can_be_trained() -> None:
    assert {"continuous", *NAMES} == set(MODELS)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_does_not_depend_on_the_rest_of_its_batch(name: str) -> None:
    model = network(name, V)
    ids = random_ids(B, L, V)
    together = group_of(batch_of(ids, [9, 6, 7]))
    alone = Group(batch_of(ids[1:2, :6]), together.keys[1:2])
    assert torch.equal(sample(model, together)[-1].ids[1, :6], sample(model, alone)[-1].ids[0])


@pytest.mark.parametrize("name", NAMES)
def test_constraints_hold_at_their_own_positions(name: str) -> None:
    batch, wanted = batch_of(torch.zeros(B, L, dtype=torch.long), [9, 6, 7]), random_ids(B, L, V)

    def constrain(logits: Tensor, where: Tensor) -> Tensor:
        return logits.masked_fill(torch.arange(V) != wanted[where][:, None], -torch.inf)

    *_, frame = sample(network(name, V), group_of(batch)._replace(constrain=constrain))
    assert torch.equal(frame.ids[batch.free], wanted[batch.free])


@pytest.mark.parametrize("name", NAMES)
def test_the_condition_of_a_text_is_seen(name: str) -> None:
    model = network(name, V, cond_dim=4)
    batch = batch_of(random_ids(B, L, V))
    draws = Draws.of(batch, seed=0, step=0)
    zeros, ones = (model.loss(batch._replace(cond=f(B, 1, 4)), draws).ce for f in (torch.zeros, torch.ones))
    assert not torch.allclose(zeros, ones)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_with_nothing_to_predict_has_no_loss(name: str) -> None:
    ids = random_ids(B, L, V)
    batch = batch_of(ids, cond_mask=torch.ones_like(ids, dtype=torch.bool))
    losses = network(name, V).loss(batch, Draws.of(batch, seed=0, step=0))
    losses.total.backward()
    assert (losses.total.item(), int(losses.tokens), len(losses.ce)) == (0, 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_bound_and_the_model_writes_lines(name: str) -> None:
    lines = ToyLanguage().lines(100, seed=0)
    tokenizer = Tokenizer.train(lines, 300, hard_vocab_limit=False)
    corpus = Corpus.of(map(tokenizer.encode, lines), tokenizer.eos_id)
    config = small(Config(), objective=name, cond_rate=0.0, steps=120, learning_rate=2e-2)
    batches = Batches(config, corpus, tokenizer.pad_id)
    state = State.of(config, torch.from_numpy(corpus.counts(len(tokenizer))))
    batch = batches.batch(0, np.arange(50))

    def bound() -> float:
        draws = Draws.of(batch, seed=0, step=0)
        found = state.model.eval().bound(batch, draws.t, draws.keys)
        return (found.total.sum() / found.tokens.sum()).item()

    before = bound()
    for _ in train(config, state, batches):
        pass
    assert bound() < before - 0.5
    written = generate(state.model, tokenizer, [9, 12, 15])
    assert len(set(written)) == 3
