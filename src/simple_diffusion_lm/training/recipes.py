"""Recipes: functions that return a configuration. Read one to know a system whole."""

from collections.abc import Callable
from dataclasses import replace

from .config import Config


def modern() -> Config:
    """The default, and the best known: one cross-entropy, x0_hat as a mixture of embeddings.

    softmax(logits) @ E for the estimate (CDCD, Plaid), the single-token posterior shown to the
    network and added to its logits, rows of E at norm sqrt(D), a fitted schedule, stratified
    noise levels, EMA with warm-up. Seven batches in ten to learn to go on from a text, the others
    with noise that mostly comes from right to left, at last with self-conditioning. Dropout once a
    corpus has been read a few times.
    """
    return Config()


def original() -> Config:
    """The document's own system: x0 regressed, MSE + cross-entropy of its projection.

    Cosine schedule, LayerNorm on the embeddings, x_t and not its posterior as input, interpolated
    self-conditioning half of the time, and a low share of fully random conditional masks.
    The optimiser's numbers are modern's, so that the two compare as systems.
    """
    return replace(
        modern(),
        width=0,
        cooccurrence=False,
        regress=True,
        posterior=False,
        schedule="cosine",
        causal=0.0,
        stagger=0.0,
        left_to_right=0.0,
        self_cond_rate=0.5,
        self_cond_from=0.0,
        mse_weight=1.0,
        ce_weight=1.0,
        normaliser="layer_norm",
        prefix_rate=0.0,
        span_rate=0.0,
        random_rate=0.1,
    )


def with_objective(config: Config, objective: str) -> Config:
    """The same trunk, data and optimiser for another objective.

    The twins have no conditional masks: given tokens would only take from what they learn.
    """
    if objective == config.objective:
        return config
    return replace(config, objective=objective, prefix_rate=0.0, span_rate=0.0, random_rate=0.0)


RECIPES: dict[str, Callable[[], Config]] = {"modern": modern, "original": original}

# One dial: width, depth, learning rate and batch go together. Parameters without the two vocabulary
# tables: about 0.8, 3.2, 25 and 85 million. The first two have been measured for quality
# (docs/log.md); the learning rates of the others fall with width as is usual, and their batches
# keep what Muon costs, which is once a step, small beside the model (docs/scaling.md).
SIZES: dict[str, dict[str, float]] = {
    "tiny": {"model_dim": 128, "layers": 4, "heads": 4, "learning_rate": 4e-3},
    "small": {"model_dim": 256, "layers": 4, "heads": 4, "learning_rate": 3e-3},
    "base": {
        "model_dim": 512,
        "layers": 8,
        "heads": 8,
        "learning_rate": 1.5e-3,
        "batch_tokens": 8192,
    },
    "large": {
        "model_dim": 768,
        "layers": 12,
        "heads": 12,
        "learning_rate": 1e-3,
        "batch_tokens": 8192,
    },
}


def sized(config: Config, size: str) -> Config:
    """The configuration at one of SIZES."""
    return replace(config, **SIZES[size])  # type: ignore[arg-type]
