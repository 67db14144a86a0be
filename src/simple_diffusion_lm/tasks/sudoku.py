"""Sudoku: puzzles with exactly one solution, so that a wrong cell cannot hide behind a likely one.

A grid is a line of text, row by row: |1234|3412|2143|4321|. In a puzzle a dot stands where a cell is empty.
A corpus is lines of full grids, of which a model learns the rules; any cells of a line may be given. A
model that writes from left to right needs the clues first: its lines are a puzzle, = and the full grid.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from ..errors import UserError

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows and columns of a box
CLUES = {4: (4, 5, 6), 6: (10, 12, 16), 9: (26, 32, 40)}  # of the puzzles of each size: hard, medium, easy
EMPTY, ROW, SOLUTION = ".", "|", "="
ATTEMPTS = 1000  # grids of which one is to have a puzzle with so few clues


class Sudoku:
    """Grids of size x size cells, with the numbers 1 to size once in each row, column and box."""

    def __init__(self, size: int = 6) -> None:
        if size not in BOXES:
            raise UserError(f"no Sudoku of size {size}: choose {', '.join(map(str, BOXES))}")
        self.size = size
        height, width = BOXES[size]
        # The row, column and box of each cell, numbered through: 3 * size of them.
        rows, columns = np.divmod(np.arange(size**2), size)
        boxes = rows // height * height + columns // width
        self.units = np.stack([rows, columns + size, boxes + 2 * size], 1).tolist()

    def solutions(self, cells: Sequence[int], rng: np.random.Generator | None = None) -> Iterator[list[int]]:
        """All full grids that agree with the cells (0: empty). rng: numbers are tried in a random order."""
        cells, full = list(cells), 2 ** (self.size + 1) - 2
        left = [full] * (3 * self.size)  # bit v of each row, column and box: v is not in it yet
        for cell, value in enumerate(cells):
            for unit in self.units[cell] if value else ():
                if not left[unit] >> value & 1:
                    return
                left[unit] ^= 1 << value

        def fill() -> Iterator[list[int]]:
            best, fewest = -1, self.size + 1
            for cell, value in enumerate(cells):
                if not value:
                    a, b, c = self.units[cell]
                    if (count := (left[a] & left[b] & left[c]).bit_count()) < fewest:
                        best, fewest = cell, count
            if best < 0:
                yield list(cells)
                return
            a, b, c = self.units[best]
            possible = left[a] & left[b] & left[c]
            values = range(1, self.size + 1)
            for value in values if rng is None else (rng.permutation(self.size) + 1).tolist():
                if possible >> value & 1:
                    cells[best] = value
                    for unit in (a, b, c):
                        left[unit] ^= 1 << value
                    yield from fill()
                    for unit in (a, b, c):
                        left[unit] ^= 1 << value
            cells[best] = 0

        yield from fill()

    def grid(self, rng: np.random.Generator) -> list[int]:
        """A full grid. All are possible; they are not exactly equally probable."""
        return next(self.solutions([0] * self.size**2, rng))

    def puzzle(self, rng: np.random.Generator, clues: int | None = None) -> tuple[list[int], list[int]]:
        """A puzzle with that many clues (by default a medium one) and one solution, and the solution.
        Raises UserError where none is found with so few clues."""
        clues = CLUES[self.size][1] if clues is None else clues
        for _ in range(ATTEMPTS):
            solution = self.grid(rng)
            cells = list(solution)
            for cell in rng.permutation(len(cells)).tolist():
                if len(cells) - cells.count(0) <= clues:
                    return cells, solution
                cells[cell] = 0
                if len(list(islice(self.solutions(cells), 2))) > 1:
                    cells[cell] = solution[cell]
        raise UserError(f"no puzzle of size {self.size} with {clues} clues was found: give more clues")

    def lines(self, count: int, seed: int, clues_first: bool = False) -> list[str]:
        """Full grids, as text. clues_first: a share of each one's cells, which is random too, then =."""
        rng = np.random.default_rng(seed)
        lines = []
        for grid in (self.grid(rng) for _ in range(count)):
            given = rng.random(len(grid)) < rng.random()
            clues = f"{self.text((given * grid).tolist())}{SOLUTION}" if clues_first else ""
            lines.append(clues + self.text(grid))
        return lines

    def text(self, cells: Sequence[int]) -> str:
        """Cells as a line of text."""
        shown = "".join(str(cell) if cell else EMPTY for cell in cells)
        rows = (shown[i : i + self.size] for i in range(0, len(shown), self.size))
        return ROW + "".join(row + ROW for row in rows)

    def cells(self, text: str) -> list[int] | None:
        """The cells of a text, or of its solution if there is one; None where it is no grid."""
        text = text.split(SOLUTION)[-1]
        cells = [0 if c == EMPTY else int(c) for c in text if c == EMPTY or c in "123456789"]
        is_grid = len(cells) == self.size**2 and self.text(cells) == text and max(cells) <= self.size
        return cells if is_grid else None

    def is_solved(self, text: str) -> bool:
        """Whether the text is a full grid in which every row, column and box has every number."""
        cells = self.cells(text)
        return cells is not None and 0 not in cells and next(self.solutions(cells), None) is not None


def template(puzzle: str) -> str:
    """A puzzle as a template for `sdlm infill`: a gap of one token for each empty cell."""
    return puzzle.replace(EMPTY, "[[1]]")
