"""Puts what was measured into the README: what stands between <!-- NAME --> and <!-- end NAME -->.

    python benchmarks/readme.py

Run it after a file in benchmarks/results/ was made anew. A test holds the README against them.
"""

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import indent

ROOT = Path(__file__).parent.parent


def demo(text: str) -> str:
    """What `make demo` printed, under the paragraph that says where."""
    where, printed = text.strip().split("\n\n", 1)
    return f"({where})\n\n{indent(printed, '    ')}"


# File of results: what is written about it.
BLOCKS: dict[str, Callable[[str], str]] = {"demo.txt": demo}


def filled(text: str) -> str:
    """The README's text with every block as the results have it. Raises ValueError where one is missing."""
    for file, write in BLOCKS.items():
        name = Path(file).stem
        results = (ROOT / "benchmarks/results" / file).read_text(encoding="utf-8")
        block = f"<!-- {name} -->\n\n{write(results)}\n\n<!-- end {name} -->"
        pattern = rf"<!-- {name} -->.*<!-- end {name} -->"
        text, count = re.subn(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"README.md has {count} blocks <!-- {name} --> ... <!-- end {name} -->")
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
