"""What happens in a cache, told as it happens: ``Cache(on_event=listener)``.

    removed      an entry has left: the reason is replaced, expired, evicted, invalidated, deleted, collected
                 (the object whose method it was of) or closed
    filled       a computation has ended: its value was stored, or refused (invalidated meanwhile, or not wanted)
    failed       it has raised: the reason is the name of the type; elapsed is what it took, as above
    invalidated  tags were invalidated, here; without tags: everything
    fault        calls of the storage have failed, or it had what is no good
    breaker      the storage is left alone from now on (open), or asked again (closed)

A listener is called as a rule in the thread that made it happen, with no lock held and outside of any computation;
for fault and breaker, a moment later, in a thread of the package. What two threads make happen may be told in another
order, and by either of them.
It may use the cache. What it raises is logged, once, and reaches nobody else. A hit is no event, and costs nothing
for this; neither does anything else while nobody listens.

An entry that was invalidated is removed when it is met: by a call, or by housekeeping.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import ref

from zoocache._log import logger
from zoocache.context import CURRENT, tags_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zoocache._cache import Cache
    from zoocache._table import Entry, Fill

    Listener = Callable[["Event"], object]

__all__ = ["Event", "Events", "correlated", "correlation"]

_monotonic = time.monotonic

# What the request, job or message is called that is being worked on here: events and log lines bear it.
correlation: ContextVar[str | None] = globals().get("correlation") or ContextVar("zoocache_correlation", default=None)


def correlated() -> str | None:
    """What is worked on here: as ``correlation`` says, or the running span of OpenTelemetry, if it is used."""
    said = correlation.get()
    current = None if said is not None else getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if current is None:
        return said
    span = current().get_span_context()
    return f"{span.trace_id:032x}-{span.span_id:016x}" if span.is_valid else None


class Event:
    """Something that has happened. Key and tags become text when they are asked for."""

    __slots__ = ("_deps", "_key", "_table", "correlation", "count", "elapsed", "function", "kind", "reason")

    def __init__(
        self,
        kind: str,
        reason: str | None = None,
        *,
        table: Any = None,
        key: Any = None,
        deps: Any = (),
        elapsed: float | None = None,
        count: int = 1,
    ) -> None:
        self.kind = kind
        self.function: str | None = table.name if hasattr(table, "func") else None  # None: of set()
        self.reason = reason
        self.elapsed = elapsed  # seconds
        self.count = count  # of faults: so many
        self.correlation = correlated()
        self._table = table
        self._key = key
        self._deps = deps

    @property
    def key(self) -> str | None:
        """Its text; of a function as its method of this name gives it, which tells no argument."""
        table = self._table
        if table is None:
            return None
        return str(table.key_text(self._key) if self.function is not None else table.text(self._key))

    @property
    def tags(self) -> tuple[str, ...]:
        """What the entry depends on; what was invalidated."""
        return self._deps if type(self._deps) is tuple else tags_of(self._deps)

    def __repr__(self) -> str:
        names = ("kind", "function", "key", "tags", "reason", "elapsed", "correlation")
        return "Event(" + ", ".join(f"{name}={getattr(self, name)!r}" for name in names) + ")"


class Events:
    """Who listens to a cache, and what they are to be told: that waits while the cache's lock is held."""

    def __init__(self, cache: Cache) -> None:
        self.cache = ref(cache)
        self.lock = cache.lock
        self.listeners: list[Listener] = []
        self._around: list[Any] = []
        self._waiting: deque[tuple[Event, Entry | None]] = deque()
        self._broken: set[str] = set()

    def add(self, listener: Listener) -> None:
        """It is told from now on. If it has ``around``, that is called as a computation begins: see Spans."""
        if not callable(listener):
            raise TypeError(f"on_event must be a callable, or several, not {type(listener).__name__}")
        self.listeners.append(listener)
        if hasattr(listener, "around"):
            self._around.append(listener)

    def put(self, *events: Event) -> None:
        """They have happened."""
        self._waiting.extend([(event, None) for event in events])
        self.tell()

    def tell(self) -> None:
        """Tells what waits, but not while this thread has the lock: who lets go of it tells."""
        while self._waiting and not self.lock._is_owned():
            try:
                event, entry = self._waiting.popleft()
            except IndexError:  # another thread has told it
                return
            if entry is not None:
                event.reason = self._state(entry)
            token = CURRENT.set(None)  # what a listener calls is no part of what is computed here
            try:
                for listener in self.listeners:
                    self._call(listener, event)
            finally:
                CURRENT.reset(token)

    def _call(self, work: Callable[..., Any], *args: Any) -> Any:
        """What others have written must not break a call."""
        try:
            return work(*args)
        except Exception as error:
            name = getattr(work, "__qualname__", type(work).__name__)
            if name not in self._broken:
                self._broken.add(name)
                logger.warning("zoocache: a listener has failed; this is said once: %s", type(error).__name__)
            return None

    def invalidated(self, tags: tuple[str, ...]) -> None:
        """Tags were invalidated."""
        self.put(Event("invalidated", deps=tags))

    def forked(self) -> None:
        """In the child of a fork: what has happened in the parent is told there."""
        self._waiting.clear()

    # ---- entries -----------------------------------------------------------------------------------

    def removed(self, entry: Entry, cause: str) -> None:
        """An entry has left its table."""
        self.left([entry], cause)
        self.tell()

    def left(self, entries: Iterable[Entry], cause: str) -> None:
        """Entries have left; to be told when the lock is free."""
        for entry in entries:
            event = Event("removed", cause, table=entry.owner, key=entry.key, deps=entry.deps)
            self._waiting.append((event, entry if cause == "evicted" else None))

    def _state(self, entry: Entry) -> str:
        """Why an entry that had to give way is gone: it may have been over anyway."""
        cache = self.cache()
        if cache is not None and cache.clock() >= entry.deadline:
            return "expired"
        if cache is not None and entry.held(cache.core).newest() > entry.begin:
            return "invalidated"
        return "evicted"

    # ---- computations ------------------------------------------------------------------------------

    def began(self, fill: Fill) -> None:
        """A computation begins, in this context."""
        if self._around:
            fill.around = [self._call(each.around, fill.table.name) for each in self._around]

    def filled(self, fill: Fill, stored: bool) -> None:
        """It has given a value."""
        self._ended(fill, "filled", "stored" if stored else "refused")
        self.tell()

    def failed(self, fill: Fill, error: BaseException | None) -> None:
        """It has raised; to be told when its flight is over."""
        self._ended(fill, "failed", type(error).__name__)

    def _ended(self, fill: Fill, kind: str, reason: str) -> None:
        deps = fill.final or fill.static or ()
        elapsed = _monotonic() - fill.started
        event = Event(kind, reason, table=fill.table, key=fill.key, deps=deps, elapsed=elapsed)
        fill.outcome = event
        self._waiting.append((event, None))

    def over(self, fill: Fill, here: bool) -> None:
        """Nothing of it runs any more. here: in the context in which it began."""
        around, fill.around = fill.around, None
        for end in reversed(around or ()):
            if end is not None:
                self._call(end, fill.outcome, here)
