"""Processes that are killed at a random point round their commits, while another one reads.

    python holders.py [--runs 500] [--seed N]

Half of them share an LMDB directory with the reader, half a Redis server. Each has a counter in a database of its own,
which it changes in transactions with a hold, one after the other, until it gets a SIGKILL at a random moment. Of every
value that the reader is served is checked that it reflects each commit that was there max_staleness before; and when
the leases of all who have died are over, that it is what the database has. test_holders.py plays a part of it.
"""

import argparse
import os
import pathlib
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import deque

LEASE = 1.5
STALENESS = 0.5
ROUND = 25  # holders at once


def cache_at(url):
    from zoocache import Cache

    while True:
        cache = Cache(storage_url=url, max_staleness=STALENESS)
        if not cache.lost:
            return cache
        cache.close()  # a busy machine


def database(path):
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.execute("PRAGMA synchronous = OFF")  # a process dies, not the machine
    return db


def hold(url, path, row, ready):
    """A holder: commits for as long as it lives."""
    cache = cache_at(url)
    db = database(path)
    os.write(ready, b".")
    while True:
        began = time.monotonic()
        with cache.transaction(hold=LEASE) as block:
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE t SET v = v + 1")
            cache.invalidate(f"row:{row}")
            in_time = time.monotonic() - began < LEASE / 3
            db.execute("COMMIT" if block.announced and in_time else "ROLLBACK")  # what is not held has no promise


def kill(url, directory, count, chance):
    """Forks so many, and kills each at a random moment; a holder begins where the warmed parent is."""
    import zoocache.contrib  # noqa: F401  # what a holder needs is imported once
    import zoocache.transactions  # noqa: F401

    began, ready = os.pipe()
    holders = []
    for row in range(count):
        holder = os.fork()
        if holder == 0:
            try:
                hold(url, str(directory / str(row)), row, ready)
            finally:
                os._exit(1)
        holders.append(holder)
    for _ in holders:
        os.read(began, 1)
    for holder in chance.sample(holders, count):
        time.sleep(chance.uniform(0, 0.02))
        os.kill(holder, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(holder, 0)[1]) == -signal.SIGKILL, "it has ended by itself"


class Reader:
    """Another process, which reads the counters through its cache; `served` and `died` count."""

    def __init__(self, url, directory):
        self.url, self.directory = url, pathlib.Path(directory)
        self.served = self.died = self.commits = 0

    def round(self, count, seed):
        """So many holders die; fails if a value was served that it may not be."""
        paths = [self.directory / str(row) for row in range(count)]
        for path in paths:
            path.unlink(missing_ok=True)
            db = database(path)
            db.execute("CREATE TABLE t (v)")
            db.execute("INSERT INTO t VALUES (0)")
            db.close()
        dbs = [database(path) for path in paths]
        truths = [deque([(0.0, 0)]) for _ in dbs]  # when which was there; but the first, those of the last moments
        command = [sys.executable, __file__, "--holders", self.url, str(self.directory), str(count), str(seed)]
        with cache_at(self.url) as cache:

            @cache.cacheable(deps=lambda row: [f"row:{row}"], namespace=f"round-{seed}")
            def read(row):
                return dbs[row].execute("SELECT v FROM t").fetchone()[0]

            def check(row):
                known, before = truths[row], time.monotonic() - STALENESS
                value = read(row)
                while len(known) > 1 and known[1][0] < before:
                    known.popleft()
                floor = known[0][1]
                assert value >= floor, f"row {row} is {value}, although {floor} was committed {STALENESS} s before"
                truth = dbs[row].execute("SELECT v FROM t").fetchone()[0]
                known.append((time.monotonic(), truth))
                self.served += 1

            killer = subprocess.Popen(command)
            ended = None
            try:
                while ended is None or time.monotonic() < ended + LEASE + STALENESS:
                    if ended is None and killer.poll() is not None:
                        ended = time.monotonic()
                    for row in range(count):
                        check(row)
            finally:
                assert killer.wait() == 0
            while cache.core.holds.value:  # this process was busy
                cache.core.poll()
            for row, db in enumerate(dbs):
                truth = db.execute("SELECT v FROM t").fetchone()[0]
                assert read(row) == truth, f"row {row} is {read(row)} for ever, and {truth} in the database"
                self.commits += truth
                db.close()
        self.died += count


def play(runs, url, directory, chance):
    reader = Reader(url, directory)
    while reader.died < runs:
        reader.round(min(ROUND, runs - reader.died), chance.getrandbits(40))
    return reader


def main():
    if sys.argv[1:2] == ["--holders"]:
        url, directory, count, seed = sys.argv[2:]
        kill(url, pathlib.Path(directory), int(count), random.Random(int(seed)))
        return
    from servers import Redis

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.getrandbits(40))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as directory:
        redis = Redis(directory)
        try:
            for name, url in [("LMDB", f"lmdb://{directory}/place"), ("Redis", redis.url)]:
                found = play(given.runs // 2, url, directory, chance)
                print(f"{name}: {found.died} killed, {found.commits} commits, {found.served} reads", flush=True)
        finally:
            redis.stop()
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
