"""One server for the tests that do nothing to it."""

import httpx
import pytest
from servers import serving

from simple_diffusion_lm.serving.answers import Model
from simple_diffusion_lm.serving.app import make_app


@pytest.fixture(scope="session")
def served(toy_run):
    return Model(toy_run)


@pytest.fixture(scope="session")
def address(served):
    with serving(make_app(served)) as address:
        yield address


@pytest.fixture
def client(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client
