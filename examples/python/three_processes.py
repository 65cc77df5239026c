"""Three processes, and nothing between them but a memcached, which this program starts.

    python examples/python/three_processes.py [SECONDS]

Each serves prices out of its memory, and changes one now and then. The truth is a file. A price that is served must not
be older than half a second, whatever happens to the memcached: it is flushed, stopped, and killed.

Prints what each has done, and how many prices were too old:
"""
#   ...
#   too old: 0

import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

from zoocache import BusSilent, Cache

BOUND = 0.5  # seconds
PRODUCTS = range(8)


def read(path):
    """Versions by product, and when each was acknowledged."""
    with open(path) as file:
        return json.load(file)


def write(path, what):
    with open(f"{path}.{os.getpid()}", "w") as file:
        json.dump(what, file)
    os.rename(file.name, path)


def node(url, directory, number, until, results):
    """Reads each price, and changes those that are its own."""
    computed = served = old = failed = 0
    logging.getLogger("zoocache").setLevel(logging.CRITICAL)  # it would say what becomes of the memcached
    with Cache(storage_url=url, prefix="demo", max_staleness=BOUND, ack="durable") as cache:

        @cache.cacheable(deps=lambda product: [f"product:{product}"])
        def price(product):
            nonlocal computed
            computed += 1
            return read(f"{directory}/{product}")[-1][1]

        while time.time() < until:
            product = random.choice(PRODUCTS)
            began = time.time()
            value = price(product)
            served += 1
            history = read(f"{directory}/{product}")
            known = max([version for at, version in history if at and at < began - BOUND], default=0)
            old += value < known
            if product % 3 == number and random.random() < 0.02:
                history.append([None, history[-1][1] + 1])
                write(f"{directory}/{product}", history)
                try:
                    cache.invalidate(f"product:{product}")
                    history[-1][0] = time.time()
                    write(f"{directory}/{product}", history)
                except BusSilent:  # it was not acknowledged; it is sent when the memcached is there again
                    failed += 1
        stats = cache.stats()
    results.put((number, served, computed, stats.hits_storage, stats.bus_breaks, failed, old))


def start(port):
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    return subprocess.Popen(["memcached", "-l", "127.0.0.1", "-p", str(port), *user])


def main(seconds):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory = tempfile.mkdtemp(prefix="zoocache-demo-")
    for product in PRODUCTS:
        write(f"{directory}/{product}", [[time.time(), 1]])
    server = start(port)
    results, until = multiprocessing.Queue(), time.time() + seconds
    arguments = (f"memcached://127.0.0.1:{port}", directory)
    nodes = [multiprocessing.Process(target=node, args=(*arguments, n, until, results)) for n in range(3)]
    for each in nodes:
        each.start()
    while time.time() < until - seconds / 4:
        time.sleep(seconds / 8)
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(b"flush_all\r\n")
        time.sleep(seconds / 16)
        server.send_signal(signal.SIGSTOP)
        time.sleep(BOUND * 1.5)
        server.send_signal(signal.SIGCONT)
        time.sleep(seconds / 16)
        server.kill()
        server.wait()
        server = start(port)
    total = 0
    for number, served, computed, found, breaks, failed, old in sorted(results.get() for _ in nodes):
        print(f"process {number}: {served} prices, {computed} computed, {found} from memcached, {breaks} breaks,"
              f" {failed} changes not acknowledged at once")  # fmt: skip
        total += old
    for each in nodes:
        each.join()
    server.kill()
    server.wait()
    print(f"too old: {total}")
    return total


if __name__ == "__main__":
    sys.exit(1 if main(float(sys.argv[1]) if len(sys.argv) > 1 else 8.0) else 0)
