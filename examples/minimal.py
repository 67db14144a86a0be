"""Continuous diffusion on text in one file: words become points, noise is added, a network removes it.

    python examples/minimal.py                  a small grammar, written below
    python examples/minimal.py my-lines.txt     one example a line, words separated by spaces

It needs torch alone, and a few minutes of one core. Shapes: B texts, L words, D numbers a word,
V words in the vocabulary, M numbers inside the network.
"""

import math
import random
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

D, M, LAYERS, HEADS = 32, 128, 3, 4
STEPS, BATCH, RATE = 800, 64, 2e-3  # of training
PASSES, TEMPERATURE = 32, 0.7  # of sampling
SELF_CONDITIONED = 0.5  # share of the batches in which the network sees its own first prediction


# ---- text ----------------------------------------------------------------------------------------


def grammar(count: int) -> list[str]:
    """Lines whose words must agree over a distance: number, tense and pronoun."""
    people = [("girl", "girls", "she", "her"), ("boy", "boys", "he", "his"), ("king", "kings", "he", "his")]
    verbs = [("feeds", "feed", "fed"), ("paints", "paint", "painted"), ("finds", "find", "found")]
    times = {"every morning": 0, "yesterday": 2, "last week": 2, "sometimes": 0}
    lines = []
    for _ in range(count):
        one, many, pronoun, possessive = random.choice(people)
        verb, plural = random.choice(verbs), random.random() < 0.5
        when, tense = random.choice(list(times.items()))
        who = f"{random.choice(['two', 'three', 'some'])} {many}" if plural else f"the {one}"
        does = verb[tense + plural if tense == 0 else 2]
        whose, they = ("their", "they") if plural else (possessive, pronoun)
        what = random.choice(["goats", "boats", "horses", "chairs"])
        feel = random.choice(["happy", "tired", "proud"])
        be = ("were" if plural else "was") if tense == 2 else ("are" if plural else "is")
        lines.append(f"{when} {who} {does} {whose} {what} because {they} {be} {feel} .")
    return lines


class Words:
    """The vocabulary: a number for each word."""

    def __init__(self, lines: list[str]) -> None:
        self.words = sorted({word for line in lines for word in line.split()})
        self.ids = {word: i for i, word in enumerate(self.words)}

    def encode(self, line: str) -> torch.Tensor:
        return torch.tensor([self.ids[word] for word in line.split()])

    def decode(self, ids: torch.Tensor) -> str:
        return " ".join(self.words[i] for i in ids.tolist())


def batch_of(texts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts side by side: ids (B, L), and a mask (B, L) that is True where there is a word."""
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    lengths = torch.tensor([len(text) for text in texts])
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


# ---- noise ---------------------------------------------------------------------------------------


def noise_level(t: torch.Tensor, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha and sigma at time t, from 0 (every word can be read) to 1 (noise): x_t = alpha x0 + sigma eps.

    Most of the time is spent where it is decided which of V words a point is: around log-SNR
    -log(D / (2 ln V)), in the shape of a Gumbel density (LangFlow, 2604.11748).
    """
    gumbel = -torch.log(-torch.log(t.clamp(1e-6, 1 - 1e-6)))
    log_snr = -(math.log(D / (2 * math.log(vocabulary))) + 0.85 * gumbel)
    log_snr = log_snr.clamp(-math.log(500 * D), math.log(41 / D) + 3)
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


# ---- network -------------------------------------------------------------------------------------


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Turns pairs of coordinates by an angle that grows with position (RoFormer, 2104.09864)."""
    length, half = x.shape[-2], x.shape[-1] // 2
    angle = torch.arange(length)[:, None] * 10_000 ** (-torch.arange(half) / half)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)


class Layer(nn.Module):
    """Attention, in which every word sees every other one, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(M), nn.LayerNorm(M)
        self.qkv, self.out = nn.Linear(M, 3 * M, bias=False), nn.Linear(M, M)
        self.mlp = nn.Sequential(nn.Linear(M, 4 * M), nn.GELU(), nn.Linear(4 * M, M))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Denoiser(nn.Module):
    """Noisy points (B, L, D), and its own last prediction of them -> logits of words (B, L, V)."""

    def __init__(self, counts: torch.Tensor) -> None:
        super().__init__()
        vocabulary = len(counts)
        self.embedding = nn.Embedding(vocabulary, D)
        self.project = nn.Linear(2 * D, M)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(M), nn.Linear(M, vocabulary)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("log_unigram", ((counts + 0.1) / (counts + 0.1).sum()).log())

    def points(self) -> torch.Tensor:
        """The point of each word (V, D), of norm sqrt(D). It stays as it is drawn: no gradient reaches it."""
        return F.normalize(self.embedding.weight, dim=-1) * D**0.5

    def mean_point(self, logits: torch.Tensor) -> torch.Tensor:
        """The average of all points, weighted by their probability."""
        return logits.softmax(-1) @ self.points()

    def forward(
        self, x_t: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor,
        x0_prev: torch.Tensor, mask: torch.Tensor, temperature: float = 1.0,
    ) -> torch.Tensor:  # fmt: skip
        # How likely each word makes this noisy point by itself: Gaussian noise around alpha * point.
        points = self.points()
        with torch.no_grad():
            likelihood = (
                alpha / sigma**2 * x_t @ points.T - (alpha / sigma) ** 2 * points.square().sum(-1) / 2
            )
            seen = self.mean_point(likelihood + self.log_unigram)  # what the point says by itself
        x = self.project(torch.cat([seen, x0_prev], dim=-1))
        for layer in self.layers:
            x = layer(x, mask)
        # The network adds what the other words say. A low temperature makes that sharper, and nothing else.
        return (self.head(self.norm(x)) + self.log_unigram) / temperature + likelihood


# ---- training ------------------------------------------------------------------------------------


def loss(
    model: Denoiser, ids: torch.Tensor, mask: torch.Tensor, t: torch.Tensor, eps: torch.Tensor,
    self_conditioned: bool,
) -> torch.Tensor:  # fmt: skip
    """Cross-entropy of the words, predicted from points with noise of time t (B,) on them."""
    x0 = F.embedding(ids, model.points())
    alpha, sigma = (part[:, None, None] for part in noise_level(t, len(model.log_unigram)))
    x_t = alpha * x0 + sigma * eps
    x0_prev = torch.zeros_like(x0)
    if self_conditioned:  # Analog Bits (2208.04202): the network is shown its own first prediction
        with torch.no_grad():
            x0_prev = model.mean_point(model(x_t, alpha, sigma, x0_prev, mask))
    logits = model(x_t, alpha, sigma, x0_prev, mask)
    return F.cross_entropy(logits[mask], ids[mask])


def train(model: Denoiser, texts: list[torch.Tensor], words: Words) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    began = time.time()
    for step in range(STEPS):
        ids, mask = batch_of(random.sample(texts, BATCH))
        t = (torch.rand(()) + torch.arange(BATCH) / BATCH) % 1  # times evenly spread over the batch
        eps = torch.randn(*ids.shape, D)
        value = loss(model, ids, mask, t, eps, random.random() < SELF_CONDITIONED)
        for group in optimizer.param_groups:  # warm up, then fall to zero
            group["lr"] = RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}, loss {value.item():.3f}, {time.time() - began:.0f} s")
            print("   ", words.decode(sample(model, 1, len(ids[0]))[0]))


# ---- sampling ------------------------------------------------------------------------------------


@torch.no_grad()
def sample(model: Denoiser, count: int, length: int, noise=torch.randn, show=None) -> torch.Tensor:
    """Texts (B, L) out of noise: predict the clean points, noise them a little less, predict again."""
    mask = torch.ones(count, length, dtype=torch.bool)
    x0_prev = torch.zeros(count, length, D)
    for t in torch.linspace(1, 0, PASSES + 1)[:-1]:
        alpha, sigma = noise_level(t, len(model.log_unigram))
        # All noise is drawn anew, so that each pass may decide every word again.
        x_t = alpha * x0_prev + sigma * noise(count, length, D)
        logits = model(x_t, alpha, sigma, x0_prev, mask, TEMPERATURE)
        x0_prev = model.mean_point(logits)
        if show:
            show(logits.argmax(-1))
    return logits.argmax(-1)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    if len(sys.argv) > 1:
        with open(sys.argv[1], encoding="utf-8") as file:
            lines = [line for line in file if line.split()]
        if len(lines) < BATCH:
            sys.exit(f"{sys.argv[1]}: {len(lines)} lines: at least {BATCH} are needed")
    else:
        lines = grammar(20_000)
    words = Words(lines)
    texts = [words.encode(line) for line in lines]
    counts = torch.bincount(torch.cat(texts), minlength=len(words.words)).float()
    model = Denoiser(counts)
    numbers = sum(p.numel() for p in model.parameters())
    print(f"{len(texts)} lines, {len(words.words)} words, {numbers:,} numbers")
    train(model, texts, words)
    length = len(random.choice(texts))
    print(f"\none text of {length} words comes out of noise:")
    sample(model, 1, length, show=lambda ids: print("   ", words.decode(ids[0])))
    print("\nsamples:")
    for text in random.sample(texts, 8):
        print("   ", words.decode(sample(model, 1, len(text))[0]))


if __name__ == "__main__":
    main()
