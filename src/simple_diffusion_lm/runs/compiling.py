"""torch.compile where it pays: the elementwise parts of each layer fused into a few kernels."""

import copy
import sys
from itertools import product

import torch

from ..core import Config
from ..core.generate import TextModel
from ..core.train import autocast_dtype
from ..core.transformer import Transformer
from ..errors import first_line

WORTH_MINUTES = 10  # of training, from which on the minute that compiling may take comes back
RECOMPILATIONS = 256  # torch gives up at 8, which is fewer than the models of one comparison need


def compile_layers(config: Config, model: TextModel) -> bool:
    """Compiles the layers of the model's transformer, in place; weights and their names stay.

    Where the configuration leaves it open, for budgets of WORTH_MINUTES or more. One compilation serves all
    layers, and all batch sizes and lengths. Where nothing can be compiled (there is no C++ compiler, say)
    one line on stderr says so, and the layers stay as they were. Returns whether they are compiled.
    """
    pays = config.minutes is not None and config.minutes >= WORTH_MINUTES
    trunks = [module for module in model.modules() if isinstance(module, Transformer)]  # a student has two
    if not trunks or not (pays if config.compile is None else config.compile):
        return False
    torch.compiler.config.recompile_limit = RECOMPILATIONS
    try:
        _try(config, copy.deepcopy(trunks[0]))  # what is compiled for a copy is used for the layers too
    except Exception as error:  # whatever compilers raise
        print(f"torch.compile cannot ({first_line(error)}): training continues without it", file=sys.stderr)
        return False
    for layer in (layer for trunk in trunks for layer in trunk.layers):
        layer.compile(dynamic=True)
    return True


def _try(config: Config, trunk: Transformer) -> None:
    """Compiles all that training needs: with and without dropout and gradient, and any shape."""
    device = trunk.project.weight.device
    dtype = autocast_dtype(device)
    for layer in trunk.layers:
        layer.compile(dynamic=True)
    dropout = {False, config.dropout > 0}
    for drops, gradient, (count, length) in product(dropout, (False, True), ((5, 7), (6, 9))):
        trunk.train(drops)
        x = torch.zeros(count, length, trunk.project.in_features, device=device)
        log_snr = torch.zeros(count, 1, device=device)
        length_mask = torch.ones(count, length, dtype=torch.bool, device=device)
        with torch.set_grad_enabled(gradient), torch.autocast(device.type, dtype, enabled=dtype is not None):
            out = trunk(x, log_snr, length_mask).sum()
        if gradient:
            out.backward()
