"""FLOPs as the benchmarks count them, against arithmetic by hand; and what they call padding."""

from dataclasses import replace

import measure
import numpy as np
import pytest
import torch
from measure import Training, counting
from small_models import small
from torch import nn

from simple_diffusion_lm.model import embedding
from simple_diffusion_lm.training.recipes import modern, with_objective

CPU = torch.device("cpu")


def autoregressive_flops(config, vocab_size, lengths, count):
    """A step of the twin by hand: every product forward, then to its weights and its inputs.

    Texts are of these lengths, padding included; count is the real tokens, which are predicted.
    """
    m, d, layers = config.model_dim, config.embedding_dim, config.layers
    total = 3 * count * 2 * m * vocab_size
    for length in lengths:
        token = 2 * d * m + layers * 2 * (3 + 1 + 4 + 4) * m**2
        attention = layers * 2 * 2 * length**2 * m
        total += 3 * (length * token + attention)
    return total


def test_flops_are_those_of_the_text_without_padding(toy_data, monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 1)
    config = small(with_objective(modern(), "autoregressive"), optimizer="adamw", batch_tokens=4096)
    training = Training(config, toy_data, CPU)
    lengths = training.some_batches(1)[0].length_mask.sum(1)
    assert len(lengths.unique()) > 1
    needed, executed, optimizer = training.flops()
    padded = torch.full_like(lengths, lengths.max())
    count = int(lengths.sum())
    vocab = len(toy_data.tokenizer)
    assert needed * count == autoregressive_flops(training.config, vocab, lengths.tolist(), count)
    assert executed * count == autoregressive_flops(training.config, vocab, padded.tolist(), count)
    assert optimizer == 0


def test_counting_leaves_training_where_it_was(toy_data):
    """But for the two steps it takes: the batches after it are those that would have come."""
    one, other = (Training(small(modern()), toy_data, CPU) for _ in range(2))
    one.step()
    other.step()
    one.flops()
    assert [one.step() for _ in range(3)] == [other.step() for _ in range(3)]
    places = [(t.state.progress.epoch, t.state.progress.position) for t in (one, other)]
    assert places[0] == places[1]


def test_the_optimizers_products_are_counted_apart():
    layer = nn.Linear(8, 8, bias=False)
    muon = torch.optim.Muon(layer.parameters(), ns_steps=1)
    with counting([muon]) as counted:
        layer(torch.ones(4, 8)).sum().backward()
        muon.step()
    assert counted[0].model == 2 * 2 * 4 * 8 * 8  # forward, and to the weight
    assert counted[0].optimizer == 3 * 2 * 8**3


def test_padding_is_the_share_that_is_no_text(toy_data):
    config = replace(small(modern()), batch_tokens=10**6)  # all texts in one batch
    training = Training(config, toy_data, CPU)
    lengths = np.minimum(toy_data.train.lengths, config.crop)
    assert training.padding() == pytest.approx(1 - lengths.mean() / lengths.max())


def test_peaks_are_of_both_dtypes():
    assert set(measure.peaks(CPU, smoke=True)) == {"bfloat16", "float32"}
    assert min(measure.peaks(CPU, smoke=True).values()) > 0
