"""What a size costs, computed: the formulas of docs/scaling.md, and the table in it.

    python benchmarks/scaling.py > table.md

FLOPs are those of matrix products, two for a multiplication and its addition. The formulas are held
against what torch counts, at small sizes, by tests/benchmarks/test_scaling.py.
"""

from dataclasses import dataclass, replace

from simple_diffusion_lm.evaluation.report import table

BATCH = 8_192  # tokens
PASSES = 5  # Newton-Schulz iterations of Muon
# Bytes that backward needs, of bfloat16 autocast: for each token and each predicted one. Measured.
SAVED_PER_WIDTH, SAVED_PER_VOCABULARY = 47, 5.4
GIVEN = 0.28  # share of the tokens, by the recipe's masks


@dataclass(frozen=True)
class Shape:
    """A model of the `modern` recipe, and its text."""

    width: int  # M
    layers: int  # N
    vocab: int  # V
    length: int  # L, tokens of a text
    embedding: int = 64  # D
    convolution: int = 5
    first_passes: int = 1  # for self-conditioning
    free: float = 1 - GIVEN  # share of the positions that is predicted


def parameters(s: Shape) -> int:
    """All of them, exactly."""
    layer = 12 * s.width**2 + (10 + s.convolution) * s.width
    return layer * s.layers + (3 * s.embedding + 3) * s.width + (s.width + 1 + s.embedding) * s.vocab


def linear_maps(s: Shape) -> list[tuple[int, int]]:
    """The matrices inside the transformer, which Muon moves."""
    m = s.width
    return [(m, 3 * s.embedding), *([(3 * m, m), (m, m), (4 * m, m), (m, 4 * m)] * s.layers)]


def forward_flops(s: Shape) -> dict[str, float]:
    """FLOPs a token of one pass and its mean prediction, by part."""
    m, d, v = s.width, s.embedding, s.vocab
    return {
        "trunk": 24 * m**2 * s.layers + 6 * d * m,
        "attention": 4 * s.length * m * s.layers,
        "head": 2 * m * v * s.free,
        "likelihood": 2 * d * v * s.free,
        "posterior mean": 2 * d * v * s.free,
        "predicted mean": 2 * d * v * s.free,
    }


def training_flops(s: Shape) -> dict[str, float]:
    """FLOPs a token of a training step, by part: the main pass, and the first one."""
    once = forward_flops(s)
    main = {part: 3 * flops for part, flops in once.items()}  # to weights and to inputs too
    main |= {"posterior mean": once["posterior mean"], "predicted mean": 0.0}  # no gradient; not asked for
    return {**main, "first pass": s.first_passes * sum(once.values())}


def muon_flops(s: Shape) -> int:
    """FLOPs of a step of Muon: X X', its square, and their product with X, five times."""
    sides = map(sorted, linear_maps(s))
    return sum(PASSES * (4 * small**2 * large + 2 * small**3) for small, large in sides)


def state_bytes(s: Shape) -> dict[str, int]:
    """Bytes of what lives from step to step, all in float32."""
    count = parameters(s)  # AdamW has two buffers for each, Muon one
    momenta = 2 * count - sum(rows * columns for rows, columns in linear_maps(s))
    parts = {"weights": count, "gradients": count, "optimiser": momenta}
    return {part: 4 * numbers for part, numbers in parts.items()}


def activation_bytes(s: Shape, tokens: int) -> float:
    """Bytes that backward needs of a batch, with a fused attention kernel."""
    return tokens * (SAVED_PER_WIDTH * s.width * s.layers + SAVED_PER_VOCABULARY * s.vocab * s.free)


LINES = Shape(128, 4, 2_048, 16)
SIZES = {
    "1M (tiny)": LINES,
    "4M (small)": replace(LINES, width=256),
    "27M (base)": replace(LINES, width=512, layers=8),
    "90M (large)": replace(LINES, width=768, layers=12),
    "340M": replace(LINES, width=1024, layers=26, vocab=32_768, length=512),
    "1B": replace(LINES, width=2048, layers=18, vocab=32_768, length=1024),
}


def sizes_table() -> str:
    """What training, the state and a text cost. Token by token: the same trunk, causal, from a cache."""
    head = ["size", "L", "V", "parameters", "training: MFLOP a token", "Muon beside it", "state, GB",
            "activations, GB", "writing: GFLOP in 4 passes", "in 64", "token by token"]  # fmt: skip
    rows = []
    for name, s in SIZES.items():
        training, once = sum(training_flops(s).values()), forward_flops(replace(s, free=1.0))
        text = s.length * sum(once.values()) / 1e9
        cached = s.length * (once["trunk"] + once["attention"] / 2 + 2 * s.width * s.vocab) / 1e9
        rows.append(
            [name, str(s.length), f"{s.vocab:,}", f"{parameters(s) / 1e6:,.1f} M", f"{training / 1e6:,.0f}",
             f"+ {muon_flops(s) / training / BATCH:.0%}", f"{sum(state_bytes(s).values()) / 1e9:,.2f}",
             f"{activation_bytes(s, BATCH) / 1e9:,.2f}", f"{4 * text:,.2f}", f"{64 * text:,.1f}",
             f"{cached:,.2f}"]
        )  # fmt: skip
    return table([head, *rows])


if __name__ == "__main__":
    print(sizes_table())
