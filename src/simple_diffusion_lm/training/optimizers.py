"""Optimisers: which weights are moved by what. Both come from torch."""

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from .distributed import gather_gradients, is_divided


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(weights of linear maps inside the transformer, everything else).

    Everything else is tables, heads, biases and short convolutions: their rows are not directions
    of one space, so neither orthogonal updates nor decay suit them.
    """
    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "transformer" in name
    }
    inside = [p for name, p in model.named_parameters() if name in linear]
    outside = [p for name, p in model.named_parameters() if name not in linear]
    return inside, outside


def adamw(
    model: nn.Module, learning_rate: float, beta2: float, weight_decay: float
) -> dict[str, Optimizer]:
    """AdamW (1711.05101) in one fused kernel; only linear maps inside the transformer decay."""
    inside, outside = split_parameters(model)
    groups = [
        {"params": inside, "weight_decay": weight_decay},
        {"params": outside, "weight_decay": 0.0},
    ]
    betas = (0.9, beta2)
    return {"adamw": torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)}


def muon(
    model: nn.Module, learning_rate: float, beta2: float, weight_decay: float
) -> dict[str, Optimizer]:
    """Muon (Jordan 2024; scaled as in 2502.16982) for the transformer's linear maps, else AdamW.

    Under half of AdamW's steps to the same bound on captions, for about 5% more time a step
    (docs/log.md).
    """
    inside, outside = split_parameters(model)
    rate, betas = learning_rate, (0.9, beta2)
    matrices = torch.optim.Muon(
        inside, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    if is_divided(inside[0]):
        matrices.register_step_pre_hook(gather_gradients)
    return {
        "muon": matrices,
        "adamw": torch.optim.AdamW(outside, lr=rate, betas=betas, weight_decay=0.0, fused=True),
    }


Build = Callable[[nn.Module, float, float, float], dict[str, Optimizer]]

OPTIMIZERS: dict[str, Build] = {
    "adamw": adamw,
    "muon": muon,
}
