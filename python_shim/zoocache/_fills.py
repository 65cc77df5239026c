"""The computations of a function's values, for threads and for coroutines: who leads, and who waits.

The function itself is run by its wrapper (see _functions), so that a call that recurses has two frames, the
wrapper's and its own. What is here runs before it and after it:

    serve       the value, if it may be served
    begin       registers the flight, or waits for who has; asks the storage. True: the function is to be run
    commit      it has returned: the value is stored, the flight ends
    failed      it has raised, or anything from begin() on has
    leave       the flight ends, if it has not; what was taken is given back. Again, should that be interrupted

A flight ends however its leader ends. begin() makes sure of the room on the stack that its end takes; a fill is
there before its flight is registered, and from then on each instruction is in a block that ends it: an
exception may come out of any of them (a signal's handler). A flight whose event loop is closed is dead, and
ended by who meets it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable
from contextvars import copy_context
from math import inf, log

from zoocache import _tags
from zoocache._callables import LASTING, check
from zoocache._errors import FlightTimeout, RecursiveFill
from zoocache._ffi import OK, STALE, Deps
from zoocache._table import AGAIN, DONE, FAILED, SWEEP_EVERY, Entry, Fill, More, Table, deepcopy, lives, random
from zoocache.context import (
    ACTIVE,
    CURRENT,
    OFF,
    OPEN,
    TRANSACTION,
    held_here,
    holds_back,
    is_off,
    note,
    tags_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from typing import Any, Final

    from zoocache._cache import Cache
    from zoocache._ffi_shared import Found
    from zoocache._shared import Shared

__all__ = ["ABSENT", "Filled", "graph"]

_RETRY: Final = 1.0  # seconds until a failed refresh is tried again, at most

_LOOKS: Final = 1.0  # seconds after which who waits looks by itself: the leader's loop may be closed

ABSENT: Final = globals().get("ABSENT") or object()  # no value

graph = globals().get("graph") or threading.RLock()  # guards Fill.waits of every fill
_monotonic = time.monotonic

_OWN = (RecursionError, MemoryError)  # exceptions that are about who computes, not about what


def _room(depth: int) -> Callable[[], None]:
    """Calls in calls: raises RecursionError now rather than while a flight is being ended."""
    return (lambda deeper: lambda: deeper())(_room(depth - 1)) if depth else lambda: None


_ROOM, _FLEET = _room(5), _room(14)  # what the end of a flight takes; with a lock of the fleet to be given back


def _loop() -> Any:
    """The event loop of asyncio that runs here, if one does."""
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()


def _finish(future: Any) -> None:
    if not future.done():
        future.set_result(None)


def _waker(loop: Any, future: Any) -> Callable[[], None]:
    """What ends a wait in this loop, called from anywhere."""

    def wake() -> None:
        if _loop() is loop:
            _finish(future)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(_finish, future)

    return wake


def _beside(work: Callable[..., Any], *args: Any) -> None:
    """Runs it in a thread that the end of the process does not wait for; here, if there are no threads."""
    for daemon in (True, False):  # not every interpreter may have daemons
        try:
            threading.Thread(target=work, args=args, name="zoocache-refresh", daemon=daemon).start()
            return
        except RuntimeError:
            pass
    work(*args)


class _Waiting:
    """In its block, the running fills wait for this one, and the graph of who waits for whom says so.

    Refuses to close a ring.
    """

    def __init__(self, fill: Fill, name: str) -> None:
        self.fill = fill
        self.name = name
        current = CURRENT.get() if ACTIVE else None
        self.mine = [f for f in current.lineage() if not f.done] if isinstance(current, Fill) else []

    def __enter__(self) -> None:
        if not self.mine:
            return
        with graph:
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
        with graph:
            for one in self.mine:
                if one.waits:
                    one.waits.remove(self.fill)


def _pauses(fill: Fill) -> Iterator[float]:
    """How long to wait between two looks for another process' value, until this one stops waiting."""
    pause = 0.002
    while _monotonic() - fill.started < fill.cache.flight_timeout:
        yield pause * (0.5 + random() / 2)
        pause = min(pause * 2, 0.05)


class Filled(Table):
    """A table whose values are computed: the fills, sync and async."""

    func: Callable[..., Any]
    deps: Any  # None, tags, or a callable of the arguments

    def forget(self) -> None:
        """Lets go of what belongs to its cache."""
        super().forget()
        self.fixed = None

    # ---- a call that was not a plain hit -----------------------------------------------------------

    def serve(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Its value, if there is one that may be served; else ABSENT."""
        if OFF and is_off(self.open_cache()):
            return ABSENT
        cache = self.cache
        if cache is None or not self.quick:
            cache = self.open_cache()
            entry = self.find_timed(cache, key)
            return ABSENT if entry is None else self.hit(cache, entry, args, kwargs)
        entry = self.entries.get(key)
        if entry is None:
            self.absent += 1
            return ABSENT
        if not self.look(entry):
            return ABSENT
        if entry.more is not None:
            return self.hit(cache, entry, args, kwargs)
        self.hits += 1
        if ACTIVE:
            note(entry)
        return entry.value

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
                from zoocache._copies import again

                raise again(more.error)
            if self.due(cache, entry, more):
                self.refresh_soon(cache, entry, more, args, kwargs)
        return self.given_out(entry.value)

    def due(self, cache: Cache, entry: Entry, more: More) -> bool:
        """Whether a refresh should begin: past the soft deadline, or early, by XFetch."""
        now = cache.clock()
        if now >= more.soft:
            self.stale += 1
            return True
        beta = self.rules.early_refresh
        if not beta or entry.deadline == inf:
            return False
        return bool(now - more.delta * beta * log(1 - random()) >= entry.deadline)

    # ---- who leads, and who waits ------------------------------------------------------------------

    def watch(self, fill: Fill, wake: Callable[[], None]) -> bool:
        """Has wake() called when the fill ends. False: it has."""
        from zoocache import _copies as _copies  # while there is room for it: the fill may fail

        with fill.cache.lock:
            if fill.done:
                return False
            if fill.waiters is None:
                fill.waiters = []
            fill.waiters.append(wake)
        return True

    def landed(self, other: Fill, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any], tries: int) -> bool:
        """The fill that this one has waited for has ended. False: this one begins again; else it has its value."""
        if self.inherits(other, fill, tries):
            fill.value = self.result(other)
            return True
        entry = self.find(fill.key)
        if entry is None:
            fill.begin_anew()
            return False
        fill.value = self.hit(fill.cache, entry, args, kwargs)
        return True

    def inherits(self, other: Fill, fill: Fill, tries: int) -> bool:
        """Whether a follower takes what the other fill has given."""
        if other.state == AGAIN or other.private:
            return False
        if other.state == FAILED and self.rules.retry and tries == 0:
            return False
        if not self.covers(other, fill):
            return False
        gatherer = CURRENT.get()
        if gatherer is not None and other.final is not None:
            gatherer.deps.update(tags_of(other.final))
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
            from zoocache._copies import again

            raise again(fill.error)
        return self.given_out(fill.result)

    def arrived(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an entry came between the miss and this flight, which is then over."""
        entry = self.entries.get(fill.key)
        if entry is None or fill.renews or not self.look(entry):
            return False
        self.end(fill, AGAIN)
        fill.value = self.hit(fill.cache, entry, args, kwargs)
        return True

    def enter(self, fill: Fill) -> None:
        """From here on, what is met in this context belongs to the fill."""
        fill.running = True
        CURRENT.set(fill)
        ACTIVE[fill] = None
        if fill.cache.events is not None:
            fill.cache.events.began(fill)

    def timed_out(self) -> None:
        """The leader has taken too long."""
        raise FlightTimeout(f"Thundering herd leader failed: `{self.name}` took longer than flight_timeout")

    def begin_private(self, fill: Fill) -> None:
        """Its transaction has written: it computes what it reads, and what it finds is nobody else's yet."""
        fill.private = True
        if self.claim(fill):
            self.renew(fill)
        else:
            fill.step_aside()

    # ---- sync ------------------------------------------------------------------------------------

    def begin(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call is to run the function; else it has its value: found, or of who has run it."""
        (_FLEET if self.rules.fleet else _ROOM)()
        tries = 0
        if OFF and is_off(fill.cache):
            fill.step_aside()
        elif OPEN and holds_back(fill.cache):
            self.begin_private(fill)
        while not (fill.renews or self.claim(fill)):
            other = self.flights.get(fill.key)
            if other is None:
                continue
            self.follow(other)
            if self.landed(other, fill, args, kwargs, tries):
                return False
            tries += other.state == FAILED
        if fill.key in self.entries and self.arrived(fill, args, kwargs):
            return False
        self.enter(fill)
        shared = fill.cache.shared
        if shared is not None and not fill.renews:
            found = self.ask(shared, fill)
            if found is not None:
                fill.value = self.take(fill, *found)
                return False
        if fill.cache.loads is not None and not fill.cache.loads.enter(self, fill):
            return False
        fill.static = fill.cache.core.nothing if self.deps is None else self.dependencies(fill, args, kwargs)
        return True

    def follow(self, fill: Fill) -> None:
        """Sleeps until the fill has ended."""
        self.waits += 1
        with _Waiting(fill, self.name):
            lock = threading.Lock()
            lock.acquire()
            if not self.watch(fill, lock.release):
                return
            end = fill.started + fill.cache.flight_timeout
            while not lock.acquire(timeout=min(max(end - _monotonic(), 0.0), _LOOKS)) and not fill.done:
                if _monotonic() >= end:
                    self.timed_out()

    def commit(self, fill: Fill, value: Any) -> None:
        """The function has returned."""
        self.settle_value(fill, value)
        shared = fill.cache.shared
        if shared is not None:
            shared.keep_fill(fill)
        self.leave(fill)

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

    async def abegin(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """As begin()."""
        (_FLEET if self.rules.fleet else _ROOM)()
        tries = 0
        fill.loop = _loop()
        if OFF and is_off(fill.cache):
            fill.step_aside()
        elif OPEN and holds_back(fill.cache):
            self.begin_private(fill)
        while not (fill.renews or self.claim(fill)):
            other = self.flights.get(fill.key)
            if other is None:
                continue
            await self.afollow(other)
            if self.landed(other, fill, args, kwargs, tries):
                return False
            tries += other.state == FAILED
        if fill.key in self.entries and self.arrived(fill, args, kwargs):
            return False
        self.enter(fill)
        shared = fill.cache.shared
        if shared is not None and not fill.renews:
            found = await self.aask(shared, fill)
            if found is not None:
                fill.value = self.take(fill, *found)
                return False
        if fill.cache.loads is not None and not await fill.cache.loads.aenter(self, fill):
            return False
        fill.static = await self.adependencies(fill, args, kwargs)
        return True

    async def afollow(self, fill: Fill) -> None:
        """Awaits the end of the fill, which may run in another loop."""
        import asyncio

        self.waits += 1
        with _Waiting(fill, self.name):
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            if not self.watch(fill, _waker(loop, future)):
                return
            end = fill.started + fill.cache.flight_timeout
            while not fill.done:
                await asyncio.wait([future], timeout=min(max(end - _monotonic(), 0.0), _LOOKS))
                if fill.dead:
                    self.bury(fill)
                elif not fill.done and _monotonic() >= end:
                    self.timed_out()

    async def acommit(self, fill: Fill, value: Any) -> None:
        """As commit()."""
        self.settle_value(fill, value)
        shared = fill.cache.shared
        if shared is not None:
            await shared.run([(self, fill.key)], shared.keep_fill, fill)
        self.leave(fill)

    async def aask(self, shared: Shared, fill: Fill) -> tuple[Found, Any] | None:
        """As ask(), beside the event loop."""
        pauses = _pauses(fill)
        while True:
            found: tuple[Found, Any] | None = await shared.run([(self, fill.key)], shared.look_up, fill)
            if found is not None or not self.rules.fleet or fill.token:
                return found
            if await shared.run([(self, fill.key)], shared.lock, fill):
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
        if issubclass(type(tags), Awaitable):
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
        return fill.cache.core.marked(_tags.join(dict.fromkeys([*tags_of(static), *sorted(fill.deps)]), ""))

    def hand_up(self, fill: Fill) -> None:
        """Whoever called this fill depends on what it depends on, however it ended."""
        gatherer = fill.outer
        if not gatherer.done:
            final = fill.final or fill.static
            if final is not None:
                gatherer.deps.update(tags_of(final))
            gatherer.deps.update(fill.deps)

    # ---- end -------------------------------------------------------------------------------------

    def settle_value(self, fill: Fill, value: Any) -> None:
        """Stores what the function has returned, unless the rules say no; its caller gets the object itself."""
        if type(value) not in LASTING:
            check(value, self.name)
        rules = self.rules
        kept, ttl = value, fill.ttl
        if rules.special:
            if rules.cache_if is not None and not rules.cache_if(value):
                fill.store = False
            if ttl is None and value is None:
                ttl = rules.negative_ttl
            if rules.copy and fill.store:
                kept = deepcopy(value)
        self.settle(fill, kept, ttl, None)
        fill.value = value

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
        if OPEN and held_here(cache, final):
            fill.store = False
        quiet = not cache.core.holds.value and cache.core.seen.value == fill.begin
        if fill.store and (quiet or cache.core.held(final).newest() <= fill.begin):
            entry = self.entry(cache, fill.key, value, fill.begin, final, ttl)
            if entry is not None and (error is not None or self.rules.early_refresh):
                more = entry.more = entry.more or More()
                more.error = error
                more.delta = _monotonic() - fill.started
        fill.result = value
        fill.error = error
        if error is None:
            self.fills += 1
            stored = self.end(fill, DONE, entry)
            if stored and fill.name is not None and entry is not None:
                fill.lives = lives(entry, cache.clock())
            if cache.events is not None:
                cache.events.filled(fill, stored)
        else:
            self.end(fill, FAILED, entry)
        if told:
            cache.telemetry.observe("cache_set_duration_seconds", time.perf_counter() - started)
            if error is None:
                cache.telemetry.increment("cache_misses_total")
        cache.debt += 1
        if cache.debt >= SWEEP_EVERY:
            cache.worked(self)

    def failed(self, fill: Fill) -> bool:
        """The call has raised what is being handled. Returns whether an old value stands in for it."""
        error = sys.exc_info()[1]
        cache = fill.cache
        self.unlock(fill)
        try:
            if not fill.running or fill.done:
                return False
            self.errors += 1
            self.heed(fill)
            if cache.events is not None:
                cache.events.failed(fill, error)
            if cache.telemetry_enabled:
                cache.telemetry.increment("cache_misses_total")
                cache.telemetry.increment("cache_errors_total", labels={"error_type": "exception"})
            if isinstance(error, _OWN) or not isinstance(error, Exception):
                return False  # it says nothing about the value: another one leads
            stale = None if OFF and is_off(cache) else self.stand_in(fill)
            if stale is None:
                self.settle_error(fill, error)
                return False
            fill.value = self.given_out(stale.value)
            return True
        finally:
            self.abandon(fill)

    def settle_error(self, fill: Fill, error: BaseException) -> None:
        """Ends the flight with an exception, which may be cached."""
        rules = self.rules
        if rules.cache_errors and isinstance(error, rules.cache_errors):
            from zoocache._copies import copied

            self.settle(fill, None, rules.error_ttl, copied(error))
            return
        if fill.waiters is None:
            return  # nobody is to have it: who comes now begins anew
        try:
            fill.final = self.gathered(fill)
        except Exception:  # what it gathered is what it failed of
            fill.final = None
        from zoocache._copies import copied  # there already: somebody waits

        fill.error = copied(error)
        self.end(fill, FAILED)

    def unlock(self, fill: Fill) -> None:
        """Lets go of the cache's lock if the call was interrupted between the end of a block and its release."""
        lock = fill.cache.lock
        while lock._is_owned() and not fill.locked:
            lock.release()

    def abandon(self, fill: Fill) -> None:
        """As leave(), for a call that may have been interrupted anywhere."""
        self.unlock(fill)
        self.leave(fill)

    def leave(self, fill: Fill) -> None:
        """However the call ended: its flight does, and all that it has taken is given back. May be called again."""
        if not fill.leading:
            return
        if not fill.done:
            self.end(fill, AGAIN)
        elif fill.waiters:
            self.wake(fill)
        cache = fill.cache
        if cache.loads is not None:
            cache.loads.leave(fill)
        if fill.running:
            ACTIVE.pop(fill, None)
            here = CURRENT.get() is fill  # not if the garbage collector ends a coroutine in the context of another
            if here:
                CURRENT.set(fill.outer)
            if cache.events is not None:
                cache.events.over(fill, here)
            if fill.outer is not None:
                self.hand_up(fill)
        if fill.token is not None and cache.shared is not None:
            cache.shared.give_back(fill, self.is_async)
        fill.leading = False
        if cache.events is not None:
            cache.events.tell()

    def stand_in(self, fill: Fill) -> Entry | None:
        """The value before, if it may be served instead of an error: never one that was invalidated."""
        entry = self.entries.get(fill.key)
        grace = self.rules.stale_if_error
        if not grace or entry is None or entry.more is None:
            return None
        cache = fill.cache
        now = cache.clock()
        if OPEN and held_here(cache, entry.deps):
            return None
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

    def refresh_soon(self, cache: Cache, entry: Entry, more: More, args: Any, kwargs: Any, same: Any = None) -> None:
        """Starts a computation beside the callers, one at a time. same: whether it is still of what they asked for."""
        if cache.loads is not None and cache.loads.full():
            return
        fill = Fill(self, entry.key)
        fill.outer, fill.same = None, same
        try:
            if not self.claim(fill):
                return
            self.refreshes += 1
            self.renew(fill)
            more.soft = cache.clock() + min(_RETRY, self.rules.soft_ttl or _RETRY)  # if it fails: not at once again
            context = copy_context()
            context.run(CURRENT.set, None)
            context.run(TRANSACTION.set, None)
            if self.is_async:
                context.run(self._start_task, cache, fill, args, kwargs)
            else:
                _beside(context.run, self._refresh, fill, args, kwargs)
        except BaseException as error:
            self.abandon(fill)
            if not isinstance(error, Exception):
                raise  # else the value is served until its time is over

    def _start_task(self, cache: Cache, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import asyncio

        fill.loop = asyncio.get_running_loop()
        for old in [task for task in cache.tasks if task.get_loop().is_closed()]:
            cache.tasks.discard(old)
            old._log_destroy_pending = False  # it was nobody's to wait for
            old.get_coro().close()
        task = fill.loop.create_task(self._arefresh(fill, args, kwargs))
        cache.tasks.add(task)

        def ended(task: Any) -> None:
            cache.tasks.discard(task)
            self.leave(fill)  # it may have been cancelled before its first step

        task.add_done_callback(ended)

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

    def heed(self, fill: Fill, value: Any = None) -> Any:
        """What came out: nobody's, if the arguments were changed meanwhile."""
        if fill.same is not None and not fill.same():
            fill.store, fill.private = False, True
        return value

    def lead(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs the function, as its wrapper does (see _functions), without a look at what there is."""
        try:
            try:
                if self.begin(fill, args, kwargs):
                    self.commit(fill, self.heed(fill, self.func(*args, **kwargs)))
            except BaseException:
                if not self.failed(fill):
                    raise
        finally:
            if fill.leading:
                self.abandon(fill)
        return fill.value

    async def alead(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same, for a coroutine function."""
        try:
            try:
                if await self.abegin(fill, args, kwargs):
                    await self.acommit(fill, self.heed(fill, await self.func(*args, **kwargs)))
            except BaseException:
                if not self.failed(fill):
                    raise
        finally:
            if fill.leading:
                self.abandon(fill)
        return fill.value

    def refresh_now(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Computes and stores the value, whether or not there is one."""
        fill = self.anew(key)
        try:
            self.supersede(fill)
            return self.lead(fill, args, kwargs)
        finally:
            self.abandon(fill)

    async def arefresh_now(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same, for a coroutine function."""
        fill = self.anew(key)
        try:
            self.supersede(fill)
            return await self.alead(fill, args, kwargs)
        finally:
            self.abandon(fill)

    def anew(self, key: Any) -> Fill:
        """A fill that joins no flight that began before."""
        self.open_cache()
        fill = Fill(self, key)
        self.renew(fill)
        return fill

    def supersede(self, fill: Fill) -> None:
        """Registers its flight in place of any other."""
        fill.leading = True
        with fill.cache.lock:
            self.flights[fill.key] = fill
