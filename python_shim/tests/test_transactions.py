"""transaction() and lag=: invalidations that wait for the commit, fills that begin earlier."""

import asyncio
import contextvars
import gc
import os
import random
import sqlite3
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoocache
from zoocache import Cache, InvalidTag, cacheable, invalidate, transaction
from zoocache.context import OPEN
from zoocache.testing import FakeClock


class Rows:
    """A table of a database, and a cached reader of it."""

    def __init__(self, cache=None, **options):
        self.rows = dict.fromkeys(range(3), 0)
        self.calls = []

        @cacheable(cache=cache, deps=lambda key: [f"row:{key}"], **options)
        def read(key):
            self.calls.append(key)
            return self.rows[key]

        self.read = read


def elsewhere(func, *args):
    """Calls it in a context of its own, as another request would."""
    return contextvars.Context().run(func, *args)


def test_what_is_held_back_is_said_at_the_end():
    db = Rows()
    assert db.read(1) == 0
    with transaction():
        db.rows[1] = 1
        invalidate("row:1")
        assert db.read(1) == 1, "it sees its own writes"
        assert elsewhere(db.read, 1) == 0, "others what was there"
        assert db.read(1) == 1
        assert db.calls == [1, 1, 1], "what was computed was not stored"
    assert db.read(1) == db.read(1) == 1
    assert elsewhere(db.read, 1) == 1
    assert db.calls == [1, 1, 1, 1]
    assert not OPEN


def test_nothing_is_said_of_what_was_rolled_back():
    db = Rows()
    assert db.read(1) == 0
    with pytest.raises(KeyError), transaction():
        db.rows[1] = 1
        invalidate("row:1")
        assert db.read(1) == 1
        db.rows[1] = 0
        raise KeyError
    assert db.read(1) == 0
    assert db.calls == [1, 1], "the old value is there still"
    assert zoocache.stats().invalidations == 0


def test_several_tags_are_one_step():
    before = Rows()
    before.read(1), before.read(2)
    with transaction():
        invalidate("row:1")
        invalidate("row:2", "x")
        invalidate("row:1")
    assert zoocache.get_tag_version("row:1") == zoocache.get_tag_version("row:2") == zoocache.get_tag_version("x") > 0


def test_a_tag_above_and_one_below():
    calls = []

    @cacheable(deps=["org:1:team:a"])
    def team():
        calls.append("team")
        return len(calls)

    @cacheable(deps=["org:2"])
    def other():
        calls.append("other")
        return len(calls)

    @cacheable(deps=["org"])
    def all_of_them():
        calls.append("all")
        return len(calls)

    assert (team(), other(), all_of_them()) == (1, 2, 3)
    with transaction():
        invalidate("org:1")
        assert team() == 4
        assert (other(), all_of_them()) == (2, 3)
        invalidate("org:*")
        assert other() == 5
        assert all_of_them() == 6
    assert (team(), other(), all_of_them()) == (7, 8, 9)


def test_a_tag_that_is_none_is_refused_when_it_is_given():
    with transaction():
        for bad in ("", "a::b", "a\0b", "a*b"):
            with pytest.raises(InvalidTag):
                invalidate(bad)
        with pytest.raises(TypeError):
            invalidate()
    assert zoocache.stats().invalidations == 0


def test_what_a_snapshot_gave_is_not_stored_if_it_was_invalidated_since():
    db = Rows()
    snapshot = dict(db.rows)
    with transaction():
        elsewhere(db.rows.__setitem__, 1, 5)
        elsewhere(invalidate, "row:1")
        db.rows, now = snapshot, db.rows
        assert db.read(1) == 0, "as its snapshot has it"
        assert db.read(2) == 0
        db.rows = now
    assert db.read(1) == 5
    assert db.calls == [1, 2, 1]
    db.read(2)
    assert db.calls == [1, 2, 1], "what was not invalidated was stored"


def test_without_a_snapshot():
    db = Rows()
    with transaction(snapshot=False):
        elsewhere(db.rows.__setitem__, 1, 5)
        elsewhere(invalidate, "row:1")
        assert db.read(1) == 5
    assert db.read(1) == 5
    assert db.calls == [1]


def test_savepoints():
    db = Rows()
    for key in range(3):
        db.read(key)
    db.calls.clear()
    with transaction():
        invalidate("row:0")
        with pytest.raises(KeyError), transaction():
            invalidate("row:1")
            assert (db.read(0), db.read(1), db.read(2)) == (0, 0, 0)
            assert db.calls == [0, 1]
            raise KeyError
        db.read(1)
        assert db.calls == [0, 1], "rolled back: as it was"
        with transaction():
            invalidate("row:2")
        db.read(2)
        assert db.calls == [0, 1, 2], "kept by the outer one"
        elsewhere(db.read, 2)
        assert db.calls == [0, 1, 2]
    for key in range(3):
        db.read(key)
    assert db.calls == [0, 1, 2, 0, 2]


def test_dropped_with_the_outer_one():
    db = Rows()
    db.read(1)
    with pytest.raises(KeyError), transaction():
        with transaction():
            invalidate("row:1")
        raise KeyError
    db.read(1)
    assert db.calls == [1]


def test_good_for_one_block():
    block = transaction()
    with block:
        pass
    with pytest.raises(RuntimeError, match="one block"):
        block.__enter__()


def test_a_transaction_is_of_its_cache():
    with Cache() as mine, Cache() as other:
        db, theirs = Rows(mine), Rows(other)
        db.read(1), theirs.read(1)
        with mine.transaction():
            other.invalidate("row:1")
            mine.invalidate("row:1")
            elsewhere(theirs.read, 1), elsewhere(db.read, 1)
            with other.transaction():
                mine.invalidate("row:2")
                other.invalidate("row:1")
            elsewhere(theirs.read, 1), elsewhere(db.read, 1)
        elsewhere(theirs.read, 1), elsewhere(db.read, 1)
        assert theirs.calls == [1, 1, 1]
        assert db.calls == [1, 1]
        assert mine.tag_version("row:2") and not other.tag_version("row:2")


def test_values_by_key():
    zoocache.set("a", 1, deps=["t"])
    zoocache.set("b", 1)
    with transaction():
        invalidate("t")
        assert zoocache.get("a") is None
        assert zoocache.get_many(["a", "b"]) == {"b": 1}
        assert elsewhere(zoocache.get, "a") == 1
        zoocache.set("a", 2, deps=["t"])  # not committed
        assert zoocache.get("a") is None and elsewhere(zoocache.get, "a") is None
        assert zoocache.delete("b")
        elsewhere(zoocache.set, "b", "of before the commit")
        assert zoocache.get("b") == "of before the commit"
    assert zoocache.get("a") is None
    assert zoocache.get("b") is None, "deleted once more at the end"


def test_what_is_done_by_key_is_done_once_more_at_the_end():
    db, more = Rows(), Rows()
    with transaction():
        assert not db.read.invalidate(1)
        elsewhere(db.read, 1)
        assert db.calls == [1]
        more.read.cache_clear()
        elsewhere(more.read, 1)
    db.read(1), more.read(1)
    assert (db.calls, more.calls) == ([1, 1], [1, 1])
    with transaction():
        zoocache.clear()
        elsewhere(db.read, 1)
    db.read(1)
    assert db.calls == [1, 1, 1, 1]


def test_scopes_are_evicted_once_more():
    zoocache.configure(scopes=zoocache.Scope("org", "org_id"))
    zoocache.set("k", 1, scope="org", org_id=1)
    with transaction():
        assert zoocache.evict_scope("org", org_id=1) == 1
        elsewhere(lambda: zoocache.set("k", 2, scope="org", org_id=1))
    assert zoocache.get("k", scope="org", org_id=1) is None


def test_others_do_not_get_what_a_transaction_computes():
    db = Rows()
    begun, go_on, got = threading.Event(), threading.Event(), []

    @cacheable(deps=["t"])
    def slow():
        if not got:
            got.append("uncommitted")
            begun.set()
            assert go_on.wait(30)
            return "uncommitted"
        return "committed"

    def writer():
        with transaction():
            invalidate("t")
            assert slow() == "uncommitted"

    one = threading.Thread(target=writer)
    one.start()
    assert begun.wait(30)
    found = []
    two = threading.Thread(target=lambda: found.append(slow()))
    two.start()
    while not zoocache.stats().waits and two.is_alive():
        pass
    go_on.set()
    one.join(), two.join()
    assert found == ["committed"]
    assert db.calls == []


def test_a_transaction_does_not_wait_for_others():
    begun, go_on = threading.Event(), threading.Event()

    @cacheable(deps=["t"])
    def read(ahead):
        return ahead

    @cacheable(deps=["t"], key=lambda wait: "k")
    def slow(wait):
        if wait:
            begun.set()
            assert go_on.wait(30)
        return wait

    other = threading.Thread(target=slow, args=(True,))
    other.start()
    assert begun.wait(30)
    with transaction():
        invalidate("t")
        assert slow(False) is False
    go_on.set()
    other.join()


def test_an_old_value_does_not_stand_in_for_an_error():
    clock = FakeClock()
    failing = []
    with Cache(clock=clock, read_extend_ttl=False) as cache:

        @cache.cacheable(deps=["t"], ttl=10, stale_if_error=100)
        def load():
            if failing:
                raise OSError
            return "old"

        load()
        clock.advance(11)
        failing.append(1)
        assert load() == "old"
        with cache.transaction():
            cache.invalidate("t")
            with pytest.raises(OSError):
                load()


def test_a_refresh_beside_is_not_of_the_transaction():
    clock = FakeClock()
    inside = []
    refreshed = threading.Event()
    with Cache(clock=clock) as cache:

        @cache.cacheable(deps=["t"], soft_ttl=10)
        def load():
            from zoocache.context import transaction_of

            inside.append(transaction_of(cache))
            if len(inside) > 1:
                refreshed.set()
            return len(inside)

        load()
        clock.advance(11)
        with cache.transaction():
            assert load() == 1
            assert refreshed.wait(30)
        assert inside == [None, None]


def test_async_tasks_and_a_loop_of_others():
    db = Rows()

    @cacheable(deps=lambda key: [f"row:{key}"])
    async def read(key):
        db.calls.append(key)
        await asyncio.sleep(0)
        return db.rows[key]

    async def main():
        assert await read(1) == 0
        late = asyncio.Event()

        async def after():
            await late.wait()
            invalidate("row:2")

        async with transaction():
            db.rows[1] = 1
            invalidate("row:1")
            assert await asyncio.gather(read(1), read(1)) == [1, 1]
            assert await asyncio.create_task(read(1)) == 1
            assert await asyncio.create_task(read(1), context=contextvars.Context()) == 0
            task = asyncio.create_task(after())
        assert await read(1) == await read(1) == 1
        version = zoocache.get_tag_version("row:2")
        late.set()
        await task
        assert zoocache.get_tag_version("row:2") > version, "its transaction is over"
        with pytest.raises(KeyError):
            async with transaction():
                await zoocache.invalidate_async("row:1")
                raise KeyError
        calls = len(db.calls)
        assert await read(1) == 1 and len(db.calls) == calls

    if hasattr(asyncio, "TaskGroup"):  # a task may be given a context
        asyncio.run(main())


def test_a_cancelled_block_says_nothing():
    db = Rows()
    db.read(1)

    async def main():
        async def block():
            async with transaction():
                invalidate("row:1")
                await asyncio.sleep(3600)

        task = asyncio.create_task(block())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    db.read(1)
    assert db.calls == [1] and not OPEN


def test_a_generator_that_is_left():
    db = Rows()
    db.read(1)

    def requests():
        with transaction():
            invalidate("row:1")
            yield

    left = requests()
    next(left)
    del left
    gc.collect()
    assert not OPEN
    db.read(1)
    assert db.calls == [1]
    invalidate("row:1")
    db.read(1)
    assert db.calls == [1, 1]


@pytest.mark.plain
def test_fork():
    db = Rows()
    db.read(1)
    ready, end = threading.Event(), threading.Event()

    def other():
        with transaction():
            invalidate("row:2")
            ready.set()
            end.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert ready.wait(30)
    with transaction():
        invalidate("row:1")
        child = os.fork()
        if not child:
            code = 1
            try:
                here = len(OPEN) == 1 and db.read(1) == 0 and db.calls == [1, 1]
                code = 0 if here else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    end.set()
    thread.join()


def test_a_storage_has_nothing_of_it(tmp_path):
    with Cache(storage_url=f"lmdb://{tmp_path}") as one:
        db = Rows(one, namespace="rows")
        assert db.read(1) == 0
        one.set("k", "old", deps=["row:1"])
        with one.transaction():
            db.rows[1] = 1
            one.invalidate("row:1")
            assert db.read(1) == 1
            assert db.read(2) == 0
            assert one.get("k") is None and one.get_many(["k"]) == {}
            db.rows[1] = 0
            one.set("k", "uncommitted", deps=["row:1"])
            assert elsewhere(db.read, 1) == 0
            db.rows[1] = 1
        assert one.get("k") is None
        assert db.read(1) == 1
        calls = len(db.calls)
        db.read(2)
        assert len(db.calls) == calls, "what it had not touched was stored"


# ---- replicas ----------------------------------------------------------------------------------------


def test_what_a_replica_may_not_have_yet_is_not_stored():
    clock = FakeClock()
    with Cache(clock=clock) as cache:
        db = Rows(cache, lag=10)
        replica = dict(db.rows)
        primary, db.rows = db.rows, replica
        for _ in range(30):
            db.read(0)
            db.read.invalidate(0)
            clock.advance(1)
        db.calls.clear()
        assert db.read(1) == db.read(1) == 0
        assert db.calls == [1]
        primary[1] = 1
        cache.invalidate("row:1")
        for _ in range(10):  # the replica is behind
            assert db.read(1) == 0
            clock.advance(0.9)
        assert db.calls == [1] + [1] * 10, "none was stored"
        replica.update(primary)
        clock.advance(2)
        assert db.read(1) == db.read(1) == 1
        assert db.calls == [1] + [1] * 11


def test_lag_before_it_is_known_what_was():
    with Cache(clock=FakeClock()) as cache:
        db = Rows(cache, lag=10)
        assert db.read(1) == db.read(1) == 0
        assert db.calls == [1], "never invalidated"
        cache.invalidate("row:2")
        db.read(2), db.read(2)
        assert db.calls == [1, 2, 2]


@pytest.mark.parametrize("bad", [-1, float("nan"), "1", True, None])
def test_a_lag_that_is_none(bad):
    with pytest.raises((TypeError, ValueError), match="lag"):
        cacheable(lag=bad)(lambda: 1)


@given(seed=st.integers(0, 2**32), lag=st.sampled_from([0.5, 3, 20]))
@settings(max_examples=100, deadline=None)
def test_no_value_outlives_the_lag(seed, lag):
    """A replica that is behind by any time up to the lag, never going back."""
    chance = random.Random(seed)
    clock = FakeClock()
    with Cache(clock=clock) as cache:
        history = {key: [(0.0, 0)] for key in range(3)}  # when, what
        at = clock()

        @cache.cacheable(deps=lambda key: [f"row:{key}"], lag=lag)
        def read(key):
            return max(value for when, value in history[key] if when <= at)

        for step in range(1, 200):
            clock.advance(chance.choice([0, lag / 50, lag / 7, lag / 3]))
            at = max(at, clock() - lag * chance.random())
            key = chance.randrange(3)
            if chance.random() < 0.3:
                history[key].append((clock(), step))
                cache.invalidate(f"row:{key}")
            value = read(key)
            assert value >= max(v for when, v in history[key] if when <= clock() - lag)


# ---- a database --------------------------------------------------------------------------------------


class Actor:
    """One request after another on a connection and in a context of its own, step by step."""

    def __init__(self, db, cache, world):
        self.context = contextvars.Context()
        self.db = db
        self.cache = cache
        self.world = world
        self.blocks = []

    def row(self, key):
        return self.db.execute("SELECT value FROM row WHERE key = ?", (key,)).fetchone()[0]

    def step(self, what, key, value):
        self.context.run(getattr(self, what), key, value)

    def begin(self, key, value):
        if not self.blocks:
            block = self.cache.transaction()
            block.__enter__()
            self.blocks.append(block)
            self.db.execute("BEGIN")
            self.row(key)  # from here on it reads its snapshot
        else:
            self.db.execute(f"SAVEPOINT s{len(self.blocks)}")
            block = self.cache.transaction()
            block.__enter__()
            self.blocks.append(block)

    def end(self, well):
        if not self.blocks:
            return
        inner = len(self.blocks) > 1
        try:
            if inner:
                if not well:
                    self.db.execute(f"ROLLBACK TO s{len(self.blocks) - 1}")
                self.db.execute(f"RELEASE s{len(self.blocks) - 1}")
            else:
                self.db.execute("COMMIT" if well else "ROLLBACK")
        except sqlite3.OperationalError:
            self.db.execute("ROLLBACK")
            while self.blocks:
                self.blocks.pop().__exit__(KeyError, None, None)
            return
        self.blocks.pop().__exit__(None if well else KeyError, None, None)

    def commit(self, key, value):
        self.end(True)

    def rollback(self, key, value):
        self.end(False)

    def write(self, key, value):
        try:
            self.db.execute("UPDATE row SET value = ? WHERE key = ?", (value, key))
        except sqlite3.OperationalError:  # another writes, or the snapshot is too old
            return
        self.cache.invalidate(f"row:{key}")

    def read(self, key, value):
        self.world["actor"] = self
        found = self.world["cached"](key)
        if self.blocks:
            held = self.blocks[-1].holds([f"row:{key}"])
            assert not held or found == self.row(key), "it sees its own writes"
        else:
            assert found == self.row(key), "outside of a transaction, what was committed last"


STEPS = ["begin", "begin", "write", "write", "read", "read", "read", "commit", "commit", "rollback"]


@pytest.mark.slow
def test_against_a_database(tmp_path):
    """Three connections, any order: outside of transactions, no cached read differs from the database."""
    dbs = [sqlite3.connect(tmp_path / "rows", isolation_level=None, timeout=0) for _ in range(3)]
    dbs[0].execute("PRAGMA journal_mode = WAL")
    dbs[0].execute("CREATE TABLE row (key INTEGER PRIMARY KEY, value INTEGER)")
    dbs[0].executemany("INSERT INTO row VALUES (?, 0)", [(key,) for key in range(2)])
    for db in dbs:
        db.execute("PRAGMA synchronous = OFF")
    world, stored = {}, 0
    for seed in range(7000):
        chance = random.Random(seed)
        with Cache() as cache:
            world["cached"] = cache.cacheable(deps=lambda key: [f"row:{key}"])(lambda key: world["actor"].row(key))
            actors = [Actor(db, cache, world) for db in dbs]
            try:
                for number in range(28):
                    actor = chance.choice(actors)
                    actor.step(chance.choice(STEPS), chance.randrange(2), 28 * seed + number)
                for actor in actors:
                    while actor.blocks:
                        actor.step("commit", 0, 0)
                    for key in range(2):
                        actor.step("read", key, 0)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error
            stored += cache.stats().hits
    assert stored > 50_000
    for db in dbs:
        db.close()


# ---- holds -------------------------------------------------------------------------------------------


def test_what_a_block_holds_is_stored_by_nobody_until_its_end():
    with Cache() as cache:
        rows = Rows(cache)
        rows.read(1)
        entered = cache.transaction(hold=60)
        context = contextvars.Context()
        context.run(entered.__enter__)
        context.run(cache.invalidate, "row:1")
        context.run(cache.invalidate, "row:1:x")  # is below it
        assert cache.core.holds.value == 1
        rows.calls.clear()
        rows.read(1), rows.read(1), rows.read(2), rows.read(2)
        assert rows.calls == [1, 1, 2]
        cache.set("k", 1, deps=["row:1"])
        assert cache.get("k") is None
        context.run(entered.__exit__, None, None, None)
        assert cache.core.holds.value == 0
        rows.calls.clear()
        rows.read(1), rows.read(1)
        assert rows.calls == [1]
        with pytest.raises(KeyError), cache.transaction(hold=60):
            cache.invalidate("row:1")
            raise KeyError
        assert cache.core.holds.value == 0


@pytest.mark.parametrize("inner", [0, 60])
def test_a_savepoint_is_held_until_the_commit(inner):
    with Cache() as cache:
        with cache.transaction(hold=60):
            with cache.transaction(hold=inner):
                cache.invalidate("row:1")
            assert cache.stats().holds == 1, "it is not committed yet"
            with pytest.raises(KeyError), cache.transaction(hold=inner):
                cache.invalidate("row:1:x", "row:2")
                assert cache.stats().holds == 2
                raise KeyError
            assert cache.stats().holds == 1
        assert cache.stats().holds == 0
        with cache.transaction():
            with cache.transaction(hold=60):
                cache.invalidate("row:1")
            assert cache.stats().holds == 1
        assert cache.stats().holds == 0


@pytest.mark.parametrize("bad", [-1, 4000, 1e-6, "1", None])
def test_a_hold_that_is_none(bad):
    with Cache() as cache, pytest.raises((TypeError, ValueError), match="hold"):
        cache.transaction(hold=bad)


async def test_a_block_of_async_with_holds():
    with Cache() as cache:
        async with cache.transaction(hold=60):
            cache.invalidate("row:1")
            assert cache.core.holds.value == 1
        assert cache.core.holds.value == 0
        with pytest.raises(KeyError):
            async with cache.transaction(hold=60):
                cache.invalidate("row:1")
                raise KeyError
        assert cache.core.holds.value == 0
