"""torch.compile where it pays: the elementwise parts of each layer fused into a few kernels."""

import sys
from itertools import product

import torch

from ..model.objective import Objective
from ..model.transformer import Transformer
from .config import Config
from .loop import drop_out
from .processes import autocast_dtype

WORTH_MINUTES = 10  # of training, from which on the minute that compiling may take comes back
RECOMPILATIONS = 256  # torch gives up at 8, which is fewer than the kinds of one comparison


def compile_layers(config: Config, model: Objective, device: torch.device) -> bool:
    """Compiles the layers of the model's trunk, in place; weights and their names stay as they are.

    Where the configuration leaves it open, for budgets of WORTH_MINUTES or more. One compilation
    serves all layers, and all batch sizes and lengths. Where nothing can be compiled (there is no
    C++ compiler, say) one line on stderr says so, and the layers stay as they were. Returns whether
    they are compiled.
    """
    pays = config.minutes is not None and config.minutes >= WORTH_MINUTES
    if not (pays if config.compile is None else config.compile):
        return False
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    trunk = next(module for module in model.modules() if isinstance(module, Transformer))
    for layer in trunk.layers:
        layer.compile(dynamic=True)
    try:
        goes_on = config.objective == "continuous" and config.causal > 0
        _try(trunk, device, goes_on=goes_on, dropout={False, config.dropout > 0})
    except Exception as error:  # whatever compilers raise
        for layer in trunk.layers:
            layer._compiled_call_impl = None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"torch.compile cannot ({reason}): training goes on without it", file=sys.stderr)
        return False
    return True


def _try(trunk: Transformer, device: torch.device, *, goes_on: bool, dropout: set[bool]) -> None:
    """Compiles for all that training calls for: the kinds of a pass, and any shape."""
    dtype = autocast_dtype(device)
    passes = [(False, False), (False, True), (True, True)]  # looks back only, has a gradient
    for drops, (back_only, gradient) in product(dropout, passes[: 2 + goes_on]):
        drop_out(trunk, drops)
        for count, length in ((5, 7), (6, 9)):
            x = torch.zeros(count, length, trunk.project.in_features, device=device)
            log_snr = torch.zeros(count, length, device=device)
            length_mask = torch.ones(count, length, dtype=torch.bool, device=device)
            with (
                torch.set_grad_enabled(gradient),
                torch.autocast(device.type, dtype, enabled=dtype is not None),
            ):
                out = trunk(x, log_snr, length_mask, causal=back_only).sum()
            if gradient:
                out.backward()
    trunk.zero_grad()
