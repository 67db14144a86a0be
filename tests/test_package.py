"""What is promised to whoever installs the package."""

import re
import tomllib
from itertools import chain
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parent.parent


def test_lower_bounds_are_the_versions_that_make_oldest_tries():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    bounds = dict(each.lower().split(">=") for each in (*project["dependencies"], *extras))
    first = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").split("# What these need")[0]
    tried = dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", first))
    assert {name: Version(bound) for name, bound in bounds.items()} == {
        name: Version(version) for name, version in tried.items()
    }
