// What of one text is in another: the words of a longest common subsequence.

// With the space between them; of a Sudoku, the cells.
export const partsOf = (text) => (text.startsWith("|") ? [...text] : text.split(/(\s+)/));
const wordsOf = (text) => partsOf(text).filter((part) => part.trim());

// The indices of the words of `to` that are not in `from`, or not in this order.
export function changes(from, to) {
  const [a, b] = [wordsOf(from), wordsOf(to)];
  const best = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0)); // of what follows
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  const changed = new Set(b.keys());
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      changed.delete(j);
      i++;
      j++;
    } else if (best[i + 1][j] >= best[i][j + 1]) i++;
    else j++;
  }
  return changed;
}
