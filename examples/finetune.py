"""A model that goes on learning on other text: here one of a toy language, on its questions alone.

    python examples/finetune.py [RUN] [OUT] [STEPS]

RUN is a run or an exported model, by default the small one that the package has; OUT, by default
runs/finetuned, is where the new run goes. `sdlm train FILE --out OUT --finetune-from RUN` does the same.
"""

import sys
from pathlib import Path

from simple_diffusion_lm import DiffusionLM, prepare, run_training
from simple_diffusion_lm.runs.config import with_settings
from simple_diffusion_lm.runs.export import find_run
from simple_diffusion_lm.tasks.toy import SHAPES, ToyLanguage

COUNT = 100


def main(run: str, out: Path, steps: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    corpus = out / "corpus.txt"
    questions = ToyLanguage([shape for shape in SHAPES if "?" in shape])
    corpus.write_text("\n".join(questions.lines(2_000, seed=0)) + "\n")

    before = DiffusionLM.from_pretrained(run)
    data = prepare([corpus], out / "prepared", tokenizer=find_run(run))  # its tokenizer
    # Its settings too, but a lower learning rate: what it knows is to stay.
    config = with_settings(before.config, {"steps": steps, "learning_rate": 1e-3, "epochs": None})
    run_training(config, data, out / "run", start_from=find_run(run))

    for name, model in (("before", before), ("after", DiffusionLM.from_pretrained(out / "run"))):
        written = model.generate(COUNT, seed=1)
        share = sum(line.endswith("?") for line in written) / COUNT
        print(f"{name}: {share:.0%} of {COUNT} lines are questions")
        print("".join(f"    {line}\n" for line in written[:3]), end="")


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *("toy", "runs/finetuned", "100")[len(sys.argv) - 1 :]]
    main(arguments[0], Path(arguments[1]), int(arguments[2]))
