#!/usr/bin/env python3
"""Times a hit in Memcached beside pymemcache by itself, whose PooledClient is for several threads, as a hit is.

    python bench/bench_memcached.py HOST:PORT [--size 1024] [--rounds 300]

Each figure is the least of batches that take turns, so that a busy machine is no part of it. What is timed is what a
process does that has not got the value: the function is called, its memory is empty, the server has it.
"""

import argparse
import gc
import time

from pymemcache.client.base import Client, PooledClient

from zoocache import Cache
from zoocache.storages.memcached import MemcachedStorage

perf = time.perf_counter
KEYS = 100


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("server")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    value = b"v" * options.size
    client = Client(options.server, no_delay=True, default_noreply=False)
    pooled = PooledClient(options.server, no_delay=True, default_noreply=False)
    names = [f"bench-{n}" for n in range(KEYS)]
    for name in names:
        client.set(name, value)
    with Cache(storage=MemcachedStorage(options.server), prefix="bench", max_staleness=10) as cache:
        load = cache.cacheable(namespace="bench", compression=False)(lambda n: value)
        for n in range(KEYS):
            load(n)
        (table,) = (table for table in cache.tables() if table.entries)

        def raw():
            for name in names:
                client.get(name)

        def shared():
            for name in names:
                pooled.get(name)

        def hits():
            for n in range(KEYS):
                load(n)

        least = dict.fromkeys(("Client.get", "PooledClient.get", "hit in Memcached"), float("inf"))
        for _ in range(options.rounds):
            for name, work in zip(least, (raw, shared, hits)):
                table.entries.clear()
                gc.disable()
                start = perf()
                work()
                least[name] = min(least[name], (perf() - start) / KEYS * 1e6)
                gc.enable()
        stats = cache.stats()
        assert stats.storage_errors == 0
        assert stats.hits_storage > options.rounds * KEYS * 0.9, "a machine that stalls has the bus silent"
    base = least["Client.get"]
    for name, us in least.items():
        print(f"{name:20} {us:6.1f} us  {us / base:5.2f} x")
    client.close()
    pooled.close()


main()
