import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from simple_diffusion_lm.errors import UserError
from simple_diffusion_lm.tasks.sudoku import BOXES, CLUES, Sudoku, template
from simple_diffusion_lm.writing.templates import Gap, parse

sizes = st.sampled_from(sorted(BOXES))
seeds = st.integers(0, 2**32)


@settings(max_examples=30, deadline=None)
@given(size=sizes, seed=seeds)
def test_a_puzzle_has_its_clues_and_one_solution(size: int, seed: int) -> None:
    sudoku = Sudoku(size)
    cells, solution = sudoku.puzzle(np.random.default_rng(seed))
    assert len(cells) - cells.count(0) == CLUES[size][1]
    assert list(sudoku.solutions(cells)) == [solution]
    assert all(cell in (0, right) for cell, right in zip(cells, solution, strict=True))


@settings(max_examples=30, deadline=None)
@given(size=sizes, seed=seeds, data=st.data())
def test_a_grid_is_solved_exactly_where_every_unit_has_every_number(
    size: int, seed: int, data: st.DataObject
) -> None:
    sudoku = Sudoku(size)
    grid = sudoku.grid(np.random.default_rng(seed))
    text = sudoku.text(grid)
    assert sudoku.is_solved(text)
    assert sudoku.is_solved(f"{sudoku.text([0] * size**2)}={text}")
    assert sudoku.cells(text) == grid
    height, width = BOXES[size]
    square = np.array(grid).reshape(size, size)
    for unit in (*square, *square.T):
        assert sorted(unit) == list(range(1, size + 1))
    for row in range(0, size, height):
        for column in range(0, size, width):
            box = square[row : row + height, column : column + width]
            assert sorted(box.ravel()) == list(range(1, size + 1))
    cell = data.draw(st.integers(0, size**2 - 1))
    wrong = list(grid)
    wrong[cell] = wrong[cell] % size + 1
    assert not sudoku.is_solved(sudoku.text(wrong))
    assert not sudoku.is_solved(sudoku.text([*grid[:cell], 0, *grid[cell + 1 :]]))
    assert not sudoku.is_solved(text[:-1])
    assert not sudoku.is_solved(text.replace("|", "", 1))


def test_what_is_no_grid_has_no_cells() -> None:
    sudoku = Sudoku(4)
    for text in ("", "|", "hello", "|1234|3412|2143|432|", "|1234|3412|2143|4325|", "|12:4|3412|2143|4321|"):
        assert sudoku.cells(text) is None
        assert not sudoku.is_solved(text)


def test_all_grids_are_made_and_seeds_repeat() -> None:
    sudoku = Sudoku(4)
    lines = sudoku.lines(5000, seed=0)
    assert len(set(lines)) == 288  # so many there are (OEIS A107739)
    assert lines[:20] == sudoku.lines(20, seed=0) != sudoku.lines(20, seed=1)
    assert len(list(sudoku.solutions([0] * 16))) == 288


def test_an_empty_cell_is_a_gap_of_one_token() -> None:
    assert parse(template("|1.|..|")).gaps == (Gap(1, 1),) * 3


def test_what_cannot_be_made_is_said() -> None:
    with pytest.raises(UserError, match=r"^no Sudoku of size 5: choose 4, 6, 9$"):
        Sudoku(5)
    with pytest.raises(UserError, match="with 3 clues was found: give more clues"):
        Sudoku(4).puzzle(np.random.default_rng(0), 3)
