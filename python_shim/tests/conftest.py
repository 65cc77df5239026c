import pytest

import zoocache

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def fresh():
    zoocache.reset()
    yield
    zoocache.reset()


@pytest.fixture
def kit():
    from zoocache.testing import isolated

    with isolated() as kit:
        yield kit
