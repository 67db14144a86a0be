"""What is promised to whoever installs the package; and that what is built is whole, and runs anywhere."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest
from packaging.version import Version

import simple_diffusion_lm

ROOT = Path(__file__).parent.parent
PACKAGE = "src/simple_diffusion_lm"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD = "from setuptools import build_meta; build_meta.build_sdist('dist')"
OFFLINE = ["--no-deps", "--no-index", "--disable-pip-version-check"]


def test_lower_bounds_are_the_versions_that_make_oldest_tries():
    extras = chain.from_iterable(PROJECT["optional-dependencies"].values())
    bounds = dict(each.lower().split(">=") for each in (*PROJECT["dependencies"], *extras))
    first = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").split("# What these need")[0]
    tried = dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", first))
    assert {name: Version(bound) for name, bound in bounds.items()} == {
        name: Version(version) for name, version in tried.items()
    }


def run(*command, cwd: Path, **variables: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", **variables}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: str = ".") -> set[str]:
    """What git has of a folder, or would add to it, from the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("git knows which files belong to the package, and this is no clone")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return {name for name in names if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The source distribution, unpacked. It is built of a copy, since setuptools leaves files behind."""
    copy = tmp_path_factory.mktemp("copy") / "project"
    for name in files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    run("-c", BUILD, cwd=copy)
    (archive,) = (copy / "dist").iterdir()
    with tarfile.open(archive) as file:
        file.extractall(copy.parent, filter="data")
    return copy.parent / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(source) -> Path:
    run("-m", "pip", "wheel", *OFFLINE, "--no-build-isolation", "-w", "dist", ".", cwd=source)
    (found,) = (source / "dist").iterdir()
    return found


def test_both_hold_all_files_of_the_package_and_the_license(source, wheel):
    package = {name.removeprefix("src/") for name in files(PACKAGE)}
    assert {"py.typed", "runs/card.md", "runs/models/toy/model.safetensors"} <= {
        name.split("/", 1)[1] for name in package
    }
    inside = set(zipfile.ZipFile(wheel).namelist())
    about = {name for name in inside if ".dist-info/" in name}
    assert inside - about == package
    assert any(name.endswith("/licenses/LICENSE") for name in about)
    assert all((source / name).is_file() for name in [*files(PACKAGE), "LICENSE", "pyproject.toml"])


def test_type_checkers_know_of_all_that_is_public():
    """The names are loaded when they are asked for, which is nothing that a type checker sees."""
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))
    known = {alias.asname: each.module for each in block.body for alias in each.names}
    assert known == simple_diffusion_lm.PUBLIC


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_spin_a_short_while_unless_the_user_says_how_they_wait(given, found, tmp_path):
    asked = "import os, simple_diffusion_lm; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert run("-c", asked, cwd=tmp_path, **given) == f"{found}\n"


def test_what_the_readme_links_to_is_in_the_source(source):
    links = re.findall(r"\]\(([^)#]+)\)", (source / "README.md").read_text(encoding="utf-8"))
    assert "docs/theory.md" in links
    assert [link for link in links if "://" not in link and not (source / link).is_file()] == []


def test_the_wheel_runs_from_a_directory_of_any_name(wheel, tmp_path):
    target = tmp_path / "ein Ordner für Übungen"
    run("-m", "pip", "install", *OFFLINE, "--target", target, wheel, cwd=tmp_path)
    path = {"PYTHONPATH": str(target)}
    where = run("-c", "import simple_diffusion_lm as lm; print(lm.__file__)", cwd=tmp_path, **path)
    assert Path(where.strip()).is_relative_to(target)
    said = run("-m", "simple_diffusion_lm", "--version", cwd=tmp_path, **path)
    assert said == f"simple-diffusion-lm {PROJECT['version']}\n"
    lines = run("-m", "simple_diffusion_lm", "generate", "toy", "--count", "2", cwd=tmp_path, **path)
    assert all(line.endswith((".", "?")) for line in lines.splitlines())
    assert len(lines.splitlines()) == 2
