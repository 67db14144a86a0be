"""How fast on one GPU: training over sizes, batches, compiling and TF32; and sampling.

    python benchmarks/gpu.py --corpus captions.txt --minutes 6

Results are written after each part, and within it after each row, so that nothing is lost when the
time is up. Each part has its share of the minutes; what does not fit into it is named as left out.
"""

import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import torch
import tyro
from gpu_rows import Clock, rows_within, sampling, throughput, throughput_cells

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.exits import exit_cleanly
from simple_diffusion_lm.text.corpus import prepare
from simple_diffusion_lm.training.processes import pick_device
from simple_diffusion_lm.training.recipes import modern, sized

VOCAB_SIZE = 2048
TEXTS = (64, 256, 1024)
# Of the minutes. The rest is for preparing.
SHARES = {"throughput": 0.7, "sampling": 0.2}

SIZES = {  # about 10 and 100 million parameters
    "10M": replace(modern(), model_dim=384, layers=6, heads=6),
    "100M": sized(modern(), "large"),
}
BATCH_TOKENS = (16_384, 65_536, 262_144)

SMOKE = {"model_dim": 32, "layers": 2, "heads": 2}
SMOKE_SIZES = {"smoke": replace(modern(), **SMOKE)}
SMOKE_BATCH_TOKENS = (256,)


def tables(results: dict[str, Any]) -> str:
    """The results for reading."""
    lines = [
        [*map(str, row["cell"]), f"{row['tokens_per_second']:,.0f}", f"{row['utilisation']:.1%}",
         f"{row['step_ms']['median']:.1f}", f"{row['batch_ms']:.1f}",
         f"{row['memory'] / 1e9:.1f}" if row["memory"] else ""]
        if "left_out" not in row else [*map(str, row["cell"]), row["left_out"], *[""] * 4]
        for row in results["throughput"]
    ]  # fmt: skip
    head = ["size", "text", "batch", "compiled", "TF32", "real tokens/s", "of bf16 peak",
            "ms a step", "of it making the batch", "memory, GB"]  # fmt: skip
    parts = [measure.markdown(head, lines)]
    head = ["size", "texts", "texts/s", "ms a step", "step / one forward"]
    lines = [
        [*map(str, row["cell"]), f"{row['texts_per_second']:.1f}", f"{row['step_ms']:.2f}",
         f"{row['steps_per_forward']:.2f}"]
        for row in results["sampling"] if "left_out" not in row
    ]  # fmt: skip
    parts.append(measure.markdown(head, lines))
    return "\n\n".join(parts)


def main(
    corpus: Path | None = None,
    minutes: float = 6.0,
    out: Path = Path("benchmarks/results/gpu.json"),
    work: Path | None = None,
    smoke: bool = False,
) -> None:
    """Measures what one GPU does; a table to stdout, all figures to OUT.

    Args:
        corpus: a text file, one example a line; by default the built-in toy language.
        minutes: for all parts together.
        out: results as JSON, written after each row.
        work: directory for the prepared corpus; a temporary one by default.
        smoke: everything at its smallest, on any device: does the script still run?
    """
    if corpus is not None and not corpus.is_file():
        raise UserError(f"{corpus}: no file; give a text file, which is prepared in two ways here")
    device = pick_device()
    sizes = SMOKE_SIZES if smoke else SIZES
    batches = SMOKE_BATCH_TOKENS if smoke else BATCH_TOKENS
    minutes = 3.0 if smoke else minutes
    results: dict[str, Any] = {**measure.about(), "device": str(device)}
    measure.write_results(out, results)

    def keep(part: str) -> Callable[[Any], None]:
        def write(value: Any) -> None:
            results[part] = value
            measure.write_results(out, results)

        return write

    with tempfile.TemporaryDirectory() as temporary:
        work = work or Path(temporary)
        data = measure.corpus(corpus, work, vocab_size=VOCAB_SIZE, smoke=smoke)
        windows = prepare(
            [corpus or work / "toy.txt"], work / "stream",
            tokenizer=data.directory / "tokenizer.model", stream=True, quiet=True,
        )  # fmt: skip
        keep("peak_flops")(device_peaks(device, smoke=smoke))
        clock = {part: share * minutes for part, share in SHARES.items()}
        texts = {"lines": data, "windows": windows}
        rows_within(
            Clock(clock["throughput"]), throughput_cells(sizes, batches),
            throughput(texts, sizes, device, smoke=smoke), keep("throughput"),
        )  # fmt: skip
        torch.set_float32_matmul_precision("high")
        rows_within(
            Clock(clock["sampling"]), list(itertools.product(sizes, (4,) if smoke else TEXTS)),
            sampling(data, sizes, device, smoke=smoke), keep("sampling"),
        )  # fmt: skip
    print(tables(results))


def device_peaks(device: torch.device, *, smoke: bool) -> dict[str, float]:
    """FLOP/s by dtype, float32 with and without TF32."""
    torch.set_float32_matmul_precision("high")
    tf32 = measure.peaks(device, smoke=smoke)["float32"]
    torch.set_float32_matmul_precision("highest")
    return {**measure.peaks(device, smoke=smoke), "tf32": tf32}


if __name__ == "__main__":
    exit_cleanly(lambda: tyro.cli(main))
