"""One name for each thing, the field's own: words that this project once had of its own do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
INSTEAD = {
    r"twins?": "baseline",
    r"by heart": "memorised, overfitting",
    r"go(?:es|ing)? on from a text": "next-token prediction",
    r"looks? (?:only back|back only)": "causal mask",
    r"(?:silent|moving) (?:positions?|tokens?)": "at pure noise, in flight",
    r"evidence": "likelihood of x_t, posterior logits",
    r"told apart from (?:its|their) company": "independent of the rest of the batch",
    r"slots?(?![_=])": "request",
}
READ = (".py", ".md", ".js", ".html", ".jinja", ".toml")
FOLDERS = ("src", "docs", "examples", "benchmarks")
TEXTS = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in READ]


@pytest.mark.parametrize("word", INSTEAD)
def test_a_word_of_our_own_is_not_used(word: str) -> None:
    # A part of an identifier is a word, too: not_a_twin.
    pattern = re.compile(rf"(?<![a-z]){word}(?![a-z])", re.IGNORECASE)
    found = []
    for path in [*TEXTS, *ROOT.glob("*.md")]:
        lines = enumerate(path.read_text("utf-8").splitlines(), 1)
        found += [f"{path.relative_to(ROOT)}:{number}" for number, line in lines if pattern.search(line)]
    assert found == [], f"say: {INSTEAD[word]}"
