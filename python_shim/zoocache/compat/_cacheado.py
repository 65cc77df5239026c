"""What a Cache of cacheado is made of: scopes, keys, storages and rules (see cacheado)."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from math import inf
from typing import Any, Protocol
from urllib.parse import urlsplit

from zoocache._cache import Cache as Engine
from zoocache._functions import Function
from zoocache._keys import Unkeyable, Unportable, freeze, portable
from zoocache.scopes import Scope, segment

Found = tuple[Any, float]  # a value, and when it ends, by time.monotonic()

log = logging.getLogger("zoocache.compat")


@dataclass
class ScopeLevel:
    """zoocache.Scope(name, param_name, *children)"""

    name: str
    param_name: str
    children: list[ScopeLevel] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a scope level must have a name")
        self.children = list(self.children or ())

    def scope(self) -> Scope:
        return Scope(self.name, self.param_name, *(child.scope() for child in self.children))


class ScopeConfig:
    """The levels below "global"."""

    def __init__(self, root_levels: Iterable[ScopeLevel] | None = None) -> None:
        self.root_levels = [ScopeLevel("global", "", list(root_levels or ()))]
        self._chains: dict[str, list[ScopeLevel]] = {}
        self._add(self.root_levels[0], [])
        self.all_levels = [chain[-1] for chain in self._chains.values()]
        self.level_names = list(self._chains)

    def _add(self, level: ScopeLevel, above: list[ScopeLevel]) -> None:
        if level.name in self._chains:
            raise ValueError(f"there are two scope levels {level.name!r}")
        self._chains[level.name] = [*above, level]
        for child in level.children:
            self._add(child, self._chains[level.name])

    def _chain(self, name: str) -> list[ScopeLevel]:
        if name not in self._chains:
            raise ValueError(f"there is no scope level {name!r}; there are: {', '.join(self._chains)}")
        return self._chains[name]

    def get_param_name(self, level_name: str) -> str:
        return self._chain(level_name)[-1].param_name

    def validate_scope_params(self, target_level: str, scope_params: dict[str, Any]) -> None:
        self.path(target_level, scope_params)

    def build_scope_path(self, scope_params: dict[str, Any]) -> str:
        given = [n for n in self._chains if len(self.ids(n, scope_params)) == len(self._chains[n]) - 1]
        return self.path(max(given, key=lambda name: len(self._chains[name])), scope_params)

    def ids(self, name: str, params: dict[str, Any]) -> dict[str, str]:
        """Those of the parameters that lead to a level."""
        names = [level.param_name for level in self._chain(name)[1:]]
        return {name: str(params[name]) for name in names if params.get(name) is not None}

    def path(self, name: str, params: dict[str, Any]) -> str:
        """The path of a level, "a:1/b:2". Raises ValueError if a parameter is missing."""
        ids = self.ids(name, params)
        for level in self._chain(name)[1:]:
            if level.param_name not in ids:
                raise ValueError(f"scope {name!r} needs {level.param_name!r}")
        return "/".join(f"{x.name}:{segment(x.name, ids[x.param_name])}" for x in self._chain(name)[1:]) or "global"

    def get_parent_scope_path(self, scope_path: str) -> str | None:
        return None if scope_path == "global" else scope_path.rpartition("/")[0] or "global"

    def is_descendant_of(self, child_path: str, parent_path: str) -> bool:
        return parent_path == "global" or f"{child_path}/".startswith(f"{parent_path}/")

    def get_scope_tree_for_level(self, level_name: str) -> ScopeLevel | None:
        return self._chains[level_name][0] if level_name in self._chains else None


@dataclass(init=False, unsafe_hash=True)
class CacheKey:
    """The key of a call in a storage, "scope::namespace::number"."""

    scope_prefix: str
    namespace: str
    args_hash: int

    def __init__(self, scope_prefix: str, namespace: str, args_key: tuple[Any, ...]) -> None:
        try:
            text = portable(freeze(args_key)).encode("utf-8", "surrogatepass")
        except (Unkeyable, Unportable, RecursionError):
            raise TypeError(f"{namespace}: an argument has no text that another process would give it") from None
        self.scope_prefix, self.namespace = scope_prefix, namespace
        self.args_hash = int.from_bytes(blake2b(text, digest_size=16).digest(), "big")

    @staticmethod
    def from_string(key_str: str) -> CacheKey:
        if key_str.count("::") != 2:
            raise ValueError(f"not a key of three parts: {key_str!r}")
        key = CacheKey.__new__(CacheKey)
        key.scope_prefix, key.namespace = key_str.split("::")[:2]
        key.args_hash = CacheKey.extract_args_hash(key_str)
        return key

    @staticmethod
    def extract_scope_prefix(key_str: str) -> str:
        return key_str.split("::")[0]

    @staticmethod
    def extract_namespace(key_str: str) -> str:
        return [*key_str.split("::"), ""][1]

    @staticmethod
    def extract_args_hash(key_str: str) -> int:
        return int([*key_str.split("::"), "0", "0"][2])

    def as_string(self) -> str:
        return f"{self.scope_prefix}::{self.namespace}::{self.args_hash}"

    __str__ = as_string


class IStorageProvider(Protocol):
    """Where values are: five calls, whose async twins make them beside the event loop, and statistics."""

    def get(self, key: str) -> Found | None: ...
    def set(self, key: str, value: Any, ttl_seconds: float) -> None: ...
    def evict(self, key: str) -> None: ...
    def get_all_keys(self) -> list[str]: ...
    def clear(self) -> None: ...
    def get_stats(self) -> dict[str, Any]: ...

    async def aget(self, key: str) -> Found | None:
        return await asyncio.to_thread(self.get, key)

    async def aset(self, key: str, value: Any, ttl_seconds: float) -> None:
        await asyncio.to_thread(self.set, key, value, ttl_seconds)

    async def aevict(self, key: str) -> None:
        await asyncio.to_thread(self.evict, key)

    async def aget_all_keys(self) -> list[str]:
        return await asyncio.to_thread(self.get_all_keys)

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)


class InMemory(IStorageProvider):
    """zoocache.Cache()"""

    storage_type = "in_memory"

    def __init__(self) -> None:
        self._options: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._held: tuple[Engine, ScopeConfig] | None = None

    def engine(self, config: ScopeConfig | None = None) -> Engine:
        """The cache that it is, made when it is first asked for; with these scopes."""
        with self._lock:
            if self._held is None:
                config = config or ScopeConfig()
                scopes = [level.scope() for level in config.root_levels[0].children] or None
                self._held = Engine(read_extend_ttl=False, scopes=scopes, **self._options), config
            engine, known = self._held
        if config is not None and config.root_levels != known.root_levels:
            raise ValueError("the storage has other scopes already: give each scope_config a storage of its own")
        return engine

    def get(self, key: str) -> Found | None:
        engine = self.engine()
        value = engine.get(key)
        entry = engine._raw.entries.get(key)
        return None if value is None or entry is None else (value, entry.deadline)

    def set(self, key: str, value: Any, ttl_seconds: float) -> None:
        self.engine().set(key, value, ttl=max(ttl_seconds, 0))

    def evict(self, key: str) -> None:
        self.engine().delete(key)

    def clear(self) -> None:
        self.engine().clear()

    def get_all_keys(self) -> list[str]:
        self.engine().sweep()
        return list(self.engine()._raw.entries)

    def get_stats(self) -> dict[str, Any]:
        self.engine().sweep()
        return {"storage_type": self.storage_type, "total_keys": len(self.engine())}


class RedisStorage(InMemory):
    """zoocache.Cache(storage_url="redis://..."). Its statistics are of this process."""

    storage_type = "redis"

    def __init__(self, connection_string: str, db: int = 0, **extra_options: Any) -> None:
        super().__init__()
        url = urlsplit(connection_string)
        if url.scheme != "unix" and url.path in ("", "/"):
            url = url._replace(path=f"/{db}")
        names = {"socket_timeout": "timeout", "max_connections": "connections", "prefix": "prefix"}
        for name in extra_options.keys() - names:
            raise TypeError(f"RedisStorage has no {name!r}: see the options of zoocache.Cache(storage_url=...)")
        self._options = {"storage_url": url.geturl(), **{names[n]: value for n, value in extra_options.items()}}

    def get_all_keys(self) -> list[str]:
        raise NotImplementedError("RedisStorage lists no keys: without rules, a Cache evicts scopes in one step")


class MongoDBStorage(InMemory):
    """Has no counterpart."""

    def __init__(self, connection_string: str, *args: Any, **options: Any) -> None:
        raise NotImplementedError("MongoDB is not supported: use RedisStorage(...), or an IStorageProvider of your own")


class StorageRuleAction(str, Enum):
    """What may be done to a storage."""

    EVICT = "evict"
    SET = "set"
    GET = "get"
    CLEAR = "clear"
    AEVICT = "aevict"
    ASET = "aset"
    AGET = "aget"
    ACLEAR = "aclear"


@dataclass(frozen=True)
class RuleSideEffect:
    """What a rule wants to be done to a key: EVICT, or CLEAR."""

    cache_key: str
    action: StorageRuleAction


class IStorageRule(Protocol):
    """Is told of each call of a storage, and may have a side effect."""

    def on_get(self, key: str) -> RuleSideEffect | None: ...
    def on_set(self, key: str, value: Any, ttl_seconds: float) -> RuleSideEffect | None: ...
    def on_evict(self, key: str) -> RuleSideEffect | None: ...
    def on_clear(self) -> RuleSideEffect | None: ...
    def on_get_all_keys(self) -> RuleSideEffect | None: ...


class _Ends(IStorageRule):
    """Knows each key, and when it ends; the one that was used last is the last."""

    def __init__(self) -> None:
        self._ends: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def on_get(self, key: str) -> RuleSideEffect | None:
        return None

    def on_set(self, key: str, value: Any, ttl_seconds: float) -> RuleSideEffect | None:
        with self._lock:
            self._ends[key] = time.monotonic() + ttl_seconds
            self._ends.move_to_end(key)
            return self._full(key)

    def _full(self, key: str) -> RuleSideEffect | None:
        return None

    def on_evict(self, key: str) -> RuleSideEffect | None:
        with self._lock:
            self._ends.pop(key, None)
        return None

    def on_clear(self) -> RuleSideEffect | None:
        with self._lock:
            self._ends.clear()
        return None

    def on_get_all_keys(self) -> RuleSideEffect | None:
        return None


class LifeTimeEvict(_Ends):
    """A key is evicted when its time is over; of zoocache, a ttl does that by itself."""

    def on_get(self, key: str) -> RuleSideEffect | None:
        over = time.monotonic() >= self._ends.get(key, inf)
        return RuleSideEffect(key, StorageRuleAction.EVICT) if over else None


class LRUEvict(_Ends):
    """Of more keys than that, the one that was not used for longest is evicted. Close to it: Cache(max_entries=...)"""

    def __init__(self, max_items: int) -> None:
        super().__init__()
        self._max_items = max_items

    def on_get(self, key: str) -> RuleSideEffect | None:
        with self._lock:
            if key in self._ends:
                self._ends.move_to_end(key)
        return None

    def _full(self, key: str) -> RuleSideEffect | None:
        if len(self._ends) <= self._max_items:
            return None
        return RuleSideEffect(self._ends.popitem(last=False)[0], StorageRuleAction.EVICT)


class MaxItemsEvict(_Ends):
    """A key more than that is refused, as long as those before it live."""

    def __init__(self, max_items: int) -> None:
        super().__init__()
        self._max_items = max_items

    def _full(self, key: str) -> RuleSideEffect | None:
        if len(self._ends) > self._max_items:
            now = time.monotonic()
            for other in [other for other, end in self._ends.items() if end <= now]:
                del self._ends[other]
        if len(self._ends) <= self._max_items:
            return None
        del self._ends[key]
        return RuleSideEffect(key, StorageRuleAction.EVICT)


class RuleAwareStorage(IStorageProvider):
    """A storage with rules. They hold at every moment: what changes it is done by one thread at a time."""

    def __init__(self, inner_storage: IStorageProvider, rules: Iterable[IStorageRule]) -> None:
        self._storage, self._rules = inner_storage, tuple(rules)
        self._lock = threading.RLock()
        self.evictions = 0  # by rules

    def get(self, key: str) -> Found | None:
        found = self._storage.get(key)
        if found is None:
            return None
        with self._lock:
            evicted = [self._do(rule.on_get(key), key) for rule in self._rules]
        return None if any(evicted) else found

    def set(self, key: str, value: Any, ttl_seconds: float) -> None:
        with self._lock:
            for rule in self._rules:
                if self._do(rule.on_set(key, value, ttl_seconds), key):
                    return
            self._storage.set(key, value, ttl_seconds)

    def _do(self, effect: RuleSideEffect | None, key: str | None = None) -> bool:
        """What a rule wants. Returns whether this key is gone by it."""
        if effect is None:
            return False
        action = effect.action.removeprefix("a")
        if action == "evict":
            self.evict(effect.cache_key)
            self.evictions += 1
        elif action == "clear":
            self.clear()
        elif action == "set":
            raise ValueError("a rule cannot set a value: its side effect has none; evict, or clear")
        return action == "clear" or (action == "evict" and effect.cache_key == key)

    def evict(self, key: str) -> None:
        with self._lock:
            self._storage.evict(key)
            for rule in self._rules:
                effect = rule.on_evict(key)
                if effect is not None and effect.cache_key != key:
                    self._do(effect)

    def clear(self) -> None:
        with self._lock:
            self._storage.clear()
            for rule in self._rules:
                rule.on_clear()

    def get_all_keys(self) -> list[str]:
        with self._lock:
            for rule in self._rules:
                self._do(rule.on_get_all_keys())
            return self._storage.get_all_keys()

    def get_stats(self) -> dict[str, Any]:
        return self._storage.get_stats()


class _Alone:
    """The key of a call that has none: nothing is stored under it."""


class Lenient(Function):
    """A function whose calls are computed, where zoocache refuses them: an argument or an id that is no key."""

    def freeze(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().freeze(args, kwargs)
        except (TypeError, ValueError) as error:
            log.warning("%s is not cached: %s", self.name, error)
            return _Alone()

    def entry(self, cache: Engine, key: Any, *about: Any) -> Any:
        return None if type(key) is _Alone else super().entry(cache, key, *about)

    def within(self, cache: Engine, key: Any, deps: Any) -> Any:
        return deps if type(key) is _Alone else super().within(cache, key, deps)

    def shared_name(self, key: Any) -> bytes | None:
        return None if type(key) is _Alone else super().shared_name(key)
