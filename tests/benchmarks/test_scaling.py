"""The formulas of docs/scaling.md against what torch counts."""

from pathlib import Path

import pytest
import scaling
import torch
from measure import Training, counting
from scaling import Shape
from small_models import small
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simple_diffusion_lm.text.corpus import Prepared
from simple_diffusion_lm.training.config import Config
from simple_diffusion_lm.training.objectives import OBJECTIVES
from simple_diffusion_lm.training.recipes import modern

NARROW = small(modern(), prefix_rate=0.0, span_rate=0.0, random_rate=0.0)
WIDE = small(modern(), model_dim=96, layers=3, heads=3, embedding_dim=8)


def shape_of(config: Config, vocab: int, length: int) -> Shape:
    return Shape(config.model_dim, config.layers, vocab, length, config.embedding_dim)


def trunk_of(model: nn.Module) -> nn.Module:
    return model.get_submodule("denoiser.transformer")


@pytest.mark.parametrize("config", [NARROW, WIDE])
def test_parameters_are_counted_exactly(config):
    model = OBJECTIVES["continuous"](config, 300)
    assert sum(p.numel() for p in model.parameters()) == scaling.parameters(
        shape_of(config, 300, 16)
    )


@pytest.mark.parametrize("config", [NARROW, WIDE])
def test_the_trunk_costs_what_the_formula_says(config):
    """Forward and backward of the transformer, whose inputs and levels are per position."""
    batch, length = 3, 20
    trunk = trunk_of(OBJECTIVES["continuous"](config, 300))
    shape = shape_of(config, 300, length)
    once, trained = scaling.forward_flops(shape), scaling.training_flops(shape)
    inputs = torch.randn(batch, length, 3 * config.embedding_dim, requires_grad=True)
    mask = torch.ones(batch, length, dtype=torch.bool)
    parts = ("trunk", "attention", "level")
    with FlopCounterMode(display=False) as counter:
        hidden = trunk(inputs, torch.randn(batch, length), mask)
    assert counter.get_total_flops() == batch * length * sum(once[part] for part in parts)
    with counter:
        hidden.sum().backward()
    assert counter.get_total_flops() == pytest.approx(
        batch * length * sum(trained[part] - once[part] for part in parts)
    )


def test_muon_costs_what_the_formula_says(toy_data):
    training = Training(WIDE, toy_data, torch.device("cpu"))
    with counting(list(training.state.optimizers.values())) as counted:
        training.step()
    shape = shape_of(WIDE, len(toy_data.tokenizer), 16)
    assert counted[0].optimizer == scaling.muon_flops(shape)


def test_a_training_step_costs_what_the_formula_says(toy_data: Prepared):
    """To a few hundredths: which texts have a first pass is drawn, and lengths differ.

    A step may compute logits only where there is a loss: never less than at half of the positions.
    """
    training = Training(NARROW, toy_data, torch.device("cpu"))
    needed, _, _ = training.flops()
    length = round(training.some_batches(1)[0].length_mask.sum(1).float().mean().item())
    shape = shape_of(NARROW, len(toy_data.tokenizer), length)
    most = scaling.training_flops(shape)
    head = most["head"] + most["mean embeddings"] + most["single-token logits"]
    assert sum(most.values()) - head / 2 < needed < 1.05 * sum(most.values())


def test_state_is_counted_exactly(toy_data: Prepared):
    training = Training(WIDE, toy_data, torch.device("cpu"))
    training.step()
    shape = shape_of(WIDE, len(toy_data.tokenizer), 16)
    expected = scaling.state_bytes(shape, "muon")
    slots = [
        slot.nbytes
        for optimizer in training.state.optimizers.values()
        for slots in optimizer.state.values()
        for slot in slots.values()
        if slot.numel() > 1
    ]
    assert sum(slots) == expected["optimiser"]
    assert sum(p.nbytes for p in training.state.averaged_model.parameters()) == expected["average"]


def test_activations_are_near_what_is_measured(monkeypatch):
    """What autograd keeps of a step, each tensor once; with attention fused, as on a GPU."""
    fused = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr("simple_diffusion_lm.model.transformer.attend_on_cpu", fused)

    def kept(layers: int, vocab: int) -> float:
        config = small(modern(), model_dim=128, layers=layers, heads=2)
        model = OBJECTIVES["continuous"](config, vocab).train()
        weights = {p.data_ptr() for p in model.parameters()}
        seen: dict[int, torch.Tensor] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            if x.untyped_storage().data_ptr() not in weights:
                seen[x.untyped_storage().data_ptr()] = x
            return x

        ids = torch.randint(vocab, (32, 16))
        text = torch.ones_like(ids, dtype=torch.bool)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
            torch.autocast("cpu", torch.bfloat16),
        ):
            model.loss(ids, text, ~text, torch.arange(32), seed=0, step=0)
        return sum(x.untyped_storage().nbytes() for x in seen.values()) / ids.numel()

    layer = (kept(4, 256) - kept(2, 256)) / 2 / 128
    assert layer == pytest.approx(scaling.SAVED_PER_WIDTH, rel=0.15)
    word = (kept(2, 1024) - kept(2, 256)) / 768
    assert word == pytest.approx(scaling.SAVED_PER_VOCABULARY, rel=0.15)


@pytest.mark.parametrize("table", scaling.TABLES)
def test_the_document_has_the_tables_as_they_are_computed(table):
    document = Path(__file__).parents[2] / "docs" / "scaling.md"
    assert table() in document.read_text()
