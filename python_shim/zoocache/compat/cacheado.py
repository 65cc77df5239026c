"""The names of cacheado 1.4, translated: change the import lines, and go on.

    from zoocache.compat.cacheado import Cache, InMemory, ScopeConfig, ScopeLevel

Over an InMemory or a RedisStorage, with no rule but LifeTimeEvict, a Cache is a view of a zoocache.Cache, ``engine``:
tags and dependencies work through it. Else it runs the storage and the rules that it was given; there, too, one call
computes a key at a time, and what was evicted meanwhile is not stored. What differs: functions are told apart by more
than a name; the signature says the ids of scopes, which are escaped; a ttl needs no rule; an unknown scope is refused.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from zoocache._cache import Cache as Engine
from zoocache._table import Rules
from zoocache.compat._cacheado import (
    CacheKey,
    InMemory,
    IStorageProvider,
    IStorageRule,
    Lenient,
    LifeTimeEvict,
    LRUEvict,
    MaxItemsEvict,
    MongoDBStorage,
    RedisStorage,
    RuleAwareStorage,
    RuleSideEffect,
    ScopeConfig,
    ScopeLevel,
    StorageRuleAction,
    log,
)

P = ParamSpec("P")
T = TypeVar("T")

__all__ = [
    "Cache",
    "CacheKey",
    "IStorageProvider",
    "IStorageRule",
    "InMemory",
    "LRUEvict",
    "LifeTimeEvict",
    "MaxItemsEvict",
    "MongoDBStorage",
    "RedisStorage",
    "RuleAwareStorage",
    "RuleSideEffect",
    "ScopeConfig",
    "ScopeLevel",
    "StorageRuleAction",
]

Level = str | tuple[str, ...]  # of a tuple the last
Params = dict[str, Any] | None


class _Computing:
    """A computation that nothing has evicted yet: in ``Cache._computing``."""


class Cache:
    """zoocache.Cache(scopes=..., read_extend_ttl=False)"""

    def __init__(
        self,
        scope_config: ScopeConfig | None = None,
        storage_provider: IStorageProvider | None = None,
        storage_rules: Iterable[IStorageRule] | None = None,
    ) -> None:
        provider = InMemory() if storage_provider is None else storage_provider
        rules = list(storage_rules or ())
        self._config = scope_config or ScopeConfig()
        self._provider = provider
        self._own: IStorageProvider | None = None  # None: it is a view of the engine
        simple = type(provider) in (InMemory, RedisStorage) and all(type(rule) is LifeTimeEvict for rule in rules)
        if simple and isinstance(provider, InMemory):
            self.engine = provider.engine(scope_config)
        else:
            self.engine = Engine()
            self._own = RuleAwareStorage(provider, rules) if rules else provider
        self._lock = threading.RLock()
        self._computing: WeakValueDictionary[str, _Computing] = WeakValueDictionary()
        self._flight = self.engine.cacheable(ttl=0, key=lambda key, *_: key)(self._compute)
        self._aflight = self.engine.cacheable(ttl=0, key=lambda key, *_: key)(self._acompute)
        self._hits = self._misses = self._evictions = 0  # of a view: what to add to those of the engine

    # ---- functions -----------------------------------------------------------------------------------

    def cache(self, ttl_seconds: float, scope: Level = "global") -> Callable[[Callable[P, T]], Callable[P, T]]:
        """@zoocache.cacheable(ttl=..., scope=..., negative_ttl=0)"""
        name = scope if isinstance(scope, str) else scope[-1]
        self._config.get_param_name(name)
        if self._own is not None:
            return partial(self._decorate, max(ttl_seconds, 0), name)
        rules = Rules(ttl=max(ttl_seconds, 0), negative_ttl=0)
        within = None if name == "global" else name

        def decorate(func: Callable[P, T]) -> Callable[P, T]:
            wrapper: Callable[P, T] = Lenient(func, None, None, None, self.engine, rules, within).wrapper()
            return wrapper

        return decorate

    def _decorate(self, ttl: float, name: str, func: Callable[..., Any]) -> Any:
        signature = inspect.signature(func)

        def key_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
            try:
                bound = signature.bind(*args, **kwargs)
                bound.apply_defaults()
                path = self._config.path(name, {**bound.arguments, **kwargs})
                call = (func.__module__, func.__qualname__, bound.arguments)
                return CacheKey(path, func.__name__, call).as_string()
            except (TypeError, ValueError) as error:
                log.warning("%s is not cached: %s", func.__name__, error)
                return None

        @wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            key = key_of(args, kwargs)
            if key is None:
                return func(*args, **kwargs)
            value = self._found(key)
            return self._flight(key, ttl, partial(func, *args, **kwargs)) if value is None else value

        @wraps(func)
        async def awrapper(*args: Any, **kwargs: Any) -> Any:
            key = key_of(args, kwargs)
            if key is None:
                return await func(*args, **kwargs)
            value = await asyncio.to_thread(self._found, key)
            return await self._aflight(key, ttl, partial(func, *args, **kwargs)) if value is None else value

        return awrapper if inspect.iscoroutinefunction(func) else wrapper

    def _compute(self, key: str, ttl: float, call: Callable[[], Any]) -> Any:
        computing = self._computing[key] = _Computing()
        value = self._there(key)  # by the call before this one
        if value is None:
            value = call()
            self._keep(key, ttl, computing, value)
        return value

    async def _acompute(self, key: str, ttl: float, call: Callable[[], Any]) -> Any:
        computing = self._computing[key] = _Computing()
        value = await asyncio.to_thread(self._there, key)
        if value is None:
            value = await call()
            await asyncio.to_thread(self._keep, key, ttl, computing, value)
        return value

    def _there(self, key: str) -> Any:
        found = None if self._own is None else self._own.get(key)
        return None if found is None else found[0]

    def _keep(self, key: str, ttl: float, computing: _Computing, value: Any) -> None:
        with self._lock:
            if self._own is not None and value is not None and ttl > 0 and self._computing.get(key) is computing:
                self._own.set(key, value, ttl)

    # ---- by key --------------------------------------------------------------------------------------

    def _place(self, scope: Level, scope_params: Params, more: dict[str, Any]) -> dict[str, Any]:
        """scope= and the ids, as the engine takes them. Raises ValueError."""
        name, params = scope if isinstance(scope, str) else scope[-1], {**(scope_params or {}), **more}
        self._config.path(name, params)
        return {} if name == "global" else {"scope": name, **self._config.ids(name, params)}

    def _key(self, key: Any, place: dict[str, Any]) -> str:
        return CacheKey(self._config.path(place.get("scope", "global"), place), "__programmatic__", (key,)).as_string()

    def _found(self, key: str) -> Any:
        value = self._there(key)
        with self._lock:
            self._hits += value is not None
            self._misses += value is None
        return value

    def get(self, key: Any, scope: Level = "global", scope_params: Params = None, **more: Any) -> Any:
        """Cache.get(key, scope=..., org_id=...)"""
        place = self._place(scope, scope_params, more)
        return self.engine.get(key, **place) if self._own is None else self._found(self._key(key, place))

    def set(
        self,
        key: Any,
        value: Any,
        ttl_seconds: float,
        scope: Level = "global",
        scope_params: Params = None,
        **more: Any,
    ) -> None:
        """Cache.set(key, value, ttl=..., scope=..., org_id=...)"""
        place = self._place(scope, scope_params, more)
        if self._own is None:
            self.engine.set(key, value, ttl=max(ttl_seconds, 0), **place)
        elif ttl_seconds <= 0:
            self._own.evict(self._key(key, place))
        else:
            with self._lock:
                self._own.set(self._key(key, place), value, ttl_seconds)

    def evict(self, key: Any, scope: Level = "global", scope_params: Params = None, **more: Any) -> None:
        """Cache.delete(key, scope=..., org_id=...)"""
        place = self._place(scope, scope_params, more)
        if self._own is None:
            self.engine.delete(key, **place)
        else:
            self._evict([self._key(key, place)])
        with self._lock:
            self._evictions += self._own is None

    def _evict(self, keys: list[str]) -> int:
        with self._lock:
            for key in keys:
                self._computing.pop(key, None)
                if self._own is not None:
                    self._own.evict(key)
            self._evictions += len(keys)
        return len(keys)

    def evict_by_scope(self, scope: Level, scope_params: Params = None, **more: Any) -> int:
        """Cache.evict_scope("org", org_id=...), and for "global" Cache.clear(). 0 if an id is missing."""
        try:
            place = self._place(scope, scope_params, more)
        except ValueError as error:
            log.warning("nothing is evicted: %s", error)
            return 0
        if self._own is None:
            return self._evicted(place)
        path = self._config.path(place.get("scope", "global"), place)

        def within(keys: Iterable[str]) -> list[str]:
            return [k for k in keys if self._config.is_descendant_of(CacheKey.extract_scope_prefix(k), path)]

        with self._lock:
            for key in within(list(self._computing)):
                self._computing.pop(key, None)
            return self._evict(within(self._own.get_all_keys()))

    def _evicted(self, place: dict[str, Any]) -> int:
        if place:
            count: int = self.engine.evict_scope(place.pop("scope"), **place)
        else:
            count = self._provider.get_stats()["total_keys"]
            self.engine.clear()
        with self._lock:
            self._evictions += count
        return count

    def clear(self) -> None:
        """Cache.clear(); the statistics begin anew."""
        with self._lock:
            self._computing.clear()
            self._hits = self._misses = self._evictions = 0
            if self._own is not None:
                self._own.clear()
            else:
                self.engine.clear()
                before = self.engine.stats()
                self._hits, self._misses = -before.hits, -before.misses

    def stats(self) -> dict[str, Any]:
        """Of Cache.stats(): hits, misses, evictions; and what the storage says of itself."""
        engine, own = self.engine.stats(), self._own
        seen = (engine.hits, engine.misses) if own is None else (0, 0)
        evictions = self._evictions + (own.evictions if isinstance(own, RuleAwareStorage) else 0)
        counts = {"hits": self._hits + seen[0], "misses": self._misses + seen[1], "evictions": evictions}
        return {**counts, **(self._provider.get_stats() or {})}

    async def _aside(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._own is None and self.engine.shared is None:
            return call(*args, **kwargs)
        return await asyncio.to_thread(call, *args, **kwargs)

    async def aget(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        """As get()."""
        return await self._aside(self.get, key, *args, **kwargs)

    async def aset(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        """As set()."""
        await self._aside(self.set, key, value, *args, **kwargs)

    async def aevict(self, key: Any, *args: Any, **kwargs: Any) -> None:
        """As evict()."""
        await self._aside(self.evict, key, *args, **kwargs)

    async def aclear(self) -> None:
        """As clear()."""
        await self._aside(self.clear)
