import asyncio
import threading
import time

import pytest

import zoocache
from zoocache import Cache, FlightTimeout, RecursiveFill, cacheable, configure, invalidate


def until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 30 s")


class Herd:
    """Threads that call, and what they got."""

    def __init__(self, function, count, *args):
        self.results = []
        self.threads = [threading.Thread(target=self.call, args=(function, args)) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def call(self, function, args):
        try:
            self.results.append(function(*args))
        except BaseException as error:
            self.results.append(error)

    def join(self):
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        return self.results


class Gate:
    """A function that waits inside until it is let go."""

    def __init__(self, outcome=lambda n: n, **options):
        self.runs = 0
        self.inside = threading.Event()
        self.go = threading.Event()

        @cacheable(**options)
        def f(x):
            self.runs += 1
            self.inside.set()
            assert self.go.wait(30)
            return outcome(self.runs)

        self.f = f


def waits():
    return zoocache.stats().waits


def test_a_hundred_callers_run_once():
    gate = Gate(outcome=lambda n: [n])
    herd = Herd(gate.f, 100, 1)
    until(lambda: waits() == 99)
    gate.go.set()
    results = herd.join()
    assert gate.runs == 1
    assert all(result is results[0] for result in results)
    assert zoocache.stats().flights == 0


def failing(n):
    if n == 1:
        raise LookupError("first")
    return n


def test_the_leaders_exception_reaches_everyone():
    gate = Gate(outcome=failing)
    herd = Herd(gate.f, 10, 1)
    until(lambda: waits() == 9)
    gate.go.set()
    results = herd.join()
    assert gate.runs == 1
    assert {repr(result) for result in results} == {"LookupError('first')"}
    assert len({id(result) for result in results}) == 10, "each has one of his own"
    assert gate.f(1) == 2, "exceptions are not cached"


def test_one_may_retry():
    gate = Gate(outcome=failing, on_error="retry")
    herd = Herd(gate.f, 10, 1)
    until(lambda: waits() == 9)
    gate.go.set()
    results = herd.join()
    assert gate.runs == 2
    assert sum(isinstance(result, LookupError) for result in results) == 1
    assert results.count(2) == 9


def test_retry_ends():
    def always(n):
        raise LookupError(str(n))

    gate = Gate(outcome=always, on_error="retry")
    gate.go.set()
    herd = Herd(gate.f, 5, 1)
    assert all(isinstance(result, LookupError) for result in herd.join())


def test_an_interrupted_leader_hands_over():
    def interrupted(n):
        if n == 1:
            raise KeyboardInterrupt
        return n

    gate = Gate(outcome=interrupted)
    herd = Herd(gate.f, 5, 1)
    until(lambda: waits() >= 4)
    gate.go.set()
    results = herd.join()
    assert sum(isinstance(result, KeyboardInterrupt) for result in results) == 1
    assert results.count(2) == 4


def test_who_asks_after_an_invalidation_gets_what_came_after():
    gate = Gate(outcome=lambda n: n, deps=["late"])
    first = Herd(gate.f, 2, 1)
    until(lambda: waits() == 1)
    invalidate("unrelated")
    invalidate("late")
    second = Herd(gate.f, 3, 1)
    until(lambda: waits() >= 4)
    gate.go.set()
    assert set(first.join()) <= {1, 2}
    assert 1 in first.results
    assert set(second.join()) == {2}


def test_unrelated_invalidations_do_not_cost_a_run():
    gate = Gate(deps=["mine"])
    first = Herd(gate.f, 1, 1)
    gate.inside.wait(30)
    invalidate("other")
    second = Herd(gate.f, 3, 1)
    until(lambda: waits() == 3)
    gate.go.set()
    assert first.join() + second.join() == [1, 1, 1, 1]


def test_timeout_and_lease():
    configure(flight_timeout=0.2)
    gate = Gate()
    leader = Herd(gate.f, 1, 1)
    gate.inside.wait(30)
    with pytest.raises(FlightTimeout, match="Thundering herd leader failed"):
        gate.f(1)
    time.sleep(0.2)
    second = Herd(gate.f, 1, 1)  # the lease is over: this one leads
    until(lambda: gate.runs == 2)
    gate.go.set()
    second.join()
    leader.join()
    assert gate.f(1) in (1, 2)
    assert zoocache.stats().fills == 2
    assert zoocache.stats().refused == 1, "the late leader's value is not stored"


def test_recursion_is_refused():
    @cacheable
    def f(x):
        return f(x)

    @cacheable
    def even(n):
        return odd(n)

    @cacheable
    def odd(n):
        return even(n)

    @cacheable
    def down(n):
        return 0 if n == 0 else 1 + down(n - 1)

    with pytest.raises(RecursiveFill, match="waits for itself"):
        f(1)
    with pytest.raises(RuntimeError, match="waits for itself"):
        even(1)
    assert down(50) == 50
    assert zoocache.stats().flights == 0


def test_a_ring_over_two_threads_is_refused():
    both = threading.Barrier(2)

    @cacheable
    def left():
        both.wait(30)
        return right()

    @cacheable
    def right():
        both.wait(30)
        return left()

    one, other = Herd(left, 1), Herd(right, 1)
    results = one.join() + other.join()
    assert any(isinstance(result, RecursiveFill) for result in results)


def test_a_follower_inherits_dependencies():
    gate = Gate(outcome=lambda n: [n], deps=["followed"])

    @cacheable
    def outer(n):
        return gate.f(1)

    herds = [Herd(outer, 1, n) for n in range(3)]
    until(lambda: waits() == 2)
    gate.go.set()
    for herd in herds:
        herd.join()
    invalidate("followed")
    assert [outer(n) for n in range(3)] == [[2]] * 3


def test_negative_results_and_conditions(kit):
    runs = []

    @cacheable(ttl=100, negative_ttl=10)
    def find(x):
        runs.append(x)
        return None

    @cacheable(cache_if=lambda value: value > 1)
    def some(x):
        runs.append(x)
        return x

    assert find(1) is None
    assert find(1) is None
    assert runs == [1]
    kit.clock.advance(9.5)
    find(1)
    kit.clock.advance(11)
    find(1)
    assert runs == [1, 1]
    runs.clear()
    some(1), some(1), some(2), some(2)
    assert runs == [1, 1, 2]

    @cacheable(cache_if=lambda value: 1 / 0)
    def broken(x):
        return x

    with pytest.raises(ZeroDivisionError):
        broken(1)
    assert zoocache.stats().flights == 0


def test_exceptions_that_are_cached(kit):
    runs = []

    @cacheable(deps=["e"], cache_errors=KeyError, error_ttl=10)
    def f(x):
        runs.append(x)
        raise KeyError(x) if x else OSError(x)

    for _ in range(3):
        with pytest.raises(KeyError):
            f(1)
        with pytest.raises(OSError):
            f(0)
    assert runs == [1, 0, 0, 0]
    kit.clock.advance(11)
    with pytest.raises(KeyError):
        f(1)
    invalidate("e")
    with pytest.raises(KeyError):
        f(1)
    assert runs.count(1) == 3


def test_no_store_and_set_ttl(kit):
    runs = []

    @cacheable(ttl=100)
    def f(x):
        runs.append(x)
        if x == 0:
            zoocache.no_store()
        else:
            zoocache.set_ttl(x)
        return x

    zoocache.no_store()
    zoocache.set_ttl(5)
    f(0), f(0)
    f(5), f(5)
    assert runs == [0, 0, 5]
    kit.clock.advance(6)
    f(5)
    assert runs == [0, 0, 5, 5]


def test_copies():
    @cacheable(copy="copy")
    def fresh():
        return {"a": [1]}

    @cacheable
    def shared():
        return {"a": [1]}

    for _ in range(3):
        fresh()["a"].append(2)
    assert fresh() == {"a": [1]}
    assert fresh.cache_info().misses == 1
    shared()["a"].append(2)
    assert shared() == {"a": [1, 2]}

    gate = Gate(outcome=lambda n: [n], copy="copy")
    herd = Herd(gate.f, 3, 1)
    until(lambda: waits() == 2)
    gate.go.set()
    assert len({id(result) for result in herd.join()}) == 3


def test_whoever_gets_a_value_of_copy_gets_a_copy(kit):
    runs = []

    @cacheable(copy="copy", ttl=10, stale_if_error=60)
    def f():
        runs.append(1)
        if len(runs) > 1:
            raise LookupError
        return {"a": [1]}

    f()
    zoocache.get(f.key())["a"].append(2)
    asyncio.run(zoocache.get_async(f.key()))["a"].append(2)
    zoocache.get_many([f.key()])[f.key()]["a"].append(2)
    assert f() == {"a": [1]}
    kit.clock.advance(11)
    f()["a"].append(3)  # what was there, instead of the error
    assert len(runs) == 2 and f() == {"a": [1]}


def test_refresh():
    runs = []

    @cacheable
    def f(x):
        runs.append(x)
        return len(runs)

    assert [f(1), f.refresh(1), f(1), f.refresh(x=2), f(2)] == [1, 2, 2, 3, 3]


# ---- asyncio ----------------------------------------------------------------------------------------


class AsyncGate:
    def __init__(self, outcome=lambda n: n, **options):
        self.runs = 0
        self.go = asyncio.Event()

        @cacheable(**options)
        async def f(x):
            self.runs += 1
            run = self.runs
            await self.go.wait()
            return outcome(run)

        self.f = f


async def waiting(count):
    for _ in range(3000):
        if waits() >= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited for 30 s")


async def test_async_herd():
    gate = AsyncGate(outcome=lambda n: [n])
    tasks = [asyncio.create_task(gate.f(1)) for _ in range(100)]
    await waiting(99)
    gate.go.set()
    results = await asyncio.gather(*tasks)
    assert gate.runs == 1
    assert all(result is results[0] for result in results)
    assert await gate.f(1) is results[0]


async def test_async_exception_reaches_everyone():
    gate = AsyncGate(outcome=failing)
    tasks = [asyncio.create_task(gate.f(1)) for _ in range(10)]
    await waiting(9)
    gate.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert gate.runs == 1
    assert {repr(result) for result in results} == {"LookupError('first')"}
    assert await gate.f(1) == 2


async def test_async_retry():
    gate = AsyncGate(outcome=failing, on_error="retry")
    tasks = [asyncio.create_task(gate.f(1)) for _ in range(10)]
    await waiting(9)
    gate.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert gate.runs == 2
    assert results.count(2) == 9


async def test_a_cancelled_leader_hands_over():
    gate = AsyncGate()
    leader = asyncio.create_task(gate.f(1))
    await asyncio.sleep(0)
    followers = [asyncio.create_task(gate.f(1)) for _ in range(5)]
    await waiting(5)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    gate.go.set()
    assert await asyncio.gather(*followers) == [2] * 5
    assert gate.runs == 2


async def test_a_cancelled_follower_disturbs_nobody():
    gate = AsyncGate()
    tasks = [asyncio.create_task(gate.f(1)) for _ in range(5)]
    await waiting(4)
    tasks[2].cancel()
    await asyncio.sleep(0)
    gate.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results.pop(2), asyncio.CancelledError)
    assert results == [1] * 4
    assert gate.runs == 1


async def test_async_timeout():
    configure(flight_timeout=0.2)
    gate = AsyncGate()
    leader = asyncio.create_task(gate.f(1))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="Thundering herd leader failed"):
        await gate.f(1)
    gate.go.set()
    assert await leader == 1


async def test_async_recursion():
    @cacheable
    async def f(x):
        return await f(x)

    @cacheable
    async def g(x):
        return (await asyncio.gather(g(x), h(x)))[0]

    @cacheable
    async def h(x):
        return x

    with pytest.raises(RecursiveFill):
        await f(1)
    with pytest.raises(RecursiveFill):
        await g(1)


async def test_async_nesting_and_tasks():
    @cacheable(deps=lambda x: [f"part:{x}"])
    async def part(x):
        await asyncio.sleep(0)
        return x

    @cacheable
    async def whole(n):
        return object(), await asyncio.gather(*[part(x) for x in range(n)])

    first = await whole(5)
    assert await whole(5) is first
    invalidate("part:9")
    assert await whole(5) is first
    invalidate("part:3")
    assert await whole(5) is not first


async def test_async_deps():
    async def deps(x):
        await asyncio.sleep(0)
        return [f"async:{x}"]

    @cacheable(deps=deps)
    async def f(x):
        return [x]

    @cacheable(deps=["plain"])
    async def g(x):
        return [x]

    @cacheable(deps=lambda x: ["bad tag"])
    async def bad(x):
        raise AssertionError

    first, other = await f(1), await g(1)
    assert await f(1) is first
    invalidate("async:1", "plain")
    assert await f(1) is not first
    assert await g(1) is not other
    with pytest.raises(zoocache.InvalidTag):
        await bad(1)


async def test_async_invalidation_during_a_fill():
    gate = AsyncGate(deps=["gate"])
    task = asyncio.create_task(gate.f(1))
    await asyncio.sleep(0)
    invalidate("gate")
    late = asyncio.create_task(gate.f(1))
    await asyncio.sleep(0)
    gate.go.set()
    assert await task == 1
    assert await late == 2
    assert await gate.f(1) == 2


async def test_async_other_arguments():
    @cacheable
    async def f(x):
        return [x]

    assert await f(1.5) is await f(1.5)
    assert await f(True) == [True]
    f.cache_clear()
    assert await f.refresh(1.5) is await f(1.5)
    assert f.cache_info().hits == 1


def test_loops_in_several_threads_share_a_flight():
    runs = []
    go = threading.Event()

    @cacheable
    async def f(x):
        runs.append(x)
        while not go.is_set():
            await asyncio.sleep(0.01)
        return [x]

    async def main():
        return await f(1)

    herd = Herd(lambda: asyncio.run(main()), 4)
    until(lambda: waits() == 3)
    go.set()
    results = herd.join()
    assert len(runs) == 1
    assert all(result is results[0] for result in results)


def test_a_coroutine_that_is_thrown_away_hands_over():
    gate_runs = []

    @cacheable
    async def f(x):
        gate_runs.append(x)
        if len(gate_runs) == 1:
            await asyncio.Future()
        return x

    async def main():
        coroutine = f(1)
        coroutine.send(None)
        coroutine.close()
        return await f(1)

    assert asyncio.run(main()) == 1
    assert zoocache.stats().flights == 0


def test_a_loop_that_closed_while_waiting():
    go = threading.Event()

    @cacheable
    async def f(x):
        await asyncio.get_running_loop().run_in_executor(None, go.wait, 30)
        return x

    async def main():
        return await f(1)

    herd = Herd(lambda: asyncio.run(main()), 1)
    until(lambda: zoocache.stats().flights == 1)
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    while waits() == 0:
        loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    go.set()
    assert herd.join() == [1]
    task._log_destroy_pending = False
    task.get_coro().close()


def test_a_cache_of_its_own_in_flight():
    cache = Cache()

    @cache.cacheable
    def f(x):
        cache.close()
        return x

    assert f(1) == 1
    with pytest.raises(RuntimeError, match="closed"):
        f(1)
