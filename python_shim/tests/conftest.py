import pytest
from servers import Postgres

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


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server for all tests, which make tables of their own."""
    server = Postgres("--wal_level=logical")
    yield server
    server.close()
