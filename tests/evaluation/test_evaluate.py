import numpy as np
import pytest
import torch

from simple_diffusion_lm.core import Config
from simple_diffusion_lm.core.denoiser import Batch
from simple_diffusion_lm.core.generate import Frame, Sampling
from simple_diffusion_lm.corpus.prepare import prepare
from simple_diffusion_lm.evaluation.evaluate import puzzle_scores, score, solve, sudoku_of
from simple_diffusion_lm.evaluation.report import evaluation_tables
from simple_diffusion_lm.runs.config import with_objective
from simple_diffusion_lm.runs.run import run_training
from simple_diffusion_lm.tasks.sudoku import Sudoku, template
from simple_diffusion_lm.writing.model import DiffusionLM


@pytest.fixture(scope="module")
def pairs() -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(0)
    return [Sudoku(4).puzzle(rng, 6) for _ in range(4)]


def figures(*values: float) -> dict[str, float]:
    return dict(zip(("clues", "puzzles", "solved", "cells"), values, strict=True))


def test_puzzles_are_scored_exactly(pairs) -> None:
    sudoku = Sudoku(4)
    right = [sudoku.text(solution) for _, solution in pairs]
    assert score(sudoku, pairs, right) == figures(6, 4, 1.0, 1.0)
    puzzle, solution = pairs[0]
    wrong = list(solution)
    cell = puzzle.index(0)
    wrong[cell] = wrong[cell] % 4 + 1
    assert score(sudoku, pairs, [sudoku.text(wrong), *right[1:]]) == figures(6, 4, 0.75, 39 / 40)
    # A given cell that was changed is no cell of the puzzle's; what is no grid has none right.
    assert score(sudoku, pairs, ["|12|", *right[1:]]) == figures(6, 4, 0.75, 0.75)
    head = ["clues", "puzzles", "solved", "empty cells right"]
    assert evaluation_tables({}, [figures(6, 4, 0.75, 39 / 40)]) == [[head, ["6", "4", "75.0%", "97.5%"]]]


def test_a_corpus_of_grids_is_known_by_its_lines() -> None:
    lines = Sudoku(4).lines(5, seed=0)
    assert sudoku_of(lines).size == 4
    assert sudoku_of(Sudoku(6).lines(5, seed=0, clues_first=True)).size == 6
    assert sudoku_of([*lines, "a dog runs ."]) is None
    assert sudoku_of([]) is None


@pytest.mark.parametrize("objective", ["continuous", "masked", "autoregressive"])
def test_a_model_keeps_what_is_given(objective: str, tmp_path, pairs) -> None:
    sudoku = Sudoku(4)
    lines = sudoku.lines(300, seed=0, clues_first=objective == "autoregressive")
    (tmp_path / "c.txt").write_text("\n".join(lines) + "\n")
    data = prepare([tmp_path / "c.txt"], tmp_path / "prepared", quiet=True)
    config = Config(steps=3, model_dim=32, layers=1, heads=2, embedding_dim=16, samples=0)
    run_training(with_objective(config, objective), data, tmp_path / "run", quiet=True)
    model = DiffusionLM.from_pretrained(tmp_path / "run")
    puzzles = [sudoku.text(puzzle) for puzzle, _ in pairs]
    if objective != "autoregressive":
        seen: list[tuple[Batch, Frame]] = []
        templates = [template(puzzle) for puzzle in puzzles]
        model.infill(templates, candidates=1, steps=4, temperature=2.0, watch=lambda *step: seen.append(step))
        (asked, _), (_, last) = seen[0], seen[-1]
        assert torch.equal(last.ids[asked.cond_mask], asked.ids[asked.cond_mask])
        assert not last.free.any()
    # As text too. Three steps of training teach no model that a cell is one character (a piece of two is in
    # the vocabulary), so this is at a temperature at which none of these lines has that.
    for puzzle, line in zip(puzzles, solve(model, puzzles, Sampling(4, temperature=0.7)), strict=True):
        if objective == "autoregressive":
            assert line.startswith(f"{puzzle}=")
        else:
            assert all(a in (".", b) for a, b in zip(puzzle, line, strict=True))
    scores = puzzle_scores(model, sudoku, Sampling(4), count=3)
    assert [s["clues"] for s in scores] == [4, 5, 6]
    assert all(s["puzzles"] == 3 and 0 <= s["solved"] <= s["cells"] <= 1 for s in scores)
