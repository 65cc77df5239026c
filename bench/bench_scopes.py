#!/usr/bin/env python3
"""Times scopes: a hit in one beside a hit without, and evict_scope() over many entries.

    python bench/bench_scopes.py [--entries 1000000] [--rounds 40]

Each figure is the least of batches that take turns, so that a busy machine is no part of it.
"""

import argparse
import gc

from bench_python import batch, perf
from zoocache import Cache, Scope


def functions(cache):
    def plain(x):
        return x

    def two(user_id, org_id=5):
        return user_id

    return {
        "without a scope": cache.cacheable(plain),
        "org, of the context": cache.cacheable(scope="org")(plain),
        "org and user, of the context": cache.cacheable(scope="user")(plain),
        "two arguments, without a scope": cache.cacheable(two),
        "org and user, of the arguments": cache.cacheable(scope="user")(two),
    }


def hits(cache, rounds):
    timed = functions(cache)
    least = dict.fromkeys(timed, float("inf"))
    with cache.scope(org_id="acme", user_id="7"):
        for _ in range(rounds):
            for name, f in timed.items():
                least[name] = min(least[name], batch(f, 20_000))
    base = list(least.values())
    for (name, ns), other in zip(least.items(), [base[0]] * 3 + [base[3]] * 2):
        print(f"hit, {name:34} {ns:7.1f} ns  {ns / other:5.2f} x")


def evictions(cache, entries):
    for n in range(entries):
        cache.set("theme", "dark", scope="user", org_id=n // 10, user_id=n)
    gc.collect()
    gc.disable()
    times = []
    for n in range(0, entries, max(10, entries // 20_000)):
        start = perf()
        cache.evict_scope("user", org_id=n // 10, user_id=n)
        times.append(perf() - start)
    gc.enable()
    times.sort()
    least, median = times[0] * 1e6, times[len(times) // 2] * 1e6
    print(f"evict_scope, one of {entries} entries: {least:.2f} us at least, {median:.2f} us in the middle")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    with Cache(scopes=Scope("org", "org_id", Scope("user", "user_id"))) as cache:
        hits(cache, options.rounds)
        evictions(cache, options.entries)


main()
