"""One server for the tests that do nothing to it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from servers import serving

from simple_diffusion_lm.serving.answers import Model
from simple_diffusion_lm.serving.app import make_app


@pytest.fixture(scope="session")
def served(toy_run: Path) -> Model:
    return Model(toy_run)


@pytest.fixture(scope="session")
def address(served: Model) -> Iterator[str]:
    with serving(make_app(served)) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client
