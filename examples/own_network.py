"""A network of your own in place of the transformer, trained and measured beside it.

    python examples/own_network.py [OUT] [STEPS]

The network is the part that lets positions see each other: here it is a recurrent one, a GRU that reads the
text in both directions. As an objective of its own it is trained, resumed, measured and sampled like any
other. Writes the runs into OUT, by default runs/own-network.
"""

import sys
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from simple_diffusion_lm import RECIPES, DiffusionLM, prepare, run_training
from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.train import MODELS, Diffusion
from simple_diffusion_lm.tasks.toy import ToyLanguage


class Recurrent(nn.Module):
    """Inputs (B, L, I) -> hidden vectors (B, L, M). Padding is zeros, and stands at the end of a text."""

    def __init__(self, inputs: int, dim: int, layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, dim // 2, layers, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, log_snr: Tensor, length_mask: Tensor) -> Tensor:
        """log_snr, the level of the noise, is not used: what is seen of x_t shows it."""
        return self.norm(self.gru(x * length_mask[..., None])[0])


class RecurrentDiffusion(Diffusion):
    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self.transformer = Recurrent(self.transformer.project.in_features, config.model_dim, config.layers)


# Configurations name it. `sdlm generate` does not know it: load its runs in Python, after this line.
MODELS["recurrent"] = RecurrentDiffusion


def main(out: Path, steps: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    corpus = out / "corpus.txt"
    corpus.write_text("\n".join(ToyLanguage().lines(20_000, seed=0)) + "\n")
    data = prepare([corpus], out / "prepared")
    for objective in ("recurrent", "continuous"):
        # AdamW, since Muon moves linear maps alone, of which a GRU has none by that name.
        own = {"steps": steps, "objective": objective, "optimizer": "adamw", "learning_rate": 2e-3}
        config = replace(RECIPES["modern"], **own, samples=0)
        run_training(config, data, out / objective)
        model = DiffusionLM.from_pretrained(out / objective)
        print(model)  # with its size, and the bound of held-out text
        print("".join(f"    {line}\n" for line in model.generate(3, seed=1)), end="")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/own-network")
    main(out, steps=int(sys.argv[2]) if len(sys.argv) > 2 else 400)
