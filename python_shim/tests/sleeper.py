"""A node that test_shared stops and lets go on: its threads call what is cached without a pause.

    sleeper.py URL PREFIX BOUND FILE KIND

FILE holds three numbers: what is to be cached, and of the last value that was invalidated: the one that has
taken its place, and when the log had the invalidation. A call that began more than BOUND after that, and has
given an older value, is printed. All threads have one processor, and those of the library wait longest for it.
"""

import asyncio
import mmap
import os
import struct
import sys
import threading
import time

from zoocache import BusSilent, Cache

_, url, prefix, bound, path, kind = sys.argv
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 24)
cache = Cache(storage_url=url, prefix=prefix or None, max_staleness=float(bound))
ended = threading.Event()


def truth():
    return struct.unpack_from("d", memory)[0]


def judge(began, value):
    least, since = struct.unpack_from("dd", memory, 8)
    if value is not None and value < least and began > since + float(bound):
        os.write(1, f"{value} instead of {least}, {began - since:.4f} s late\n".encode())


def spin(call):
    while not ended.is_set():
        began = time.monotonic()
        try:
            judge(began, call())
        except BusSilent:
            pass


async def aspin(call):
    while not ended.is_set():
        began = time.monotonic()
        judge(began, await call())
        if began % 1 < 0.1:
            await asyncio.sleep(0)


async def acall():
    return truth()


options = {"deps": ["n"], "silence": kind} if kind in ("serve", "error") else {"deps": ["n"]}
if kind == "async":
    work = [threading.Thread(target=lambda: asyncio.run(aspin(cache.cacheable(**options)(acall)))) for _ in range(3)]
else:
    calls = {"key": lambda: cache.get("k"), "many": lambda: cache.get_many(["k"]).get("k")}
    call = calls.get(kind) or cache.cacheable(**options)(truth)
    work = [threading.Thread(target=spin, args=(call,)) for _ in range(3)]
for thread in work:
    thread.start()
mine = {threading.main_thread().native_id, *(thread.native_id for thread in work)}
for line in sys.stdin:
    if kind in ("key", "many"):
        cache.set("k", truth(), ["n"])
    for task in map(int, os.listdir("/proc/self/task")):
        if task not in mine:
            os.setpriority(os.PRIO_PROCESS, task, 19)
    os.write(1, b"ready\n")
patience = time.monotonic() + 60
while cache.stats().hits <= 100 and time.monotonic() < patience:  # on a busy machine the library comes late to its turn
    time.sleep(0.01)
ended.set()
for thread in work:
    thread.join()
print("hits", cache.stats().hits)
cache.close()
