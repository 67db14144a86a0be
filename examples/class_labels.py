"""Texts of a class that is asked for: a label is one more input of the network.

    python examples/class_labels.py [STEPS]

Trains on lines of the built-in toy language, each with its tense as its label, then writes lines of each
tense. It uses core/ alone: a label is `Batch.cond`, and the rest is as it is without.
"""

import sys
from collections import deque

import torch
import torch.nn.functional as F

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.data import Batches, Corpus, Tokenizer
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Group, Sampling
from simple_diffusion_lm.core.noise import make_keys
from simple_diffusion_lm.core.train import State, train
from simple_diffusion_lm.tasks.toy import TIMES, ToyLanguage

COUNT, STEPS = 50, 32  # lines of each class, and passes to write them in


def tense(line: str) -> str:
    """The tense of a line, by its time; "none" of a line without one."""
    return next((name for name, times in TIMES.items() if any(time in line for time in times)), "none")


def main(steps: int) -> None:
    lines = ToyLanguage().lines(20_000, seed=0)
    classes = [*TIMES, "none"]
    tokenizer = Tokenizer.train(lines, 1000, hard_vocab_limit=False)
    corpus = Corpus.of(map(tokenizer.encode, lines), tokenizer.eos_id)
    labels = F.one_hot(torch.tensor([classes.index(tense(line)) for line in lines])).float()

    config = Config(steps=steps, cooccurrence=False, cond_dim=len(classes))
    batches = Batches(config, corpus, tokenizer.pad_id, conditions=labels[:, None])  # alike at all positions
    state = State.of(config, torch.from_numpy(corpus.counts(len(tokenizer))))
    for step in train(config, state, batches):
        if state.progress.step % 100 == 0:
            print(f"step {state.progress.step}, cross-entropy {step.losses.ce.mean():.3f}", file=sys.stderr)

    model = state.model.eval()
    number = torch.arange(COUNT)
    length = int(batches.lengths().mean())
    last = (torch.arange(length) == length - 1).expand(COUNT, -1)
    for label, name in enumerate(classes):
        cond = F.one_hot(torch.tensor(label), len(classes)).float().expand(COUNT, 1, -1)
        # Of the ids only the last is read: the one that ends a line is given.
        ids = torch.full(last.shape, tokenizer.eos_id)
        batch = Batch(ids, torch.ones_like(last), last, number, number / COUNT, cond)
        frames = model.sample(Group(batch, make_keys(label, number)), Sampling(STEPS))
        written = [tokenizer.decode(row) for row in deque(frames, maxlen=1).pop().ids]
        share = sum(tense(line) == name for line in written) / COUNT
        print(f"{name}: {share:.0%} of {COUNT} lines are ({labels[:, label].mean():.0%} of the corpus)")
        print("".join(f"    {line}\n" for line in written[:3]), end="")


if __name__ == "__main__":
    main(steps=int(sys.argv[1]) if len(sys.argv) > 1 else 600)
