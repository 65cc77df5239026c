"""The pytest plugin: pytest finds it by itself where the package is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from zoocache.testing import Isolated, isolated


@pytest.fixture
def zoocache_isolated() -> Iterator[Isolated]:
    """A fresh default cache with a clock to turn by hand."""
    with isolated() as kit:
        yield kit
