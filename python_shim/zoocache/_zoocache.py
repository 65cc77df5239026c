"""What the published guide of zoocache 2026 shows for debugging: Core().tag_version("user:42")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoocache import _default, _ffi, _keys
from zoocache._cache import Cache
from zoocache._errors import InvalidTag, StorageIsFull

__all__ = ["Core", "InvalidTag", "StorageIsFull", "hash_key"]


class Core:
    """Without options, a view of the process's default cache; with options, a cache of its own."""

    def __init__(self, node_id: str | None = None, **options: Any) -> None:
        self._own = Cache(**options) if options else None

    @property
    def _cache(self) -> Cache:
        return _default.cache() if self._own is None else self._own

    def get(self, key: str) -> Any:
        """The value under a key, or None."""
        return self._cache.get(key)

    def set(self, key: str, value: Any, deps: Iterable[str] = (), ttl: float | None = None) -> None:
        """Stores a value."""
        self._cache.set(key, value, deps, ttl)

    def invalidate(self, tag: str) -> None:
        """Invalidates a tag."""
        self._cache.invalidate(tag)

    def tag_version(self, tag: str) -> int:
        """The version of a tag's last invalidation."""
        return self._cache.tag_version(tag)

    get_tag_version = tag_version

    def clear(self) -> None:
        """Removes everything."""
        self._cache.clear()

    def prune(self, max_age_secs: float = 3600) -> None:
        """Forgets idle tags."""
        self._cache.prune(max_age_secs)

    def len(self) -> int:
        """How many entries there are."""
        return len(self._cache)

    def version(self) -> str:
        """The version of the library inside."""
        return _ffi.library_version()


def hash_key(obj: Any, prefix: str | None = None) -> str:
    """XXH3 of an object's content, as text. Raises TypeError if it has none."""
    try:
        text = _keys.portable(_keys.freeze(obj))
    except (_keys.Unkeyable, _keys.Unportable):
        raise TypeError(f"no stable key: {type(obj).__name__}") from None
    digest = f"{_ffi.hash_bytes(text.encode('utf-8', 'surrogatepass')):016x}"
    return f"{prefix}:{digest}" if prefix else digest
