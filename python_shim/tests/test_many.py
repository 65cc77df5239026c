"""cacheable.many: functions of a list of keys, which load only what is missing."""

import asyncio
import threading

import pytest
from shelf import Shelf
from test_flights import until

import zoocache
from zoocache import Cache, RecursiveFill, Scope, UnkeyableArgument, add_deps, cacheable, disabled, invalidate
from zoocache.testing import FakeClock

KINDS = {"sync", "async"}


class Words(list):
    pass


def call(f, *args, **kwargs):
    """Calls it, and awaits what has to be."""
    value = f(*args, **kwargs)
    return asyncio.run(value) if asyncio.iscoroutine(value) else value


def made(kind, loader, decorate=cacheable, **options):
    """The loader as a cached function of this kind; the lists that it was called with."""
    asked = []

    if kind == "sync":

        @decorate.many(**options)
        def load(keys, *rest, **more):
            asked.append(keys)
            return loader(keys, *rest, **more)

    else:

        @decorate.many(**options)
        async def load(keys, *rest, **more):
            asked.append(keys)
            await asyncio.sleep(0)
            return loader(keys, *rest, **more)

    return load, asked


def squares(keys):
    return {key: key * key for key in keys if key >= 0}


both = pytest.mark.parametrize("kind", sorted(KINDS))


def no_keys():
    return {}


@both
def test_only_what_is_missing_is_loaded(kind):
    load, asked = made(kind, squares)
    assert call(load, [1, 2]) == {1: 1, 2: 4}
    assert call(load, [3, 2, 1, 4]) == {3: 9, 2: 4, 1: 1, 4: 16}
    assert call(load, (4, 1)) == {1: 1, 4: 16}
    assert asked == [[1, 2], [3, 4]]
    assert load.cache_info()[:2] == (4, 4)
    assert load.cache_info().currsize == 4


@both
def test_order_and_duplicates(kind):
    load, asked = made(kind, squares)
    assert list(call(load, [3, 1, 3, 2])) == [3, 1, 2]
    assert list(call(load, [2, 3])) == [2, 3]
    listing, listed = made(kind, lambda keys: [key * 2 for key in keys])
    assert call(listing, [3, 1, 3, 2, 1]) == [6, 2, 6, 4, 2]
    assert call(listing, [1, 5, 3, 5]) == [2, 10, 6, 10]
    assert (asked, listed) == ([[3, 1, 2]], [[3, 1, 2], [5]])


@both
def test_what_is_not_returned_is_not_cached(kind):
    load, asked = made(kind, squares)
    assert call(load, [1, -1]) == {1: 1}
    assert call(load, [-1, 1]) == {1: 1}
    assert asked == [[1, -1], [-1]]
    assert load.explain(-1).reason == "absent" and load.explain(1).fresh
    none, asked = made(kind, lambda keys: dict.fromkeys(keys))
    assert call(none, [1]) == call(none, [1]) == {1: None}
    assert asked == [[1]]


@both
def test_nothing_to_ask_for(kind):
    load, asked = made(kind, squares)
    assert call(load, []) == {}
    assert call(load, iter([1, 1])) == {1: 1}
    listing, _ = made(kind, list)
    call(listing, [1])
    assert call(listing, []) == []
    assert asked == [[1]]


@both
def test_tags_are_those_of_each_key(kind):
    load, asked = made(kind, squares, deps=lambda key: [f"n:{key}"])
    call(load, [1, 2, 3])
    invalidate("n:2")
    assert load.explain(2).killer == "n:2"
    call(load, [1, 2, 3])
    invalidate("n")
    call(load, [1, 3])
    assert asked == [[1, 2, 3], [2], [1, 3]]


def test_deps_may_be_a_coroutine_function():
    async def deps(key):
        return [f"n:{key}"]

    load, asked = made("async", squares, deps=deps)
    call(load, [1, 2])
    invalidate("n:2")
    call(load, [1, 2])
    assert asked == [[1, 2], [2]]


@both
def test_what_is_met_inside_belongs_to_each(kind):
    @cacheable(deps=["inner"])
    def inner():
        return 1

    def loader(keys):
        add_deps(["met"])
        inner()
        return squares(keys)

    load, asked = made(kind, loader, deps=lambda key: [f"n:{key}"])
    call(load, [1, 2])
    assert [set(load.explain(key).deps) for key in (1, 2)] == [{"n:1", "met", "inner"}, {"n:2", "met", "inner"}]
    invalidate("met")
    call(load, [1, 2])
    assert asked == [[1, 2], [1, 2]]


def test_who_calls_it_depends_on_each():
    load, _ = made("sync", squares, deps=lambda key: [f"n:{key}"])
    runs = []

    @cacheable
    def total(keys):
        runs.append(keys)
        return sum(load(keys).values())

    load([1])
    assert total([1, 2, 3]) == 14
    assert set(total.explain([1, 2, 3]).deps) == {"n:1", "n:2", "n:3"}
    for key in (1, 2, 3):
        invalidate(f"n:{key}")
        total([1, 2, 3])
    assert len(runs) == 4
    assert zoocache.context.CURRENT.get() is None and not zoocache.context.ACTIVE


def test_what_a_thread_loads_another_waits_for():
    inside, go = threading.Event(), threading.Event()
    asked = []

    @cacheable.many
    def load(keys):
        asked.append(keys)
        if 1 in keys:
            inside.set()
            assert go.wait(30)
        return squares(keys)

    results = {}
    one = threading.Thread(target=lambda: results.update(one=load([1, 2, -1])))
    one.start()
    assert inside.wait(30)
    two = threading.Thread(target=lambda: results.update(two=load([2, 3, -1, 1])))
    two.start()
    until(lambda: zoocache.stats().waits == 1 and len(asked) == 2)
    go.set()
    one.join(30)
    two.join(30)
    assert asked == [[1, 2, -1], [3]]
    assert results == {"one": {1: 1, 2: 4}, "two": {2: 4, 3: 9, 1: 1}}
    assert zoocache.stats().flights == 0


def test_what_a_task_loads_another_waits_for():
    asked = []

    @cacheable.many
    async def load(keys):
        asked.append(keys)
        if 1 in keys:
            await go.wait()
        return squares(keys)

    async def main():
        nonlocal go
        go = asyncio.Event()
        tasks = [asyncio.ensure_future(load(keys)) for keys in ([1, 2], [2, 3, 1], [3, 1, 4])]
        while zoocache.stats().waits < 2:
            await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*tasks)

    go = None
    assert asyncio.run(main()) == [{1: 1, 2: 4}, {2: 4, 3: 9, 1: 1}, {3: 9, 1: 1, 4: 16}]
    assert asked == [[1, 2], [3], [4]]


def test_two_that_wait_for_each_other_end():
    barrier = threading.Barrier(2)

    @cacheable.many
    def load(keys):
        barrier.wait(30)
        return squares(keys)

    def work(keys):
        results.append(load(keys))

    results = []
    threads = [threading.Thread(target=work, args=(keys,)) for keys in ([1, 2], [3, 4])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 2

    crossing = [threading.Thread(target=work, args=(keys,)) for keys in ([5, 1], [6, 2])]
    for thread in crossing:
        thread.start()
    for thread in crossing:
        thread.join(30)
    assert sorted(map(sorted, results[2:])) == [[1, 5], [2, 6]]


@both
def test_a_failure_is_everybodys_and_not_cached(kind):
    fail = [True]

    def loader(keys):
        if fail:
            raise LookupError(keys)
        return squares(keys)

    load, asked = made(kind, loader)
    with pytest.raises(LookupError):
        call(load, [1, 2])
    assert zoocache.stats().flights == 0 and not zoocache.context.ACTIVE
    fail.clear()
    assert call(load, [1, 2]) == {1: 1, 2: 4}
    assert asked == [[1, 2], [1, 2]]


def test_what_was_there_stands_in_for_an_error():
    clock = FakeClock()
    with Cache(clock=clock) as cache:
        fail = []

        def loader(keys):
            if fail:
                raise LookupError
            return {key: [key] for key in keys}

        load, _ = made("sync", loader, cache.cacheable, ttl=5, tti=5, stale_if_error=100, copy="copy")
        load([1, 2])[1].append(9)
        clock.advance(6)
        fail.append(1)
        assert load([1, 2]) == {1: [1], 2: [2]}
        with pytest.raises(LookupError):
            load([3])


@both
def test_what_it_calls_must_not_be_itself(kind):
    load, _ = made(kind, lambda keys: again(keys))

    def again(keys):
        if kind == "sync":
            return load([keys[-1]])
        raise RecursiveFill

    with pytest.raises(RecursiveFill):
        call(load, [1, 2])


def test_it_may_call_itself_for_others():
    load, asked = made("sync", lambda keys: {**squares(keys), **(load([max(keys) - 1]) if max(keys) > 1 else {})})
    assert load([3]) == {3: 9}
    assert asked == [[3], [2], [1]]
    assert load([1, 2, 3]) == {1: 1, 2: 4, 3: 9}


@both
def test_other_arguments_are_a_part_of_each_key(kind):
    load, asked = made(kind, lambda keys, lang="en", **more: {key: f"{key}{lang}" for key in keys})
    assert call(load, ["a", "b"], "de") == {"a": "ade", "b": "bde"}
    assert call(load, ["a"]) == {"a": "aen"}
    assert call(load, ["b", "a"], "de") == {"b": "bde", "a": "ade"}
    assert asked == [["a", "b"], ["a"]]


def test_ignored_arguments_scopes_and_keys_of_ones_own():
    with Cache(scopes=Scope("org", "org_id")) as cache:
        asked = []

        @cache.cacheable.many(ignore="db", scope="org")
        def load(ids, org_id, db=None):
            asked.append((org_id, ids))
            return {x: (org_id, x) for x in ids}

        assert load([1, 2], "a", object()) == {1: ("a", 1), 2: ("a", 2)}
        assert load([1, 3], "a", db=object())[3] == ("a", 3)
        assert load([1], "b") == {1: ("b", 1)}
        assert asked == [("a", [1, 2]), ("a", [3]), ("b", [1])]
        assert cache.evict_scope("org", org_id="a") == 3

        own = cache.cacheable.many(key=lambda key: key.lower())(lambda keys: {key: key for key in keys})
        assert own(["A", "b"]) == {"A": "A", "b": "b"}
        assert own(["a"]) == {"a": "A"}


def test_methods():
    class Shop:
        def __init__(self, factor):
            self.factor = factor

        @cacheable.many
        def prices(self, ids):
            return {x: x * self.factor for x in ids}

        @classmethod
        @cacheable.many
        def of_class(cls, ids):
            return [cls.__name__ for _ in ids]

        @staticmethod
        @cacheable.many
        def static(ids):
            return dict.fromkeys(ids, 0)

    one, two = Shop(1), Shop(2)
    for _ in range(2):
        assert [one.prices([5, 6]), two.prices([5])] == [{5: 5, 6: 6}, {5: 10}]
        assert Shop.of_class([1, 2]) == ["Shop", "Shop"]
        assert Shop.static([1]) == {1: 0}
    assert Shop.prices.cache_info()[:2] == (3, 3)
    assert Shop.prices.invalidate(one, [5])
    assert Shop.prices.explain(one, 6).fresh and not Shop.prices.explain(one, 5).there


@both
def test_what_hangs_on_it(kind):
    load, asked = made(kind, squares)
    call(load, [1, 2, 3])
    assert zoocache.get(load.key(2)) == 4
    assert call(load.refresh, [2, 5, 1]) == {2: 4, 5: 25, 1: 1}
    assert load.invalidate([1, 2]) and not load.invalidate([1, 2])
    call(load, [1, 2, 3])
    assert asked == [[1, 2, 3], [2, 5, 1], [1, 2]]
    assert load.__name__ == "load" and load.__wrapped__
    load.cache_clear()
    assert load.cache_info() == (0, 0, None, 0)


def test_a_refresh_that_finds_nothing_takes_away_what_was_there():
    there = {1: "a", 2: "b"}
    load, _ = made("sync", lambda keys: {key: there[key] for key in keys if key in there})
    load([1, 2])
    del there[2]
    assert load([1, 2]) == {1: "a", 2: "b"}
    assert load.refresh([1, 2]) == {1: "a"}
    assert not load.explain(2).there


def test_a_refresh_beside():
    clock = FakeClock()
    with Cache(clock=clock) as cache:
        values = {1: "old"}
        load, asked = made("sync", lambda keys: {key: values[key] for key in keys}, cache.cacheable, soft_ttl=5)
        load([1])
        values[1] = "new"
        clock.advance(6)
        assert load([1]) == {1: "old"}
        until(lambda: load([1]) == {1: "new"})
        assert asked == [[1], [1]]


@both
def test_while_disabled(kind):
    load, asked = made(kind, squares)
    call(load, [1])
    with disabled():
        assert call(load, [1, 2, 1]) == {1: 1, 2: 4}
        assert call(load, [1]) == {1: 1}
    assert call(load, [1, 2]) == {1: 1, 2: 4}
    assert asked == [[1], [1, 2], [1], [2]]


def test_rules_count_for_each():
    load, asked = made("sync", squares, cache_if=lambda value: value != 4)
    load([1, 2]), load([1, 2])
    assert asked == [[1, 2], [2]]

    def loader(keys):
        zoocache.no_store()
        return squares(keys)

    load, asked = made("sync", loader)
    load([1, 2]), load([1, 2])
    assert asked == [[1, 2], [1, 2]]


def test_a_batch_is_one_load():
    with Cache(max_loads=1, flight_timeout=0.2) as cache:
        inner = cache.cacheable(lambda x: x)
        load, asked = made("sync", lambda keys: {key: inner(key) for key in keys}, cache.cacheable)
        aload, _ = made("async", lambda keys: {key: inner(key) for key in keys}, cache.cacheable)
        assert load([1, 2, 3]) == call(aload, [1, 2, 3]) == {1: 1, 2: 2, 3: 3}
        assert not cache.loads.inside


@both
def test_a_storage_is_asked_in_one_step(kind):
    shelf = Shelf()
    with Cache(storage=shelf) as cache:
        options = {"deps": lambda key: [f"n:{key}"], "namespace": "squares"}
        other, _ = made(kind, squares, cache.cacheable, **options)
        call(other, [1, 2, 3, -1])
        load, asked = made(kind, squares, cache.cacheable, **options)  # has the same place in the storage
        assert call(load, [7]) == {7: 49}
        assert call(load, [3, 1, 8]) == {3: 9, 1: 1, 8: 64}
        assert asked == [[7], [8]], "the first call tells what it returns"
        assert cache.stats().hits_storage == 2
        cache.invalidate("n:3")
        assert call(load, [3, 1]) == {3: 9, 1: 1}
        assert asked[2:] == [[3]]
        assert call(load.refresh, [1]) == {1: 1}
        assert asked[3:] == [[1]], "whatever the storage has"


@pytest.mark.parametrize("result", [None, 5, "ab", {1, 2}])
def test_what_it_must_not_return(result):
    load, _ = made("sync", lambda keys: result)
    with pytest.raises(TypeError, match="dict, or a list"):
        load([1, 2])
    short, _ = made("sync", lambda keys: keys[1:])
    with pytest.raises(ValueError, match="1 values for 2 keys"):
        short([1, 2])
    assert zoocache.stats().flights == 0


def test_what_is_refused():
    load, _ = made("sync", squares)
    for keys in ("abc", b"abc", {"a": 1}):
        with pytest.raises(TypeError, match="list of keys"):
            load(keys)
    with pytest.raises(UnkeyableArgument):
        load([object()])
    with pytest.raises(ValueError, match="fleet"):
        cacheable.many(fleet=True)(squares)
    with pytest.raises(TypeError, match="no parameter"):
        cacheable.many(no_keys)
    with pytest.raises(TypeError, match="cannot be ignored"):
        cacheable.many(ignore="keys")(squares)


def test_a_task_that_is_cancelled_leaves_nothing():
    @cacheable.many
    async def load(keys):
        await asyncio.Event().wait()

    async def main():
        task = asyncio.ensure_future(load([1, 2]))
        while not zoocache.stats().flights:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert zoocache.stats().flights == 0 and not zoocache.context.ACTIVE


CHANGES = {
    "sorted": list.sort,
    "turned round": list.reverse,
    "used up": list.clear,
    "shortened": list.pop,
    "replaced": lambda keys: keys.__setitem__(0, 2),
}


@both
@pytest.mark.parametrize("change", CHANGES)
def test_a_function_that_changes_its_list_of_keys(kind, change):
    """It gets one of its own. Of a list of values it is not known any more which is whose."""

    def pairs(keys):
        found = squares(keys)
        CHANGES[change](keys)
        return found

    def values(keys):
        before = list(keys)
        CHANGES[change](keys)
        return [key * key for key in sorted(before)]

    load, _ = made(kind, pairs)
    for _ in 1, 2:
        assert call(load, [3, 1, 2]) == {3: 9, 1: 1, 2: 4}
    assert call(load, [3]) == {3: 9}
    load, _ = made(kind, values)
    for _ in 1, 2:
        with pytest.raises(ValueError, match="`load` has changed its list of keys"):
            call(load, [3, 1, 2])
    assert load.cache_info().currsize == 0


def test_a_key_that_changes_while_it_is_loaded_anew():
    clock = FakeClock()
    with Cache(clock=clock) as cache:
        going, go_on = threading.Event(), threading.Event()

        def lengths(keys):
            if going.is_set():
                go_on.wait(30)
            return [len(key) for key in keys]

        load, _ = made("sync", lengths, cache.cacheable, soft_ttl=5, ttl=60)
        held = [Words([1])]
        assert load(held) == [1]
        clock.advance(6)
        going.set()
        assert load(held) == [1]
        held[0].append(2)
        go_on.set()
        until(lambda: not cache.stats().flights)
        assert load([Words([1])]) == [1]
        assert load(held) == [2]
