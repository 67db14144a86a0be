"""The formulas of docs/scaling.md against what torch counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scaling
import torch
from scaling import Shape
from small_models import small
from speed import Training
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.loss import Draws
from simple_diffusion_lm.core.noise import level_at
from simple_diffusion_lm.core.train import Diffusion
from simple_diffusion_lm.core.transformer import Attention

NARROW = small(Config(), cond_rate=0.0)
WIDE = small(Config(), model_dim=96, layers=3, heads=3, embedding_dim=8)


def shape_of(config: Config, vocab: int, length: int) -> Shape:
    return Shape(config.model_dim, config.layers, vocab, length, config.embedding_dim)


def batch_of(count: int, length: int, vocab: int) -> Batch:
    text, number = torch.ones(count, length, dtype=torch.bool), torch.arange(count)
    return Batch(torch.randint(vocab, (count, length)), text, ~text, number, number / count)


@pytest.mark.parametrize("config", [NARROW, WIDE])
def test_parameters_are_counted_exactly(config: Config) -> None:
    model = Diffusion(config, 300)
    assert sum(p.numel() for p in model.parameters()) == scaling.parameters(shape_of(config, 300, 16))


@pytest.mark.parametrize("config", [NARROW, WIDE])
@pytest.mark.parametrize("training", [False, True])
def test_a_pass_costs_what_the_formula_says(config: Config, training: bool) -> None:
    """Exactly, with the predicted positions counted: a first pass, and a step's loss that has none."""
    batch, vocab = batch_of(6, 20, 300), 300
    draws, noisy = Draws.of(batch, 0, 0), batch._replace(cond_mask=torch.rand(6, 20) < 0.5)
    model = Diffusion(replace(config, self_cond_rate=0.0), vocab).requires_grad_(training)
    with FlopCounterMode(display=False) as counter:
        if training:
            losses = model.loss(batch, draws)
            losses.total.backward()
        else:
            x = torch.randn(6, 20, config.embedding_dim)
            model.embedding.interpolate(model(x, level_at(torch.zeros(6, 1, 1)), x, noisy).logits)
    count, free = batch.ids.numel(), int(losses.tokens if training else noisy.free.sum())
    shape = replace(shape_of(config, vocab, 20), first_passes=0, free=free / count)
    parts = scaling.training_flops(shape) if training else scaling.forward_flops(shape)
    assert counter.get_total_flops() == pytest.approx(count * sum(parts.values()), rel=1e-9)


def test_the_share_of_positions_is_the_recipes(toy_data: Any) -> None:
    batches, free, tokens = Training(small(Config()), toy_data).batches, 0, 0
    for epoch in range(10):
        for examples in batches.order(epoch):
            batch = batches.batch(epoch, examples)
            free += int(batch.free.sum())
            tokens += int(batch.length_mask.sum())
    assert free / tokens == pytest.approx(Shape(1, 1, 1, 1).free, rel=0.1)


@pytest.fixture
def trained(toy_data: Any) -> Training:
    training = Training(WIDE, toy_data)
    training.step()
    return training


def test_muon_costs_what_the_formula_says(trained: Training, toy_data: Any) -> None:
    for p in trained.state.model.parameters():
        p.grad = torch.ones_like(p)
    with FlopCounterMode(display=False) as counter:
        for optimizer in trained.state.optimizers.values():
            optimizer.step()
    assert counter.get_total_flops() == scaling.muon_flops(shape_of(WIDE, len(toy_data.tokenizer), 16))


def test_state_is_counted_exactly(trained: Training, toy_data: Any) -> None:
    expected = scaling.state_bytes(shape_of(WIDE, len(toy_data.tokenizer), 16))
    known = [tensors for o in trained.state.optimizers.values() for tensors in o.state.values()]
    found = [tensor.nbytes for tensors in known for tensor in tensors.values() if tensor.numel() > 1]
    assert sum(found) == expected["optimiser"]
    assert sum(p.nbytes for p in trained.state.model.parameters()) == expected["weights"]


def test_activations_are_near_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps of a step, each tensor once; with attention fused, as on a GPU."""
    fused = nn.functional.scaled_dot_product_attention
    monkeypatch.setitem(Attention.forward.__globals__, "attend_on_cpu", fused)

    def kept(layers: int, vocab: int) -> float:
        model = Diffusion(small(Config(), model_dim=128, layers=layers, heads=2, self_cond_rate=0.0), vocab)
        weights = {p.data_ptr() for p in model.train().parameters()}
        seen: dict[int, torch.Tensor] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            if x.untyped_storage().data_ptr() not in weights:
                seen[x.untyped_storage().data_ptr()] = x
            return x

        batch = batch_of(32, 16, vocab)
        keeping = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
        with keeping, torch.autocast("cpu", torch.bfloat16):
            model.loss(batch, Draws.of(batch, 0, 0))
        return sum(x.untyped_storage().nbytes() for x in seen.values()) / batch.ids.numel()

    layer = (kept(4, 256) - kept(2, 256)) / 2 / 128
    assert layer == pytest.approx(scaling.SAVED_PER_WIDTH, rel=0.15)
    word = (kept(2, 1024) - kept(2, 256)) / 768
    assert word == pytest.approx(scaling.SAVED_PER_VOCABULARY, rel=0.15)


def test_the_document_has_the_table_as_it_is_computed() -> None:
    document = Path(__file__).parents[2] / "docs" / "scaling.md"
    assert scaling.sizes_table() in document.read_text(encoding="utf-8")
