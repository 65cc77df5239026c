"""A cache: entries, freshness, fills.

    Table   the entries of one function, or of get() and set(); a dict from key to Entry
    Entry   a value, what it depends on, until when it is good, and ``word``
    Fill    one computation of one key, with everybody who waits for it
    Cache   the tables that share settings, tags, a limit and a clock

A hit happens in a table's caller (see _functions) and compares ``entry.word`` with ``words[CHANGES]``.
Equal: nothing has happened since the entry was last looked at, so it is as good as it was then. Else
``Table.look`` looks: was a tag invalidated (the one rule of the library), has its time come?

Locking. The cache's lock is held where two structures change together, and never while code of others
runs: what is removed under it is dropped after it. It is re-entrant, because the garbage collector may run
a destructor that uses the cache at any time. Order: cache > graph.
"""

from __future__ import annotations

import atexit
import gc
import os
import threading
import time
from collections import namedtuple
from contextvars import copy_context
from math import inf, isnan, log
from weakref import WeakSet, ref

from zoocache import _ffi, _keys, _tags
from zoocache._errors import FlightTimeout, RecursiveFill, StorageIsFull
from zoocache._ffi import CHANGES, OK, PERIOD, STALE, WANTED, Core, Deps, words
from zoocache._policy import Policy
from zoocache.context import ACTIVE, CURRENT, note, tags_of

TYPE_CHECKING = False  # typing itself is not imported: it takes longer than all of this package
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, Final, NamedTuple, overload

    from typing_extensions import Unpack

    from zoocache._ffi_shared import Found
    from zoocache._functions import Cached, Decorator, Options, P, R
    from zoocache._shared import Shared
    from zoocache.storage import Storage
    from zoocache.telemetry.manager import TelemetryManager

__all__ = ["Cache", "CacheInfo", "CacheStats", "Entry", "Fill", "Rules", "Table", "seconds"]

RUNNING, DONE, FOUND, FAILED, AGAIN = range(5)  # states of a fill; FOUND: by the storage

_SWEEP_EVERY: Final = 64  # fills between two slices of housekeeping
_SWEEP: Final = _SWEEP_EVERY * 3 // 2  # entries looked at in a slice
_RETRY: Final = 1.0  # seconds until a failed refresh is tried again, at most

_graph = threading.RLock()  # guards Fill.waits of every fill
_monotonic = time.monotonic


if TYPE_CHECKING:

    class CacheInfo(NamedTuple):
        """As functools gives it: the statistics of one function."""

        hits: int
        misses: int
        maxsize: int | None
        currsize: int

    class CacheStats(NamedTuple):
        """The statistics of a cache: counters since it was made, and what it holds now."""

        hits: int
        hits_stale: int  # of them: past their soft deadline, or instead of an error
        misses: int  # the sum of absent, expired and invalidated
        absent: int
        expired: int
        invalidated: int
        fills: int  # computations that gave a value
        errors: int  # computations that raised
        refused: int  # values that were not stored: invalidated meanwhile, cleared, too late, or not wanted
        waits: int  # calls that waited for another's computation
        refreshes: int
        evictions: int
        entries: int
        flights: int  # computations that run now
        invalidations: int
        tags: int
        tag_bytes: int
        # With a storage or a bus; else 0.
        hits_storage: int  # misses that the storage has answered
        storage_errors: int  # failed calls; the value was computed
        storage_skipped: int  # calls that were spared while the storage is down
        unserializable: int  # values that were returned, not stored
        bus_heard: int  # invalidations heard, one's own included
        bus_breaks: int  # times that everything was dropped, as something may have been missed
        bus_errors: int
        bus_pending: int  # tags of invalidations that the log has not taken yet

else:
    CacheInfo = namedtuple("CacheInfo", "hits misses maxsize currsize")
    CacheStats = namedtuple(
        "CacheStats",
        "hits hits_stale misses absent expired invalidated fills errors refused waits refreshes evictions entries"
        " flights invalidations tags tag_bytes hits_storage storage_errors storage_skipped unserializable"
        " bus_heard bus_breaks bus_errors bus_pending",
    )


def seconds(name: str, value: float | None) -> float | None:
    """A duration given by the user; refuses what makes no sense, when it is given."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if isnan(value) or value < 0:
        raise ValueError(f"{name} must be 0 or more seconds, not {value!r}")
    return float(value)


class Rules:
    """How the values of one table are kept. None: as the cache says."""

    __slots__ = (
        "cache_errors",
        "cache_if",
        "copy",
        "early_refresh",
        "error_ttl",
        "fancy",
        "fleet",
        "jitter",
        "negative_ttl",
        "retry",
        "silence",
        "soft_ttl",
        "special",
        "stale_if_error",
        "tti",
        "ttl",
    )

    def __init__(
        self,
        *,
        ttl: float | None = None,
        tti: float | None = None,
        jitter: float = 0.0,
        soft_ttl: float | None = None,
        early_refresh: float = 0.0,
        stale_if_error: float | None = None,
        negative_ttl: float | None = None,
        cache_if: Callable[[Any], object] | None = None,
        cache_errors: type[Exception] | tuple[type[Exception], ...] = (),
        error_ttl: float | None = None,
        on_error: str = "raise",
        copy: str = "share",
        fleet: bool = False,
        silence: str | None = None,
    ) -> None:
        self.ttl = seconds("ttl", ttl)
        self.tti = seconds("tti", tti)
        self.soft_ttl = seconds("soft_ttl", soft_ttl)
        self.stale_if_error = seconds("stale_if_error", stale_if_error)
        self.negative_ttl = seconds("negative_ttl", negative_ttl)
        self.error_ttl = seconds("error_ttl", error_ttl)
        self.jitter = seconds("jitter", jitter) or 0.0
        self.early_refresh = seconds("early_refresh", early_refresh) or 0.0
        self.cache_if = cache_if
        self.cache_errors = cache_errors
        if self.jitter > 1:
            raise ValueError(f"jitter is a part of the ttl, from 0 to 1, not {jitter!r}")
        if on_error not in ("raise", "retry"):
            raise ValueError(f"on_error must be 'raise' or 'retry', not {on_error!r}")
        if copy not in ("share", "copy"):
            raise ValueError(f"copy must be 'share' or 'copy', not {copy!r}")
        if silence not in (None, "bypass", "serve", "error"):
            raise ValueError(f"silence must be 'bypass', 'serve' or 'error', not {silence!r}")
        self.fleet = fleet
        self.silence = silence
        self.special = cache_if is not None or negative_ttl is not None
        self.fancy = soft_ttl is not None or bool(stale_if_error) or bool(early_refresh)
        self.retry = on_error == "retry"
        self.copy = copy == "copy"


class Entry:
    """A cached value."""

    __slots__ = ("begin", "deadline", "deps", "key", "more", "owner", "tti", "until", "value", "word")

    value: Any
    word: int  # words[CHANGES] when last looked at; 0: nobody has looked, -1: must always be looked at
    until: float | None  # the end of the lease by which it was looked at, by time.monotonic(); None: no bus
    begin: int  # no version up to this one has killed it
    deps: Deps | str  # text: one tag, which the library has not been told of yet
    deadline: float  # inf: none
    tti: float  # 0: reads do not move the deadline
    owner: Table
    key: Any
    more: More | None

    def fresh(self) -> bool:
        """Whether it need not be looked at. In this order: a lease that is renewed now is not the one it had."""
        return self.word == words[CHANGES] and (self.until is None or _monotonic() < self.until)

    def held(self, core: Core) -> Deps:
        """What it depends on, as the library holds it from now on."""
        deps = core.held(self.deps)
        self.deps = deps
        return deps


class More:
    """What few entries have."""

    __slots__ = ("delta", "error", "grace", "hard", "soft")

    def __init__(self) -> None:
        self.hard = inf  # the deadline that reads do not move
        self.soft = inf  # from then on it is refreshed
        self.grace = 0.0  # until then it may stand in for an error
        self.delta = 0.0  # how long the computation took; for early refresh
        self.error: BaseException | None = None  # the computation raised this


class Fill:
    """One computation. Gathers the dependencies that are met on the way."""

    static: Deps | str | None = None  # by the deps argument
    final: Deps | str | None = None  # all of them, once it has ended
    ttl: float | None = None  # set from inside
    store = True
    done = False
    state = RUNNING
    result: Any = None
    error: BaseException | None = None
    waiters: list[Callable[[], None]] | None = None
    waits: list[Fill] | None = None
    renews = False  # what there is is not to be asked for
    name: bytes | None = None  # its key in the storage
    token = 0  # of the fleet's lock
    lives: tuple[float, float] | None = None  # how long the storage is to keep the value: ttl, tti

    def __init__(self, table: Table, cache: Cache, key: Any) -> None:
        self.table = table
        self.cache = cache
        self.key = key
        self.begin: int = cache.core.seen.value  # before anything is read
        self.started = _monotonic()
        self.deps: set[str] = set()
        self.outer: Any = CURRENT.get() if ACTIVE else None  # who depends on it as well

    @property
    def parent(self) -> Fill | None:
        """The fill that this one is a part of."""
        outer = self.outer
        return outer if isinstance(outer, Fill) and not outer.done else None


def _lineage(fill: Fill | None) -> Iterator[Fill]:
    while fill is not None:
        yield fill
        fill = fill.parent


class _Waiting:
    """In its block, the running fills wait for this one, and the graph of who waits for whom says so.

    Refuses to close a ring.
    """

    def __init__(self, fill: Fill, name: str) -> None:
        self.fill = fill
        self.name = name
        current = CURRENT.get() if ACTIVE else None
        self.mine = [f for f in _lineage(current if isinstance(current, Fill) else None) if not f.done]

    def __enter__(self) -> None:
        if not self.mine:
            return
        with _graph:
            todo, known = [self.fill], set()
            while todo:
                other = todo.pop()
                if other in self.mine:
                    raise RecursiveFill(
                        f"zoocache: the call of `{self.name}` waits for itself: its computation, directly or"
                        " through other cached calls, needs its own value"
                    )
                if other not in known:
                    known.add(other)
                    todo.extend(other.waits or ())
            for one in self.mine:
                one.waits = [*(one.waits or ()), self.fill]

    def __exit__(self, *exc_info: object) -> None:
        if not self.mine:
            return
        with _graph:
            for one in self.mine:
                if one.waits:
                    one.waits.remove(self.fill)


def lives(entry: Entry, now: float) -> tuple[float, float]:
    """How long an entry has to live, at most and unread."""
    more = entry.more
    if not entry.tti:
        return entry.deadline - now, inf
    return (inf if more is None else more.hard - now), entry.tti


def _random() -> float:
    from random import random

    return random()


def _pauses(fill: Fill) -> Iterator[float]:
    """How long to wait between two looks for another process' value, until this one stops waiting."""
    pause = 0.002
    while _monotonic() - fill.started < fill.cache.flight_timeout:
        yield pause * (0.5 + _random() / 2)
        pause = min(pause * 2, 0.05)


def _deepcopy(value: Any) -> Any:
    from copy import deepcopy

    return deepcopy(value)


_builtin_set = set


class Table:
    """The entries of one function, or of get() and set()."""

    name = "get"
    method = False  # the keys have the objects of a method in them
    fixed: tuple[Cache, Deps] | None = None  # tags that are the same for every call, in this cache

    def __init__(self, cache: Cache | None, rules: Rules) -> None:
        self.given = cache  # None: the default cache, whichever it is when it is needed
        self.cache: Cache | None = None
        self.rules = rules
        self.entries: dict[Any, Entry] = {}
        self.flights: dict[Any, Fill] = {}
        self.gated: Shared | None = None  # the bus that must have been heard of late
        self.silence = 0  # what to do if not
        self.peeks = False  # each read looks at the log
        self.tick = 0  # ns between ticks that its deadlines need
        self.plain = True  # entries may be served without a look
        self.sweeping: list[Any] = []
        self.hits = self.stale = self.absent = self.expired = self.invalidated = 0
        self.fills = self.errors = self.refused = self.waits = self.refreshes = self.evictions = 0

    # ---- its cache -------------------------------------------------------------------------------

    def bind(self) -> Cache:
        """The cache; joins it if need be."""
        cache = self.cache
        if cache is None:
            if self.given is None:
                from zoocache import _default

                cache = _default.cache()
            else:
                cache = self.given
            cache.adopt(self)
        return cache

    def joined(self, cache: Cache) -> None:
        """It belongs to a cache from now on."""
        self.cache = cache
        self.plain = not self.rules.copy and not cache.telemetry_enabled
        shared = cache.shared
        self.gated = None if shared is None or not shared.bus else shared
        self.silence = 0 if shared is None else shared.silence_of(self.rules.silence)
        self.peeks = self.plain and shared is not None and shared.peeks
        times = [self.rules.ttl, self.rules.tti, self.rules.soft_ttl, self.rules.negative_ttl, self.rules.error_ttl]
        times.append(cache.default_ttl)
        self.tick = 0
        for each in times:
            self.ticks_for(each)

    def ticks_for(self, duration: float | None) -> None:
        """Ticks come often enough for a deadline after this duration: at most a fiftieth of it late."""
        if duration and duration < inf:
            period = min(50_000_000, max(1_000_000, int(duration * 20_000_000)))
            if not self.tick or period < self.tick:
                self.tick = period

    def fast_hits(self) -> int:
        """Hits that were counted by the function itself."""
        return 0

    # ---- freshness -------------------------------------------------------------------------------

    def look(self, entry: Entry) -> bool:
        """Whether the entry may be served now; if not, it is removed, but for one that has its grace."""
        cache = self.cache
        if cache is None:
            return False
        word = words[CHANGES] if self.plain and (entry.more is None or entry.more.error is None) else -1
        until = None
        shared = self.gated
        if shared is not None:
            until = shared.core.lease_end() if shared.bound else 0.0
            if not until:
                heard = shared.core.gate(self.silence)
                if heard == STALE:
                    self.stale += 1
                elif heard != OK:
                    self.absent += 1
                    return False
                word = -1
        seen = cache.core.seen.value
        if seen != entry.begin:
            if entry.held(cache.core).newest() > entry.begin:
                self.invalidated += 1
                self.remove(entry)
                return False
            entry.begin = seen
        more = entry.more
        if entry.deadline != inf:
            now = cache.clock()
            if now >= entry.deadline:
                self.expired += 1
                if more is None or now >= more.grace:
                    self.remove(entry)
                return False
            if entry.tti:
                moved = now + entry.tti
                entry.deadline = moved if more is None or moved < more.hard else more.hard
            self.keep_ticking(cache)
        elif more is not None and more.soft != inf:
            self.keep_ticking(cache)
        entry.until = until  # not before it was found fresh: who has compared the word asks for the time now
        entry.word = word
        return True

    def keep_ticking(self, cache: Cache) -> None:
        """Entries with a deadline are being read: the word must change now and then."""
        if cache.ticking:
            period = words[PERIOD]
            if not period or period > self.tick:
                _ffi.tick(self.tick)
            words[WANTED] = 1

    def remove(self, entry: Entry) -> None:
        """Takes the entry out, unless another has taken its place."""
        cache = self.cache
        if cache is None:
            return
        with cache.lock:
            if self.entries.get(entry.key) is entry:
                del self.entries[entry.key]
                if cache.policy is not None:
                    cache.policy.remove(entry)

    def store(self, cache: Cache, entry: Entry) -> Any:
        """Puts the entry in its place, with the lock held. Returns what the caller has to drop after it."""
        entries = self.entries
        policy = cache.policy
        if policy is None:
            old = entries.get(entry.key)
            entries[entry.key] = entry
            return old
        old = entries.pop(entry.key, None)
        if old is not None:
            policy.remove(old)
        leaving = policy.insert(entry)
        for victim in leaving:
            victim.owner.entries.pop(victim.key, None)
            victim.owner.evictions += 1
        entries[entry.key] = entry
        return old, leaving

    # ---- entries ---------------------------------------------------------------------------------

    def entry(
        self, cache: Cache, key: Any, value: Any, begin: int, deps: Deps | str, ttl: float | None
    ) -> Entry | None:
        """An entry with its times. None: its life would be over at once."""
        rules = self.rules
        entry = Entry()
        entry.value = value
        entry.word = 0
        entry.until = None
        entry.begin = begin
        entry.deps = deps
        entry.owner = self
        entry.key = key
        entry.more = None
        entry.tti = 0.0
        entry.deadline = inf
        if ttl is None:
            ttl = rules.ttl
            if ttl is None:
                ttl = cache.default_ttl
        tti = rules.tti
        if ttl is None and tti is None and not rules.fancy:
            return entry
        if tti is None and cache.read_extend_ttl:
            ttl, tti = None, ttl
        if ttl == 0 or tti == 0:
            return None
        if rules.jitter:
            shorter = 1 - rules.jitter * _random()
            ttl = ttl and ttl * shorter
            tti = tti and tti * shorter
        now = cache.clock()
        if ttl is not None:
            entry.deadline = now + ttl
        if tti is not None and tti != inf:
            entry.tti = tti
            if ttl is not None:
                entry.more = More()
                entry.more.hard = entry.deadline
            entry.deadline = min(entry.deadline, now + tti)
        if rules.fancy:
            more = entry.more = entry.more or More()
            if rules.soft_ttl is not None:
                more.soft = now + rules.soft_ttl
            if rules.stale_if_error:
                more.grace = entry.deadline + rules.stale_if_error
        return entry

    # ---- reading, writing by key -----------------------------------------------------------------

    def get(self, key: Any) -> Any:
        """The value under a key, or None."""
        entry = self.entries.get(key)
        if entry is None:
            self.absent += 1
        elif entry.fresh() or self.look(entry):
            self.hits += 1
            if ACTIVE:
                note(entry)
            return entry.value
        cache = self.cache
        if cache is None or cache.shared is None:
            return None
        fill = Fill(self, cache, key)
        alone = self.flights.setdefault(key, fill) is fill
        try:
            found = cache.shared.look_up(fill)
        except BaseException:
            self.end(fill, AGAIN)
            raise
        if found is None:
            self.end(fill, AGAIN)
            return None
        value = self.take(fill, *found) if alone else found[1]
        gatherer = CURRENT.get() if ACTIVE else None
        if gatherer is not None:
            gatherer.deps.update(found[0].deps.tags())
        return value

    def get_many(self, cache: Cache, shared: Shared, keys: list[str]) -> dict[str, Any]:
        """The values that the storage has under these keys: asked in one step."""
        fills = {key: Fill(self, cache, key) for key in keys}
        alone = {key for key, fill in fills.items() if self.flights.setdefault(key, fill) is fill}
        self.absent += len(keys)
        values = {}
        try:
            for key, found in shared.ask_many([(key, name) for key in keys if (name := self.shared_name(key))]):
                values[key] = self.take(fills[key], *found) if key in alone else found[1]
        finally:
            for fill in fills.values():
                if not fill.done:
                    self.end(fill, AGAIN)
        return values

    def take(self, fill: Fill, found: Found, value: Any) -> Any:
        """Makes what the storage had an entry, and ends the fill with it."""
        fill.final = found.deps
        fill.result = value
        self.end(fill, FOUND, None if found.stale else self.entry_found(fill, found, value))
        return _deepcopy(value) if self.rules.copy else value

    def entry_found(self, fill: Fill, found: Found, value: Any) -> Entry | None:
        """An entry of a record: it lives as long as that, and no longer than others of this table."""
        cache = fill.cache
        entry = self.entry(cache, fill.key, value, found.begin, found.deps, None)
        if entry is None or found.left <= 0:
            return None
        now = cache.clock()
        if found.tti:
            entry.tti = min(entry.tti, found.tti) if entry.tti else found.tti
        if found.hard != inf and entry.tti:
            more = entry.more = entry.more or More()
            more.hard = min(more.hard, now + found.hard)
        entry.deadline = min(entry.deadline, now + found.left)
        if entry.deadline != inf:
            self.ticks_for(found.left)
        return entry

    def end(self, fill: Fill, state: int, entry: Entry | None = None) -> bool:
        """Ends the flight, and wakes who waits for it. Returns whether the entry was stored."""
        leaving: Any = None
        cache = fill.cache
        key = fill.key
        with cache.lock:
            if self.flights.get(key) is fill:
                del self.flights[key]
            else:
                entry = None  # cleared, invalidated by key, written, or its lease was lost
            if entry is not None:
                if cache.policy is None and key not in self.entries:
                    self.entries[key] = entry
                else:
                    leaving = self.store(cache, entry)
            elif state == DONE:
                self.refused += 1
            fill.state = state
            fill.done = True
            waiters = fill.waiters
        del leaving
        if waiters is not None:
            for wake in waiters:
                wake()
        return entry is not None

    def shared_name(self, key: Any) -> bytes | None:
        """The key in a storage; None: it is not for other processes."""
        from zoocache._shared import named

        return named("=" + key) if isinstance(key, str) else None

    def mark(self, key: Any) -> str:
        """The tag of this key alone, or an empty text."""
        if not isinstance(key, str):
            return ""
        return f"|key:{_ffi.hash_bytes(key.encode('utf-8', 'surrogatepass')):016x}"

    def set(self, cache: Cache, key: Any, value: Any, deps: object, ttl: float | None) -> None:
        """Stores a value under a key."""
        ttl = seconds("ttl", ttl)
        self.ticks_for(ttl)
        tags = _tags.listed(deps)
        held = cache.deps(tags)
        shared = cache.shared
        if shared is not None:
            self.drop(key)
            held = shared.core.marked(_tags.join(held.tags(), self.mark(key)))
        entry = self.entry(cache, key, value, cache.core.seen.value, held, ttl)
        if entry is None:
            self.drop(key)
            return
        with cache.lock:
            self.flights.pop(key, None)  # a fill that runs will not undo this
            leaving = self.store(cache, entry)
        del leaving
        if shared is not None and shared.stores:
            name = self.shared_name(key)
            if name is not None and not shared.keep(name, value, held, entry.begin, *lives(entry, cache.clock())):
                raise StorageIsFull(f"{shared.kind} storage is full: {key!r} is kept in memory only")
        cache.debt += 1
        if cache.debt >= _SWEEP_EVERY:
            cache.worked(self)

    def drop(self, key: Any) -> bool:
        """Removes a key; a fill of it that runs will not be stored."""
        cache = self.bind()
        with cache.lock:
            self.flights.pop(key, None)
            entry = self.entries.pop(key, None)
            if entry is not None and cache.policy is not None:
                cache.policy.remove(entry)
        if cache.shared is not None:
            mark = self.mark(key)
            if mark:
                cache.shared.forget(self.shared_name(key), mark.encode())
        return entry is not None

    def clear(self) -> None:
        """Removes everything; no fill that runs will be stored."""
        cache = self.cache
        if cache is None:
            return
        with cache.lock:
            self.flights.clear()
            leaving = list(self.entries.values())
            self.entries.clear()
            if cache.policy is not None:
                for entry in leaving:
                    cache.policy.remove(entry)
        del leaving

    def forget(self) -> None:
        """Lets go of what belongs to its cache."""
        self.gated = None
        self.peeks = False

    def sweep(self, cache: Cache, count: int) -> int:
        """Looks at some entries and removes those that nobody may have again. Returns how many more it may look at."""
        entries = self.entries
        if not self.sweeping:
            self.sweeping = list(entries)
        keys = self.sweeping[-count:]
        del self.sweeping[-count:]
        now = cache.clock()
        seen = cache.core.seen.value
        method = self.method
        for entry in map(entries.get, keys):
            if entry is None:
                continue
            if now >= entry.deadline:
                more = entry.more
                over = more is None or now >= more.grace
            else:
                over = seen != entry.begin and entry.held(cache.core).newest() > entry.begin
                if not over and method:
                    over = not self.alive(entry.key)
            if over:
                self.remove(entry)
        return count - len(keys)

    def alive(self, key: Any) -> bool:
        """Whether anybody can still ask for this key."""
        return True


class Filled(Table):
    """A table whose values are computed: the fills, sync and async."""

    func: Callable[..., Any]
    deps: Any  # None, tags, or a callable of the arguments

    def forget(self) -> None:
        """Lets go of what belongs to its cache."""
        super().forget()
        self.fixed = None

    # ---- begin -----------------------------------------------------------------------------------

    def serve(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that was not a plain hit."""
        cache = self.cache
        if self.peeks and cache is not None:
            entry = self.entries.get(key)
            if entry is not None and entry.more is None:
                if not self.look(entry):
                    return self.fill(cache, key, args, kwargs)
                self.hits += 1
                if ACTIVE:
                    note(entry)
                return entry.value
        if cache is None or cache.special:
            cache = self.open_cache()
            entry = self.find_timed(cache, key)
        elif key in self.entries:
            entry = self.find(key)
        else:
            self.absent += 1
            entry = None
        if entry is not None:
            return self.hit(cache, entry, args, kwargs)
        return self.fill(cache, key, args, kwargs)

    async def aserve(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same, for a coroutine function."""
        cache = self.open_cache()
        entry = self.find_timed(cache, key)
        if entry is not None:
            return self.hit(cache, entry, args, kwargs)
        return await self.afill(cache, key, args, kwargs)

    def open_cache(self) -> Cache:
        """The cache; raises if it is closed."""
        cache = self.bind()
        cache.check_open()
        return cache

    def find_timed(self, cache: Cache, key: Any) -> Entry | None:
        """As find(), and how long it took is told to the telemetry."""
        if not cache.telemetry_enabled:
            return self.find(key)
        with cache.telemetry.time_operation("cache_get_duration_seconds"):
            return self.find(key)

    def find(self, key: Any) -> Entry | None:
        """The entry, if it may be served."""
        entry = self.entries.get(key)
        if entry is None:
            self.absent += 1
            return None
        return entry if self.look(entry) else None

    def hit(self, cache: Cache, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value of an entry that was looked at."""
        self.hits += 1
        if cache.telemetry_enabled:
            cache.telemetry.increment("cache_hits_total")
        if ACTIVE:
            note(entry)
        more = entry.more
        if more is not None:
            if more.error is not None:
                raise more.error
            if self.due(cache, entry, more):
                self.refresh_soon(cache, entry, more, args, kwargs)
        return _deepcopy(entry.value) if self.rules.copy else entry.value

    def due(self, cache: Cache, entry: Entry, more: More) -> bool:
        """Whether a refresh should begin: past the soft deadline, or early, by XFetch."""
        now = cache.clock()
        if now >= more.soft:
            self.stale += 1
            return True
        beta = self.rules.early_refresh
        if not beta or entry.deadline == inf:
            return False
        return bool(now - more.delta * beta * log(1 - _random()) >= entry.deadline)

    def take_over(self, fill: Fill) -> bool:
        """Whether the flight's lease is over, so that this caller leads: a late value will not be stored."""
        cache = fill.cache
        with cache.lock:
            other = self.flights.get(fill.key)
            if other is not None and fill.started - other.started <= cache.flight_timeout:
                return False
            self.flights[fill.key] = fill
        return True

    def watch(self, fill: Fill, wake: Callable[[], None]) -> bool:
        """Has wake() called when the fill ends. False: it has."""
        with fill.cache.lock:
            if fill.done:
                return False
            if fill.waiters is None:
                fill.waiters = []
            fill.waiters.append(wake)
        return True

    def landed(self, fill: Fill, mine: Fill, tries: int) -> bool:
        """Whether a follower takes what the fill has given, instead of its own; False: it begins again."""
        if fill.state == AGAIN:
            return False
        if fill.state == FAILED and self.rules.retry and tries == 0:
            return False
        if not self.covers(fill, mine):
            return False
        gatherer = CURRENT.get()
        if gatherer is not None and fill.final is not None:
            gatherer.deps.update(tags_of(fill.final))
        return True

    def covers(self, fill: Fill, mine: Fill) -> bool:
        """Whether nothing that the fill has read may have been invalidated before this caller asked."""
        shared = self.gated
        if shared is not None and mine.started - fill.started > shared.bound:
            if shared.core.gate(self.silence) not in (OK, STALE):
                return False  # it may have been, and this node has not heard of it
        elif mine.begin == fill.begin:
            return True
        return fill.final is not None and fill.cache.core.held(fill.final).newest() <= fill.begin

    def result(self, fill: Fill) -> Any:
        """What a follower gets."""
        if fill.error is not None:
            raise fill.error
        return _deepcopy(fill.result) if self.rules.copy else fill.result

    # ---- sync ------------------------------------------------------------------------------------

    def fill(self, cache: Cache, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Computes the value, or waits for who does."""
        tries = 0
        while True:
            fill = Fill(self, cache, key)
            if self.flights.setdefault(key, fill) is fill or self.take_over(fill):
                if key in self.entries:
                    entry = self.arrived(fill)
                    if entry is not None:
                        return self.hit(cache, entry, args, kwargs)
                return self.lead(fill, args, kwargs)
            other = self.flights.get(key)
            if other is None:
                continue
            self.follow(other)
            if self.landed(other, fill, tries):
                return self.result(other)
            tries += other.state == FAILED
            entry = self.find(key)
            if entry is not None:
                return self.hit(cache, entry, args, kwargs)

    def arrived(self, fill: Fill) -> Entry | None:
        """The entry that came between the miss and this flight, if so; the flight is then over."""
        entry = self.entries.get(fill.key)
        if entry is None or not self.look(entry):
            return None
        self.end(fill, AGAIN)
        return entry

    def follow(self, fill: Fill) -> None:
        """Sleeps until the fill has ended."""
        self.waits += 1
        with _Waiting(fill, self.name):
            lock = threading.Lock()
            lock.acquire()
            if not self.watch(fill, lock.release):
                return
            left = fill.started + fill.cache.flight_timeout - _monotonic()
            if not lock.acquire(timeout=min(max(left, 0.0), threading.TIMEOUT_MAX)) and not fill.done:
                self.timed_out()

    def timed_out(self) -> None:
        """The leader has taken too long."""
        raise FlightTimeout(f"Thundering herd leader failed: `{self.name}` took longer than flight_timeout")

    def lead(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs the function."""
        token = CURRENT.set(fill)
        ACTIVE[fill] = None
        shared = fill.cache.shared
        try:
            if shared is not None and not fill.renews:
                found = self.ask(shared, fill)
                if found is not None:
                    return self.take(fill, *found)
            fill.static = fill.cache.core.nothing if self.deps is None else self.dependencies(fill, args, kwargs)
            value = self.func(*args, **kwargs)
            if self.rules.special or self.rules.copy:
                self.commit(fill, value)
            else:
                self.settle(fill, value, fill.ttl, None)
            return value
        except BaseException as error:
            stale = self.failed(fill, error)
            if stale is None:
                raise
            return stale.value
        finally:
            ACTIVE.pop(fill, None)
            CURRENT.reset(token)
            if fill.outer is not None:
                self.hand_up(fill)
            if shared is not None:
                shared.keep_fill(fill)

    def ask(self, shared: Shared, fill: Fill) -> tuple[Found, Any] | None:
        """What the storage has; None: nothing, and this process is to compute it."""
        pauses = _pauses(fill)
        while True:
            found = shared.look_up(fill)
            if found is not None or not self.rules.fleet or fill.token:
                return found
            if shared.lock(fill):
                if not fill.token:
                    return None
                continue  # who had it before may have stored the value since
            pause = next(pauses, None)
            if pause is None:
                return None
            time.sleep(pause)

    # ---- async -----------------------------------------------------------------------------------

    async def afill(self, cache: Cache, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Computes the value, or waits for who does."""
        tries = 0
        while True:
            fill = Fill(self, cache, key)
            if self.flights.setdefault(key, fill) is fill or self.take_over(fill):
                entry = self.arrived(fill) if key in self.entries else None
                if entry is not None:
                    return self.hit(cache, entry, args, kwargs)
                return await self.alead(fill, args, kwargs)
            other = self.flights.get(key)
            if other is None:
                continue
            await self.afollow(other)
            if self.landed(other, fill, tries):
                return self.result(other)
            tries += other.state == FAILED
            entry = self.find(key)
            if entry is not None:
                return self.hit(cache, entry, args, kwargs)

    async def afollow(self, fill: Fill) -> None:
        """Awaits the end of the fill, which may run in another loop."""
        import asyncio

        self.waits += 1
        with _Waiting(fill, self.name):
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()

            def finish() -> None:
                if not future.done():
                    future.set_result(None)

            def wake() -> None:
                if asyncio._get_running_loop() is loop:
                    finish()
                elif not loop.is_closed():
                    try:
                        loop.call_soon_threadsafe(finish)
                    except RuntimeError:  # pragma: no cover - closed just now: nobody waits there
                        pass

            if not self.watch(fill, wake):
                return
            left = max(fill.started + fill.cache.flight_timeout - _monotonic(), 0.0)
            timer = loop.call_later(left, finish) if left < 1e7 else None
            try:
                await future
            finally:
                if timer is not None:
                    timer.cancel()
            if not fill.done:
                self.timed_out()

    async def alead(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs the coroutine function."""
        token = CURRENT.set(fill)
        ACTIVE[fill] = None
        shared = fill.cache.shared
        try:
            if shared is not None and not fill.renews:
                found = await self.aask(shared, fill)
                if found is not None:
                    return self.take(fill, *found)
            fill.static = await self.adependencies(fill, args, kwargs)
            value = await self.func(*args, **kwargs)
            self.commit(fill, value)
            if shared is not None:
                await shared.run(shared.keep_fill, fill)
            return value
        except BaseException as error:
            stale = self.failed(fill, error)
            if stale is None:
                raise
            return stale.value
        finally:
            ACTIVE.pop(fill, None)
            try:
                CURRENT.reset(token)
            except ValueError:  # closed by the garbage collector, in another context
                pass
            if fill.outer is not None:
                self.hand_up(fill)
            if shared is not None and fill.token:
                shared.pool.submit(shared.keep_fill, fill)  # it has failed: only its lock is left

    async def aask(self, shared: Shared, fill: Fill) -> tuple[Found, Any] | None:
        """As ask(), beside the event loop."""
        pauses = _pauses(fill)
        while True:
            found: tuple[Found, Any] | None = await shared.run(shared.look_up, fill)
            if found is not None or not self.rules.fleet or fill.token:
                return found
            if await shared.run(shared.lock, fill):
                if not fill.token:
                    return None
                continue
            pause = next(pauses, None)
            if pause is None:
                return None
            import asyncio

            await asyncio.sleep(pause)

    # ---- dependencies ----------------------------------------------------------------------------

    def dependencies(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Deps | str:
        """The tags of the deps argument, before the function runs: a mistake there costs no work.

        One plain tag stays text: the library has to know it only if something is invalidated while there is
        the entry.
        """
        deps = self.deps
        if deps is None:
            return fill.cache.core.nothing
        if not callable(deps):
            fixed = self.fixed
            if fixed is None or fixed[0] is not fill.cache:
                self.fixed = fixed = (fill.cache, fill.cache.deps(deps, shared=True))
            return fixed[1]
        tags = deps(*args, **kwargs)
        if type(tags) is list and len(tags) == 1:
            tag = tags[0]
            if type(tag) is str and len(tag) < 64 and tag.isascii():
                first, _, rest = tag.partition(":")
                if first.isalnum() and rest.isalnum():
                    return tag
        return fill.cache.deps(_tags.listed(tags))

    async def adependencies(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Deps | str:
        """The same; the callable may be a coroutine function."""
        if not callable(self.deps):
            return self.dependencies(fill, args, kwargs)
        deps: Callable[..., Any] = self.deps
        tags = deps(*args, **kwargs)
        if hasattr(tags, "__await__"):
            tags = await tags
        return fill.cache.deps(_tags.listed(tags))

    def gathered(self, fill: Fill) -> Deps | str:
        """The tags of the deps argument and those that were met."""
        static = fill.static or fill.cache.core.nothing
        if fill.name is not None and fill.cache.shared is not None:
            tags = dict.fromkeys([*tags_of(static), *sorted(fill.deps)])
            return fill.cache.shared.core.marked(_tags.join(tags, self.mark(fill.key)))
        if not fill.deps:
            return static
        return fill.cache.deps(tuple(dict.fromkeys([*tags_of(static), *sorted(fill.deps)])))

    def hand_up(self, fill: Fill) -> None:
        """Whoever called this fill depends on what it depends on, however it ended."""
        gatherer = fill.outer
        if not gatherer.done:
            final = fill.final or fill.static
            if final is not None:
                gatherer.deps.update(tags_of(final))
            gatherer.deps.update(fill.deps)

    # ---- end -------------------------------------------------------------------------------------

    def commit(self, fill: Fill, value: Any) -> None:
        """The function has returned: stores the value, if that is allowed, and ends the flight."""
        rules = self.rules
        ttl = fill.ttl
        if rules.special:
            if rules.cache_if is not None and not rules.cache_if(value):
                fill.store = False
            if ttl is None and value is None:
                ttl = rules.negative_ttl
        self.settle(fill, _deepcopy(value) if rules.copy and fill.store else value, ttl, None)

    def settle(self, fill: Fill, value: Any, ttl: float | None, error: BaseException | None) -> None:
        """Stores what came out, and ends the flight with it."""
        cache = fill.cache
        told = cache.telemetry_enabled
        started = time.perf_counter() if told else 0.0
        final = fill.static
        if fill.deps or final is None or fill.name is not None:
            final = self.gathered(fill)
        fill.final = final
        entry = None
        if fill.store and (cache.core.seen.value == fill.begin or cache.core.held(final).newest() <= fill.begin):
            entry = self.entry(cache, fill.key, value, fill.begin, final, ttl)
            if entry is not None and (error is not None or self.rules.early_refresh):
                more = entry.more = entry.more or More()
                more.error = error
                more.delta = _monotonic() - fill.started
        fill.result = value
        fill.error = error
        if error is None:
            self.fills += 1
            if self.end(fill, DONE, entry) and fill.name is not None and entry is not None:
                fill.lives = lives(entry, cache.clock())
        else:
            self.end(fill, FAILED, entry)
        if told:
            cache.telemetry.observe("cache_set_duration_seconds", time.perf_counter() - started)
            if error is None:
                cache.telemetry.increment("cache_misses_total")
        cache.debt += 1
        if cache.debt >= _SWEEP_EVERY:
            cache.worked(self)

    def failed(self, fill: Fill, error: BaseException) -> Entry | None:
        """The function has raised. Returns the old value that may stand in for it, if there is one."""
        if fill.done:
            return None
        cache = fill.cache
        self.errors += 1
        if cache.telemetry_enabled:
            cache.telemetry.increment("cache_misses_total")
            cache.telemetry.increment("cache_errors_total", labels={"error_type": "exception"})
        if not isinstance(error, Exception):
            self.end(fill, AGAIN)  # cancelled, interrupted: another one leads
            return None
        stale = self.stand_in(fill)
        if stale is not None:
            self.end(fill, AGAIN)
            return stale
        rules = self.rules
        if rules.cache_errors and isinstance(error, rules.cache_errors):
            self.settle(fill, None, rules.error_ttl, error)
            return None
        try:
            fill.final = self.gathered(fill)
        except Exception:  # what it gathered is what it failed of
            fill.final = None
        fill.error = error
        self.end(fill, FAILED)
        return None

    def stand_in(self, fill: Fill) -> Entry | None:
        """The value before, if it may be served instead of an error: never one that was invalidated."""
        entry = self.entries.get(fill.key)
        grace = self.rules.stale_if_error
        if not grace or entry is None or entry.more is None:
            return None
        cache = fill.cache
        now = cache.clock()
        if self.gated is not None and self.gated.core.gate(self.silence) not in (OK, STALE):
            return None
        if now >= entry.more.grace or entry.held(cache.core).newest() > entry.begin:
            return None
        if now >= entry.deadline:  # the failing function is left alone for a moment
            entry.tti = 0.0
            entry.deadline = min(now + min(_RETRY, grace / 4), entry.more.grace)
        self.stale += 1
        self.hits += 1
        gatherer = CURRENT.get()
        if gatherer is not None:
            gatherer.deps.update(tags_of(entry.deps))
        return entry

    # ---- refresh ---------------------------------------------------------------------------------

    is_async = False

    def renew(self, fill: Fill) -> None:
        """The fill computes its value, whatever the storage has."""
        fill.renews = True
        if fill.cache.shared is not None and fill.cache.shared.stores:
            fill.name = self.shared_name(fill.key)

    def refresh_soon(
        self, cache: Cache, entry: Entry, more: More, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Starts a computation beside the callers, one at a time."""
        fill = Fill(self, cache, entry.key)
        if self.flights.setdefault(entry.key, fill) is not fill:
            return
        self.refreshes += 1
        self.renew(fill)
        more.soft = cache.clock() + min(_RETRY, self.rules.soft_ttl or _RETRY)  # if it fails: not at once again
        fill.outer = None
        context = copy_context()
        context.run(CURRENT.set, None)
        if self.is_async:
            import asyncio

            task = context.run(asyncio.get_running_loop().create_task, self._arefresh(fill, args, kwargs))
            cache.tasks.add(task)
            task.add_done_callback(cache.tasks.discard)
        else:
            thread = threading.Thread(
                target=context.run, args=(self._refresh, fill, args, kwargs), name="zoocache-refresh", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # pragma: no cover - no more threads
                self.end(fill, AGAIN)

    def _refresh(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.lead(fill, args, kwargs)
        except Exception:
            pass  # counted; the old value is served until its time is over

    async def _arefresh(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            await self.alead(fill, args, kwargs)
        except Exception:
            pass

    def refresh_now(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Computes and stores the value, whether or not there is one; joins no flight that began before."""
        cache = self.bind()
        cache.check_open()
        fill = Fill(self, cache, key)
        self.renew(fill)
        with cache.lock:
            self.flights[key] = fill
        return self.lead(fill, args, kwargs)

    async def arefresh_now(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same, for a coroutine function."""
        cache = self.bind()
        cache.check_open()
        fill = Fill(self, cache, key)
        self.renew(fill)
        with cache.lock:
            self.flights[key] = fill
        return await self.alead(fill, args, kwargs)


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
        flight_timeout: float = 60,
        auto_prune_secs: float | None = None,
        auto_prune_interval: float = 3600,
        lru_cache_size: int = 10_000,
        lmdb_map_size: int | None = None,
        telemetry: TelemetryManager | None = None,
        clock: Callable[[], float] | None = None,
        storage: Storage | None = None,
        **more: Any,
    ) -> None:
        if lru_cache_size < 1:
            raise ValueError("lru_cache_size must be >= 1")
        if max_entries is not None and max_entries < 1:
            raise ValueError("max_entries must be >= 1")
        unknown = set(more) - _IGNORED - SHARED
        if unknown:
            raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
        flight_timeout = seconds("flight_timeout", flight_timeout) or inf
        self.shared: Shared | None = None  # the second tier
        if storage_url is not None or bus_url is not None or storage is not None:
            from zoocache._shared import Settings, Shared

            given = {name: more[name] for name in SHARED if name in more}
            self.shared = Shared(
                Settings(
                    storage_url=storage_url,
                    bus_url=bus_url,
                    storage=storage,
                    prefix=prefix,
                    lmdb_map_size=lmdb_map_size,
                    flight_timeout=flight_timeout,
                    **given,
                )
            )
        self.prefix = prefix or "zoocache"
        self.default_ttl = seconds("default_ttl", default_ttl)
        self.read_extend_ttl = read_extend_ttl
        self.max_entries = max_entries
        self.flight_timeout = flight_timeout
        self.auto_prune_secs = seconds("auto_prune_secs", auto_prune_secs) or 3600.0
        self.auto_prune_interval = seconds("auto_prune_interval", auto_prune_interval) or 3600.0
        self.clock = clock or _monotonic
        self.ticking = clock is None
        self._telemetry = telemetry
        self.telemetry_enabled = telemetry is not None and telemetry.enabled
        self.core: Core = Core() if self.shared is None else self.shared.core
        self.lock = threading.RLock()
        self.policy = None if max_entries is None else Policy(max_entries)
        self.closed = False
        self.special = self.telemetry_enabled or self.shared is not None  # a miss is more than a miss
        self.tasks: Any = _builtin_set()
        self._tables: list[ref[Table]] = []
        self.debt = 0
        self._pruned = _monotonic()
        self._raw = Table(self, Rules())
        self.adopt(self._raw)
        _caches.add(self)

    @property
    def telemetry(self) -> TelemetryManager:
        """Where its metrics go."""
        if self._telemetry is None:
            from zoocache.telemetry.manager import TelemetryManager

            self._telemetry = TelemetryManager()
        return self._telemetry

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
            table.sweeping = []
            table.sweep(self, len(table.entries))

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

    if TYPE_CHECKING:

        @overload
        def cacheable(self, func: Callable[P, R], /) -> Cached[P, R]: ...
        @overload
        def cacheable(self, func: None = None, **options: Unpack[Options]) -> Decorator: ...

    def cacheable(self, func: Any = None, **options: Any) -> Any:
        """As zoocache.cacheable, with this cache."""
        from zoocache._functions import cacheable

        return cacheable(func, cache=self, **options)

    def get(self, key: str) -> Any:
        """The value under a key, or None."""
        if type(key) is not str and isinstance(key, _keys.Key):
            self.check_open()
            return key.table.get(key.frozen)
        if not self.telemetry_enabled:
            raw = self._raw
            entry = raw.entries.get(key)
            if (
                entry is not None
                and entry.word == words[CHANGES]
                and (entry.until is None or _monotonic() < entry.until)
            ):
                raw.hits += 1
                if ACTIVE:
                    note(entry)
                return entry.value
            self.check_open()
            return raw.get(key)
        with self.telemetry.time_operation("cache_get_duration_seconds"):
            value = self._raw.get(key)
        self.telemetry.increment("cache_misses_total" if value is None else "cache_hits_total")
        return value

    def set(self, key: str, value: Any, deps: Iterable[str] = (), ttl: float | None = None) -> None:
        """Stores a value under a key. Raises StorageIsFull if the storage has no room even after evicting."""
        self.check_open()
        self._raw.set(self, key, value, deps, ttl)

    def delete(self, key: str) -> bool:
        """Removes a key. Returns whether it was there."""
        self.check_open()
        if isinstance(key, _keys.Key):
            return bool(key.table.drop(key.frozen))
        return self._raw.drop(key)

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
            if isinstance(key, _keys.Key) or key in raw.entries:
                value = self.get(key)
                if value is not None:
                    found[key] = value
        missing = [key for key in wanted if key not in found and not isinstance(key, _keys.Key)]
        found.update(raw.get_many(self, shared, missing))
        return {key: found[key] for key in wanted if key in found}

    async def get_many_async(self, keys: Iterable[str]) -> dict[str, Any]:
        """As get_many()."""
        found: dict[str, Any] = await self._beside(self.get_many, list(keys))
        return found

    async def _beside(self, work: Callable[..., Any], *args: Any) -> Any:
        """Calls what may wait for a storage: beside the event loop, if there is one to wait for."""
        if self.shared is None:
            return work(*args)
        return await self.shared.run(work, *args)

    async def get_async(self, key: str) -> Any:
        """As get()."""
        if self.shared is not None and not isinstance(key, _keys.Key):
            entry = self._raw.entries.get(key)
            if entry is None or not entry.fresh():
                return await self.shared.run(copy_context().run, self.get, key)
        return self.get(key)

    async def set_async(self, key: str, value: Any, deps: Iterable[str] = (), ttl: float | None = None) -> None:
        """As set()."""
        await self._beside(self.set, key, value, deps, ttl)

    def invalidate(self, *tags: str) -> None:
        """Whatever depends on one of the tags, or on a tag below it, is gone; several tags in one step."""
        self.check_open()
        if not tags:
            return
        code = self.core.invalidate(_tags.pack(tags))
        if code:
            self._told(code, tags)
        if self.telemetry_enabled:
            for tag in tags:
                self.telemetry.increment("cache_invalidations_total")
                self.telemetry.increment("cache_invalidations_total", labels={"tag_prefix": tag})

    def invalidate_one(self, tag: str) -> None:
        """The quick way for one tag, without metrics."""
        try:
            code = _ffi.E_INVAL if "\0" in tag or self.closed else self.core.invalidate(tag.encode())
        except (AttributeError, TypeError, UnicodeEncodeError):
            code = _ffi.E_INVAL
        if code:
            self.check_open()
            self._told(code, (tag,))

    def _told(self, code: int, tags: tuple[str, ...]) -> None:
        """What came of an invalidation that was not just done."""
        if code == _ffi.E_INVAL:
            _tags.refuse(tags)
        if self.shared is not None:
            self.shared.told(code)

    def token(self) -> int:
        """Stands for all invalidations that were finished here: catch_up() on another node waits for them."""
        self.check_open()
        return 0 if self.shared is None else self.shared.core.token()

    def catch_up(self, token: int, timeout: float = 5.0) -> None:
        """Read your writes: returns when this node has heard what the node of the token had invalidated.

        Raises TimeoutError.
        """
        self.check_open()
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

    def clear(self) -> None:
        """Removes everything; no computation that runs will be stored."""
        self.check_open()
        self.core.clear()
        for table in self.tables():
            table.clear()
        if self.policy is not None:
            with self.lock:
                if not len(self.policy):
                    self.policy.clear()

    async def clear_async(self) -> None:
        """As clear()."""
        await self._beside(self.clear)

    def prune(self, max_age_secs: float = 3600) -> int:
        """Forgets tags that nothing has depended on for so long; what they knew is kept. Returns how many."""
        self.check_open()
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
            flights=sum(len(table.flights) for table in tables),
            invalidations=invalidations,
            tags=tags,
            tag_bytes=tag_bytes,
            **(_ALONE if self.shared is None else self.shared.counters()),
        )

    def detach(self) -> None:
        """Lets go of its tables: they are empty then, and join another cache at their next call."""
        for table in self.tables():
            table.clear()
            with self.lock:
                table.forget()
                if table is not self._raw and table.cache is self and table.given is None:
                    table.cache = None
        with self.lock:
            self._tables = [r for r in self._tables if (t := r()) is not None and t.cache is self]

    def close(self) -> None:
        """Lets go of everything; whoever uses it afterwards gets a RuntimeError."""
        if self.closed:
            return
        self.closed = self.special = True
        shared, self.shared = self.shared, None
        if shared is not None:  # closes with the last call that is inside of it
            shared.close()
            self.core = Core()
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
        if self.shared is not None:
            self._fork_shared(mine)
        else:
            self.core.fork_child()
        self.tasks.clear()
        for table in self.tables():
            for key, fill in list(table.flights.items()):
                if fill not in mine:
                    del table.flights[key]
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
            table.fixed = None
        if self.policy is not None:
            self.policy.clear()
        for fill in mine:
            if isinstance(fill, Fill) and fill.cache is self:
                fill.store = False
                fill.name = fill.static = None
        try:
            core = shared.reopen()
        except Exception:  # the storage cannot be reached from here: it is done without
            core = None
        if core is None:
            self.shared = None
            for table in self.tables():
                table.forget()
        self.core = core or Core()


_ALONE = dict.fromkeys(CacheStats._fields[CacheStats._fields.index("hits_storage") :], 0)

# Options of storages and buses: see configure().
SHARED = frozenset(
    {
        "serializer",
        "timeout",
        "connections",
        "replicas",
        "tls_ca",
        "tls_cert",
        "tls_key",
        "storage_ttl",
        "write_behind",
        "sync",
        "max_staleness",
        "max_stale",
        "silence",
        "ack",
        "bus_pause",
    }
)

# Options that are accepted and have no effect.
_IGNORED = frozenset(
    {
        "prune_after",
        "tti_flush_secs",
        "lru_update_interval",
        "channel_capacity",
        "batch_size",
    }
)

_caches: WeakSet[Cache] = WeakSet()
_forking: list[Cache] = []
_collecting = False


def _fork_prepare() -> None:
    # With everything locked, no destructor may run that uses a cache.
    global _collecting
    collecting = gc.isenabled()
    gc.disable()
    _graph.acquire()
    _collecting = collecting
    _forking[:] = list(_caches)
    for cache in _forking:
        cache.fork_prepare()


def _forked() -> None:
    collecting = _collecting
    _graph.release()
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
    mine = frozenset(_lineage(current)) if isinstance(current, Fill) else frozenset([current])
    for gatherer in list(ACTIVE):
        if gatherer not in mine:
            ACTIVE.pop(gatherer, None)
    for cache in reversed(_forking):
        cache.fork_child(mine)
    _forked()


def _close_shared() -> None:
    # While there is an interpreter: their threads may call a storage in Python, and what waits is written.
    for cache in list(_caches):
        if cache.shared is not None:
            cache.close()


atexit.register(_close_shared)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_fork_prepare, after_in_parent=_fork_parent, after_in_child=_fork_child)
