"""From a configuration to a model: the same trunk, whatever it is trained to do."""

from collections.abc import Callable

from ..diffusion.schedule import SCHEDULES, FittedSchedule
from ..model.continuous import Continuous
from ..model.denoiser import Denoiser
from ..model.embedding import NORMALISERS, TokenEmbedding
from ..model.objective import Objective
from ..model.transformer import Transformer
from ..twins.autoregressive import Autoregressive
from ..twins.masked import Masked
from .config import FITTED, Config


def continuous(config: Config, vocab_size: int) -> Objective:
    """A denoiser, and the schedule: a formula, or the module that is fitted on the way."""
    denoiser = Denoiser(
        embedding(config, vocab_size),
        trunk(config, inputs=3, told_level=not config.posterior),
        config.model_dim,
        regress=config.regress,
        posterior=config.posterior,
        reads_ahead=config.crop if config.causal > 0 else None,
    )
    schedule = (
        FittedSchedule(config.embedding_dim, vocab_size)
        if config.schedule == FITTED
        else SCHEDULES[config.schedule]
    )
    return Continuous(
        denoiser,
        schedule,
        mse_weight=config.mse_weight,
        ce_weight=config.ce_weight,
        self_cond_rate=config.self_cond_rate,
        self_cond_from=config.self_cond_from,
        stagger=config.stagger,
        left_to_right=config.left_to_right,
        causal=config.causal,
    )


def masked(config: Config, vocab_size: int) -> Objective:
    return Masked(embedding(config, vocab_size), trunk(config), config.model_dim)


def autoregressive(config: Config, vocab_size: int) -> Objective:
    causal = trunk(config, causal=True)
    return Autoregressive(embedding(config, vocab_size), causal, config.model_dim)


def embedding(config: Config, vocab_size: int) -> TokenEmbedding:
    return TokenEmbedding(vocab_size, config.embedding_dim, NORMALISERS[config.normaliser])


def trunk(
    config: Config, *, inputs: int = 1, told_level: bool = False, causal: bool = False
) -> Transformer:
    """The transformer, for `inputs` embeddings side by side."""
    return Transformer(
        inputs * config.embedding_dim,
        config.model_dim,
        config.layers,
        config.heads,
        dropout=config.dropout,
        layer_drop=config.layer_drop,
        width=config.width,
        told_level=told_level,
        causal=causal,
    )


OBJECTIVES: dict[str, Callable[[Config, int], Objective]] = {
    "continuous": continuous,
    "masked": masked,
    "autoregressive": autoregressive,
}
