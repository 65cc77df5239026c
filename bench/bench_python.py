#!/usr/bin/env python3
"""Times the Python package beside functools.lru_cache and whatever of cachebox, moka_py and cachetools is installed.

    python bench/bench_python.py [--rounds 15] [--entries 200000] [--json FILE]

Each figure is the median of batches that take turns with lru_cache's, so that a busy machine slows both;
"x lru" is the median of the ratios within a turn. What has a storage is also timed beside a hit of memory alone.
"""

import argparse
import asyncio
import functools
import gc
import importlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time

perf = time.perf_counter


def batch(f, n):
    gc.disable()
    start = perf()
    for _ in itertools.repeat(None, n):
        f(1)
    spent = perf() - start
    gc.enable()
    return spent / n * 1e9


lru = functools.lru_cache(maxsize=None)(lambda x: x)


def against(other, measure, rounds):
    other(1), other(1)
    times, ratios = [], []
    for _ in range(rounds):
        unit = batch(other, 20_000)
        times.append(measure())
        ratios.append(times[-1] / unit)
    return statistics.median(times), statistics.median(ratios), max(times) / min(times)


def decorators():
    import zoocache

    zoocache.configure(default_ttl=600)
    found = {
        "zoocache, 1 dependency, ttl and tti": zoocache.cacheable(deps=["bench:all"], ttl=600, tti=300),
        "zoocache, no dependency": zoocache.cacheable,
    }
    for name, make in (
        ("cachebox", lambda m: m.cached(m.LRUCache(10_000))),
        ("moka_py", lambda m: m.cached(maxsize=10_000)),
        ("cachetools", lambda m: m.cached(m.LRUCache(10_000), lock=threading.Lock())),
    ):
        try:
            found[name] = make(importlib.import_module(name))
        except ImportError:
            pass
    return found


def await_batch(loop, f, n):
    async def run():
        gc.disable()
        start = perf()
        for _ in itertools.repeat(None, n):
            await f(1)
        spent = perf() - start
        gc.enable()
        return spent / n * 1e9

    return loop.run_until_complete(run())


def storm(call, rate):
    """Runs call() while another thread invalidates unrelated tags, so many times a second."""
    import zoocache

    stop = threading.Event()
    done = [0]

    def work():
        start = perf()
        while not stop.is_set():
            while done[0] < (perf() - start) * rate:
                zoocache.invalidate(f"storm:{done[0] % 1000}")
                done[0] += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=work)
    start = perf()
    thread.start()
    result = call()
    stop.set()
    thread.join()
    return result, done[0] / (perf() - start)


def rss():
    with open("/proc/self/statm") as fh:
        return int(fh.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def frames(say):
    """A DataFrame of a million rows and five columns, to LMDB and back, by Arrow and by pickle in turn."""
    import tempfile

    import numpy as np
    import pandas as pd

    import zoocache

    rng = np.random.default_rng(1)
    frame = pd.DataFrame({name: rng.random(1_000_000) for name in "abcde"})
    best = {}
    with tempfile.TemporaryDirectory() as home:
        for name in ("arrow", "pickle") * 4:
            with zoocache.Cache(storage_url=f"lmdb://{home}", lmdb_map_size=2**31, serializer=name) as cache:
                start = perf()
                cache.set("frame", frame)
                put = perf()
            with zoocache.Cache(storage_url=f"lmdb://{home}", lmdb_map_size=2**31, serializer=name) as cache:
                again = perf()
                assert cache.get("frame") is not None
                spent = put - start, perf() - again
                best[name] = min(best.get(name, spent), spent, key=sum)
    for name, (put, get) in best.items():
        say(f"{name}: a DataFrame of {frame.memory_usage().sum() / 1e6:.0f} MB to LMDB", put * 1e3, unit="ms")
        say(f"{name}: and back", get * 1e3, unit="ms")


def storages(say, rounds):
    """Hits over LMDB, and over a redis-server and a memcached of its own: from memory, and asked of the storage."""
    import shutil
    import socket
    import tempfile

    import zoocache
    from zoocache import _ffi

    value = "x" * 1024
    directory = tempfile.mkdtemp()
    places = {"lmdb": f"lmdb://{directory}/lmdb"} if _ffi.parts()["lmdb"] else {}
    servers = []

    def serve(name, *command):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        servers.append(subprocess.Popen([*command, str(port)], **quiet))
        time.sleep(0.5)
        places[name] = f"{name}://127.0.0.1:{port}"
        return "127.0.0.1", port

    if _ffi.parts()["redis"] and shutil.which("redis-server"):
        serve("redis", "redis-server", "--save", "", "--dir", directory, "--port")
    raw = None
    if shutil.which("memcached") and importlib.util.find_spec("pymemcache"):
        from pymemcache.client.base import Client

        raw = Client(serve("memcached", "memcached", "-l", "127.0.0.1", "-u", "nobody", "-p"), no_delay=True)
        raw.set("1", value, noreply=False)
    try:
        for name, url in places.items():
            def cached(cache):
                hit = cache.cacheable(namespace="bench", deps=["bench:all"])(lambda x: value)
                for x in range(1000):
                    hit(x)
                return hit

            with zoocache.Cache(storage_url=url) as cache:
                cached(cache)
            with zoocache.Cache(storage_url=url) as cache:  # as another process: the library's own table has nothing
                hit = cached(cache)
                entries = cache.tables()[1].entries
                alone = zoocache.cacheable(namespace="bench", deps=["bench:all"])(lambda x: value)
                say(f"hit, 1 KiB: {name}", *against(lru, lambda: batch(hit, 5000), rounds))
                say(f"hit, 1 KiB: {name}", *against(alone, lambda: batch(hit, 5000), rounds), beside="memory alone")

                def asked(x, numbers=itertools.cycle(range(1000))):
                    entries.clear()
                    hit(next(numbers))

                say(f"hit, 1 KiB: {name}, not in memory", *against(lru, lambda: batch(asked, 1000), rounds))
                if name == "memcached":
                    get = lambda x: raw.get("1")  # noqa: E731
                    name = "hit, 1 KiB: memcached, not in memory"
                    say(name, *against(get, lambda: batch(asked, 1000), rounds), beside="pymemcache's get")
    finally:
        if raw is not None:
            raw.close()
        for server in servers:
            server.terminate()
            server.wait()
        shutil.rmtree(directory)


def coroutines(say, rounds):
    """What 100 coroutines read from a storage that is 1 ms away, by one connection and by 8."""
    import zoocache
    from zoocache.storage import Storage

    class Far(Storage):
        def __init__(self):
            self.records = {}

        def get(self, key):
            time.sleep(0.001)
            return self.records.get(key)

        def put(self, key, record, expires):
            self.records[key] = record

        def delete(self, key):
            self.records.pop(key, None)

        def clear(self):
            self.records.clear()

    async def each(hit, numbers):
        for x in numbers:
            await hit(x)

    async def gather(hit, numbers):
        await asyncio.gather(*[each(hit, numbers[i::100]) for i in range(100)])

    async def load(x):
        return "x" * 1024

    async def measured():
        caches = [zoocache.Cache(storage=Far(), connections=count) for count in (1, 8)]
        hits = [cache.cacheable(namespace="bench")(load) for cache in caches]
        for hit in hits:
            await gather(hit, range(1000))
        rates = []
        for _ in range(rounds):
            for cache, hit in zip(caches, hits):
                cache.tables()[1].entries.clear()
                start = perf()
                await gather(hit, range(1000))
                rates.append(1000 / (perf() - start))
        for cache in caches:
            cache.close()
        one, eight = rates[::2], rates[1::2]
        ratio = statistics.median(b / a for a, b in zip(one, eight))
        say("100 coroutines, storage 1 ms away: 1 connection", statistics.median(one), unit="reads a second")
        spread = max(eight) / min(eight)
        name = "100 coroutines, storage 1 ms away: 8 connections"
        say(name, statistics.median(eight), ratio, spread, "reads a second", "1 connection")

    asyncio.run(measured())


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--entries", type=int, default=200_000)
    arguments.add_argument("--json")
    options = arguments.parse_args()
    rounds = options.rounds
    import zoocache

    print(
        f"python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs; zoocache {zoocache.version()}"
    )
    results = {}

    def say(name, value, ratio=None, spread=None, unit="ns", beside="lru"):
        results.setdefault(name, {}).update({"value": value, f"x_{beside}": ratio, "spread": spread, "unit": unit})
        more = f"   {ratio:6.2f} x {beside}   max/min {spread:.2f}" if ratio is not None else ""
        print(f"{name:58} {value:10.1f} {unit}{more}", flush=True)

    gc.collect()
    before = rss()
    keep = zoocache.cacheable(deps=lambda i: [f"mem:{i}"])(lambda i: b"%016d" % i)
    for i in range(options.entries):
        keep(i)
    gc.collect()
    say(f"memory an entry, {options.entries:,} with a tag each", (rss() - before) / options.entries, unit="bytes")
    del keep
    zoocache.reset()

    for name, decorate in decorators().items():
        hit = decorate(lambda x: x)
        hit(1), hit(1)
        say(f"hit: {name}", *against(lru, lambda: batch(hit, 20_000), rounds))
    hit = zoocache.cacheable(deps=["bench:all"], ttl=600, tti=300)(lambda x: x)
    hit(1), hit(1)
    (figures, rate) = storm(lambda: against(lru, lambda: batch(hit, 200_000), rounds), 10_000)
    say(f"hit: beside {rate:,.0f} invalidations a second", *figures)

    @zoocache.cacheable(deps=["bench:all"], ttl=600, tti=300)
    async def ahit(x):
        return x

    loop = asyncio.new_event_loop()
    await_batch(loop, ahit, 2)
    say("await of a hit", *against(lru, lambda: await_batch(loop, ahit, 20_000), rounds))
    loop.close()

    numbers = itertools.count()
    fill = zoocache.cacheable(deps=["bench:all"])(lambda x: x)
    say("miss and fill, 1 dependency", *against(lru, lambda: batch(lambda _: fill(next(numbers)), 4000), rounds))
    tagged = zoocache.cacheable(deps=lambda x: [f"item:{x}"])(lambda x: x)
    say("miss and fill, a tag of its own", *against(lru, lambda: batch(lambda _: tagged(next(numbers)), 4000), rounds))
    zoocache.clear()

    for count in (1000, 100_000, 1_000_000):
        for i in range(count):
            zoocache.set(f"k{i}", 1, deps=["dependants"])
        start = perf()
        zoocache.invalidate("dependants")
        first = (perf() - start) * 1e9
        again = statistics.median(batch(lambda _: zoocache.invalidate("dependants"), 1000) for _ in range(rounds))
        say(f"invalidate, {count:,} dependants: first", first)
        say(f"invalidate, {count:,} dependants: again", again)
        zoocache.clear()

    storages(say, rounds)
    coroutines(say, min(rounds, 5))
    try:
        frames(say)
    except ImportError:
        print("no pandas, or no pyarrow: DataFrames are left out")

    def hammer(count):
        stop, totals = threading.Event(), [0] * count

        def work(i):
            done = 0
            while not stop.is_set():
                for _ in range(500):
                    hit(1)
                done += 500
            totals[i] = done

        threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
        start = perf()
        for t in threads:
            t.start()
        time.sleep(0.5)
        stop.set()
        for t in threads:
            t.join()
        return sum(totals) / (perf() - start) / 1e6

    for count in (1, 8):
        say(f"{count} threads on one key", hammer(count), unit="million calls a second")

    code = "import time; t = time.perf_counter(); import zoocache; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(9)
    ]
    say("import", statistics.median(runs) * 1e3, unit="ms")
    if options.json:
        with open(options.json, "w") as fh:
            json.dump(results, fh, indent=1)


if __name__ == "__main__":
    main()
