"""A flight ends however its leader ends: out of stack, interrupted at any instruction, with its loop."""

import asyncio
import itertools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_flights import Herd, until, waits

import zoocache
from zoocache import cacheable
from zoocache.context import ACTIVE, CURRENT

PACKAGE = os.path.dirname(zoocache.__file__)


class Interrupt(BaseException):
    """As a signal's handler may raise it."""


class Strike:
    """Raises at the n-th instruction that the package executes in this thread."""

    def __init__(self, count):
        self.left = count

    def trace(self, frame, event, arg):
        name = frame.f_code.co_filename
        if not name.startswith((PACKAGE, "<zoocache")):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise Interrupt
        return self.trace

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *exc_info):
        sys.settrace(self.before)


def nothing_is_left(f, value):
    """Whoever comes next, from another thread, gets a value at once; and nothing gathers any more."""
    results = Herd(f, 1, 1).join()
    assert [str(result) for result in results] == [value], results
    assert zoocache.stats().flights == 0
    assert not ACTIVE
    assert CURRENT.get() is None


def sweep(before, call, after):
    """Calls with an interrupt at each instruction in turn. Returns how many there were.

    In a thread of its own: interrupted in the epilogue of a handler, Python leaves the thread with its exception.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(swept, before, call, after).result()


def swept(before, call, after):
    for count in itertools.count(0):  # the first is not interrupted: what is done once is done
        before()
        strike = Strike(count)
        try:
            with strike:
                call()
        except (Interrupt, LookupError):
            pass
        if strike.left > 0:
            return count
        after()


def outcomes(x):
    if x < 0:
        raise LookupError("none")
    return x


@pytest.mark.parametrize("options", [{}, {"cache_errors": LookupError, "copy": "copy", "negative_ttl": 9}])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_interrupt_at_any_instruction(options, sign):
    turn = [1]

    @cacheable(deps=lambda x: ["t"], **options)
    def f(x):
        return outcomes(turn[0] * x)

    def before():
        f.cache_clear()
        turn[0] = sign

    def after():
        turn[0] = 1
        if sign < 0:
            f.cache_clear()
        nothing_is_left(f, "1")

    assert sweep(before, lambda: f(1), after) > 300


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("sign", [1, -1])
def test_an_interrupt_at_any_instruction_of_a_coroutine(sign):
    turn = [1]

    @cacheable(deps=lambda x: ["t"])
    async def f(x):
        await asyncio.sleep(0)
        return outcomes(turn[0] * x)

    loop = asyncio.new_event_loop()

    def before():
        f.cache_clear()
        turn[0] = sign

    def after():
        turn[0] = 1
        nothing_is_left(lambda x: asyncio.run(f(x)), "1")

    assert sweep(before, lambda: loop.run_until_complete(f(1)), after) > 300
    loop.close()


def test_an_interrupt_at_any_instruction_of_a_refresh_and_its_start(kit):
    @cacheable(soft_ttl=10)
    def f(x):
        return x

    def before():
        f(1)
        kit.clock.advance(11)

    def call():
        f(1)
        f.refresh(1)

    def after():
        until(lambda: zoocache.stats().flights == 0)
        nothing_is_left(f, "1")

    assert sweep(before, call, after) > 300


def test_followers_of_an_interrupted_leader_are_woken():
    """One leads, the other waits: whatever instruction ends the first, the second gets its value."""
    inside = threading.Event()
    go = threading.Event()
    strike = []

    @cacheable
    def f(x):
        inside.set()
        assert go.wait(30)
        return x

    def lead(x):
        try:
            with strike[-1]:
                return f(x)
        except Interrupt:
            return None

    for count in itertools.count(1):
        f.cache_clear(), inside.clear(), go.clear()
        strike.append(Strike(count))
        leader = Herd(lead, 1, 1)
        until(lambda: inside.is_set() or not leader.threads[0].is_alive())
        before = waits()
        follower = Herd(f, 1, 1)
        until(lambda: waits() > before or inside.is_set())
        go.set()
        assert follower.join() == [1]
        leader.join()
        assert zoocache.stats().flights == 0
        if strike[-1].left > 0:
            break
    assert count > 300


# ---- the stack ---------------------------------------------------------------------------------------


def depth_of(call):
    """How deep a recursion comes until RecursionError."""
    deepest = [0]
    try:
        call(1, deepest)
    except RecursionError:
        pass
    return deepest[0]


def test_recursion_costs_at_most_two_frames_a_call():
    def plain(n, deepest):
        deepest[0] = n
        return plain(n + 1, deepest)

    @cacheable(key=lambda n, deepest: n)
    def cached(n, deepest):
        deepest[0] = n
        return cached(n + 1, deepest)

    @cacheable
    def frames(n):
        frame, count = sys._getframe(), 0
        while frame is not None:
            frame, count = frame.f_back, count + 1
        return (count, *frames(n - 1)) if n else (count,)

    there = frames(5)
    assert [b - a for a, b in zip(there, there[1:])] == [2] * 5
    assert depth_of(cached) >= (depth_of(plain) - 40) / 2
    assert zoocache.stats().flights == 0
    assert not ACTIVE


async def test_recursion_of_coroutines_costs_two_frames_a_call():
    @cacheable
    async def frames(n):
        frame, count = sys._getframe(), 0
        while frame is not None:
            frame, count = frame.f_back, count + 1
        return (count, *await frames(n - 1)) if n else (count,)

    there = await frames(5)
    assert [b - a for a, b in zip(there, there[1:])] == [2] * 5


@pytest.mark.parametrize("outer", range(12))
def test_no_flight_stays_behind_where_the_stack_ends(outer):
    """Each depth at which a call may run out of stack."""

    @cacheable(deps=lambda n: [f"n:{n}"], fleet=outer % 2 == 1)
    def f(n):
        return f(n + 1)

    def at(depth):
        return at(depth - 1) if depth else f(0)

    with pytest.raises(RecursionError):
        at(outer)
    assert zoocache.stats().flights == 0
    assert not ACTIVE
    assert CURRENT.get() is None


async def test_no_flight_of_a_coroutine_stays_behind_where_the_stack_ends():
    @cacheable
    async def f(n):
        return await f(n + 1)

    for depth in range(6):
        with pytest.raises(RecursionError):
            await f(-depth)
        assert zoocache.stats().flights == 0
        assert not ACTIVE


def test_who_waits_for_one_without_stack_computes_for_himself():
    inside = threading.Event()
    go = threading.Event()
    runs = []

    @cacheable(cache_errors=Exception)
    def f(x):
        runs.append(x)
        if len(runs) == 1:
            inside.set()
            assert go.wait(30)
            raise RecursionError
        return x

    leader = Herd(f, 1, 1)
    assert inside.wait(30)
    follower = Herd(f, 1, 1)
    until(lambda: waits() == 1)
    go.set()
    assert follower.join() == [1]
    assert isinstance(leader.join()[0], RecursionError)


# ---- event loops -------------------------------------------------------------------------------------


def stalled(**options):
    """A function that never ends in its second run, and how often it has run."""
    runs = []

    @cacheable(**options)
    async def f(x):
        runs.append(x)
        if len(runs) == 2:
            await asyncio.Future()
        return len(runs)

    return f, runs


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_refresh_dies_with_its_loop(kit, steps):
    f, runs = stalled(soft_ttl=10, ttl=60)

    async def first():
        await f(1)
        kit.clock.advance(11)
        assert await f(1) == 1  # starts the refresh
        for _ in range(steps):
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    loop.close()
    kit.clock.advance(100)
    assert asyncio.run(f(1)) == 3
    assert kit.stats.flights == 0
    assert not ACTIVE
    for task in kit.cache.tasks:
        task._log_destroy_pending = False
        task.get_coro().close()
    assert kit.stats.flights == 0


@pytest.mark.parametrize("steps", [0, 1])
def test_a_refresh_that_is_cancelled_leaves_no_flight(kit, steps):
    f, _ = stalled(soft_ttl=10)

    async def first():
        await f(1)
        kit.clock.advance(11)
        await f(1)
        for _ in range(steps):
            await asyncio.sleep(0)

    asyncio.run(first())  # cancels what still runs
    assert kit.stats.flights == 0
    assert kit.stats.refreshes == 1


def test_refreshes_of_closed_loops_are_let_go(kit):
    f, runs = stalled(soft_ttl=10)

    async def call():
        await f(1)
        kit.clock.advance(11)
        return await f(1)

    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(call())
        loop.close()
    assert len(kit.cache.tasks) == 1
    assert len(ACTIVE) <= 1
    for task in list(kit.cache.tasks):
        task._log_destroy_pending = False
        task.get_coro().close()
    assert not ACTIVE
    assert kit.stats.flights == 0


def test_who_waits_for_a_loop_that_closes_takes_over():
    runs = []

    @cacheable
    async def f(x):
        runs.append(x)
        if len(runs) == 1:
            await asyncio.Future()
        return x

    loop = asyncio.new_event_loop()
    task = loop.create_task(f(1))
    loop.run_until_complete(asyncio.sleep(0))
    follower = Herd(lambda: asyncio.run(f(1)), 1)
    until(lambda: waits() == 1)
    loop.close()
    assert follower.join() == [1]
    assert zoocache.stats().flights == 0
    task._log_destroy_pending = False
    task.get_coro().close()
    assert not ACTIVE
