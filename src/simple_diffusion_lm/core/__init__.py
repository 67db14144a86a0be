"""The system in ten files, and here every setting of a run. Read them in this order: noise, embedding,
transformer, denoiser, loss, sampler, bound, data, generate, train. "The original README" is that of
thorinf/simple-diffusion-lm, whose system is the recipe `original`.

    python -m simple_diffusion_lm.core.train corpus.txt
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, except its corpus. The defaults are the `modern` recipe."""

    # The network.
    embedding_dim: int = 64  # D, the numbers that a token is embedded as
    model_dim: int = 128  # M, the network's width, a multiple of twice the heads
    layers: int = 4  # of the transformer
    heads: int = 4  # of its attention
    width: int = 5  # of the short convolution before each layer, odd; 0: none
    dropout: float = 0.1  # share of activations that are dropped
    dropout_from: int = 4  # epochs, before which there is no dropout
    normaliser: str = "unit_scale"  # of the table: unit_scale or layer_norm (core/embedding.py)
    cooccurrence: bool = True  # start the table from counts of neighbours, or at random
    regress: bool = False  # the squared error is of a linear head's estimate, not of x0_hat = softmax @ E
    posterior: bool = True  # show the network the posterior mean, not x_t; add the likelihood to the logits
    cond_dim: int = 0  # numbers in a text's condition (a class label, say); 0: there is none

    # The objective.
    objective: str = "continuous"  # continuous diffusion, or a baseline: masked or autoregressive
    schedule: str = "gumbel"  # of the noise: gumbel or cosine (core/noise.py)
    bell_times: bool = True  # train at middle times more often: the ends teach little
    late_given: bool = True  # where tokens are given, train at late times alone, near pure noise
    mse_weight: float = 0.0  # of the squared error in the loss
    ce_weight: float = 1.0  # of the cross-entropy of the logits in it
    self_cond_rate: float = 0.9  # share of examples whose own first prediction is shown
    passes: int | None = None  # a student's, which learns to write in so many (sdlm distil); None: no student

    # The text.
    crop: int = 512  # longest line, in tokens: what is longer is cut
    window: int = 64  # of running text (stream), in tokens
    batch_tokens: int = 2048  # a batch holds at most this many, padding included
    batch_size: int | None = None  # a batch holds at most this many examples
    cond_rate: float = 0.5  # share of examples in which tokens are given
    span_share: float = 0.5  # of those, the share in which all but a span is given; else here and there

    # The optimiser.
    optimizer: str = "muon"  # muon: linear maps of the transformer by Muon; or adamw for all
    learning_rate: float = 4e-3  # after the warm-up
    warmup_steps: int = 100  # in which it grows from zero
    decay_steps: int | None = None  # down to a tenth, where it stays; None: cosine to zero over the budget
    weight_decay: float = 0.1  # of the linear maps of the transformer
    clip: float = 1.0  # a longer gradient is shortened to this
    accumulate: int = 1  # batches a step
    compile: bool | None = None  # torch.compile; None: where it pays (runs/compiling.py)

    # The budget: exactly one of the three.
    steps: int | None = None  # of the optimiser
    epochs: int | None = None  # passes over the corpus
    minutes: float | None = None  # of training; the commands take 20 when no budget is given

    seed: int = 0
    patience: int | None = None  # validations without a better bound, after which training ends
    samples: int = 4  # lines generated at each validation
    validate_every: int = 500  # steps between validations
    save_every: int = 500  # steps between checkpoints
