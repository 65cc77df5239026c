import asyncio
import gc
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import zoocache
from zoocache import Cache, InvalidTag, add_deps, cacheable, invalidate
from zoocache._zoocache import Core
from zoocache.testing import FakeClock


def counted(**options):
    runs = []

    @cacheable(**options)
    def f(x):
        runs.append(x)
        return [x]

    return f, runs


def test_hierarchy():
    f, runs = counted(deps=lambda x: [f"org:{x}:user:7"])
    f(1), f(2)
    invalidate("org:1:user:7:mail")
    invalidate("org:1:user:70")
    f(1), f(2)
    assert runs == [1, 2]
    invalidate("org:1")
    f(1), f(2)
    assert runs == [1, 2, 1]
    invalidate("org")
    f(1), f(2)
    assert runs == [1, 2, 1, 1, 2]


def test_several_tags_in_one_step():
    f, runs = counted(deps=lambda x: [f"t:{x}", "u"])
    f(1), f(2), f(3)
    before = zoocache.stats().invalidations
    invalidate("t:1", "t:2")
    assert zoocache.stats().invalidations == before + 1
    f(1), f(2), f(3)
    assert runs == [1, 2, 3, 1, 2]
    assert zoocache.get_tag_version("t:1") == zoocache.get_tag_version("t:2")


def test_a_mistake_in_deps_costs_no_work():
    def deps(x):
        raise KeyError("mine")

    for bad, error in (
        (deps, KeyError),
        (["no good"], InvalidTag),
        (lambda x: [x], InvalidTag),
        (lambda x: 5, InvalidTag),
    ):
        f, runs = counted(deps=bad)
        for _ in range(2):
            with pytest.raises(error):
                f(1)
        assert runs == []
        assert zoocache.stats().flights == 0


def test_one_string_is_one_tag():
    f, runs = counted(deps="user:1")
    f(1), f(1)
    invalidate("u")
    f(1)
    invalidate("user:1")
    f(1)
    assert runs == [1, 1]


def test_add_deps_inside():
    @cacheable
    def f(x):
        add_deps({f"in:{x}"})
        return [x]

    first = f(1)
    assert f(1) is first
    invalidate("in:2")
    assert f(1) is first
    invalidate("in:1")
    assert f(1) is not first

    @cacheable
    def bad():
        add_deps(["ok", "not ok"])

    with pytest.raises(InvalidTag):
        bad()


def test_a_star_at_the_end():
    calls = []

    @cacheable(deps=lambda x: [f"user:{x}", "all"])
    def f(x):
        calls.append(x)

    async def beside(*tags):
        await zoocache.invalidate_async(*tags)

    cache = zoocache._default.cache()
    for act in (invalidate, lambda *tags: asyncio.run(beside(*tags)), cache.invalidate, Core().invalidate):
        f(1)
        calls.clear()
        act("user:*")
        f(1)
        assert calls == [1], "everything below user"
    f(2)
    calls.clear()
    invalidate("other", "user:1:*")
    f(1), f(2)
    assert calls == [1]
    assert zoocache.get_tag_version("user:1") > 0


@pytest.mark.parametrize("tag", ["*", "*:1", "user:*:1", "us*r", "user*", "user:**", "user:x*", "user:*:*", "a.*"])
def test_a_star_elsewhere(tag):
    for refused in (invalidate, lambda tag: invalidate("fine", tag), zoocache.get_tag_version):
        with pytest.raises(InvalidTag, match=r"\*") as info:
            refused(tag)
        hint = "Write 'user'" if tag.startswith("user:") else "clear()"
        assert hint in str(info.value)
    assert zoocache.get_tag_version("fine") == 0, "nothing is done"


@pytest.mark.parametrize("tag", ["user:*", "*"])
def test_nothing_depends_on_a_star(tag):
    def gathers():
        add_deps([tag])

    with pytest.raises(InvalidTag, match=r"\*"):
        cacheable(deps=[tag])(lambda: 1)()
    with pytest.raises(InvalidTag, match=r"\*"):
        cacheable(gathers)()
    with pytest.raises(InvalidTag, match=r"\*"):
        zoocache.set("k", 1, deps=[tag])
    with pytest.raises(InvalidTag, match=r"\*"):
        zoocache.get_tag_version(tag)


def test_add_deps_from_a_thread_with_the_context():
    from contextvars import copy_context

    @cacheable
    def f():
        context = copy_context()
        thread = threading.Thread(target=context.run, args=(add_deps, ["from:thread"]))
        thread.start()
        thread.join()
        return object()

    first = f()
    assert f() is first
    invalidate("from:thread")
    assert f() is not first


def test_invalidation_during_a_fill():
    f_runs = []

    @cacheable(deps=["during"])
    def f(x):
        f_runs.append(x)
        if len(f_runs) == 1:
            invalidate("during")
        return len(f_runs)

    assert f(1) == 1
    assert zoocache.stats().refused == 1
    assert f(1) == 2
    assert f(1) == 2


def test_invalidation_of_a_tag_that_the_fill_adds_later():
    runs = []

    @cacheable
    def f():
        runs.append(1)
        if len(runs) == 1:
            invalidate("later:tag")
            zoocache.prune(0)
        add_deps(["later:tag:below"])
        return len(runs)

    assert [f(), f(), f()] == [1, 2, 2]


def test_clear_reset_and_writes_during_a_fill():
    steps = []

    @cacheable
    def f(x):
        steps.append(x)
        if len(steps) == 1:
            act()
        return len(steps)

    for action in (zoocache.clear, f.cache_clear, lambda: f.invalidate(5), zoocache.reset):
        steps.clear()
        act = action
        f.cache_clear()
        assert [f(5), f(5), f(5)] == [1, 2, 2]


def test_nested_functions_hand_up():
    runs = []

    @cacheable(deps=["inner:tag"])
    def inner():
        runs.append("inner")
        add_deps(["inner:dynamic"])
        return len(runs)

    @cacheable(deps=["middle"])
    def middle():
        runs.append("middle")
        return inner()

    @cacheable
    def outer():
        runs.append("outer")
        return middle()

    for warm in (False, True):
        for tag in ("inner:tag", "inner:dynamic", "middle", "inner"):
            zoocache.clear()
            if warm:
                inner()  # a hit for middle, which must pass on its dependencies all the same
                middle.cache_clear()
            outer()
            runs.clear()
            outer()
            assert runs == []
            invalidate(tag)
            outer()
            assert "outer" in runs, (warm, tag)


def test_get_hands_up_as_well():
    zoocache.set("raw", 1, deps=["raw:tag"])

    @cacheable
    def f():
        return [zoocache.get("raw")]

    first = f()
    assert f() is first
    invalidate("raw:tag")
    assert f() is not first


def test_a_failed_inner_call_counts():
    state = {"fail": True}

    @cacheable(deps=["inner"])
    def inner():
        if state["fail"]:
            raise LookupError
        return 1

    @cacheable
    def outer():
        try:
            return inner()
        except LookupError:
            return None

    assert outer() is None
    state["fail"] = False
    assert outer() is None
    invalidate("inner")
    assert outer() == 1


def test_hits_while_others_invalidate():
    stop = threading.Event()

    def storm():
        n = 0
        while not stop.is_set():
            invalidate(f"storm:{n % 50}")
            n += 1

    f, runs = counted(deps=["calm"])
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for _ in range(3000):
            f(1)
        assert runs == [1]
        invalidate("calm")
        f(1)
        assert runs == [1, 1]
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_never_stale_beside_writers():
    """Readers compare what they get with a counter that was raised, and invalidated, before they asked."""
    truth = [0] * 4
    wrong = []
    stop = threading.Event()

    @cacheable(deps=lambda i: [f"row:{i}"])
    def read(i):
        return truth[i]

    def writer(i):
        while not stop.is_set():
            truth[i] += 1
            invalidate(f"row:{i}")

    floor = [0] * 4

    def reader():
        for n in range(4000):
            i = n % 4
            floor_then = floor[i]
            value = read(i)
            if value < floor_then:
                wrong.append((i, value, floor_then))

    def checked_writer(i):
        while not stop.is_set():
            truth[i] += 1
            invalidate(f"row:{i}")
            floor[i] = truth[i]

    threads = [threading.Thread(target=checked_writer, args=(i,)) for i in range(4)]
    readers = [threading.Thread(target=reader) for _ in range(4)]
    for t in threads + readers:
        t.start()
    for t in readers:
        t.join()
    stop.set()
    for t in threads:
        t.join()
    assert wrong == []


def test_destructors_that_use_the_cache():
    class Value:
        def __del__(self):
            zoocache.set("from:destructor", 1)
            invalidate("destructor")
            zoocache.get("k")

    for _ in range(20):
        zoocache.set("k", Value())
        zoocache.set("k", Value())
        zoocache.delete("k")
        zoocache.set("k", Value(), deps=["gone"])
        invalidate("gone")
        zoocache.get("k")
        zoocache.set("k", Value())
        zoocache.clear()
    loop = [Value()]
    loop.append(loop)
    zoocache.set("k", loop)
    del loop
    zoocache.clear()
    gc.collect()
    assert zoocache.get("from:destructor") == 1


def test_dead_cycles_with_a_cache_in_them():
    for _ in range(50):
        cache = Cache()

        @cache.cacheable(deps=lambda x: [f"a:{x}", "b"])
        def f(x):
            return [f]  # noqa: F821

        f(1), f(2), f(2)
        cache.set("me", [cache, f], ["c"])
        cache.note = cache
        del cache, f
    gc.collect()


class Model(RuleBasedStateMachine):
    """Random calls, invalidations, nested fills and time, beside a naive model that keeps everything."""

    keys = st.integers(0, 3)
    tags = st.sampled_from(["a", "a:0", "a:1", "a:1:x", "b", "b:2", "c", "n:0", "n:1", "n:2", "n:3"])
    tag_sets = st.lists(tags, max_size=3)

    @initialize()
    def start(self):
        self.clock = FakeClock()
        self.cache = Cache(clock=self.clock, read_extend_ttl=False)
        self.source = {}  # (function, key) -> value, tags, ttl
        self.kept = {}  # (function, key) -> value, tags, end
        self.serial = 0
        self.during = None
        cache = self.cache

        @cache.cacheable(deps=lambda k: [f"n:{k}"], ttl=50)
        def inner(k):
            return self.load("inner", k)

        @cache.cacheable
        def outer(k):
            value = self.load("outer", k)
            return value, inner(k), cache.get("raw")

        self.inner, self.outer = inner, outer

    def load(self, name, k):
        tags, ttl = self.source.get((name, k), ((), None))
        add_deps(tags)
        if ttl is not None:
            zoocache.set_ttl(ttl)
        self.serial += 1
        if self.during:
            tag, self.during = self.during, None
            self.cache.invalidate(tag)
            self.drop(tag)
            self.dirty.append(tag)
        return self.serial

    # -- the model

    @staticmethod
    def hit_by(tag, tags):
        return any(t == tag or t.startswith(tag + ":") for t in tags)

    def drop(self, tag):
        self.kept = {k: v for k, v in self.kept.items() if not self.hit_by(tag, v[1])}

    def fresh(self, key):
        found = self.kept.get(key)
        return found if found is not None and self.clock.now < found[2] else None

    def keep(self, key, value, tags, ttl, dirty):
        end = float("inf") if ttl is None else self.clock.now + ttl
        if not any(self.hit_by(tag, tags) for tag in dirty) and ttl != 0:
            self.kept[key] = (value, tuple(tags), end)
        else:
            self.kept.pop(key, None)

    def expect_inner(self, k, serial, dirty):
        found = self.fresh(("inner", k))
        if found:
            return found[0], found[1], serial
        tags, ttl = self.source.get(("inner", k), ((), None))
        tags = [f"n:{k}", *tags]
        self.keep(("inner", k), serial + 1, tags, 50 if ttl is None else ttl, dirty)
        return serial + 1, tags, serial + 1

    # -- the steps

    @rule(name=st.sampled_from(["inner", "outer"]), k=keys, tags=tag_sets, ttl=st.sampled_from([None, 0, 5, 20]))
    def change(self, name, k, tags, ttl):
        self.source[name, k] = (tuple(tags), ttl)

    @rule(k=keys, during=st.none() | tags)
    def call_inner(self, k, during):
        self.dirty = []
        self.during = during
        before = self.serial
        found = self.fresh(("inner", k))
        value = self.inner(k)
        self.during = None
        if found:
            assert value == found[0]
        else:
            expected, _, _ = self.expect_inner(k, before, self.dirty)
            assert value == expected

    @rule(k=keys)
    def call_outer(self, k):
        before = self.serial
        found = self.fresh(("outer", k))
        value = self.outer(k)
        if found:
            assert value == found[0]
            return
        tags, ttl = self.source.get(("outer", k), ((), None))
        inner, inner_tags, _ = self.expect_inner(k, before + 1, [])
        raw = self.fresh(("raw", 0))
        expected = (before + 1, inner, raw[0] if raw else None)
        assert value == expected
        self.keep(("outer", k), expected, [*tags, *inner_tags, *(raw[1] if raw else ())], ttl, [])

    @rule(tags=tag_sets, ttl=st.sampled_from([None, 0, 3, 30]))
    def set_raw(self, tags, ttl):
        self.serial += 1
        self.cache.set("raw", self.serial, tags, ttl)
        self.keep(("raw", 0), self.serial, tags, ttl, [])

    @rule()
    def get_raw(self):
        found = self.fresh(("raw", 0))
        assert self.cache.get("raw") == (found[0] if found else None)

    @rule(some=st.lists(tags, min_size=1, max_size=3))
    def invalidate(self, some):
        self.cache.invalidate(*some)
        for tag in some:
            self.drop(tag)

    @rule(seconds=st.sampled_from([1, 4, 25]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def prune(self):
        self.cache.prune(0)

    @rule()
    def sweep(self):
        self.cache.sweep()

    @rule()
    def clear(self):
        self.cache.clear()
        self.kept.clear()

    @precondition(lambda self: hasattr(self, "cache"))
    @invariant()
    def counts(self):
        stats = self.cache.stats()
        assert stats.flights == 0
        assert stats.entries >= sum(self.fresh(key) is not None for key in self.kept)


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_model = Model.TestCase


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [40])
def test_memory_stays_flat(rounds):
    """Fills and invalidations of ever new keys and tags; set ZOOCACHE_LEAK=1000 for a million and more."""
    import os
    import tracemalloc

    rounds = int(os.environ.get("ZOOCACHE_LEAK", rounds))
    cache = Cache()

    @cache.cacheable(deps=lambda x: [f"leak:{x}", "leak:all"])
    def f(x):
        return [x]

    def work(n):
        for x in range(n * 1000, n * 1000 + 1000):
            f(x)
            if x % 2:
                cache.invalidate(f"leak:{x}")
        cache.invalidate("leak:all")

    for n in range(10):
        work(n)
    cache.sweep()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        peak = 0
        for n in range(10, 10 + rounds):
            work(n)
            peak = max(peak, len(cache))
        cache.sweep()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert peak < 4000, "what is invalidated must be swept as others are stored"
    assert len(cache) == 0
    assert grown < 300_000
    stats = cache.stats()
    assert stats.tags < 20_000, "idle tags are pruned by themselves"
