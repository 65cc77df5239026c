import asyncio
import copy
import dataclasses
import functools
import gc
import threading
import time
from collections import OrderedDict, defaultdict, deque, namedtuple
from weakref import ref

import pytest

import zoocache
from zoocache import Cache, cacheable, configure, invalidate
from zoocache.testing import FakeClock, isolated


def counted(**options):
    runs = []

    @cacheable(**options)
    def f(x=0):
        runs.append(x)
        return len(runs)

    return f, runs


def until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 30 s")


def test_reads_extend_the_life(kit):
    f, runs = counted(ttl=10)
    for _ in range(5):
        f()
        kit.clock.advance(9)
    assert len(runs) == 1
    kit.clock.advance(1)
    f()
    assert len(runs) == 2


def test_a_fixed_life():
    with isolated(default_ttl=10, read_extend_ttl=False) as kit:
        f, runs = counted()
        for _ in range(4):
            f()
            kit.clock.advance(4)
        assert len(runs) == 2
        zoocache.set("k", 1)
        kit.clock.advance(9)
        assert zoocache.get("k") == 1
        kit.clock.advance(1)
        assert zoocache.get("k") is None


def test_idle_time_and_life(kit):
    f, runs = counted(ttl=20, tti=5)
    for _ in range(6):
        f()
        kit.clock.advance(4)
    assert len(runs) == 2, "20 s are the longest life, however often it is read"
    kit.clock.advance(5)
    f()
    assert len(runs) == 3


def test_a_short_life_is_not_stretched_to_the_default():
    with isolated(default_ttl=1000) as kit:
        f, runs = counted(ttl=2)
        f()
        kit.clock.advance(1)
        f()
        kit.clock.advance(2)
        f()
        assert len(runs) == 2


def test_zero_fraction_and_endless(kit):
    zero, zero_runs = counted(ttl=0)
    zero(), zero()
    assert len(zero_runs) == 2
    part, part_runs = counted(ttl=0.25)
    part()
    kit.clock.advance(0.2)
    part()
    kit.clock.advance(0.26)
    part()
    assert len(part_runs) == 2
    for endless in (float("inf"), 2**64, 1e300):
        f, runs = counted(ttl=endless)
        f()
        kit.clock.advance(1e9)
        f()
        assert len(runs) == 1


def test_jitter(kit):
    f, runs = counted(ttl=100, jitter=0.5)
    for x in range(200):
        f(x)
    kit.clock.advance(75)
    for x in range(200):
        f(x)
    assert 220 < len(runs) < 380
    kit.clock.advance(101)
    f(0)
    assert runs[-1] == 0


def test_real_time():
    """Nobody turns the clock: the library's ticks bring the end."""
    configure(read_extend_ttl=False)
    f, runs = counted(ttl=0.1)
    start = time.monotonic()
    f()
    while len(runs) < 4:
        f()
    assert time.monotonic() - start >= 0.3 * 0.98
    until(lambda: __import__("zoocache._ffi")._ffi.words[1] == 0)  # the ticker falls asleep
    zoocache.set("k", 1, ttl=0.05)
    until(lambda: zoocache.get("k") is None)


@pytest.mark.slow
def test_idle_time_in_real_time():
    f, runs = counted(tti=0.5)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        f()
    assert len(runs) == 1


def test_shorter_ticks_are_asked_for():
    from zoocache import _ffi

    a, _ = counted(ttl=1000)
    b, _ = counted(ttl=0.01)
    a(1), a(1)
    assert _ffi.words[1] > 0
    b(1), b(1)
    until(lambda: (b(1), _ffi.words[1] == 1_000_000)[1])


def test_stale_while_revalidate(kit):
    go = threading.Event()
    go.set()
    runs = []

    @cacheable(soft_ttl=10, ttl=100, deps=["swr"])
    def f():
        runs.append(threading.current_thread())
        assert go.wait(30)
        return len(runs)

    assert f() == 1
    kit.clock.advance(11)
    go.clear()
    assert [f(), f(), f()] == [1, 1, 1]
    until(lambda: len(runs) == 2)
    assert runs[1] is not threading.current_thread()
    go.set()
    until(lambda: f() == 2)
    assert len(runs) == 2
    stats = zoocache.stats()
    assert stats.refreshes == 1
    assert stats.hits_stale >= 1
    kit.clock.advance(11)
    invalidate("swr")
    assert f() == 3, "what was invalidated is never served, soft or not"


ARGUMENTS = [
    ([1, {"a": [2]}], lambda x: x[1]["a"].append(3)),
    ({"a": {1}}, lambda x: x["a"].add(2)),
    (bytearray(b"a"), lambda x: x.extend(b"b")),
    (({"a": 1},), lambda x: x[0].clear()),
]


@pytest.mark.parametrize(("given", "change"), ARGUMENTS)
def test_a_refresh_computes_from_the_arguments_as_they_were(kit, given, change):
    seen, sink, go = [], [], threading.Event()
    given = copy.deepcopy(given)
    before = repr(given)

    @cacheable(soft_ttl=10, ttl=100, ignore="into")
    def f(x, into, *rest, named=None):
        if seen:
            assert go.wait(30)
        into.append(1)  # what is ignored is the caller's own
        seen.append((repr(x), repr(rest), repr(named)))
        return len(seen)

    assert f(given, sink, given, named=given) == 1
    kit.clock.advance(11)
    assert f(given, sink, given, named=given) == 1
    change(given)
    go.set()
    until(lambda: len(seen) == 2)
    assert seen == [(before, f"({before},)", before)] * 2
    assert sink == [1, 1]
    assert f(given, sink, given, named=given) == 3, "now it is another call"


async def test_an_async_refresh_computes_from_the_arguments_as_they_were(kit):
    seen = []

    @cacheable(soft_ttl=10, ttl=100)
    async def f(x):
        seen.append(list(x))

    given = [1]
    await f(given)
    kit.clock.advance(11)
    await f(given)
    given.append(2)
    while len(seen) < 2:
        await asyncio.sleep(0)
    assert seen == [[1], [1]]


def test_a_failing_refresh_leaves_the_value(kit):
    runs = []

    @cacheable(soft_ttl=10)
    def f():
        runs.append(1)
        if len(runs) > 1:
            raise OSError
        return "old"

    assert f() == "old"
    kit.clock.advance(11)
    assert f() == "old"
    until(lambda: zoocache.stats().errors == 1)
    assert f() == "old"
    assert len(runs) == 2, "not at once again"
    kit.clock.advance(2)
    assert f() == "old"
    until(lambda: zoocache.stats().errors == 2)


async def test_async_stale_while_revalidate(kit):
    runs = []

    @cacheable(soft_ttl=10, ttl=100)
    async def f(fail=0):
        runs.append(fail)
        await asyncio.sleep(0)
        if fail and len(runs) > 1:
            raise OSError
        return len(runs)

    assert await f() == 1
    kit.clock.advance(11)
    assert await f() == 1
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert await f() == 2
    runs.clear()
    assert await f(1) == 1
    kit.clock.advance(11)
    assert await f(1) == 1
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert await f(1) == 1
    assert zoocache.stats().errors == 1


def test_early_refresh(kit):
    f, runs = counted(ttl=100, tti=1000, early_refresh=1.0)
    f()
    entry = next(iter(zoocache._default.cache().tables()[1].entries.values()))
    entry.more.delta = 10.0
    for _ in range(300):
        kit.clock.advance(0)
        f()
    assert zoocache.stats().refreshes == 0, "far from its end: exp(-10)"
    kit.clock.advance(95)
    for _ in range(300):
        kit.clock.advance(0)
        f()
        if zoocache.stats().refreshes:
            break
    until(lambda: len(runs) == 2)
    forever, _ = counted(early_refresh=1.0)
    forever()
    kit.clock.advance(1e6)
    assert forever() == 1


def test_stale_if_error(kit):
    state = {"fail": False, "runs": 0}

    @cacheable(ttl=10, stale_if_error=100, deps=["sie"])
    def f():
        state["runs"] += 1
        if state["fail"]:
            raise OSError("down")
        return state["runs"]

    assert f() == 1
    state["fail"] = True
    kit.clock.advance(11)
    assert f() == 1
    assert f() == 1
    assert state["runs"] == 2, "the failing function is left alone for a moment"
    kit.clock.advance(5)
    assert f() == 1
    assert state["runs"] == 3
    kit.clock.advance(101)
    with pytest.raises(OSError, match="down"):
        f()
    state["fail"] = False
    assert f() == 5
    state["fail"] = True
    kit.clock.advance(11)
    invalidate("sie")
    with pytest.raises(OSError, match="down"):
        f()


async def test_async_stale_if_error(kit):
    state = {"fail": False}

    @cacheable(ttl=10, stale_if_error=100)
    async def f():
        if state["fail"]:
            raise OSError
        return 1

    @cacheable
    async def outer():
        return await f()

    assert await f() == 1
    state["fail"] = True
    kit.clock.advance(11)
    assert await outer() == 1


def test_swept_without_being_asked_for(kit):
    f, _ = counted(ttl=10)
    for x in range(500):
        f(x)
    kit.clock.advance(11)
    zoocache._default.cache().sweep()
    assert zoocache.stats().entries == 0
    for x in range(1000):
        f(x)
        kit.clock.advance(0.1)
    assert zoocache.stats().entries < 500


def test_many_tables_are_swept():
    cache = Cache()
    functions = [cache.cacheable(lambda x: [x]) for _ in range(5)]
    for function in functions:
        for x in range(10):
            function(x)
    cache.core.clear()  # as from C: the tables are not told
    for x in range(1000):
        functions[0](x)
    assert all(len(table.entries) == 0 for table in cache.tables()[2:])
    del functions, function
    gc.collect()
    assert len(cache.tables()) == 1


def test_fake_clock():
    clock = FakeClock(5)
    assert clock() == 5
    clock.advance(1.5)
    assert clock() == 6.5
    with pytest.raises(ValueError, match="step back"):
        clock.advance(-1)


def test_isolated_keeps_the_settings():
    configure(default_ttl=7)
    zoocache.set("k", 1)
    with isolated() as kit:
        assert zoocache.get("k") is None
        assert kit.cache.default_ttl is None
        assert kit.stats.misses == 1
    assert zoocache._default.cache().default_ttl == 7
    with isolated(clock=FakeClock(3)) as kit:
        assert kit.clock() == 3


def test_the_fixture(pytester):
    pytester.makepyfile(
        """
        from zoocache import cacheable
        runs = []
        @cacheable(ttl=10)
        def f():
            runs.append(1)
        def test_it(zoocache_isolated):
            f(); f()
            zoocache_isolated.clock.advance(11)
            f()
            assert len(runs) == 2
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio").assert_outcomes(passed=1)


# ---- max_entries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 10, 100])
def test_the_limit_holds_at_every_instant(limit):
    configure(max_entries=limit)
    f, _ = counted(deps=lambda x: [f"item:{x}"])
    g, _ = counted()
    cache = zoocache._default.cache()
    for x in range(limit * 5):
        f(x)
        g(x % 7)
        zoocache.set(f"k{x % 3}", x)
        assert len(cache) <= limit
        assert len(cache.policy) == len(cache)
        if x % 11 == 0:
            invalidate(f"item:{x}")
            f.invalidate(x - 1)
    cache.clear()
    assert len(cache) == len(cache.policy) == 0


def test_a_hot_key_stays():
    configure(max_entries=50)
    f, runs = counted()
    for x in range(1, 3000):
        f(x)
        f(0)
        zoocache.get("none")
    assert runs.count(0) <= 2


def test_a_scan_does_not_drive_out_what_is_used():
    configure(max_entries=100)
    f, runs = counted()
    for _ in range(5):
        for x in range(50):
            f(x)
    runs.clear()
    for x in range(1000, 3000):
        f(x)
        f(x % 50)
    assert sum(x < 1000 for x in runs) < 60


def test_what_was_driven_out_and_comes_back_is_kept():
    configure(max_entries=100)
    f, _ = counted()
    for x in range(150):
        f(x)
    cache = zoocache._default.cache()
    lost = next(x for x in range(150) if x not in {e.key for e in [*cache.policy.small, *cache.policy.main]})
    f(lost)
    assert lost in {e.key for e in cache.policy.main}


def test_the_limit_holds_with_threads():
    configure(max_entries=20)
    f, _ = counted()
    cache = zoocache._default.cache()
    over = []

    def work(seed):
        for x in range(3000):
            f((x * seed) % 97)
            if len(cache) > 20:
                over.append(len(cache))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (3, 5, 7, 11)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert over == []
    assert len(cache.policy) == len(cache)
    assert zoocache.stats().evictions > 0


def test_destructors_while_evicting():
    class Value:
        def __del__(self):
            zoocache.get("k")
            zoocache.set("d", 1)

    configure(max_entries=3)
    for x in range(100):
        zoocache.set(str(x), Value())
        assert zoocache.stats().entries <= 3


class Argument:
    """Keyed by its value, and watched."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Argument) and self.number == other.number

    def __hash__(self):
        return hash(self.number)


@pytest.mark.parametrize("limit", [3, 200])
def test_arguments_of_evicted_calls_are_freed(limit):
    with Cache(max_entries=limit) as cache:

        @cache.cacheable
        def f(x, y=0):
            return 1

        made = []
        for n in range(5 * limit + 300):
            argument = Argument(n)
            made.append(ref(argument))
            f(argument)
            if n % 3 == 0:
                f(argument)
            del argument
            assert sum(r() is not None for r in made[-2 * limit - 100 :]) <= limit
        alive = [r for r in made if r() is not None]
        assert len(alive) == len(cache) == limit
        cache.clear()
        assert not [r for r in alive if r() is not None]


def test_arguments_of_calls_that_left_by_themselves_are_freed(kit):
    @cacheable(ttl=10, deps=["t"])
    def f(x):
        return 1

    made = []
    for n in range(200):
        argument = Argument(n)
        made.append(ref(argument))
        f(argument)
    del argument
    assert f.invalidate(Argument(7))
    invalidate("t")
    for n in range(100):
        f(Argument(n))
    assert not [n for n in range(100) if made[n]() is not None]
    kit.cache.sweep()
    assert not [r for r in made if r() is not None]


def test_little_by_little_everything_is_looked_at(kit):
    @cacheable(ttl=10)
    def f(x):
        return 1

    for n in range(3000):
        f(n)
    kit.clock.advance(11)
    for n in range(3000, 6200):
        f(n)
    assert kit.stats.entries <= 3200 + 64, "as many were looked at as were stored, and half as many again"


def test_a_ghost_is_remembered_by_its_hash():
    with Cache(max_entries=20) as cache:
        f = cache.cacheable(lambda x: x)
        for n in range(40):
            f(n)
        assert len(cache.policy.ghosts) == 20
        assert all(type(ghost) is int for ghost in cache.policy.ghosts)
        before = len(cache.policy.main)
        f(19)
        assert len(cache.policy.main) == before + 1, "its second visit goes to the main queue"


@pytest.mark.parametrize("steps", [(5, 1e9), (-1e9, 5, 1e9), (0, 9, 30), (float("inf"),)])
def test_a_plain_callable_as_clock(steps):
    """It may be turned without a word: each read of what has a deadline asks it."""
    now = [0.0]
    with Cache(clock=lambda: now[0], read_extend_ttl=False) as cache:
        f = cache.cacheable(ttl=10)(lambda: object())
        cache.set("key", 1, ttl=10)
        first = f()
        for now[0] in steps[:-1]:
            assert f() is first
            assert cache.get("key") == 1
        now[0] = steps[-1]
        assert f() is not first
        assert cache.get("key") is None


@dataclasses.dataclass
class Query:
    words: list


class Words(list):
    pass


Row = namedtuple("Row", "words")

CHANGING = {
    "list": (lambda: [1], lambda x: x.append(2), list),
    "deque": (lambda: deque([1]), lambda x: x.append(2), list),
    "OrderedDict": (lambda: OrderedDict(a=1), lambda x: x.update(b=2), dict),
    "defaultdict": (lambda: defaultdict(int, a=1), lambda x: x.update(b=2), dict),
    "derived from list": (lambda: Words([1]), lambda x: x.append(2), list),
    "dataclass": (lambda: Query([1]), lambda x: x.words.append(2), lambda x: list(x.words)),
    "namedtuple": (lambda: Row([1]), lambda x: x.words.append(2), lambda x: list(x.words)),
    "in a list": (lambda: [Query([1])], lambda x: x[0].words.append(2), lambda x: list(x[0].words)),
    "memoryview": (lambda: memoryview(bytearray(b"a")), lambda x: x.__setitem__(0, 98), bytes),
    "partial": (lambda: functools.partial(print, [1]), lambda x: x.args[0].append(2), lambda x: list(x.args[0])),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", CHANGING)
def test_an_argument_that_changes_during_a_refresh(name, fails, kit):
    make, change, view = CHANGING[name]
    x, going, go_on = make(), threading.Event(), threading.Event()

    @cacheable(soft_ttl=5, ttl=60, cache_errors=KeyError)
    def f(x):
        if going.is_set():
            go_on.wait(30)
            if fails and view(x) != view(make()):
                raise KeyError
        return view(x)

    before = f(x)
    kit.clock.advance(6)
    going.set()
    assert f(x) == before
    change(x)
    go_on.set()
    until(lambda: not zoocache.stats().flights)
    going.clear()
    assert f(make()) == before, "what came of other arguments is theirs"
    assert f(x) == view(x) != before


@pytest.mark.parametrize("changes", [False, True])
async def test_an_argument_that_changes_during_a_refresh_in_a_task(changes, kit):
    go_on = asyncio.Event()
    runs = []

    @cacheable(soft_ttl=5, ttl=60)
    async def f(x):
        runs.append(1)
        if len(runs) == 2:
            await go_on.wait()
        return len(runs), list(x)

    words = deque([1])
    await f(words)
    kit.clock.advance(6)
    await f(words)
    await asyncio.sleep(0)
    if changes:
        words.append(2)
    go_on.set()
    while zoocache.stats().flights:
        await asyncio.sleep(0)
    assert await f(deque([1])) == ((1, [1]) if changes else (2, [1]))
