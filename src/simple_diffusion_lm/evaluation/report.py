"""Pictures of a run, from its metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

from ..errors import UserError


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind, `train` or `valid`, in order."""
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except OSError as error:
        raise UserError(f"{run}/metrics.jsonl: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{run}/metrics.jsonl is damaged") from None
    return [record for record in records if record["kind"] == kind]


def plot_losses(run: Path, picture: Path, *, entropy: float | None = None) -> None:
    """Draws cross-entropy and accuracy, and the bound on held-out text, against time.

    entropy, in nats per token, is drawn as the line that the bound cannot cross.
    Raises UserError when matplotlib (the extra `plot`) is missing.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise UserError(
            "pictures need matplotlib: pip install 'simple-diffusion-lm[plot]'"
        ) from None
    train, valid = read_metrics(run, "train"), read_metrics(run, "valid")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")

    minutes = [record["seconds"] / 60 for record in train]
    left.plot(minutes, [record["ce"] for record in train], color="C0", label="cross-entropy")
    left.set(xlabel="minutes", ylabel="nats per token", title="training, at mixed noise levels")
    accuracy = left.twinx()
    accuracy.plot(minutes, [record["accuracy"] for record in train], color="C1")
    accuracy.set_ylabel("accuracy", color="C1")
    left.legend(loc="center right")

    bounded = [record for record in valid if "bound" in record]
    right.errorbar(
        [record["seconds"] / 60 for record in bounded],
        [record["bound"] for record in bounded],
        [record["bound_error"] for record in bounded],
        marker="o",
        label="bound (±1 standard error)",
    )
    if entropy is not None:
        right.axhline(entropy, color="black", linestyle="--", label="exact entropy")
    right.set(xlabel="minutes", ylabel="nats per token, at most", title="held-out text")
    right.legend()
    figure.savefig(picture, dpi=120)
    plt.close(figure)
