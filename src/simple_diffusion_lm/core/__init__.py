"""The system in ten files, and here every number in it. Read them in this order: noise, embedding,
transformer, denoiser, loss, sampler, bound, data, generate, train. "The original README" is that of
thorinf/simple-diffusion-lm, whose system is the recipe `original`.

    python -m simple_diffusion_lm.core.train corpus.txt
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, except its corpus. The defaults are the `modern` recipe."""

    # The network.
    embedding_dim: int = 64
    model_dim: int = 128
    layers: int = 4
    heads: int = 4
    width: int = 5  # of the short convolution before each layer, odd; 0: none
    dropout: float = 0.1
    dropout_from: int = 4  # passes over the corpus, before which there is no dropout
    normaliser: str = "unit_scale"  # a name in core.embedding.NORMALISERS
    cooccurrence: bool = True  # start the table from co-occurrence statistics, or at random
    regress: bool = False  # x0_hat from a linear head, or the mean under softmax(logits)
    posterior: bool = True  # show the network the posterior mean, add the likelihood to the logits
    cond_dim: int = 0  # numbers in a text's condition (a class label, say); 0: there is none

    # The objective.
    objective: str = "continuous"  # a name in MODELS
    schedule: str = "gumbel"  # a name in core.noise.SCHEDULES
    stagger: float = 8.0  # 0: all positions take on noise together; else one after the other
    mse_weight: float = 0.0
    ce_weight: float = 1.0
    self_cond_rate: float = 0.9  # share of examples shown their own first prediction,
    self_cond_from: float = 0.3  # from this share of the budget on

    # The text.
    crop: int = 512  # longest line, in tokens: what is longer is cut
    window: int = 64  # of running text (stream), in tokens
    batch_tokens: int = 2048  # a batch holds at most this many, padding included
    batch_size: int | None = None  # and at most this many examples
    cond_rate: float = 0.3  # share of examples in which tokens are given:
    span_share: float = 0.5  # in this share of those all but a span, in the rest here and there

    # The optimiser.
    optimizer: str = "muon"  # or adamw
    learning_rate: float = 4e-3
    warmup_steps: int = 100
    decay_steps: int | None = None  # linear to a tenth; None: cosine to zero over the budget
    weight_decay: float = 0.1
    clip: float = 1.0
    ema: float = 0.999
    accumulate: int = 1  # batches a step
    compile: bool | None = None  # torch.compile; None: where it pays (runs/compiling.py)

    # The budget: exactly one of the three.
    steps: int | None = None
    epochs: int | None = None
    minutes: float | None = None

    seed: int = 0
    samples: int = 4  # lines generated at each validation
    validate_every: int = 500  # steps
    save_every: int = 500  # steps
