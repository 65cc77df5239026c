"""A cache: the tables that share settings, tags, a limit and a clock; and what becomes of it in a fork.

Locking. The cache's lock is held where two structures change together, and never while code of others
runs: what is removed under it is dropped after it. It is re-entrant, because the garbage collector may run
a destructor that uses the cache at any time. Order: cache > graph.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import time
from collections import namedtuple
from contextvars import copy_context
from functools import partial
from math import inf
from weakref import WeakSet, ref

from zoocache import _ffi, _tags
from zoocache._durations import check, duration, seconds
from zoocache._ffi import CHANGES, OK, Core, Deps, words
from zoocache._fills import graph
from zoocache._functions import cacheable
from zoocache._keys import Key
from zoocache._table import SWEEP_EVERY, Fill, Rules, Table
from zoocache.context import ACTIVE, CURRENT, DISABLED, OFF, OPEN, TRANSACTION, note, transaction_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Any, Final

    from zoocache._health import Health
    from zoocache._limits import Loads, Scales
    from zoocache._policy import Policy
    from zoocache._scoped import ScopedValues
    from zoocache._shared import Shared, Tier
    from zoocache._types import Cacheable, CacheStats
    from zoocache.events import Events, Listener
    from zoocache.scopes import Scope, Scopes
    from zoocache.storage import Storage
    from zoocache.telemetry.manager import TelemetryManager
    from zoocache.transactions import Transaction

__all__ = ["Cache", "CacheStats"]

_SWEEP: Final = SWEEP_EVERY * 3 // 2  # entries looked at in a slice of housekeeping
_monotonic = time.monotonic

if not TYPE_CHECKING:
    CacheStats = namedtuple(
        "CacheStats",
        "hits hits_stale misses absent expired invalidated fills errors refused waits refreshes evictions entries"
        " bytes flights invalidations tags tag_bytes holds hits_storage storage_errors storage_forged storage_unkeyed"
        " storage_skipped unserializable bus_heard bus_breaks bus_errors bus_pending storage_down breaker_openings",
    )


def many(func: Any = None, **options: Any) -> Any:
    """As cacheable(), for a function of a list of keys, each of which has an entry of its own.

    The function is called with a list of those keys that are not there and that no other call loads; it returns a
    dict, or a list with a value for each. A call returns the same, in the order of its keys. What is not in the dict
    is not cached. Its other arguments are a part of each key. deps and key are called with one key in place of the
    list, and so are f.key() and f.explain(); f.invalidate() and f.refresh() with a list.
    """
    from zoocache._many import Many

    decorate: Any = cacheable
    return decorate(func, _kind=Many, **options)


vars(cacheable)["many"] = many


class Cache:
    """A cache of its own: settings, tags and entries. The functions of the module use a default one.

    with Cache(max_entries=10_000, default_ttl=300) as cache:

        @cache.cacheable(deps=lambda uid: [f"user:{uid}"])
        def load(uid: int) -> User: ...
    """

    def __init__(
        self,
        *,
        storage_url: str | None = None,
        bus_url: str | None = None,
        prefix: str | None = None,
        default_ttl: float | None = None,
        read_extend_ttl: bool = True,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        max_entry_bytes: int | None = None,
        weigh: Callable[[Any], int] | None = None,
        max_loads: int | None = None,
        flight_timeout: float = 60,
        auto_prune_secs: float | None = None,
        auto_prune_interval: float = 3600,
        prune_after: float | None = None,
        lru_cache_size: int = 10_000,
        lmdb_map_size: int | None = None,
        telemetry: TelemetryManager | None = None,
        clock: Callable[[], float] | None = None,
        storage: Storage | None = None,
        scopes: Scope | Iterable[Scope] | None = None,
        on_event: Listener | Iterable[Listener] | None = None,
        **more: Any,
    ) -> None:
        if lru_cache_size < 1:
            raise ValueError("lru_cache_size must be >= 1")
        self.off = False
        if "ZOOCACHE_DISABLED" in os.environ:
            self.heed_the_switch()
        if more or lru_cache_size != 10_000:
            from zoocache._options import check_more

            more = check_more({**more, "lru_cache_size": lru_cache_size})
        times = {"default_ttl": default_ttl, "flight_timeout": flight_timeout, "prune_after": prune_after}
        times.update(auto_prune_secs=auto_prune_secs, auto_prune_interval=auto_prune_interval)
        check({**more, **times})
        flight_timeout = seconds("flight_timeout", flight_timeout) or inf
        self.shared: Shared | None = None  # the second tier
        self.core: Core
        self.lost = self.loud = False
        self.most = inf
        settings: Any = None
        self.sealed = more.get("seal_key") is not None
        if storage_url is not None or bus_url is not None or storage is not None:
            if sys.modules.get("zoocache._ffi") is not _ffi:
                raise ImportError(
                    "zoocache was taken out of sys.modules: this copy of it can have no cache with a storage or a bus"
                    " any more; import it anew"
                )
            from zoocache._shared import Settings, tier

            settings = Settings(
                storage_url=storage_url,
                bus_url=bus_url,
                storage=storage,
                prefix=prefix,
                lmdb_map_size=lmdb_map_size,
                flight_timeout=flight_timeout,
                max_entries=max_entries,
                **more,
            )
            self.loud = settings.loud
        elif self.sealed:
            from zoocache.seal import ring

            ring(more["seal_key"], more.get("previous_seal_keys") or ())
        self.prefix = prefix or "zoocache"
        self.default_ttl = seconds("default_ttl", default_ttl)
        self.read_extend_ttl = read_extend_ttl
        self.max_entries = max_entries
        self.flight_timeout = flight_timeout
        both = seconds("prune_after", prune_after)
        usual = 3600.0 if both is None else both
        idle = seconds("auto_prune_secs", auto_prune_secs)
        self.auto_prune_secs = usual if idle is None else idle
        every = seconds("auto_prune_interval", auto_prune_interval)
        self.auto_prune_interval = usual if every is None else min(every, usual)
        self.clock = clock or _monotonic
        self.ticking = clock is None
        self._telemetry = telemetry
        self.telemetry_enabled = telemetry is not None and telemetry.enabled
        self.lock: Any = threading.RLock()
        self.events: Events | None = None
        if on_event is not None:
            for each in (on_event,) if callable(on_event) else on_event:
                self.listen(each)
        self.policy: Policy | None = None
        self.scales: Scales | None = None
        self.loads: Loads | None = None
        limits = (max_entries, max_bytes, max_entry_bytes, weigh, max_loads)
        if limits != (None,) * 5:
            from zoocache._limits import limit

            limit(self, *limits)
        self.last_begin, self.last_born = 0, -inf  # of the entry that was made last
        self.tasks: Any = set()
        self._tables: list[ref[Table]] = []
        self.debt = 0
        self._pruned = _monotonic()
        self._scopes: Scopes | None = None
        self._scoped: ScopedValues | None = None
        self.closed = False
        if settings is None:
            self.core = Core()
        else:  # the last that may fail; others see it from now on
            self.take(tier(settings))
        self._raw = Table(self, Rules())
        self.adopt(self._raw)
        if scopes is not None:
            from zoocache._scoped import ScopedValues
            from zoocache.scopes import Scopes

            self._scopes = Scopes(scopes)
            self._scoped = ScopedValues(self, self._scopes)
            self.adopt(self._scoped)
        _caches.add(self)
        if telemetry is not None:
            telemetry.bind_core(self)

    def listen(self, listener: Listener) -> None:
        """It is told what happens from now on, see zoocache.events."""
        if self.events is None:
            from zoocache.events import Events

            self.events = Events(self)
            if self.shared is not None:
                self.shared.events = self.events
        self.events.add(listener)

    @property
    def telemetry(self) -> TelemetryManager:
        """Where its metrics go."""
        if self._telemetry is None:
            from zoocache.telemetry.manager import TelemetryManager

            self._telemetry = TelemetryManager()
        return self._telemetry

    def heed_the_switch(self) -> None:
        """Whether the environment says that it computes everything anew, and stores nothing."""
        from zoocache._options import switched_off

        self.off = switched_off()
        if self.off:
            OFF[ref(self, lambda gone: OFF.pop(gone, None))] = None

    def take(self, found: Tier) -> None:
        """What stands behind its tables from now on."""
        self.shared, self.core = found.shared, found.core
        if found.shared is not None:
            found.shared.events = self.events
            if found.shared.beats:
                from zoocache._beat import Beat

                found.shared.beat = Beat(self, found.shared)
        self.lost = found.lost  # the storage could not be opened
        self.most = found.most  # seconds that a value may live

    # ---- tables ----------------------------------------------------------------------------------

    def adopt(self, table: Table) -> None:
        """Makes a table its own."""
        self.check_open()
        with self.lock:
            if table.cache is None:
                table.joined(self)
                self._tables.append(ref(table))

    def tables(self) -> list[Table]:
        """The tables that are still used."""
        with self.lock:
            alive = [(r, t) for r in self._tables if (t := r()) is not None]
            if len(alive) < len(self._tables):
                self._tables = [r for r, _ in alive]
        return [t for _, t in alive]

    def worked(self, table: Table) -> None:
        """Some values were stored since the last time: some housekeeping."""
        self.debt = 0
        left = table.sweep(self, _SWEEP)
        for other in self.tables() if left else ():
            if left and other is not table:
                left = other.sweep(self, left)
        if self.shared is None:  # it has a thread of its own else
            self.core.poll()
        now = _monotonic()
        if now - self._pruned >= self.auto_prune_interval:
            self._pruned = now
            self.core.prune(self.auto_prune_secs)

    def sweep(self) -> None:
        """Removes every entry that is expired or invalidated. Otherwise that happens little by little."""
        for table in self.tables():
            table.look_over(self, list(table.entries))

    def check_open(self) -> None:
        """Raises if it is closed."""
        if self.closed:
            raise RuntimeError("zoocache: the cache is closed")

    def deps(self, tags: tuple[str, ...], shared: bool = False) -> Deps:
        """Tags as the library holds them. Raises InvalidTag."""
        if not tags:
            return self.core.nothing
        names = _tags.pack(tags)
        deps = self.core.shared(names) if shared else self.core.deps(names)
        if deps is None:
            _tags.refuse(tags)
        return deps

    # ---- the public part -------------------------------------------------------------------------

    @property
    def cacheable(self) -> Cacheable:
        """As zoocache.cacheable, with this cache."""
        mine: Any = partial(cacheable, cache=self)
        mine.many = partial(many, cache=self)
        return mine  # type: ignore[no-any-return]

    @property
    def scopes(self) -> Scopes:
        """Its scopes."""
        if self._scopes is None:
            raise ValueError("zoocache: the cache has no scopes; give it some: Cache(scopes=Scope('user', 'user_id'))")
        return self._scopes

    def scope(self, **params: Any) -> AbstractContextManager[None]:
        """In its block, a context, these are the ids of scopes that calls do not give themselves; None gives none."""
        return self.scopes.here(self.scopes.known(params))

    def evict_scope(self, name: str, **params: Any) -> int:
        """Whatever is in this scope, or in one below it, is gone, in every process; O(depth).

        Returns how many entries of this process that were. Raises ScopeMissing if an id is missing.
        """
        scopes = self._scopes or self.scopes
        return self._evict(scopes, scopes.path(name, params))

    async def evict_scope_async(self, name: str, **params: Any) -> int:
        """As evict_scope()."""
        count: int = await self._beside(self._evict, self.scopes, self.scopes.path(name, params))
        return count

    def _evict(self, scopes: Scopes, path: str) -> int:
        if self.closed:
            self.check_open()
        with self.lock:
            count = scopes.cut(path)
        code = self.core.invalidate_mark(b"|scope:" + path.encode())
        if self.events is not None:
            self.events.invalidated((f"|scope:{path}",))
        if code:
            self._told(code, ())
        if OPEN:
            self.again(self._evict, scopes, path)
        return count

    def _place(self, key: Any, scope: str | None, params: dict[str, Any]) -> tuple[Table, Any]:
        """The table in which a key is, and its key there."""
        self.check_open()
        if isinstance(key, Key):
            return key.table, key.frozen
        if scope is None:
            if params:
                raise TypeError(f"{', '.join(params)}: ids are given together with scope=")
            return self._raw, key
        return self._scoped, (self.scopes.path(scope, params), key)  # type: ignore[return-value]

    def get(self, key: str, scope: str | None = None, **params: Any) -> Any:
        """The value under a key, or None; of a scope, if one is named, with its ids."""
        if scope is not None or params:
            table, key = self._place(key, scope, params)
            return table.get(key)
        if type(key) is not str and isinstance(key, Key):
            self.check_open()
            return key.table.get(key.frozen)
        raw = self._raw
        entry = raw.entries.get(key)
        if entry is not None and entry.word == words[CHANGES] and (entry.until is None or _monotonic() < entry.until):
            raw.hits += 1
            if ACTIVE:
                note(entry)
            return entry.value
        self.check_open()
        if not self.telemetry_enabled:
            return raw.get(key)
        with self.telemetry.time_operation("cache_get_duration_seconds"):
            value = raw.get(key)
        self.telemetry.increment("cache_misses_total" if value is None else "cache_hits_total")
        return value

    def set(
        self,
        key: str,
        value: Any,
        deps: Iterable[str] = (),
        ttl: float | None = None,
        scope: str | None = None,
        **params: Any,
    ) -> None:
        """Stores a value under a key; in a scope, if one is named, with its ids. Under f.key(...) it is what f returns.

        Raises StorageIsFull if the storage has no room even after evicting.
        """
        table, key = self._place(key, scope, params)
        table.set(self, key, value, deps, ttl)

    def delete(self, key: str, scope: str | None = None, **params: Any) -> bool:
        """Removes a key; of a scope, if one is named. Returns whether it was there."""
        table, key = self._place(key, scope, params)
        if OPEN:
            self.again(table.drop, key)
        return table.drop(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values that there are under these keys; what is asked of a storage is asked in one step."""
        wanted = list(dict.fromkeys(keys))
        shared = self.shared
        if shared is None or not shared.stores:
            return {key: value for key in wanted if (value := self.get(key)) is not None}
        self.check_open()
        raw = self._raw
        found: dict[str, Any] = {}
        for key in wanted:
            if (isinstance(key, Key) or key in raw.entries) and (value := self.get(key)) is not None:
                found[key] = value
        missing = [key for key in wanted if key not in found and not isinstance(key, Key)]
        found.update(raw.get_many(self, shared, missing))
        return {key: found[key] for key in wanted if key in found}

    async def get_many_async(self, keys: Iterable[str]) -> dict[str, Any]:
        """As get_many()."""
        wanted = list(keys)
        places = [self._place(key, None, {}) for key in wanted]
        return await self._beside(self.get_many, wanted, keys=places)  # type: ignore[no-any-return]

    async def _beside(self, work: Callable[..., Any], *args: Any, keys: Iterable[tuple[Table, Any]] = ()) -> Any:
        """Calls what may wait for a storage: beside the event loop, if there is one to wait for; by key in order."""
        if self.shared is None:
            return work(*args)
        return await self.shared.run(keys, copy_context().run, work, *args)

    async def get_async(self, key: str, scope: str | None = None, **params: Any) -> Any:
        """As get()."""
        table, place = self._place(key, scope, params)
        if self.shared is not None and not isinstance(key, Key):
            entry = table.entries.get(place)
            if entry is None or not entry.fresh():
                return await self._beside(table.get, place, keys=[(table, place)])
        return self.get(key, scope, **params)

    async def set_async(
        self,
        key: str,
        value: Any,
        deps: Iterable[str] = (),
        ttl: float | None = None,
        scope: str | None = None,
        **params: Any,
    ) -> None:
        """As set()."""
        table, place = self._place(key, scope, params)
        await self._beside(table.set, self, place, value, deps, ttl, keys=[(table, place)])

    async def delete_async(self, key: str, scope: str | None = None, **params: Any) -> bool:
        """As delete()."""
        place = self._place(key, scope, params)
        return await self._beside(partial(self.delete, key, scope, **params), keys=[place])  # type: ignore[no-any-return]

    def health(self) -> Health:
        """How it does, at this moment; asks nothing that may not answer."""
        from zoocache._health import health_of

        return health_of(self)

    def invalidate(self, *tags: str) -> None:
        """Whatever depends on one of the tags, or on a tag below it, is gone; several tags in one step."""
        self.check_open()
        if not tags:
            return
        here = transaction_of(self) if OPEN else None
        if here is not None:
            here.hold(tags)
            return
        code = self.core.invalidate(_tags.pack(tags))
        if code == _ffi.E_INVAL:
            tags = _tags.widened(tags)
            code = self.core.invalidate(_tags.pack(tags))
        done = code != _ffi.E_INVAL
        if self.events is not None and done:
            self.events.invalidated(tags)
        if self.telemetry_enabled and done:
            for tag in tags:
                self.telemetry.increment("cache_invalidations_total")
                self.telemetry.increment("cache_invalidations_total", labels={"tag_prefix": self.telemetry.prefix(tag)})
        if code:
            self._told(code, tags)

    def invalidate_one(self, tag: str) -> None:
        """As invalidate(), for one tag, which goes straight to the library if nothing else is to be done."""
        try:
            straight = self._raw.quick and not OPEN and self.events is None and "\0" not in tag
            code = self.core.invalidate(tag.encode()) if straight else _ffi.E_INVAL
        except (AttributeError, TypeError, UnicodeEncodeError):
            code = _ffi.E_INVAL
        if code == _ffi.E_INVAL:
            self.invalidate(tag)
        elif code:
            self._told(code, (tag,))

    def _told(self, code: int, tags: tuple[str, ...]) -> None:
        """What came of an invalidation that was not just done."""
        if code == _ffi.E_INVAL:
            _tags.refuse(tags)
        if self.shared is not None:
            self.shared.told(code)
        elif code and self.loud:
            from zoocache._shared import silent

            raise silent("it is invalidated in this process alone")

    def transaction(self, snapshot: bool = True, hold: float = 0.0) -> Transaction:
        """A block, for with and async with, whose invalidations wait for its end: see zoocache.transactions.

        snapshot: what is read in it may be as old as the block, as in SQLite and under REPEATABLE READ; false: it is
        as it was last committed.
        hold: seconds in which it is sure to be committed, from each invalidate() on: then a crash leaves nothing stale.
        """
        from zoocache.transactions import Transaction

        return Transaction(self, snapshot, hold)

    def again(self, work: Callable[..., object], *args: Any) -> None:
        """What is done now is done once more at the end of the transaction."""
        here = transaction_of(self)
        if here is not None:
            here.again.append(partial(work, *args))

    def begin_ago(self, lag: float) -> int:
        """A version that was the last to be published at some time at least `lag` seconds ago."""
        with self.lock:
            return self.core.begin_ago(self.clock(), lag)

    def token(self) -> int:
        """Stands for all invalidations that were finished here: catch_up() on another node waits for them."""
        self.check_open()
        return 0 if self.shared is None else self.shared.core.token()

    def catch_up(self, token: int, timeout: float = 5.0) -> None:
        """Read your writes: returns when this node has heard what the node of the token had invalidated.

        Raises TimeoutError.
        """
        self.check_open()
        timeout = duration("timeout", timeout)
        if self.shared is not None and self.shared.core.catch_up(token, timeout) != OK:
            raise TimeoutError("zoocache: this node has not heard of the token's invalidations in time")

    async def catch_up_async(self, token: int, timeout: float = 5.0) -> None:
        """As catch_up()."""
        await self._beside(self.catch_up, token, timeout)

    async def invalidate_async(self, *tags: str) -> None:
        """As invalidate()."""
        await self._beside(self.invalidate, *tags)

    def tag_version(self, tag: str) -> int:
        """The version of the tag's last invalidation; 0: never."""
        self.check_open()
        if not _tags.fine(tag):
            _tags.refuse((tag,))
        return self.core.version(tag.encode())

    def keys(self, tag: str) -> list[str]:
        """The keys of what is kept in this process that invalidating the tag would kill; get() takes them."""
        from zoocache._explain import below

        return [entry.owner.key_text(entry.key) for entry in below(self, tag)]

    def count(self, tag: str) -> int:
        """How many entries of this process invalidating the tag would kill. Looks at each that there is."""
        from zoocache._explain import below

        return sum(1 for _ in below(self, tag))

    def clear(self) -> None:
        """Removes everything; no computation that runs will be stored."""
        self.check_open()
        if OPEN:
            self.again(self.clear)
        code = self.core.clear()
        for table in self.tables():
            table.clear("invalidated")
        if self.policy is not None:
            with self.lock:
                if not len(self.policy):
                    self.policy.clear()
        if self.events is not None:
            self.events.invalidated(())
        if code:
            self._told(code, ())

    async def clear_async(self) -> None:
        """As clear()."""
        await self._beside(self.clear)

    def prune(self, max_age_secs: float = 3600) -> int:
        """Forgets tags that nothing has depended on for so long; what they knew is kept. Returns how many."""
        self.check_open()
        max_age_secs = duration("max_age_secs", max_age_secs)
        for table in self.tables():  # what the library has not been told of would take more for invalidated
            for entry in list(table.entries.values()):
                entry.held(self.core)
        return self.core.prune(max_age_secs)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return sum(len(table.entries) for table in self.tables())

    def stats(self) -> CacheStats:
        """Its statistics."""
        tables = self.tables()

        def total(name: str) -> int:
            return sum(getattr(table, name) for table in tables)

        invalidations, tags, _, tag_bytes, _ = self.core.stats()
        absent, expired, invalidated = total("absent"), total("expired"), total("invalidated")
        lost = {"storage_down": 1} if self.lost else {}
        shared = self.shared  # looked at once: it may be closed meanwhile
        return CacheStats(
            hits=total("hits") + sum(table.fast_hits() for table in tables),
            hits_stale=total("stale"),
            misses=absent + expired + invalidated,
            absent=absent,
            expired=expired,
            invalidated=invalidated,
            fills=total("fills"),
            errors=total("errors"),
            refused=total("refused"),
            waits=total("waits"),
            refreshes=total("refreshes"),
            evictions=total("evictions"),
            entries=sum(len(table.entries) for table in tables),
            bytes=0 if self.policy is None else self.policy.weight,
            flights=sum(len(table.flights) for table in tables),
            invalidations=invalidations,
            tags=tags,
            tag_bytes=tag_bytes,
            holds=self.core.holds.value,
            **{**(_ALONE if shared is None else shared.counters()), **lost},
        )

    def detach(self) -> None:
        """Lets go of its tables: they are empty then, and join another cache at their next call."""
        for table in self.tables():
            table.clear("closed")
            with self.lock:
                table.forget()
                if table is not self._raw and table is not self._scoped and table.cache is self and table.given is None:
                    table.cache = None
                    table.count_anew()
        with self.lock:
            self._tables = [r for r in self._tables if (t := r()) is not None and t.cache is self]

    def part(self) -> None:
        """Lets go of storage and bus: from now on, what is asked for is computed, and kept in memory alone."""
        shared, self.shared = self.shared, None
        if shared is None:
            return
        tables = self.tables()
        try:
            for fill in [fill for table in tables for fill in list(table.flights.values())]:
                fill.store, fill.lives = False, None
                shared.keep_fill(fill)  # ends its lock
            shared.close()
        finally:
            self.core = Core()
            for table in tables:
                table.clear("closed")
                table.forget()
                table.joined(self)

    def close(self) -> None:
        """Lets go of everything, whatever has failed before; whoever uses it afterwards gets a RuntimeError."""
        if self.closed:
            return
        self.closed = True
        for table in self.tables():
            table.choose()
        try:
            self.part()
        finally:
            self.detach()
            if self._telemetry is not None:
                self._telemetry.close()

    def __enter__(self) -> Cache:
        self.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- fork ------------------------------------------------------------------------------------

    def fork_prepare(self) -> None:
        """Before fork()."""
        self.lock.acquire()
        if self.shared is None:
            self.core.fork_prepare()

    def fork_parent(self) -> None:
        """After fork(), in the parent."""
        if self.shared is None:
            self.core.fork_parent()
        self.lock.release()

    def fork_child(self, mine: frozenset[Any]) -> None:
        """After fork(), in the child: the flights of other threads are over."""
        if self.events is not None:
            self.events.forked()
        if self.shared is not None:
            self._fork_shared(mine)
        else:
            self.core.fork_child()
        self.tasks.clear()
        for table in self.tables():
            for key, fill in list(table.flights.items()):
                if fill not in mine:
                    del table.flights[key]
        if self.loads is not None:
            self.loads.forked(mine)
        self.lock.release()

    def _fork_shared(self, mine: frozenset[Any]) -> None:
        """Threads of the parent may have been in the middle of anything in the library: the child begins anew.

        A storage in Python stays with the parent.
        """
        shared = self.shared
        if shared is None or self.closed:
            return
        for table in self.tables():
            table.entries.clear()
            table.sweeping.clear()
            table.fixed = None
        if self.policy is not None:
            self.policy.clear()
        for fill in mine:
            if isinstance(fill, Fill) and fill.cache is self:
                fill.store = False
                fill.name = fill.static = None
        self.take(shared.forked())
        for table in self.tables():
            table.joined(self)


_ALONE = dict.fromkeys(CacheStats._fields[CacheStats._fields.index("hits_storage") :], 0)

# If this module is reloaded, the caches that there are go on, and what is called for them is registered already.
_reloaded = "_caches" in globals()
_caches: WeakSet[Cache] = globals().get("_caches", WeakSet())
_forking: list[Cache] = []
_collecting = False


def _fork_prepare() -> None:
    # With everything locked, no destructor may run that uses a cache.
    global _collecting
    collecting = gc.isenabled()
    gc.disable()
    graph.acquire()
    _collecting = collecting
    _forking[:] = list(_caches)
    for cache in _forking:
        cache.fork_prepare()


def _forked() -> None:
    collecting = _collecting
    graph.release()
    if collecting:
        gc.enable()
    _forking.clear()


def _fork_parent() -> None:
    for cache in reversed(_forking):
        cache.fork_parent()
    _forked()


def _fork_child() -> None:
    _ffi.fork_child()
    current = CURRENT.get()
    mine = frozenset(current.lineage()) if isinstance(current, Fill) else frozenset([current])
    for gatherer in list(ACTIVE):
        if gatherer not in mine:
            ACTIVE.pop(gatherer, None)
    for mark in list(OFF):
        if type(mark) is object and mark is not DISABLED.get():
            OFF.pop(mark, None)
    here, around = TRANSACTION.get(), []
    while here is not None:
        around.append(here)
        here = here.outer
    for other in list(OPEN):
        if other not in around:
            OPEN.pop(other, None)
    for cache in reversed(_forking):
        cache.fork_child(mine)
    _forked()


def _part_all() -> None:
    # While there is an interpreter: their threads may call a storage in Python, and what waits is written. Who is
    # called at the end, too, may call a cached function.
    for cache in list(_caches):
        try:
            cache.part()
        except Exception:  # the others are to be closed, too
            pass


if not _reloaded:
    atexit.register(lambda: _part_all())

if not _reloaded and hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _fork_prepare(),
        after_in_parent=lambda: _fork_parent(),
        after_in_child=lambda: _fork_child(),
    )
