"""Calls of the storage beside event loops: side by side, those of one key in order."""

import asyncio
import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from shelf import Shelf, evict

from zoocache import Cache
from zoocache._lanes import Lanes

ROOT = Path(__file__).resolve().parents[1]


class Gate(Shelf):
    """Lets nobody out, of what is told, before so many are in."""

    def __init__(self, parties):
        super().__init__()
        self.barrier = threading.Barrier(parties)
        self.closed = False

    def get(self, key):
        if not self.closed and key:
            self.barrier.wait()
        return super().get(key)


@pytest.mark.parametrize(("connections", "parties"), [(0, 8), (3, 3)])
async def test_reads_are_side_by_side(connections, parties):
    gate = Gate(parties)
    with Cache(storage=gate, connections=connections) as cache:

        @cache.cacheable(namespace="n")
        async def f(x):
            return x

        assert await asyncio.gather(*map(f, range(4 * parties))) == list(range(4 * parties))
        evict(cache)
        assert await asyncio.gather(*[cache.get_async(f"{x}") for x in range(parties)]) == [None] * parties
        gate.closed = True


class Slow:
    """A serializer that is as slow as it is told."""

    name = "slow"

    def __init__(self):
        self.inside, self.go = threading.Event(), threading.Event()

    def dumps(self, value):
        self.inside.set()
        assert self.go.wait(60)
        return repr(value).encode()

    def loads(self, data):
        return int(bytes(data))

    async def cancelled(self, work):
        """Cancels it while it writes."""
        task = asyncio.create_task(work)
        while not self.inside.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_was_cancelled_while_it_was_written_is_written_before_it_is_deleted():
    slow, shelf = Slow(), Shelf()
    with Cache(storage=shelf, serializer=slow) as cache:
        await slow.cancelled(cache.set_async("k", 1))
        deleted = asyncio.create_task(cache.delete_async("k"))
        assert await cache.get_async("another") is None, "who has another key does not wait"
        slow.go.set()
        await deleted
        assert shelf.records == {}


@pytest.mark.parametrize("kind", ["one", "many"])
async def test_what_was_cancelled_while_it_was_written_is_written_before_it_is_read(kind):
    slow = Slow()
    calls = []
    with Cache(storage=Shelf(), serializer=slow) as cache:

        @cache.cacheable(namespace="n")
        async def one(x):
            calls.append(x)
            return x

        @cache.cacheable.many(namespace="m")
        async def many(keys):
            calls.extend(keys)
            return {key: key for key in keys}

        if kind == "many":
            slow.go.set()
            assert await many([0]) == {0: 0}  # what it returns is known from here on
            slow.go.clear()
            slow.inside.clear()
            calls.clear()
        await slow.cancelled(one(1) if kind == "one" else many([1, 2]))
        evict(cache)
        again = asyncio.create_task(one(1) if kind == "one" else many([1]))
        assert await cache.get_async("another") is None
        slow.go.set()
        assert await again in (1, {1: 1})
        assert calls == ([1] if kind == "one" else [1, 2])


def test_random_calls_are_in_the_order_in_which_they_were_given_by_key():
    dice = random.Random(5)
    lanes = Lanes(8)
    seen = {key: [] for key in range(6)}
    inside = set()  # keys
    given = {key: [] for key in seen}
    cancelled = set()
    futures = []

    def work(n, keys):
        assert not inside & set(keys), "one of its keys is in use"
        inside.update(keys)
        for key in keys:
            seen[key].append(n)
        time.sleep(dice.choice([0, 1e-5]))
        inside.difference_update(keys)
        if n % 7 == 0:
            raise KeyError(n)

    for n in range(3000):
        keys = dice.sample(range(6), dice.randrange(4))
        for key in keys:
            given[key].append(n)
        futures.append(lanes.give(keys, lambda n=n, keys=keys: work(n, keys)))
        if dice.random() < 0.1 and futures[dice.randrange(len(futures))].cancel():
            cancelled.update(k for k, each in enumerate(futures) if each.cancelled())
    lanes.close()
    assert all(future.done() for future in futures)
    for n, future in enumerate(futures):
        if not future.cancelled():
            assert type(future.exception()) is (KeyError if n % 7 == 0 else type(None))
    for key, order in seen.items():
        assert order == [n for n in given[key] if n not in cancelled]
    assert not lanes._last and not lanes._ready and not lanes._given


def test_a_loop_that_is_closed_and_the_next():
    """What was asked in a loop that is over keeps nobody of the next waiting."""
    slow = Slow()
    with Cache(storage=Shelf(), connections=1, serializer=slow) as cache:

        @cache.cacheable(namespace="n")
        async def f(x):
            return x

        async def first():
            tasks = [asyncio.create_task(f(x)) for x in range(5)]
            while not slow.inside.is_set():
                await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()

        async def second():
            return await asyncio.gather(*[f(x) for x in range(5)])

        asyncio.run(first())
        slow.go.set()
        assert asyncio.run(second()) == list(range(5))
        assert cache.stats().flights == 0


def test_at_the_end_of_the_process_what_was_given_is_done():
    text = textwrap.dedent(
        """
        import asyncio, atexit, zoocache
        from zoocache.storage import Storage

        class Shelf(Storage):
            records = {}
            def get(self, key): return self.records.get(key)
            def put(self, key, record, expires): self.records[key] = record
            def delete(self, key): pass
            def clear(self): pass

        cache = zoocache.Cache(storage=Shelf())

        @cache.cacheable(namespace="n")
        async def f(x):
            return x

        @atexit.register
        def late():
            print(asyncio.run(f(1)), len(Shelf.records), flush=True)

        async def main():
            return await asyncio.gather(*[f(x) for x in range(100, 120)])

        print(sum(asyncio.run(main())), len(Shelf.records), flush=True)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["2190", "20", "1", "21"], "")
