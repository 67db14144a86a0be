"""What a size costs, computed: the formulas of docs/scaling.md, and the tables in it.

    python benchmarks/scaling.py > tables.md

FLOPs are those of matrix products, two for a multiplication and its addition. The formulas are held
against what torch counts, at small sizes, by tests/benchmarks/test_scaling.py.
"""

from dataclasses import dataclass, replace

from measure import markdown

# Assumed of the machine, for the computed rows. Everything scales with them in the open.
PEAK = 989e12  # FLOP/s, an H100's published dense bfloat16
UTILISATION = 0.4  # of it, forward and backward
INSIDE = 450e9  # bytes a second and direction between the 8 devices of a node
BETWEEN = 50e9  # between nodes, for each device
NODE = 8

PASSES = 5  # Newton-Schulz iterations of Muon
# Bytes a token that backward needs, of bfloat16 autocast: measured, not derived.
SAVED_PER_WIDTH, SAVED_PER_VOCABULARY = 62, 3.0


@dataclass(frozen=True)
class Shape:
    """A model of the `modern` recipe, and its text."""

    width: int  # M
    layers: int  # N
    vocab: int  # V
    length: int  # L, tokens of a text
    embedding: int = 64  # D
    longest: int = 64  # tokens of the longest text
    convolution: int = 5
    self_cond: float = 0.9  # share of the texts with a first pass
    # Shares of the positions, at the recipe's stagger of 32 and with 15% of them given.
    moving: float = 0.85 / 33  # between clean and noise
    silent: float = 0.85 * 16 / 33  # at pure noise; the rest is clean or given


def parameters(s: Shape) -> int:
    """All of them, exactly."""
    layer = 12 * s.width**2 + (10 + s.convolution) * s.width
    ends = (3 * s.embedding + 1) * s.width + 2 * s.width + 3 * s.embedding * (s.longest + 1)
    return layer * s.layers + ends + (s.width + 1 + s.embedding) * s.vocab


def linear_maps(s: Shape) -> list[tuple[int, int]]:
    """The matrices inside the transformer, which Muon moves."""
    m = s.width
    layer = [(3 * m, m), (m, m), (4 * m, m), (m, 4 * m)]
    return [(m, 3 * s.embedding), *(layer * s.layers)]


def forward_flops(s: Shape) -> dict[str, float]:
    """FLOPs a token of one pass and its mean prediction, by part. One product with V is left out:
    the blank, once a pass whatever its tokens are.
    """
    m, d, v = s.width, s.embedding, s.vocab
    targets = s.moving + s.silent
    positions = 1 + 1 / s.length  # the start has one too
    return {
        "trunk": positions * (24 * m**2 * s.layers + 6 * d * m),
        "attention": positions * 4 * (s.length + 1) * m * s.layers,
        "head": 2 * m * v * targets,
        "evidence": 2 * (d + 1) * v * s.moving,
        "mean embeddings": 2 * d * v * (s.moving + targets),  # what is shown, what is predicted
    }


def training_flops(s: Shape) -> dict[str, float]:
    """FLOPs a token of a training step on noise, by part: the main pass, and the first one of some.

    From seven batches in ten of the recipe the trunk learns to go on from a text: one pass, with a
    head at every position.
    """
    once = forward_flops(s)
    main = {part: 3 * flops for part, flops in once.items()}  # to weights and to inputs too
    # Shown and reported without gradient, and only at moving positions.
    main["mean embeddings"] = 2 * 2 * s.embedding * s.vocab * s.moving
    return {**main, "self-conditioning": s.self_cond * sum(once.values())}


def muon_flops(s: Shape) -> int:
    """FLOPs of a step of Muon: X X', its square, and their product with X, five times."""
    total = 0
    for rows, columns in linear_maps(s):
        small, large = sorted((rows, columns))
        total += PASSES * (4 * small**2 * large + 2 * small**3)
    return total


def state_bytes(s: Shape, optimizer: str) -> dict[str, int]:
    """Bytes of what lives from step to step, all in float32."""
    count = parameters(s)
    momenta = 2 * count
    if optimizer == "muon":  # one buffer for its matrices instead of two
        momenta -= sum(rows * columns for rows, columns in linear_maps(s))
    parts = {"weights": count, "gradients": count, "average": count, "optimiser": momenta}
    return {part: 4 * numbers for part, numbers in parts.items()}


def activation_bytes(s: Shape, tokens: int) -> float:
    """Bytes that backward needs of a batch, with a fused attention kernel."""
    return tokens * (SAVED_PER_WIDTH * s.width * s.layers + SAVED_PER_VOCABULARY * s.vocab)


def sent_bytes(s: Shape, devices: int, kind: str) -> float:
    """Bytes each device sends in a step, around a ring.

    ddp: gradients are summed (a reduce-scatter and a gather). fsdp: weights are gathered for the
    first pass, the main pass and the backward one, and gradients reduce-scattered.
    """
    trips = {"ddp": 2, "fsdp": 4}[kind]
    return trips * 4 * parameters(s) * (devices - 1) / devices


def step_seconds(s: Shape, devices: int, tokens: int, kind: str) -> tuple[float, float]:
    """(computing, sending) of a step with this many tokens on each device.

    Where the two overlap fully a step takes the larger, where not at all their sum. Each device
    does all of Muon's products.
    """
    flops = tokens * sum(training_flops(s).values()) + muon_flops(s)
    computing = flops / (PEAK * UTILISATION)
    bandwidth = INSIDE if devices <= NODE else BETWEEN
    return computing, sent_bytes(s, devices, kind) / bandwidth if devices > 1 else 0.0


LINES = Shape(128, 4, 2_048, 16)
SIZES = {
    "1M (tiny)": LINES,
    "4M (small)": replace(LINES, width=256),
    "27M (base)": replace(LINES, width=512, layers=8),
    "90M (large)": replace(LINES, width=768, layers=12),
    "340M": replace(LINES, width=1024, layers=26, vocab=32_768, length=512, longest=512),
    "1B": replace(LINES, width=2048, layers=18, vocab=32_768, length=1024, longest=1024),
}
LARGEST = SIZES["1B"]
TOKENS = 16_384  # on each device and step


def flops_table() -> str:
    head = ["size", "L", "V", "parameters", "MFLOP a token, forward", "training", "of it trunk",
            "attention", "head", "other vocabulary", "first pass", "Muon at 2,048 tokens",
            "at 1M"]  # fmt: skip
    rows = []
    for name, s in SIZES.items():
        parts = training_flops(s)
        total = sum(parts.values())
        vocabulary = parts["evidence"] + parts["mean embeddings"]
        shown = (parts["trunk"], parts["attention"], parts["head"], vocabulary,
                 parts["self-conditioning"])  # fmt: skip
        muon = muon_flops(s) / total
        rows.append(
            [name, str(s.length), f"{s.vocab:,}", f"{parameters(s) / 1e6:,.1f} M",
             f"{sum(forward_flops(s).values()) / 1e6:,.1f}", f"{total / 1e6:,.0f}",
             *(f"{part / total:.0%}" for part in shown),
             f"+ {muon / 2048:.0%}", f"+ {muon / 1e6:.1%}"]
        )  # fmt: skip
    return markdown(head, rows)


def growth_table() -> str:
    """One thing doubled at a time, from the largest."""
    changes = {
        "the 1B model": LARGEST,
        "width x 2": replace(LARGEST, width=2 * LARGEST.width),
        "layers x 2": replace(LARGEST, layers=2 * LARGEST.layers),
        "length x 2": replace(LARGEST, length=2 * LARGEST.length),
        "length x 16": replace(LARGEST, length=16 * LARGEST.length),
        "vocabulary x 2": replace(LARGEST, vocab=2 * LARGEST.vocab),
        "no self-conditioning": replace(LARGEST, self_cond=0.0),
    }
    base = sum(training_flops(LARGEST).values())
    rows = []
    for name, s in changes.items():
        total = sum(training_flops(s).values())
        activations = activation_bytes(s, TOKENS) / 1e9
        rows.append([name, f"{parameters(s) / 1e9:.2f} B", f"{total / 1e9:.2f}",
                     f"{total / base:.2f}", f"{activations:.0f}"])  # fmt: skip
    head = ["", "parameters", "training GFLOP a token", "ratio", "activations of 16,384 tokens, GB"]
    return markdown(head, rows)


def devices_table() -> str:
    rows = []
    for name in ("90M (large)", "1B"):
        s = SIZES[name]
        for kind in ("ddp", "fsdp"):
            for devices in (1, 8, 64):
                if devices == 1 and kind == "fsdp":
                    continue
                state = sum(state_bytes(s, "muon").values())
                held = state / (devices if kind == "fsdp" else 1)
                computing, sending = step_seconds(s, devices, TOKENS, kind)
                fast, slow = max(computing, sending), computing + sending
                days = 20 * parameters(s) / (devices * TOKENS) / 86_400
                rows.append(
                    [name, kind if devices > 1 else "one", str(devices), f"{held / 1e9:.1f}",
                     f"{activation_bytes(s, TOKENS) / 1e9:.0f}",
                     f"{sent_bytes(s, devices, kind) / 1e9:.1f}",
                     f"{1000 * computing:.0f}", f"{1000 * sending:.0f}",
                     f"{computing / slow:.0%} to {computing / fast:.0%}",
                     f"{devices * TOKENS / slow / 1e6:.2f} to {devices * TOKENS / fast / 1e6:.2f}",
                     f"{24 * days * fast:,.2f} to {24 * days * slow:,.2f}"]
                )  # fmt: skip
    head = ["size", "kind", "devices", "state a device, GB", "activations, GB", "sent a step, GB",
            "computing, ms", "sending, ms", "efficiency", "M tokens/s",
            "hours for 20 tokens a parameter"]  # fmt: skip
    return markdown(head, rows)


def sampling_table() -> str:
    """A text in 64 steps, and the same trunk writing it token by token from a cache."""
    rows = []
    for name, s in SIZES.items():
        once = forward_flops(replace(s, moving=1 / 33, silent=16 / 33))  # none given
        step = s.length * sum(once.values())
        head = 2 * s.width * s.vocab  # at each token
        cached = s.length * (once["trunk"] + once["attention"] / 2 + head)
        rows.append([name, str(s.length), f"{step / 1e9:,.2f}", f"{64 * step / 1e9:,.1f}",
                     f"{cached / 1e9:,.2f}", f"{64 * step / cached:.0f}",
                     str(s.length)])  # fmt: skip
    head = ["size", "L", "GFLOP a step", "GFLOP in 64 steps", "GFLOP token by token", "ratio",
            "passes one after the other, token by token"]  # fmt: skip
    return markdown(head, rows)


TABLES = (flops_table, growth_table, devices_table, sampling_table)

if __name__ == "__main__":
    print("\n\n".join(table() for table in TABLES))
