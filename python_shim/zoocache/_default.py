"""The default cache: made at its first use, as configure() has said until then."""

from __future__ import annotations

import os
import threading

from zoocache import _ffi
from zoocache._cache import Cache, CacheStats
from zoocache._callables import imitate
from zoocache._durations import check, seconds
from zoocache._table import Fill, Table
from zoocache.context import CURRENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from contextlib import AbstractContextManager
    from typing import Any, TypeVar

    from zoocache._health import Health
    from zoocache.events import Listener
    from zoocache.scopes import Scope
    from zoocache.serializers import Serializer
    from zoocache.storage import Storage
    from zoocache.telemetry.manager import TelemetryManager
    from zoocache.transactions import Transaction

    Declared = TypeVar("Declared", bound=Callable[..., None])

__all__ = [
    "cache", "catch_up", "catch_up_async", "clear", "clear_async", "configure", "delete", "delete_async", "evict_scope",
    "evict_scope_async", "get", "get_async", "get_many", "get_many_async", "get_tag_version", "health", "invalidate",
    "invalidate_async", "no_store", "prune", "reset", "scope", "set", "set_async", "set_ttl", "stats", "token",
    "transaction", "version",
]  # fmt: skip


class State:
    """What configure() has said, and the cache that came of it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.config: dict[str, Any] = {}
        self.made: dict[str, Any] = {}  # the settings of the cache, if configure() has said nothing
        self.variables: dict[str, str] = {}  # of the environment, that options were set by
        self.telemetry: TelemetryManager | None = None
        self.cache: Cache | None = None


_reloaded = "state" in globals()
state: State = globals().get("state") or State()

# Nobody holds the lock in the child. Registered after those of _cache: taken before theirs, as cache() does.
if not _reloaded and hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=state.lock.acquire, after_in_parent=state.lock.release, after_in_child=state.lock.release
    )


def cache() -> Cache:
    """The default cache, made if need be."""
    found = state.cache
    if found is None:
        with state.lock:
            found = state.cache
            if found is None:
                found = state.cache = _make()
    return found


Table.default = staticmethod(cache)


def _sealing() -> bool:
    from zoocache import _options

    return (state.config or state.made or _options.resolve({})[0])["seal_key"] is not None


Table.sealing = staticmethod(_sealing)


def _make() -> Cache:
    from zoocache import _options

    settings = state.config
    if not settings:
        settings, state.variables = _options.resolve({})
    try:
        made = Cache(telemetry=state.telemetry, **settings)
    except Exception as error:
        _options.blame(error, state.variables)
        raise
    state.made = settings
    return made


def _configure(given: dict[str, Any]) -> None:
    from zoocache import _options

    telemetry: TelemetryManager | None = given.pop("telemetry", None)
    check(given)
    with state.lock:
        before = state.config or state.made
        if not before:
            state.config, state.variables = _options.resolve(given)
        elif any(v != before[name] and v != _options.DEFAULTS[name] for name, v in given.items()):
            raise RuntimeError("zoocache already initialized with different settings")
        else:
            state.config = before
        if telemetry is not None and telemetry is not state.telemetry:
            previous, state.telemetry = state.telemetry, telemetry
            if previous is not None:
                previous.close()
            if state.cache is not None:
                raise RuntimeError("zoocache already initialized with different settings")
    if telemetry is not None:
        cache()


def _as_given(declared: Declared) -> Declared:
    """configure() as it is declared; what is given counts as given, be it the same as the default."""
    function: Any = declared
    names = function.__code__.co_varnames

    def configure(*args: Any, **options: Any) -> None:
        declared(*args, **options)  # raises TypeError for what it does not take
        _configure({**dict(zip(names, args)), **options})

    imitate(configure, declared)
    return configure  # type: ignore[return-value]


@_as_given
def configure(
    storage_url: str | None = None,
    bus_url: str | None = None,
    prefix: str | None = None,
    prune_after: int | None = None,
    default_ttl: float | None = None,
    read_extend_ttl: bool = True,
    max_entries: int | None = None,
    lmdb_map_size: int | None = None,
    flight_timeout: float = 60,
    tti_flush_secs: int = 30,
    auto_prune_secs: int | None = None,
    auto_prune_interval: int = 3600,
    lru_update_interval: int = 30,
    channel_capacity: int = 1_000_000,
    batch_size: int = 1000,
    lru_cache_size: int = 10_000,
    telemetry: TelemetryManager | None = None,
    clock: Callable[[], float] | None = None,
    storage: Storage | None = None,
    serializer: str | Serializer = "msgpack",
    compression: bool | None = None,
    timeout: float | None = None,
    connections: int = 0,
    replicas: int = 0,
    log_shards: int = 1,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    storage_ttl: float | None = None,
    write_behind: bool = False,
    sync: bool = False,
    max_staleness: float = 1.0,
    max_stale: float = 0.0,
    silence: str = "bypass",
    ack: str = "acked",
    bus_pause: float | None = None,
    breaker_failures: int = 3,
    breaker_pause: float = 0.1,
    seal_key: Any = None,
    previous_seal_keys: Iterable[Any] = (),
    seal_strict: bool = False,
    scopes: Scope | Iterable[Scope] | None = None,
    on_event: Listener | Iterable[Listener] | None = None,
    max_bytes: int | None = None,
    max_entry_bytes: int | None = None,
    weigh: Callable[[Any], int] | None = None,
    max_loads: int | None = None,
) -> None:
    """Settings of the default cache, before it is used.

    A second call that says something else raises RuntimeError; what it leaves at its default is kept.
    The cache is made at its first use, or at once if telemetry is given: only then is a URL looked at.
    What is not given here is as the environment says, ZOOCACHE_<OPTION>, and else as it is by default. A variable
    that makes no sense raises ValueError. Not read at import, nor for a Cache() of your own.

    storage_url: None is memory, in this process. "lmdb:///directory" is shared by the processes of a machine,
        "redis://[[user]:password@]host[:port][/database]", "rediss://" (TLS), "unix://socket" and
        "redis+sentinel://host,host/name" by a fleet; zoocache.storages has more. What was had here is in memory, too.
    bus_url: where invalidations are told to the others; by default where the storage is.
    storage: instead of a URL, a Storage of your own. prefix: of all keys in Redis.
    default_ttl: the life of a value, in seconds, unless its function says otherwise.
    read_extend_ttl: a read begins that life anew.
    max_entries: the limit, over all functions; the least useful give way. Of an LMDB file, too, all processes
        together. What Redis keeps is limited by its own maxmemory.
    max_bytes: the same, in bytes of this process' memory. max_entry_bytes: what is larger is returned, not stored.
        weigh: a callable of a value that says what it weighs, instead of an estimate of its memory.
    max_loads: how many functions run at once; the rest wait, or get what is stale if that is allowed, and raise
        Overloaded after flight_timeout. What a cached function calls is a part of it.
    flight_timeout: how long a call waits for another that computes the same.
    auto_prune_secs, auto_prune_interval: how idle a tag must be to be forgotten, how often that happens; both are
        looked at when values are stored. prune_after: short for both.
    clock: instead of time.monotonic, for deadlines; for tests.
    serializer: "msgpack", "json", "arrow", "pickle", or an object with name, dumps() and loads(). compression: whether
        values are compressed in the storage; None: if the serializer's usually shrink.
    timeout: of a call of Redis, 0.25 seconds by default; a storage that does not answer is left alone for a while. One
        of your own can ask for it: zoocache.storage.time_left().
    connections: to Redis, or calls of a storage of your own at once, at most. tls_ca, tls_cert, tls_key: of Redis.
        log_shards: in how many parts Redis holds log and values, from 1 to 16; the same in every process.
    lmdb_map_size: bytes, 1 GiB by default. sync: LMDB outlives a crash of the system, not only of the process.
    storage_ttl: the longest life in the storage, if it is not that of the memory. write_behind: the storage is
        written by a thread of the library, not by who has computed the value.
    max_staleness: how late, in seconds, this process may hear of an invalidation. silence: what a call does when
        the bus has been silent for longer: "bypass" computes, "serve" serves for max_stale longer, "error" raises.
    ack: when invalidate() returns: "acked", the log has it; "async", at once; "durable", its replicas or disk have
        it, too; "strict", no process can serve the old value any more. bus_pause: between two reads of a busy log.
    seal_key, previous_seal_keys, seal_strict: what a storage and the log get is sealed, see zoocache.seal.
    breaker_failures, breaker_pause: a storage is left alone after so many failures in a row, or one call that has
        timed out; for so long, and for longer and longer while it does not answer.
    scopes: what keeps tenants, users, sessions apart: see zoocache.scopes.
    on_event: a callable, or several, that are told what happens: see zoocache.events.
    tti_flush_secs, lru_update_interval, channel_capacity, batch_size, lru_cache_size have no effect; the log says
        so if they are given.
    """


def reset() -> None:
    """Lets go of the default cache and its settings; for tests. Decorated functions find the next one."""
    with state.lock:
        old, state.cache = state.cache, None
        telemetry, state.telemetry = state.telemetry, None
        state.config, state.made, state.variables = {}, {}, {}
    if old is not None:
        old.close()
    elif telemetry is not None:
        telemetry.close()


def get(key: str, scope: str | None = None, **params: Any) -> Any:
    """The value under a key, or None; of a scope, if one is named, with its ids.

    Takes what a decorated function's key() gives, too.
    """
    found = state.cache
    if found is None:
        found = cache()
    return found.get(key) if scope is None and not params else found.get(key, scope, **params)


def set(
    key: str,
    value: Any,
    deps: Iterable[str] = (),
    ttl: float | None = None,
    scope: str | None = None,
    **params: Any,
) -> None:
    """Stores a value under a key; in a scope, if one is named, with its ids."""
    cache().set(key, value, deps, ttl, scope, **params)


def delete(key: str, scope: str | None = None, **params: Any) -> bool:
    """Removes a key; of a scope, if one is named. Returns whether it was there."""
    return cache().delete(key, scope, **params)


async def delete_async(key: str, scope: str | None = None, **params: Any) -> bool:
    """As delete()."""
    return await cache().delete_async(key, scope, **params)


async def get_async(key: str, scope: str | None = None, **params: Any) -> Any:
    """As get()."""
    return await cache().get_async(key, scope, **params)


async def set_async(
    key: str,
    value: Any,
    deps: Iterable[str] = (),
    ttl: float | None = None,
    scope: str | None = None,
    **params: Any,
) -> None:
    """As set()."""
    await cache().set_async(key, value, deps, ttl, scope, **params)


def scope(**params: Any) -> AbstractContextManager[None]:
    """In its block, a context, these are the ids of scopes that calls do not give themselves; None gives none."""
    return cache().scope(**params)


def evict_scope(name: str, **params: Any) -> int:
    """Whatever is in this scope, or in one below it, is gone, in every process; O(depth).

    Returns how many entries of this process that were. Raises ScopeMissing if an id is missing.
    """
    return cache().evict_scope(name, **params)


async def evict_scope_async(name: str, **params: Any) -> int:
    """As evict_scope()."""
    return await cache().evict_scope_async(name, **params)


def get_many(keys: Iterable[str]) -> dict[str, Any]:
    """The values that there are under these keys; what is asked of a storage is asked in one step."""
    return cache().get_many(keys)


async def get_many_async(keys: Iterable[str]) -> dict[str, Any]:
    """As get_many()."""
    return await cache().get_many_async(keys)


def transaction(snapshot: bool = True, hold: float = 0.0) -> Transaction:
    """A block, for with and async with, whose invalidations wait for its end: see zoocache.transactions.

    snapshot: what is read in it may be as old as the block, as in SQLite and under REPEATABLE READ; false: it is as it
    was last committed.
    hold: seconds in which it is sure to be committed, from each invalidate() on: then a crash leaves nothing stale.
    """
    return cache().transaction(snapshot, hold)


def token() -> int:
    """Stands for all invalidations that were finished here: catch_up() on another node waits for them."""
    return cache().token()


def catch_up(token: int, timeout: float = 5.0) -> None:
    """Read your writes: returns when this node has heard what the node of the token had invalidated."""
    cache().catch_up(token, timeout)


async def catch_up_async(token: int, timeout: float = 5.0) -> None:
    """As catch_up()."""
    await cache().catch_up_async(token, timeout)


def invalidate(tag: str, *more: str) -> None:
    """Whatever depends on the tag, or on a tag below it, is gone; several tags are gone in one step."""
    found = state.cache
    if found is None:
        found = cache()
    if more:
        found.invalidate(tag, *more)
    else:
        found.invalidate_one(tag)


def invalidate_async(tag: str, *more: str) -> Awaitable[None]:
    """As invalidate()."""
    return cache().invalidate_async(tag, *more)


def clear() -> None:
    """Removes everything."""
    cache().clear()


async def clear_async() -> None:
    """As clear()."""
    await cache().clear_async()


def prune(max_age_secs: float = 3600) -> None:
    """Forgets tags that nothing has depended on for so long; nothing stale comes back by it."""
    cache().prune(max_age_secs)


def get_tag_version(tag: str) -> int:
    """The version of the tag's last invalidation; 0: never."""
    return cache().tag_version(tag)


def stats() -> CacheStats:
    """The statistics of the default cache."""
    return cache().stats()


def health() -> Health:
    """How the default cache does, at this moment: asks nothing that may not answer, and does not make it."""
    from zoocache._health import health_of

    return health_of(state.cache)


def version() -> str:
    """The version of the library inside."""
    return _ffi.library_version()


def set_ttl(ttl: float | None) -> None:
    """From inside a cached function: how long its value will live. Outside of one, does nothing."""
    fill = CURRENT.get()
    if isinstance(fill, Fill):
        fill.ttl = seconds("ttl", ttl)
        fill.table.ticks_for(fill.ttl)


def no_store() -> None:
    """From inside a cached function: its value is returned, not stored. Outside of one, does nothing."""
    fill = CURRENT.get()
    if isinstance(fill, Fill):
        fill.store = False
