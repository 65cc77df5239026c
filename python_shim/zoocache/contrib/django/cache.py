"""Django's cache framework on the default cache, with tags: for sessions, cache_page(), template fragments.

    CACHES = {"default": {"BACKEND": "zoocache.contrib.django.cache.Backend"}}

    cache.set("menu", rows, 300, tags=["shop.product"])
    cache.get_or_set("menu", load, tags=["shop.product"])  # and all that load() has asked cached functions for
    cache.invalidate("shop.product")

Everything is as Django documents it for its own backends: each caller has a copy, by pickle; a timeout is not moved by
reads. LOCATION is a name that keeps several of them apart. MAX_ENTRIES and CULL_FREQUENCY are not heeded: the cache has
a limit of its own, `max_entries`. add(), incr() and touch() are atomic in a process, not in a fleet.

In a transaction, what depends on something that it has changed is not stored, and that is taken away which was there.
"""

from __future__ import annotations

import pickle
import threading
from math import inf

from asgiref.sync import sync_to_async
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from zoocache import _tags
from zoocache._table import Rules, Table
from zoocache.context import OPEN, DepsTracker, add_deps, tags_of
from zoocache.contrib.django.connection import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


__all__ = ["Backend"]

_ABSENT = object()


class _Values(Table):
    """What the backends of one name have stored."""

    def __init__(self, name: str) -> None:
        super().__init__(None, Rules(tti=inf))  # a read does not move a deadline
        self.name = name
        self.tag = f"django.cache:{name.encode().hex() or 'default'}"  # of all of them
        self.turn = threading.RLock()  # of who reads and then writes

    def text(self, key: Any) -> str:
        """Keys of set() begin with '=', scopes with '@'."""
        return f"&{self.name}|{key}"

    def shared_name(self, key: Any) -> bytes | None:
        """The key in a storage."""
        from zoocache._names import named

        return named(self.text(key))

    def mark(self, key: Any) -> str:
        """The tag of this key alone."""
        return super().mark(self.text(key))


_tables: dict[str, _Values] = {}


class Backend(BaseCache):  # type: ignore[misc]
    """A cache of Django, see the module."""

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._values = _tables.setdefault(name, _Values(name))

    @property
    def _table(self) -> _Values:
        cache()  # is made as the settings say
        self._values.bind()
        return self._values

    def _store(self, key: str, value: Any, timeout: Any, tags: Iterable[str], begin: int | None = None) -> None:
        """Stores it; not, if one of its tags was invalidated since the version at which its value began."""
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self._keep(key, data, timeout, _tags.listed(tags), begin)

    def _keep(self, key: str, data: bytes, timeout: Any, tags: tuple[str, ...], begin: int | None) -> None:
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        table = self._table
        found = table.bind()
        if timeout is not None and timeout <= 0:
            table.drop(key)
            return
        table.set(found, key, data, {*tags, table.tag}, inf if timeout is None else timeout)
        if begin is not None and tags and found.deps(tags).newest() > begin:
            table.drop(key)

    def _load(self, key: str) -> Any:
        """What is there, which was checked, or _ABSENT."""
        data = self._table.get(key)
        return _ABSENT if data is None else pickle.loads(data)

    def _again(self, key: str, timeout: Any, change: Any = None) -> Any:
        """Stores what is there once more, changed, with the tags that it has. _ABSENT: there is nothing."""
        table = self._table
        with table.turn:
            begin = table.bind().core.seen.value
            data = table.get(key)
            entry = table.entries.get(key)
            if data is None or entry is None:
                return _ABSENT
            value = pickle.loads(data)
            if change is not None:
                value = change(value)
                data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            tags = tuple(tag for tag in tags_of(entry.deps) if tag[0] != "|")  # those are the package's own
            if timeout is _ABSENT:
                left = entry.deadline - table.bind().clock()
                timeout = None if left == inf else left
            self._keep(key, data, timeout, tags, begin)
            return value

    # ---- as Django has it ----------------------------------------------------------------------------

    def get(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        found = self._load(self.make_and_validate_key(key, version=version))
        return default if found is _ABSENT else found

    def set(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        self._store(self.make_and_validate_key(key, version=version), value, timeout, tags)

    def add(
        self,
        key: Any,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        made = self.make_and_validate_key(key, version=version)
        with self._table.turn:
            if self._table.get(made) is not None:
                return False
            self._store(made, value, timeout, tags)
            return True

    def get_or_set(
        self,
        key: Any,
        default: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        tags: Iterable[str] = (),
    ) -> Any:
        """As Django has it. What a callable asks of cached functions and querysets is among the tags."""
        made = self.make_and_validate_key(key, version=version)
        found = self._load(made)
        if found is not _ABSENT:
            return found
        begin = self._table.bind().core.seen.value
        all_tags = {*_tags.listed(tags)}
        if callable(default):
            with DepsTracker() as tracker:
                default = default()
            all_tags |= tracker.deps
        add_deps(all_tags)
        with self._table.turn:
            found = self._load(made)
            if found is not _ABSENT:
                return found
            self._store(made, default, timeout, all_tags, begin)
        return default

    def touch(self, key: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return self._again(self.make_and_validate_key(key, version=version), timeout) is not _ABSENT

    def incr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        made = self.make_and_validate_key(key, version=version)
        found = self._again(made, _ABSENT, lambda value: value + delta)
        if found is _ABSENT:
            raise ValueError(f"Key '{made}' not found")
        return found

    def has_key(self, key: Any, version: int | None = None) -> bool:
        return self._table.get(self.make_and_validate_key(key, version=version)) is not None

    def delete(self, key: Any, version: int | None = None) -> bool:
        made = self.make_and_validate_key(key, version=version)
        table = self._table
        with table.turn:
            there = table.get(made) is not None
            if OPEN:
                table.bind().again(table.drop, made)
            table.drop(made)
        return there

    def set_many(
        self,
        data: dict[Any, Any],
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        tags: Iterable[str] = (),
    ) -> list[Any]:
        listed = _tags.listed(tags)
        for key, value in data.items():
            self.set(key, value, timeout, version, listed)
        return []

    def clear(self) -> None:
        cache().invalidate(self._table.tag)

    # ---- more than Django has ------------------------------------------------------------------------

    def invalidate(self, *tags: str) -> None:
        """Whatever depends on one of the tags, or on a tag below it, is gone: here and in cached functions."""
        cache().invalidate(*tags)

    async def ainvalidate(self, *tags: str) -> None:
        """As invalidate()."""
        await cache().invalidate_async(*tags)

    async def aget(self, key: Any, default: Any = None, version: int | None = None) -> Any:
        return await sync_to_async(self.get)(key, default, version)

    async def aset(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        await sync_to_async(self.set)(key, value, *args, **kwargs)

    async def aadd(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> bool:
        return bool(await sync_to_async(self.add)(key, value, *args, **kwargs))

    async def aget_or_set(self, key: Any, default: Any, *args: Any, **kwargs: Any) -> Any:
        return await sync_to_async(self.get_or_set)(key, default, *args, **kwargs)

    async def aset_many(self, data: dict[Any, Any], *args: Any, **kwargs: Any) -> list[Any]:
        return list(await sync_to_async(self.set_many)(data, *args, **kwargs))

    async def aincr(self, key: Any, delta: int = 1, version: int | None = None) -> Any:
        return await sync_to_async(self.incr)(key, delta, version)
