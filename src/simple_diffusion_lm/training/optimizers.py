"""Optimisers: which weights are moved by what, and Muon. AdamW is torch's."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from .distributed import gather_gradients, is_divided
from .processes import autocast_dtype


def orthogonal(matrix: Float[Tensor, "M N"]) -> Float[Tensor, "M N"]:
    """Near U V' of a matrix U S V', in about the gradient's directions but all alike long.

    Five Newton-Schulz steps with Jordan's coefficients (2024), which leave singular values between
    0.7 and 1.2. In bfloat16 where the processor has it: where it is imitated, that takes forty
    times as long (docs/log.md).
    """
    x = matrix.to(autocast_dtype(matrix.device) or torch.float32)
    if tall := len(x) > x.shape[1]:
        x = x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(
            x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445
        )
    return x.T if tall else x


class Muon(Optimizer):
    """Steps of orthogonal matrices (Jordan 2024) with Nesterov's momentum and decoupled decay.

    They are as long as AdamW's, so that both take one learning rate (2502.16982, eq. 4).
    torch.optim.Muon does the same, but always in bfloat16.
    """

    MOMENTUM = 0.95

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            rate = group["lr"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
                momentum = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - self.MOMENTUM)
                update = orthogonal(p.grad.lerp(momentum, self.MOMENTUM))
                p.mul_(1 - rate * group["weight_decay"])
                p.add_(update, alpha=-rate * 0.2 * max(p.shape) ** 0.5)


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
    """Muon for the transformer's linear maps, AdamW for everything else.

    Under half of AdamW's steps to the same bound on captions, for about 5% more time a step
    (docs/log.md).
    """
    inside, outside = split_parameters(model)
    rate, betas = learning_rate, (0.9, beta2)
    matrices = Muon(inside, rate, weight_decay)
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
