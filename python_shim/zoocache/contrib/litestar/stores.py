"""A store for Litestar: of responses, sessions, rate limits; its values are in a cache, and so where that has them.

    store = ZooCacheStore()  # in the default cache
    Litestar([...], stores=StoreRegistry(default_factory=store.with_namespace))

    ZooCacheStore(tags=lambda key: ["pages"] if "/pages" in key else [])  # invalidate("pages") removes them

Each value depends on the tag of its namespace, below that of its parent: delete_all() is one invalidation, in every
process. Values live as long as they are told to; reads do not extend that, but renew_for does.

What is written is a computation of the cache. So a value that is deleted, by its key or a tag, while it is renewed is
not written any more: a session that has ended does not come back.
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import timedelta
from math import ceil, inf
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from litestar.stores.base import NamespacedStore

from zoocache import _tags
from zoocache._default import set_ttl
from zoocache._functions import Function, cacheable
from zoocache.context import add_deps
from zoocache.scopes import segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from zoocache._cache import Cache

__all__ = ["ZooCacheStore"]

_ROOT = "store"
_writing: ContextVar[Callable[[], bytes | None]] = ContextVar("zoocache_writing")


async def _value(namespace: str, key: str) -> bytes | None:
    return _writing.get()()


def _function(cache: Cache | None) -> Function:
    """The function of which all values of a cache are: stores of one namespace see the same."""
    found = _functions.get(id(cache))
    if found is None:
        decorate: Any = cacheable(cache=cache, tti=inf, cache_if=lambda value: value is not None)
        found = _functions[id(cache)] = decorate(_value).cache_info.__self__
    return found


_functions: WeakValueDictionary[int, Function] = WeakValueDictionary()  # each keeps its cache
_of_default = _function(None)


class ZooCacheStore(NamespacedStore):
    """A store in a cache, the default one unless another is given. Stores of one namespace have the same values.

    tags: what values depend on, besides: a list, or a callable of the key.
    """

    __slots__ = ("_function", "_given", "_tag", "_tags", "namespace")

    def __init__(
        self,
        cache: Cache | None = None,
        namespace: str = "litestar",
        tags: Iterable[str] | Callable[[str], Iterable[str]] = (),
    ) -> None:
        self.namespace = namespace
        self._given = cache
        self._tags = tags if callable(tags) else _tags.listed(tags)
        self._tag = ":".join([_ROOT, *[segment("namespace", part) for part in namespace.split(":")]])
        self._function = _function(cache)

    def with_namespace(self, namespace: str) -> Self:
        """A store below this one: delete_all() of this one empties it, too."""
        return type(self)(self._given, f"{self.namespace}:{namespace}", self._tags)

    def _entry(self, key: str) -> Any:
        """The entry of a key, if it may be served; asks the storage."""
        function = self._function
        place = function.freeze((self.namespace, key), {})
        return function.entries.get(place) if function.get(place) is not None else None

    async def _beside(self, work: Callable[..., Any], *args: str) -> Any:
        """Calls what asks, or writes to, the storage about the key that is the last argument."""
        place = self._function, self._function.freeze((self.namespace, args[-1]), {})
        return await self._function.open_cache()._beside(work, *args, keys=[place])

    async def _write(self, key: str, made: Callable[[], bytes | None]) -> None:
        """Has the value of a key made within the computation that stores it."""
        token = _writing.set(made)
        try:
            await self._function.refresh(self.namespace, key)
        finally:
            _writing.reset(token)

    def _told(self, key: str, expires_in: int | timedelta | None) -> None:
        """From inside of the computation: how long the value lives, and what it depends on."""
        life = expires_in.total_seconds() if isinstance(expires_in, timedelta) else expires_in
        set_ttl(inf if life is None else life)
        add_deps([self._tag, *(self._tags(key) if callable(self._tags) else self._tags)])

    async def set(self, key: str, value: str | bytes, expires_in: int | timedelta | None = None) -> None:
        """Sets a value, which lives for so many seconds; None: until it is deleted."""

        def made() -> bytes:
            self._told(key, expires_in)
            return value.encode() if isinstance(value, str) else value

        await self._write(key, made)

    async def get(self, key: str, renew_for: int | timedelta | None = None) -> bytes | None:
        """The value of a key, or None. renew_for: if it has an end, it has so many seconds from now on."""
        entry = await self._beside(self._entry, key)
        if entry is None:
            return None
        value: bytes = entry.value
        if renew_for is None or entry.deadline == inf:
            return value

        def made() -> bytes | None:
            self._told(key, renew_for)
            function = self._function
            there = function.entries.get(entry.key)
            return value if there is entry and function.look(there) else None  # None: deleted meanwhile

        await self._write(key, made)
        return value  # as it was when it was asked for

    async def delete(self, key: str) -> None:
        """Deletes a value, if there is one."""
        await self._beside(self._function.invalidate, self.namespace, key)

    async def delete_all(self) -> None:
        """Deletes all values of this namespace, and of those below it: one invalidation."""
        await self._function.open_cache().invalidate_async(self._tag)

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return await self._beside(self._entry, key) is not None

    async def expires_in(self, key: str) -> int | None:
        """The seconds that a value has left; None if it has no end, or there is none."""
        entry = await self._beside(self._entry, key)
        if entry is None or entry.deadline == inf:
            return None
        left: float = entry.deadline - self._function.open_cache().clock()
        return ceil(left)
