"""The computations of a function's values, for threads and for coroutines: who leads, and who waits."""

from __future__ import annotations

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
from zoocache.context import ACTIVE, CURRENT, note, tags_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator
    from typing import Any, Final

    from zoocache._cache import Cache
    from zoocache._ffi_shared import Found
    from zoocache._shared import Shared

__all__ = ["Filled", "graph"]

_RETRY: Final = 1.0  # seconds until a failed refresh is tried again, at most

graph = threading.RLock()  # guards Fill.waits of every fill
_monotonic = time.monotonic


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
        return deepcopy(entry.value) if self.rules.copy else entry.value

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
        return deepcopy(fill.result) if self.rules.copy else fill.result

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
            if type(value) not in LASTING:
                check(value, self.name)
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
            if type(value) not in LASTING:
                check(value, self.name)
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
        self.settle(fill, deepcopy(value) if rules.copy and fill.store else value, ttl, None)

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
        if cache.debt >= SWEEP_EVERY:
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

    def anew(self, key: Any) -> Fill:
        """A flight that has joined none that began before."""
        cache = self.open_cache()
        fill = Fill(self, cache, key)
        self.renew(fill)
        with cache.lock:
            self.flights[key] = fill
        return fill

    def refresh_now(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Computes and stores the value, whether or not there is one."""
        return self.lead(self.anew(key), args, kwargs)

    async def arefresh_now(self, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same, for a coroutine function."""
        return await self.alead(self.anew(key), args, kwargs)
