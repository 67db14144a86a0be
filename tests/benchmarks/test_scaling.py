"""The formulas of docs/scaling.md against what torch counts."""

from dataclasses import replace
from pathlib import Path as File

import pytest
import scaling
import torch
from measure import Training, counting
from scaling import Shape
from small_models import small
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simple_diffusion_lm.diffusion.loss import draw
from simple_diffusion_lm.diffusion.network import Targets
from simple_diffusion_lm.diffusion.schedule import Path, level_at
from simple_diffusion_lm.text.corpus import Prepared
from simple_diffusion_lm.training.config import Config
from simple_diffusion_lm.training.objectives import OBJECTIVES
from simple_diffusion_lm.training.recipes import modern

NARROW = small(modern(), prefix_rate=0.0, span_rate=0.0, random_rate=0.0)
WIDE = small(modern(), model_dim=96, layers=3, heads=3, embedding_dim=8)


def shape_of(config: Config, vocab: int, length: int) -> Shape:
    return Shape(
        config.model_dim, config.layers, vocab, length, config.embedding_dim, longest=config.crop
    )


@pytest.mark.parametrize("config", [NARROW, WIDE])
def test_parameters_are_counted_exactly(config):
    model = OBJECTIVES["continuous"](config, 300)
    assert sum(p.numel() for p in model.parameters()) == scaling.parameters(
        shape_of(config, 300, 16)
    )


@pytest.mark.parametrize("config", [NARROW, WIDE])
@pytest.mark.parametrize("training", [False, True])
def test_a_pass_costs_what_the_formula_says(config, training):
    """Exactly, with the targets counted: a first pass, and a step's loss that has none."""
    config = replace(config, self_cond_rate=0.0)
    batch, length, vocab = 6, 20, 300
    model = OBJECTIVES["continuous"](config, vocab).requires_grad_(training)
    seen: list[Targets] = []
    denoiser = model.get_submodule("denoiser")
    denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["targets"]), with_kwargs=True
    )
    ids = torch.randint(vocab, (batch, length))
    text = torch.ones_like(ids, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        if training:
            model.loss(ids, text, ~text, torch.arange(batch), seed=0, step=0).total.backward()
        else:
            t = torch.rand(batch, length).round(decimals=1)
            x = torch.randn(batch, length, config.embedding_dim)
            masks = {"cond_mask": t == 0, "length_mask": text, "targets": Targets.of(t, text)}
            level = level_at(torch.zeros(1, 1, 1))
            denoiser.interpolate(denoiser(x, level, x, ids=ids, **masks).logits)
    count = batch * length
    shape = replace(
        shape_of(config, vocab, length),
        self_cond=0.0,
        moving=len(seen[0].moving) / count,
        silent=len(seen[0].silent) / count,
    )
    parts = scaling.training_flops(shape) if training else scaling.forward_flops(shape)
    blank = 2 * config.embedding_dim * vocab
    assert len(seen[0].moving)
    assert len(seen[0].silent)
    assert counter.get_total_flops() == pytest.approx(count * sum(parts.values()) + blank, rel=1e-9)


def test_the_shares_of_positions_are_the_recipes(toy_data: Prepared):
    batches = Training(small(modern()), toy_data, torch.device("cpu")).batches
    moving, silent, tokens = 0, 0, 0
    for epoch in range(10):
        for examples in batches.order(epoch):
            batch = batches.batch(epoch, examples)
            draws = draw(0, epoch, batch.index, batch.length_mask, 1, 0.0)
            free = batch.length_mask & ~batch.cond_mask
            targets = Targets.of(Path.of(draws.order, free, modern().stagger)(draws.t), free)
            moving += len(targets.moving)
            silent += len(targets.silent)
            tokens += int(batch.length_mask.sum())
    shape = Shape(1, 1, 1, 1)
    assert moving / tokens == pytest.approx(shape.moving, rel=0.1)
    assert silent / tokens == pytest.approx(shape.silent, rel=0.1)


def test_muon_costs_what_the_formula_says(toy_data):
    training = Training(replace(WIDE, self_cond_rate=0.0), toy_data, torch.device("cpu"))
    with counting(list(training.state.optimizers.values())) as counted:
        training.step()
    shape = shape_of(WIDE, len(toy_data.tokenizer), 16)
    assert counted[0].optimizer == scaling.muon_flops(shape)


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
    document = File(__file__).parents[2] / "docs" / "scaling.md"
    assert table() in document.read_text()
