"""The limits of a cache: entries, bytes, and loaders that run at once. Imported by a cache that has one.

Scales    what an entry weighs; refuses one that is larger than an entry may be
ByWeight  the policy of a limit in bytes, which holds at every instant, as that in entries does
Loads     who may load: max_loads at a time, the rest in the order in which they have come
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from math import inf
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from zoocache._callables import peek
from zoocache._errors import Overloaded
from zoocache._fills import _LOOKS, _waker
from zoocache._keys import defines
from zoocache._policy import Policy
from zoocache._table import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoocache._cache import Cache
    from zoocache._fills import Filled
    from zoocache._table import Fill

__all__ = ["ByWeight", "Loads", "Scales", "Weighed", "limit", "size_of"]

_OWN = 400  # bytes that an entry takes besides its key and value: itself, and its places in tables
_ELSEWHERE = (type, ModuleType, FunctionType, BuiltinFunctionType, type(None), bool)  # not of the value alone
_SEVERAL = (list, tuple, set, frozenset, deque)

_monotonic = time.monotonic


def limit(
    cache: Cache,
    max_entries: int | None,
    max_bytes: int | None,
    max_entry_bytes: int | None,
    weigh: Callable[[Any], int] | None,
    max_loads: int | None,
) -> None:
    """Gives the cache its limits. Raises ValueError for one that leaves no room."""
    given = {"max_entries": max_entries, "max_bytes": max_bytes, "max_entry_bytes": max_entry_bytes}
    for name, number in {**given, "max_loads": max_loads}.items():
        if number is not None and not number >= 1:
            raise ValueError(f"{name} must be >= 1")
    if weigh is not None and not callable(weigh):
        raise TypeError(f"weigh must be a callable of a value, not {type(weigh).__name__}")
    if max_loads is not None:
        cache.loads = Loads(cache, max_loads)
    most = sys.maxsize if max_entries is None else max_entries
    if max_bytes is not None or max_entry_bytes is not None or weigh is not None:
        room = inf if max_bytes is None else max_bytes
        cache.scales = Scales(room if max_entry_bytes is None else min(room, max_entry_bytes), weigh)
        cache.policy = ByWeight(most, room)
    elif max_entries is not None:
        cache.policy = Policy(most)


# ---- bytes -------------------------------------------------------------------------------------------


class Weighed(Entry):
    """An entry whose weight is known."""

    __slots__ = ("weight",)

    weight: int


class Scales:
    """Weighs entries, with no lock held: it may call what the user gave."""

    def __init__(self, largest: float, weigh: Callable[[Any], int] | None) -> None:
        self.entry = Weighed
        self.largest = largest
        self.weigh = weigh

    def take(self, entry: Any) -> bool:
        """Weighs a new entry. False: it is too large to be stored."""
        value = entry.value
        if self.weigh is None or value is None:  # which it is for an error, too
            weight: Any = size_of(value) + size_of(entry.key) + _OWN
        else:
            weight = self.weigh(value)
            if not isinstance(weight, int) or weight < 0:
                raise ValueError(f"zoocache: weigh() must give a number of bytes, not {weight!r}")
        entry.weight = weight
        return bool(weight <= self.largest)


def size_of(value: Any) -> int:
    """About how many bytes of memory a value takes, with all that is in it."""
    total = 0
    seen: set[int] = set()
    todo = [value]
    while todo:
        x = todo.pop()
        if id(x) in seen or isinstance(x, _ELSEWHERE):
            continue
        seen.add(id(x))
        total += max(sys.getsizeof(x, 64), _buffer(x))
        if isinstance(x, dict):
            todo += [*x.keys(), *x.values()]
        elif isinstance(x, _SEVERAL):
            todo += x
        elif defines(type(x), "__sizeof__") is object:  # else it has said what is in it
            todo += _fields(x)
    return total


def _buffer(x: Any) -> int:
    """The bytes of what only points to them, as views of arrays do."""
    size = peek(x, "nbytes")
    return size if type(size) is int else 0


def _fields(x: Any) -> list[Any]:
    """What an object's attributes are."""
    names = [name for base in type(x).__mro__ for name in _listed(vars(base).get("__slots__", ()))]
    own = peek(x, "__dict__")
    return [peek(x, name) for name in names] + ([own] if type(own) is dict else [])


def _listed(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


class ByWeight(Policy):
    """As Policy, with a limit in bytes. A small queue is a tenth of the entries that there are."""

    __slots__ = ("most", "weight")

    def __init__(self, entries: int, most: float) -> None:
        super().__init__(entries)
        self.most = most
        self.weight = 0

    def insert(self, entry: Any) -> list[Any]:
        """Takes a new entry in, which fits if it is alone. Returns those that give way."""
        leaving = []
        while self.weight + entry.weight > self.most:
            leaving.append(self._evict())
        leaving += super().insert(entry)
        self.weight += entry.weight
        return leaving

    def remove(self, entry: Any) -> None:
        """An entry has left by itself."""
        if entry in self.small or entry in self.main:
            self.weight -= entry.weight
        super().remove(entry)

    def clear(self) -> None:
        """Every entry has left."""
        super().clear()
        self.weight = 0

    def _evict(self) -> Any:
        self.small_limit = max(1, len(self) // 10)
        victim = super()._evict()
        self.weight -= victim.weight
        return victim


# ---- loaders -----------------------------------------------------------------------------------------


class Loads:
    """Which fills load. What is computed inside of one that does is a part of it, so it does not wait for itself.

    All of it changes with the cache's lock held. Who leaves hands his place on, to a fill that need not know yet; who
    waits looks by itself now and then, as a place may have been left by an event loop that is closed.
    """

    def __init__(self, cache: Cache, most: int) -> None:
        self.lock = cache.lock
        self.most = most
        self.inside: dict[Fill, None] = {}
        self.line: dict[Fill, Callable[[], None]] = {}

    def full(self) -> bool:
        """Whether who comes now has to wait."""
        return len(self.inside) >= self.most

    def enters(self, fill: Fill) -> bool:
        """Whether it loads from now on."""
        with self.lock:
            if any(each in self.inside for each in fill.lineage()):
                self.line.pop(fill, None)
                return True
            if self.full():
                for other in [other for other in self.inside if other.dead]:
                    del self.inside[other]
            if self.full():
                return False
            self.inside[fill] = None
            self.line.pop(fill, None)
            return True

    def leave(self, fill: Fill) -> None:
        """It does not load, or not any more: the next ones do."""
        wakes = []
        with self.lock:
            self.line.pop(fill, None)
            self.inside.pop(fill, None)
            while self.line and not self.full():
                other = next(iter(self.line))
                self.inside[other] = None
                wakes.append(self.line.pop(other))
        for wake in wakes:
            try:
                wake()
            except RuntimeError:  # it does not wait any more, and leaves
                pass

    def stale(self, table: Filled, fill: Fill) -> bool:
        """Whether the fill has an old value that may be served now."""
        entry = None if fill.renews else table.stand_in(fill)
        if entry is not None:
            fill.value = table.given_out(entry.value)
        return entry is not None

    def left(self, table: Filled, fill: Fill) -> float:
        """For how long the fill may sleep. Raises Overloaded once it has waited for long enough."""
        left = fill.started + fill.cache.flight_timeout - _monotonic()
        if left <= 0:
            raise Overloaded(
                f"zoocache: `{table.name}` was not run: there were {self.most} others (max_loads), and none ended"
                " within flight_timeout"
            )
        return min(left, _LOOKS)

    def enter(self, table: Filled, fill: Fill) -> bool:
        """Waits until the fill may load. False: it has an old value instead. Raises Overloaded."""
        if self.enters(fill):
            return True
        if self.stale(table, fill):
            return False
        self.wait(table, fill)
        return True

    def wait(self, table: Filled, fill: Fill) -> None:
        """Waits until the fill may load. Raises Overloaded."""
        awake = threading.Lock()
        awake.acquire()
        with self.lock:
            self.line[fill] = awake.release
        while not self.enters(fill):
            awake.acquire(timeout=self.left(table, fill))

    async def aenter(self, table: Filled, fill: Fill) -> bool:
        """As enter()."""
        if self.enters(fill):
            return True
        if self.stale(table, fill):
            return False
        await self.await_turn(table, fill)
        return True

    async def await_turn(self, table: Filled, fill: Fill) -> None:
        """As wait()."""
        import asyncio

        loop = asyncio.get_running_loop()
        awake: asyncio.Future[None] = loop.create_future()
        with self.lock:
            self.line[fill] = _waker(loop, awake)
        while not self.enters(fill):
            await asyncio.wait([awake], timeout=self.left(table, fill))

    def forked(self, mine: frozenset[Any]) -> None:
        """In the child of a fork: the fills of other threads are over."""
        self.line.clear()
        self.inside = {fill: None for fill in self.inside if fill in mine}
