"""What is cached: the entries of a function, and whether they may be served.

    Table   the entries of one function, or of get() and set(); a dict from key to Entry
    Entry   a value, what it depends on, until when it is good, and ``word``
    Fill    one computation of one key, with everybody who waits for it (see _fills)

A hit happens in a table's caller (see _functions) and compares ``entry.word`` with ``words[CHANGES]``.
Equal: nothing has happened since the entry was last looked at, so it is as good as it was then. With a bus,
it is good for as long as the lease lasts that was held then: ``entry.until``, compared with the clock last,
when the value is in hand, for the process may have slept. Else ``Table.look`` looks: has the bus been heard,
was a tag invalidated (the one rule of the library), has its time come?
"""

from __future__ import annotations

import time
from itertools import islice
from math import inf

from zoocache import _ffi, _tags
from zoocache._callables import LASTING, check
from zoocache._durations import duration, seconds, shown
from zoocache._errors import StorageIsFull
from zoocache._ffi import CHANGES, OK, PERIOD, STALE, WANTED, Core, Deps, words
from zoocache.context import (
    ACTIVE,
    CURRENT,
    OFF,
    OPEN,
    held_anywhere,
    held_here,
    holds_back,
    is_off,
    note,
    transaction_of,
)

TYPE_CHECKING = False  # typing itself is not imported: it takes longer than all of this package
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final

    from zoocache._cache import Cache
    from zoocache._codec import Codec
    from zoocache._ffi_shared import Found, Token
    from zoocache._shared import Shared

__all__ = ["KEYLESS", "Entry", "Fill", "More", "Rules", "Table", "deepcopy", "lives", "random"]

RUNNING, DONE, FOUND, FAILED, AGAIN = range(5)  # states of a fill; FOUND: by the storage

KEYLESS = "zoocache: sealed=True needs a cache with a key: give Cache() or configure() a seal_key first (zoocache.seal)"

SWEEP_EVERY: Final = 64  # fills between two slices of housekeeping

_monotonic = time.monotonic


class Rules:
    """How the values of one table are kept. None: as the cache says."""

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
        serializer: Any = None,
        compression: bool | None = None,
        lag: float = 0.0,
        sealed: bool = False,
    ) -> None:
        self.sealed = sealed
        self.ttl = seconds("ttl", ttl)
        self.lag = duration("lag", lag)
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
            raise ValueError(f"jitter is a part of the ttl, from 0 to 1, not {shown(jitter)}")
        if on_error not in ("raise", "retry"):
            raise ValueError(f"on_error must be 'raise' or 'retry', not {on_error!r}")
        if copy not in ("share", "copy"):
            raise ValueError(f"copy must be 'share' or 'copy', not {copy!r}")
        if silence not in (None, "bypass", "serve", "error"):
            raise ValueError(f"silence must be 'bypass', 'serve' or 'error', not {silence!r}")
        self.fleet = fleet
        if serializer is not None or compression is not None:
            from zoocache._codec import known

            known("msgpack" if serializer is None else serializer, compression)
        self.serializer = serializer
        self.compression = compression
        self.silence = silence
        self.special = cache_if is not None or negative_ttl is not None or copy == "copy"  # see settle_value()
        self.fancy = soft_ttl is not None or bool(stale_if_error) or bool(early_refresh)
        self.retry = on_error == "retry"
        self.copy = copy == "copy"


class Entry:
    """A cached value."""

    __slots__ = ("begin", "born", "deadline", "deps", "key", "more", "owner", "tti", "until", "value", "word")

    value: Any
    word: int  # words[CHANGES] when last looked at; 0: nobody has looked, -1: must always be looked at
    until: float | None  # the end of the lease by which it was looked at, by time.monotonic(); None: no bus
    begin: int  # no version up to this one has killed it
    born: float  # when it was stored, by the cache's clock, within 50 ms
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
    """One computation, or one wait for it. Gathers the dependencies that are met on the way.

    It is there before its flight is registered, so that whoever made it can end that, whatever happens.
    """

    leading = False  # its flight may be registered, or something else is to be undone
    running = False  # its function is: what is met now is gathered
    loop: Any = None  # of asyncio, in which it runs: it dies with it
    value: Any = None  # what its own caller gets
    static: Deps | str | None = None  # by the deps argument
    final: Deps | str | None = None  # all of them, once it has ended
    ttl: float | None = None  # set from inside
    store = True
    done = False
    state = RUNNING
    result: Any = None
    error: BaseException | None = None  # a copy
    waiters: list[Callable[[], None]] | None = None
    waits: list[Fill] | None = None
    renews = False  # what there is is not to be asked for
    private = False  # of a transaction that has written: nobody else takes what it gives
    same: Callable[[], bool] | None = None  # whether its arguments are what they were
    name: bytes | None = None  # its key in the storage
    token: Token | None = None  # of the fleet's lock; false: it has none
    lives: tuple[float, float] | None = None  # how long the storage is to keep the value: ttl, tti
    around: Any = None  # what is to be told that it is over, and
    outcome: Any = None  # what came of it, if anybody listens

    def __init__(self, table: Table, key: Any) -> None:
        cache = table.cache
        if cache is None:
            cache = table.bind()
        self.table = table
        self.cache = cache
        self.key = key
        self.locked: bool = cache.lock._is_owned()  # by who calls
        self.begin: int = cache.core.seen.value  # before anything is read
        if OPEN or table.rules.lag:
            self.begin_earlier()
        self.started = _monotonic()
        self.deps: set[str] = set()
        self.outer: Any = CURRENT.get() if ACTIVE else None  # who depends on it as well

    def step_aside(self) -> None:
        """It is of its caller alone: found nowhere, waited for by nobody, not stored."""
        self.leading = self.renews = True
        self.store = False
        self.name = None

    def begin_anew(self) -> None:
        """What it waited for is over: nothing was read yet."""
        self.begin = self.cache.core.seen.value
        if OPEN or self.table.rules.lag:
            self.begin_earlier()
        self.started = _monotonic()

    def begin_earlier(self) -> None:
        """What is read may be as it was when its transaction began, or as far back as its replica may be behind."""
        here = transaction_of(self.cache) if OPEN else None
        if here is not None and here.begin is not None:
            self.begin = min(self.begin, here.begin)
        lag = self.table.rules.lag
        if lag:
            self.begin = min(self.begin, self.cache.begin_ago(lag))

    @property
    def dead(self) -> bool:
        """Whether nobody will ever end it: its event loop was closed before it ended."""
        return self.loop is not None and not self.done and bool(self.loop.is_closed())

    @property
    def parent(self) -> Fill | None:
        """The fill that this one is a part of."""
        outer = self.outer
        while outer is not None and not isinstance(outer, type(self)):
            outer = outer.outer  # of a DepsTracker
        return None if outer is None or outer.done else outer

    def lineage(self) -> Iterator[Fill]:
        """It, and what it is a part of, outwards."""
        fill: Fill | None = self
        while fill is not None:
            yield fill
            fill = fill.parent


def lives(entry: Entry, now: float) -> tuple[float, float]:
    """How long an entry has to live, at most and unread."""
    more = entry.more
    if not entry.tti:
        return entry.deadline - now, inf
    return (inf if more is None else more.hard - now), entry.tti


def random() -> float:
    """From 0 to 1."""
    from random import random as draw

    return draw()


def deepcopy(value: Any) -> Any:
    """As the module copy has it, which is not imported before it is needed."""
    from copy import deepcopy as copied

    return copied(value)


class Table:
    """The entries of one function, or of get() and set()."""

    default: Callable[[], Cache]  # gives the cache of tables that were given none; set by _default
    sealing: Callable[[], bool]  # whether that has, or will have, a key; likewise
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
        self.codec: Codec | None = None  # how its values become bytes
        self.silence = 0  # what to do if not
        self.tick = 0  # ns between ticks that its deadlines need
        self.quick = False  # as choose() says
        self.sweeping: dict[Any, None] = {}  # some keys that are to be looked at: none that has left
        self.swept = self.round = 0  # how many entries this round of looking has come by, of how many
        self.count_anew()

    # ---- its cache -------------------------------------------------------------------------------

    def count_anew(self) -> None:
        """Its statistics begin: those of a cache have nothing of the one before."""
        self.hits = self.stale = self.absent = self.expired = self.invalidated = 0
        self.fills = self.errors = self.refused = self.waits = self.refreshes = self.evictions = 0

    def bind(self) -> Cache:
        """The cache; joins it if need be."""
        cache = self.cache
        if cache is None:
            cache = self.default() if self.given is None else self.given
            cache.adopt(self)
        return cache

    def joined(self, cache: Cache) -> None:
        """It belongs to a cache from now on."""
        shared, rules = cache.shared, self.rules
        if rules.sealed and not cache.sealed:
            raise RuntimeError(KEYLESS)
        self.codec = None if shared is None else shared.codec_of(rules.serializer, rules.compression)
        self.cache = cache
        self.gated = None if shared is None or not shared.bus else shared
        self.silence = 0 if shared is None else shared.silence_of(self.rules.silence)
        times = [self.rules.ttl, self.rules.tti, self.rules.soft_ttl, self.rules.negative_ttl, self.rules.error_ttl]
        times += [cache.default_ttl, cache.most]
        self.tick = 0
        for each in times:
            self.ticks_for(each)
        self.choose()

    def choose(self) -> None:
        """Decides whether its calls take the quick path; all others read ``quick``.

        A hit on that path is the entry's value, counted and noted: its caller serves it by the word alone, which
        look() sets so only there, and serve() by a look. It is not for who has more to do at each call:

            no cache yet, or a closed one     one is to be joined, or the call to be refused
            telemetry                         hears of every hit and miss, and how long the look took
            copy="copy"                       each caller gets an object of its own

        Of the entries of a quick table, those with an error always go the long way, as it is raised anew; those
        with ``more``, of which some have a refresh that may be due, from serve() on. What a storage or a bus adds
        (a lease that must hold, a log that each read looks at) is all in look().
        """
        cache = self.cache
        self.quick = not (cache is None or cache.closed or cache.telemetry_enabled or self.rules.copy)

    def ticks_for(self, duration: float | None) -> None:
        """Ticks come often enough for a deadline after this duration: at most a fiftieth of it late."""
        if duration and duration < inf:
            period = int(min(50e6, max(1e6, duration * 20e6)))
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
        word = words[CHANGES]  # before OFF is looked at: whoever switches off changes it after that
        if OFF or not self.quick or (entry.more is not None and entry.more.error is not None):
            word = -1
        if OPEN and held_anywhere(cache, entry.deps):
            word = -1
            if held_here(cache, entry.deps):
                self.absent += 1
                return False
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
                self.remove(entry, "invalidated")
                return False
            entry.begin = seen
        more = entry.more
        if entry.deadline != inf:
            now = cache.clock()
            if now >= entry.deadline:
                self.expired += 1
                if more is None or now >= more.grace:
                    self.remove(entry, "expired")
                return False
            if entry.tti:
                moved = now + entry.tti
                entry.deadline = moved if more is None or moved < more.hard else more.hard
            word = self.keep_ticking(cache, word)
        elif more is not None and more.soft != inf:
            word = self.keep_ticking(cache, word)
        entry.until = until  # not before it was found fresh: who has compared the word asks for the time now
        entry.word = word
        return True

    def keep_ticking(self, cache: Cache, word: int) -> int:
        """Entries with a deadline are being read: the word must change now and then. By another clock each looks."""
        if not cache.ticking:
            return -1
        period = words[PERIOD]
        if not period or period > self.tick:
            _ffi.tick(self.tick)
        words[WANTED] = 1
        return word

    def remove(self, entry: Entry, cause: str) -> None:
        """Takes the entry out, unless another has taken its place."""
        cache = self.cache
        if cache is None:
            return
        with cache.lock:
            if self.entries.get(entry.key) is not entry:
                return
            del self.entries[entry.key]
            self.sweeping.pop(entry.key, None)
            if cache.policy is not None:
                cache.policy.remove(entry)
        if cache.events is not None:
            cache.events.removed(entry, cause)

    def store(self, cache: Cache, entry: Entry) -> Any:
        """Puts the entry in its place, with the lock held. Returns what the caller has to drop after it."""
        entries = self.entries
        policy = cache.policy
        if policy is None:
            old = entries.get(entry.key)
            entries[entry.key] = entry
            if old is not None and cache.events is not None:
                cache.events.left([old], "replaced")
            return old
        old = entries.pop(entry.key, None)
        if old is not None:
            policy.remove(old)
            if cache.events is not None:
                cache.events.left([old], "replaced")
        leaving = policy.insert(entry)
        for victim in leaving:
            victim.owner.entries.pop(victim.key, None)
            victim.owner.sweeping.pop(victim.key, None)
            victim.owner.evictions += 1
        if leaving and cache.events is not None:
            cache.events.left(leaving, "evicted")
        entries[entry.key] = entry
        return old, leaving

    # ---- entries ---------------------------------------------------------------------------------

    def entry(
        self, cache: Cache, key: Any, value: Any, begin: int, deps: Deps | str, ttl: float | None
    ) -> Entry | None:
        """An entry with its times. None: its life would be over at once, or it is too large."""
        rules = self.rules
        scales = cache.scales
        entry = Entry() if scales is None else scales.entry()
        entry.value = value
        entry.word = 0
        entry.until = None
        last = cache.last_begin  # many entries have one object for their begin, and one for their birth
        if last != begin:
            last = cache.last_begin = begin
        entry.begin = last
        now = cache.clock()
        if not 0 <= now - cache.last_born < 0.05:
            cache.last_born = now
        entry.born = cache.last_born
        entry.deps = deps
        entry.owner = self
        entry.key = key
        entry.more = None
        entry.tti = 0.0
        entry.deadline = inf
        if scales is not None and not scales.take(entry):
            return None
        if ttl is None:
            ttl = rules.ttl
            if ttl is None:
                ttl = cache.default_ttl
        tti = rules.tti
        if ttl is None and tti is None and not rules.fancy and cache.most == inf:
            return entry
        if tti is None and cache.read_extend_ttl:
            ttl, tti = None, ttl
        if cache.most != inf:
            ttl = cache.most if ttl is None else min(ttl, cache.most)
        if ttl == 0 or tti == 0:
            return None
        if rules.jitter:
            shorter = 1 - rules.jitter * random()
            ttl = ttl and ttl * shorter
            tti = tti and tti * shorter
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

    # ---- flights ---------------------------------------------------------------------------------

    def claim(self, fill: Fill) -> bool:
        """Registers the flight of its key. False: another one runs."""
        fill.leading = True  # first: who is interrupted here ends it
        other = self.flights.setdefault(fill.key, fill)
        if other is fill or self.take_over(fill, other):
            return True
        fill.leading = False
        return False

    def take_over(self, fill: Fill, other: Fill) -> bool:
        """Whether the other's lease is over, or it is dead, so that this one leads: a late value is not stored."""
        dead = other.dead
        if not dead and fill.started - other.started <= fill.cache.flight_timeout:
            return False
        with fill.cache.lock:
            if self.flights.get(fill.key, other) is not other:
                return False
            self.flights[fill.key] = fill
        if dead:
            self.bury(other)
        return True

    def bury(self, fill: Fill) -> None:
        """Ends the flight of a fill that is dead."""
        ACTIVE.pop(fill, None)
        self.end(fill, AGAIN)

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
        if leaving is not None and cache.events is not None:
            cache.events.tell()
        del leaving
        if fill.waiters is not None:
            self.wake(fill)
        return entry is not None

    def wake(self, fill: Fill) -> None:
        """Wakes who waits for a fill that has ended; called again, those that were not woken then."""
        waiters = fill.waiters
        while waiters:
            try:
                waiters[-1]()
            except RuntimeError:  # it was woken already; or no room on the stack: it looks by itself in a moment
                pass
            waiters.pop()

    # ---- reading, writing by key -----------------------------------------------------------------

    def given_out(self, value: Any) -> Any:
        """What a caller gets of a cached value."""
        return deepcopy(value) if self.rules.copy else value

    def get(self, key: Any) -> Any:
        """The value under a key, or None."""
        if OFF and is_off(self.bind()):
            return None
        entry = self.entries.get(key)
        if entry is None:
            self.absent += 1
        elif entry.fresh() or self.look(entry):
            self.hits += 1
            if ACTIVE:
                note(entry)
            return self.given_out(entry.value)
        cache = self.cache
        if cache is None or cache.shared is None or (OPEN and holds_back(cache)):
            return None
        fill = Fill(self, key)
        try:
            alone = self.claim(fill)
            found = cache.shared.look_up(fill)
            if found is None:
                return None
            value = self.take(fill, *found) if alone else found[1]
        finally:
            if not fill.done:
                self.end(fill, AGAIN)
        gatherer = CURRENT.get() if ACTIVE else None
        if gatherer is not None:
            gatherer.deps.update(found[0].deps.tags())
        return value

    def get_many(self, cache: Cache, shared: Shared, keys: list[str]) -> dict[str, Any]:
        """The values that the storage has under these keys: asked in one step."""
        if (OFF and is_off(cache)) or (OPEN and holds_back(cache)):
            return {}
        fills = {key: Fill(self, key) for key in keys}
        self.absent += len(keys)
        values = {}
        try:
            alone = {key for key, fill in fills.items() if self.claim(fill)}
            names = [(key, name) for key in keys if (name := self.shared_name(key))]
            for key, found in shared.ask_many(self.codec, names):
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
        return self.given_out(value)

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

    def key_text(self, key: Any) -> str:
        """A key as get() takes it."""
        return key  # type: ignore[no-any-return]

    def shared_name(self, key: Any) -> bytes | None:
        """The key in a storage; None: it is not for other processes."""
        from zoocache._names import named  # here, as it takes hashlib

        return named("=" + key) if isinstance(key, str) else None

    def text(self, key: Any) -> str:
        """The key, for who reads it."""
        return str(key)

    def mark(self, key: Any) -> str:
        """The tag of this key alone, or an empty text."""
        if not isinstance(key, str):
            return ""
        return f"|key:{_ffi.hash_bytes(key.encode('utf-8', 'surrogatepass')):016x}"

    def held(self, cache: Cache, key: Any, tags: tuple[str, ...]) -> Deps:
        """The tags of what set() stores, as the library holds them."""
        return cache.deps(tags)

    def set(self, cache: Cache, key: Any, value: Any, deps: object, ttl: float | None) -> None:
        """Stores a value under a key."""
        if type(value) not in LASTING:
            check(value, key)
        ttl = seconds("ttl", ttl)
        self.ticks_for(ttl)
        tags = _tags.listed(deps)
        held = self.held(cache, key, tags)
        if OFF and is_off(cache):
            self.drop(key)  # what was there is not what it was to be from now on
            return
        if OPEN and held_here(cache, held):
            self.drop(key)  # it may be of what is not committed
            return
        shared = cache.shared
        if shared is not None:
            self.drop(key, "replaced")
            held = shared.core.marked(_tags.join(held.tags(), mark)) if (mark := self.mark(key)) else held
        begin = cache.core.seen.value
        entry = self.entry(cache, key, value, begin, held, ttl)
        if entry is None or (cache.core.holds.value and held.newest() > begin):
            self.drop(key, "replaced")
            return
        with cache.lock:
            self.flights.pop(key, None)  # a fill that runs will not undo this
            leaving = self.store(cache, entry)
        if cache.events is not None:
            cache.events.tell()
        del leaving
        if shared is not None and shared.stores:
            name = self.shared_name(key)
            if name is not None and not shared.keep(
                self.codec, name, value, held, entry.begin, *lives(entry, cache.clock())
            ):
                raise StorageIsFull(f"{shared.kind} storage is full: {key!r} is kept in memory only")
        cache.debt += 1
        if cache.debt >= SWEEP_EVERY:
            cache.worked(self)

    def drop(self, key: Any, cause: str = "deleted") -> bool:
        """Removes a key; a fill of it that runs will not be stored."""
        cache = self.bind()
        with cache.lock:
            self.flights.pop(key, None)
            entry = self.entries.pop(key, None)
            self.sweeping.pop(key, None)
            if entry is not None and cache.policy is not None:
                cache.policy.remove(entry)
        if entry is not None and cache.events is not None:
            cache.events.removed(entry, cause)
        if cache.shared is not None:
            mark = self.mark(key)
            if mark:
                cache.shared.forget(self.shared_name(key), mark.encode())
        return entry is not None

    def clear(self, cause: str = "deleted") -> None:
        """Removes everything; no fill that runs will be stored."""
        cache = self.cache
        if cache is None:
            return
        with cache.lock:
            self.flights.clear()
            leaving = list(self.entries.values())
            self.entries.clear()
            self.sweeping.clear()
            if cache.policy is not None:
                for entry in leaving:
                    cache.policy.remove(entry)
            if cache.events is not None:
                cache.events.left(leaving, cause)
        if cache.events is not None:
            cache.events.tell()
        del leaving

    def forget(self) -> None:
        """Lets go of what belongs to its cache."""
        self.gated = self.codec = None

    def sweep(self, cache: Cache, count: int) -> int:
        """Looks at some entries in turn. Returns how many more may be looked at."""
        if not self.sweeping:
            self.sweep_on(cache)
        keys: list[Any] = []
        try:
            while self.sweeping and len(keys) < count:
                keys.append(self.sweeping.popitem()[0])
        except KeyError:  # another thread has taken the last
            pass
        gone = self.look_over(cache, keys)
        self.swept, self.round = max(0, self.swept - gone), max(0, self.round - gone)
        return count - len(keys)

    def sweep_on(self, cache: Cache) -> None:
        """The next keys: few, but as many as it takes for coming by the first ones again to cost nothing."""
        with cache.lock:
            if self.swept >= self.round:
                self.swept, self.round = 0, len(self.entries)
            end = min(self.round, self.swept + max(4 * SWEEP_EVERY, len(self.entries) // 64))
            self.sweeping = dict.fromkeys(reversed(list(islice(self.entries, self.swept, end))))
            self.swept = end

    def look_over(self, cache: Cache, keys: Iterable[Any]) -> int:
        """Removes those of these entries that nobody may have again. Returns how many."""
        now = cache.clock()
        seen = cache.core.seen.value
        method = self.method
        removed = 0
        for entry in map(self.entries.get, keys):
            if entry is None:
                continue
            cause = ""
            if now >= entry.deadline:
                more = entry.more
                if more is None or now >= more.grace:
                    cause = "expired"
            elif seen != entry.begin and entry.held(cache.core).newest() > entry.begin:
                cause = "invalidated"
            elif method and not self.alive(entry.key):
                cause = "collected"
            if cause:
                self.remove(entry, cause)
                removed += 1
        return removed

    def alive(self, key: Any) -> bool:
        """Whether anybody can still ask for this key."""
        return True
