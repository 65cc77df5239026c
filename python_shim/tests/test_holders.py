"""Processes that are killed round their commits leave nothing stale: a part of what `make crash-holds` plays."""

import random

import pytest
from holders import play
from servers import Redis


@pytest.fixture(params=["lmdb", "redis"])
def url(request, tmp_path):
    if request.param == "lmdb":
        yield f"lmdb://{tmp_path / 'place'}"
        return
    redis = Redis(tmp_path)
    yield redis.url
    redis.stop()


@pytest.mark.slow
@pytest.mark.plain  # half a minute; with AddressSanitizer the holds' own tests do
def test_holders_that_are_killed_leave_nothing_stale(url, tmp_path):
    chance = random.Random(7)
    found = play(50, url, tmp_path, chance)
    assert found.died == 50 and found.commits > 100 and found.served > 1000
