"""Steers lines to a topic, with a classifier that is trained here.

    python examples/steering.py RUN [WORD ...]

RUN is a run of continuous diffusion, not an export, and its corpus has not been moved. The topic is that of
the lines with one of the words, by default those with "dog" or "dogs".
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from simple_diffusion_lm import DiffusionLM
from simple_diffusion_lm.evaluation.likelihood import example_texts

LINES, COUNT, STEPS = 5_000, 40, 32


def share_of_tokens(ids: list[int], vocab_size: int) -> Tensor:
    return F.one_hot(torch.tensor(ids), vocab_size).float().mean(0)


def train_classifier(texts: Tensor, labels: Tensor) -> torch.nn.Linear:
    """Logistic regression on the share of each token in a text."""
    classifier = torch.nn.Linear(texts.shape[1], 1)
    torch.nn.init.zeros_(classifier.weight)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.1)
    for _ in range(200):
        loss = F.binary_cross_entropy_with_logits(classifier(texts).squeeze(1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifier.requires_grad_(False)


def main(run: Path, words: set[str]) -> None:
    model = DiffusionLM.from_pretrained(run)
    lines = example_texts(model, model.trained_on(run).train, LINES)
    tokens = [share_of_tokens(model.tokenizer.encode(line), len(model.tokenizer)) for line in lines]
    labels = torch.tensor([float(bool(words & set(line.split()))) for line in lines])
    classifier = train_classifier(torch.stack(tokens), labels)

    def on_topic(logits: Tensor, mask: Tensor) -> Tensor:
        """log p(topic | the tokens that are expected)."""
        expected = (logits.softmax(-1) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.logsigmoid(classifier(expected)).squeeze(1)

    def strongly(logits: Tensor, mask: Tensor) -> Tensor:
        return 3 * on_topic(logits, mask)

    guided = {"as it comes": None, "steered": on_topic, "strongly": strongly}
    for name, score in guided.items():
        written = model.generate(COUNT, steps=STEPS, guidance=score)
        share = sum(bool(words & set(line.split())) for line in written) / COUNT
        print(f"{name}: {share:.0%} of {COUNT} lines on the topic ({labels.mean():.0%} of corpus)")
        print("".join(f"    {line}\n" for line in written[:3]), end="")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/steering.py RUN [WORD ...]")
    main(Path(sys.argv[1]), set(sys.argv[2:]) or {"dog", "dogs"})
