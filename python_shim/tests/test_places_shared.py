"""Caches that share a place: what one invalidates the others hear, whatever becomes of the place."""

import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from servers import Memcached, until
from shelf import Shelf
from test_interrupts import sweep
from test_places import apache, aws, credentials, ferretdb, memcached  # noqa: F401 - fixtures

from zoocache import BusSilent, Cache
from zoocache.seal import new_key
from zoocache.storage import SharedStorage
from zoocache.storages import open_url

DEMO = Path(__file__).resolve().parents[2] / "examples" / "python" / "three_processes.py"
PLACES = ["file", "memcached", "ferretdb", "dynamodb", "apache", "s3"]
TURNS = int(os.environ.get("TURNS", 0))  # of chaos, in its long form (make chaos-places)
CHAOS = ["ferretdb", "apache", *(["dynamodb"] if TURNS else [])]  # moto takes long
SLOW = ("ferretdb", "dynamodb", "apache", "s3")


@pytest.fixture
def url(request, tmp_path):
    """A place of the test's own."""
    name = request.param
    server = None if name == "file" else request.getfixturevalue({"dynamodb": "aws", "s3": "aws"}.get(name, name))
    text = tmp_path.name.replace("_", "-").replace("[", "-").replace("]", "")
    return {
        "file": lambda: f"file://{tmp_path}/files",
        "memcached": lambda: server.url,
        "ferretdb": lambda: f"{server.url}.{text}",
        "dynamodb": lambda: server.table(text),
        "apache": lambda: server.collection(text),
        "s3": lambda: server.bucket(text),
    }[name]()


everywhere = pytest.mark.parametrize(
    "url",
    [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.plain] if name in SLOW else []) for name in PLACES],
    indirect=True,
)


def counted(cache, calls):
    @cache.cacheable(namespace="counted", deps=lambda x: [f"x:{x}"])
    def load(x):
        calls.append(x)
        return len(calls)

    return load


@everywhere
def test_what_one_invalidates_the_others_hear(url):
    options = {"storage_url": url, "prefix": secrets.token_hex(4), "timeout": 5, "max_staleness": 5}
    calls = []
    with Cache(**options) as here, Cache(**options) as there:
        one, two = counted(here, calls), counted(there, calls)
        for cache in (here, there):
            until(lambda cache=cache: cache.health().checks["bus"].status == "ok")
        first = one(1), one(2)
        assert (two(1), two(2)) == first, "the values of another process"
        assert there.stats().hits_storage == 2
        here.invalidate("x:1")
        assert one(1) > first[0]
        until(lambda: two(1) > first[0])
        assert two(2) == first[1]
        there.clear()
        until(lambda: one(2) > first[1])
        assert here.stats().storage_errors == there.stats().storage_errors == 0
        assert here.stats().bus_breaks == there.stats().bus_breaks == 0
        last = one(2)
        here.invalidate("x:1")
    with Cache(**options) as later:
        again = counted(later, calls)
        assert again(2) == last, "it is warm"
        assert again(1) == len(calls), "and what was invalidated is gone"


@pytest.mark.parametrize("url", ["memcached", "file"], indirect=True)
@pytest.mark.plain
def test_a_child_of_a_fork_has_its_own(url):
    code = """
    import os, sys, time
    from zoocache import Cache
    cache = Cache(storage_url=sys.argv[1], prefix=sys.argv[2])
    calls = []
    load = cache.cacheable(namespace="f", deps=["t"])(lambda x: calls.append(x) or os.getpid())
    mine = load(1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        assert load(1) == mine and not calls[1:], "from the storage"
        cache.invalidate("t")
        assert load(1) == os.getpid()
        cache.close()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    end = time.monotonic() + 20
    while load(1) != child:
        assert time.monotonic() < end
        time.sleep(0.01)
    cache.close()
    print("well")
    """
    code = "\n".join(line[4:] for line in code.split("\n"))
    done = subprocess.run([sys.executable, "-c", code, url, secrets.token_hex(4)], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.stdout == "well\n", done.stderr


def test_a_log_that_is_lost_is_a_break(memcached):
    calls = []
    options = {"storage_url": memcached.url, "prefix": secrets.token_hex(4)}
    with Cache(**options) as here, Cache(**options) as there:
        one, two = counted(here, calls), counted(there, calls)
        before = one(1)
        assert two(1) == before
        memcached.ask(b"flush_all", b"OK")
        until(lambda: here.stats().bus_breaks and there.stats().bus_breaks)
        assert one(1) > before, "who knows what was said meanwhile"
        until(lambda: two(1) == one(1))
        here.invalidate("x:1")
        until(lambda: two(1) == one(1) == len(calls))


class Place(Shelf, SharedStorage):
    """A place in memory, which notes what is done."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()
        self.closed = 0

    def read(self, key):
        value = self.records.get(key)
        return value, value or b""

    def swap(self, key, value, token):
        with self.lock:
            won = (self.records.get(key) or b"") == token
            if won:
                self.records[key] = value
            return won

    def close(self):
        self.closed += 1


def test_a_place_is_closed_when_the_last_look_up_is_over():
    class Slow(Place):
        def get(self, key):
            if b".r." in key:
                inside.set()
                assert go_on.wait()
                order.append(f"asked, closed {self.closed} times")
            return super().get(key)

    inside, go_on, order = threading.Event(), threading.Event(), []
    place = Slow()
    cache = Cache(storage=place, prefix="slow")
    load = counted(cache, [])
    asker = threading.Thread(target=load, args=(1,))
    asker.start()
    assert inside.wait()
    cache.close()
    go_on.set()
    asker.join()
    until(lambda: place.closed)
    assert order == ["asked, closed 0 times"]


def test_a_look_up_that_is_interrupted_does_not_keep_a_place_open(monkeypatch):
    def interrupted(caller, key):
        raise KeyboardInterrupt

    place = Place()
    with Cache(storage=place, prefix="interrupted") as cache:
        load = counted(cache, [])
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(type(cache.shared.core.place), "record", interrupted)
            load(1)
        assert load(1) == 1
    until(lambda: place.closed)


def test_values_of_a_place_are_found_however_they_were_stored():
    """Compressed, with more tags than most, and by who has them in the library's own table."""
    place = Place()
    options = {"storage": place, "prefix": "shelf"}
    with Cache(**options) as there, Cache(**options) as here:
        for n, compression in ((1, True), (100, False)):

            def load(x, n=n):
                return "v" * 3000 + str(x)

            given = {
                "namespace": f"n{n}",
                "compression": compression,
                "deps": lambda x, n=n: [f"t:{i}" for i in range(n)],
            }
            loads = [cache.cacheable(**given)(load) for cache in (there, here, there)]
            expected = "v" * 3000 + "1"
            assert [load(1) for load in loads] == [expected] * 3
        assert here.stats().hits_storage == 2
        there.invalidate("t:0")
        until(lambda: here.stats().bus_heard)
        assert loads[1](1) == expected
        assert here.stats().hits_storage == 2, "it was computed anew"
        assert (here.stats().storage_errors, there.stats().storage_errors) == (0, 0)


ANSWERS = [
    (list, 0, 0),
    (lambda found: [None, *found[1:]], 2, 0),
    (lambda found: found[1:], 20, 20),
]  # counted for each key


@pytest.mark.parametrize("answer, misses, errors", ANSWERS)
def test_several_keys_are_asked_for_in_one_step(answer, misses, errors):
    class Several(Place):
        def get_many(self, keys):
            asked.append(len(keys))
            return answer(super().get_many(keys))

    def load(keys):
        loaded.extend(keys)
        return {key: key for key in keys}

    asked, loaded, place = [], [], Several()
    with Cache(storage=place, prefix="several") as there, Cache(storage=place, prefix="several") as here:
        for cache in there, here:
            until(lambda cache=cache: cache.health().checks["bus"].status == "ok")
            many = cache.cacheable.many(namespace="several")(load)
            many([100])  # the first call tells what it returns
            asked.clear(), loaded.clear()
            assert many(range(20)) == {key: key for key in range(20)}
            assert asked == [16, 4]
        assert len(loaded) == misses
        assert here.stats().storage_errors == errors


def test_several_keys_of_a_storage_that_nobody_shares():
    class Several(Shelf):
        def get_many(self, keys):
            asked.append(len(keys))
            return super().get_many(keys)

    asked = []
    with Cache(storage=Several()) as cache:
        many = cache.cacheable.many(namespace="several")(lambda keys: {key: key for key in keys})
        many(range(200))
        for table in cache.tables():
            table.entries.clear()
        asked.clear()
        assert many(range(200)) == {key: key for key in range(200)}
        assert sum(asked) >= 200 - 64, "but for those in the library's own table"
        assert len(asked) <= 13
        assert cache.stats().hits_storage == 200


class Liar(Shelf, SharedStorage):
    """Does not look at tokens."""

    def read(self, key):
        return self.records.get(key), b"1"

    def swap(self, key, value, token):
        self.records[key] = value
        return True


def test_a_place_that_cannot_compare_is_refused():
    with pytest.raises(ValueError, match="of two swaps with one token both win"):
        Cache(storage=Liar())


def test_a_prefix_is_a_part_of_keys(tmp_path):
    for prefix in ("", ".x", "a:b", "a/b", "ä", "x" * 65):
        with pytest.raises(ValueError, match="prefix: of a place"):
            Cache(storage_url=f"file://{tmp_path}/files", prefix=prefix)
    with Cache(storage_url=f"file://{tmp_path}/files", prefix="x" * 64) as cache:
        until(lambda: cache.health().checks["bus"].status == "ok")


@everywhere
def test_one_of_the_fleet_loads(url):
    options = {"storage_url": url, "prefix": secrets.token_hex(4), "timeout": 5, "max_staleness": 2}
    calls, inside, go = [], threading.Event(), threading.Event()

    def work(x):
        calls.append(x)
        inside.set()
        go.wait(60)
        return len(calls)

    with Cache(**options) as here, Cache(**options) as there, ThreadPoolExecutor(2) as pool:
        one, two = (cache.cacheable(work, namespace="f", fleet=True, deps=["t"]) for cache in (here, there))
        for cache in (here, there):
            until(lambda cache=cache: cache.health().checks["bus"].status == "ok")
        first = pool.submit(one, 1)
        assert inside.wait(60)
        second = pool.submit(two, 1)
        until(lambda: there.stats().flights)
        go.set()
        assert (first.result(), second.result()) == (1, 1)
        with here.transaction(hold=60):
            here.invalidate("t")
            until(lambda: two(1) != 1)
            held = two(1)
            assert two(1) > held, "nobody stores it before the end"
        until(lambda: two(1) == two(1) == one(1))


def test_values_of_another_place_are_rolled_back():
    """A replica of the past: the log has positions that were given, with other entries."""

    class Shelf(Liar):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

        def read(self, key):
            with self.lock:
                value = self.records.get(key)
                return value, repr(value).encode()

        def swap(self, key, value, token):
            with self.lock:
                if repr(self.records.get(key)).encode() != token:
                    return False
                self.records[key] = value
                return True

    shelf = Shelf()
    calls = []
    with Cache(storage=shelf, prefix="p") as here, Cache(storage=shelf, prefix="p") as there:
        one, two = counted(here, calls), counted(there, calls)
        here.invalidate("other")
        past = shelf.records[b"p.log"]
        before = one(1)
        here.invalidate("x:1")
        until(lambda: two(1) > before)
        now = one(1)
        shelf.records[b"p.log"] = past
        until(lambda: here.stats().bus_breaks and there.stats().bus_breaks)
        assert one(1) > now
        here.invalidate("x:1")
        until(lambda: two(1) == one(1) == len(calls))
        shelf.records[b"p.log"] = b"not a log"
        until(lambda: there.stats().bus_breaks == 2)
        until(lambda: two(1) == one(1) == len(calls))


def test_a_server_that_comes_later(tmp_path, caplog):
    """Nothing is refused and nothing raised; values are computed, as nobody knows what was invalidated."""
    server = Memcached(tmp_path)
    server.stop()
    calls = []
    with Cache(storage_url=server.url, prefix="later", breaker_pause=0.01) as cache:
        load = counted(cache, calls)
        assert (load(1), load(1)) == (1, 2)
        cache.invalidate("x:1")
        server.start()
        until(lambda: cache.health().checks["bus"].status == "ok")
        until(lambda: load(1) == load(1))
    server.stop()
    assert "a call of the storage has raised ConnectionRefusedError" in caplog.text
    assert "Traceback" not in caplog.text


# ---- what an attacker sees ----


@pytest.mark.slow
@pytest.mark.parametrize("url", ["memcached", "file"], indirect=True)
def test_with_a_key_the_place_learns_nothing(url, tmp_path, request):
    from test_seal import SCOPES, work

    texts = [secrets.token_hex(8) for _ in range(1000)]
    options = {"storage_url": url, "prefix": "sealed", "seal_key": new_key(), "scopes": SCOPES}
    with Cache(**options) as cache:
        until(lambda: cache.health().checks["bus"].status == "ok")
        work(cache, texts)
        assert cache.stats().storage_errors == cache.stats().storage_skipped == 0
    if url.startswith("file"):
        seen = b"".join(str(path).encode() + path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    else:
        seen = everything(request.getfixturevalue("memcached"))
    assert seen.count(b"\n") + len(seen) > 100_000, "it has the records"
    assert not [text for text in texts if text.encode() in seen]
    with Cache(**options) as again:
        org, user, what, value = texts[-4:]  # the log has no room for what was said of the first
        assert again.get(what, scope="user", org_id=org, user_id=user) == value


def everything(memcached):
    """All that a server has: names, and what is under them."""
    names = memcached.ask(b"lru_crawler metadump all", b"END").decode().split("\n")
    names = [line.split()[0].removeprefix("key=") for line in names if line.startswith("key=")]
    return b"".join(memcached.ask(b"get " + name.encode(), b"END") for name in names)


# ---- chaos ----


class Fleet:
    """Nodes that read and write versions of keys, and what each read must not be older than."""

    def __init__(self, url, nodes=3, keys=5, staleness=0.5, pause=0.03):
        self.T, self.pause = staleness, pause
        options = {"prefix": "chaos", "max_staleness": staleness, "ack": "durable", "breaker_pause": 0.02}
        self.caches = [Cache(storage_url=url, **options) for _ in range(nodes)]
        self.truth = [0] * keys
        self.acked = [[(0.0, 0)] for _ in range(keys)]  # when, and which version was then acknowledged
        self.locks = [threading.Lock() for _ in range(keys)]
        self.stop = threading.Event()
        self.wrong, self.slowest, self.reads = [], 0.0, 0
        self.threads = [threading.Thread(target=self.guard, args=(work, cache, n))
                        for n, cache in enumerate(self.caches) for work in (self.read, self.write)]  # fmt: skip

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        for cache in self.caches:
            cache.close()

    def guard(self, work, cache, n):
        load = cache.cacheable(namespace="load", deps=lambda k: [f"k:{k}"])(lambda k: self.truth[k])
        while not self.stop.is_set():
            for k in range(len(self.truth)):
                try:
                    work(cache, load, k)
                except Exception as error:
                    self.wrong.append(repr(error))
            time.sleep(0.002 if work == self.read else self.pause)

    def read(self, cache, load, k):
        began = time.monotonic()
        value = load(k)
        self.slowest = max(self.slowest, time.monotonic() - began)
        floor = max(version for at, version in list(self.acked[k]) if at < began - self.T)
        self.reads += 1
        if value < floor:
            self.wrong.append((k, value, floor))

    def write(self, cache, load, k):
        with self.locks[k]:
            version = self.truth[k] = self.truth[k] + 1
            began = time.monotonic()
            try:
                cache.invalidate(f"k:{k}")
            except BusSilent:
                return  # it is done here, and will be sent
            finally:
                self.slowest = max(self.slowest, time.monotonic() - began)
            self.acked[k].append((time.monotonic(), version))

    def settle(self):
        """Until all are well, and share values again."""
        for cache in self.caches:
            until(lambda cache=cache: cache.health().checks["bus"].status == "ok")
            hits = cache.stats().hits_storage
            until(lambda cache=cache, hits=hits: cache.stats().hits_storage > hits)

    def unsettle(self):
        """Until none hears anything."""
        until(lambda: all(cache.health().checks["bus"].status != "ok" for cache in self.caches))


def judge(fleet):
    assert not fleet.wrong, fleet.wrong[:5]
    assert fleet.reads > 500
    assert fleet.slowest < 5, "seconds"


@pytest.mark.slow
def test_chaos_on_memcached(tmp_path, caplog):
    caplog.set_level(logging.CRITICAL, "zoocache")
    server = Memcached(tmp_path, "-m", "1", "-I", "512k")
    with Fleet(server.url) as fleet:
        fleet.settle()
        filler = open_url(server.url)
        for turn in range(TURNS or 2):
            for n in range(40):  # under memory pressure, the log is evicted like anything else
                filler.put(b"fill %d" % n, os.urandom(100_000), None)
            fleet.settle()
            memcached_breaks = sum(cache.stats().bus_breaks for cache in fleet.caches)
            server.ask(b"flush_all", b"OK")
            until(lambda before=memcached_breaks: sum(c.stats().bus_breaks for c in fleet.caches) >= before + 3)
            fleet.settle()
            server.pause()
            fleet.unsettle()
            server.go_on()
            fleet.settle()
            server.stop()
            fleet.unsettle()
            server.start()
            fleet.settle()
            filler.close()
    server.stop()
    judge(fleet)


@pytest.mark.slow
def test_chaos_on_files(tmp_path, caplog):
    """Nodes come and go beside a process that is killed with the locks in its hands."""
    caplog.set_level(logging.CRITICAL, "zoocache")
    place = Path(tmp_path / "files")
    with Fleet(f"file://{place}") as fleet:
        from test_places import WRITER

        for turn in range(TURNS or 3):
            fleet.settle()
            with subprocess.Popen([sys.executable, "-c", WRITER, place], stdout=subprocess.PIPE) as writer:
                assert writer.stdout.readline() == b"ready\n"
                reads = fleet.reads
                until(lambda reads=reads: fleet.reads > reads + 100)
                writer.kill()
            for path in place.glob("log-*"):
                path.unlink()
            fleet.settle()
    judge(fleet)


@pytest.mark.slow
@pytest.mark.plain
@pytest.mark.parametrize("url", CHAOS, indirect=True)
def test_chaos_on_servers(url, request, caplog):
    """They hang, and are killed: what is in a database or in files is there afterwards, moto has lost everything."""
    caplog.set_level(logging.CRITICAL, "zoocache")
    name = request.node.callspec.params["url"]
    server = request.getfixturevalue({"dynamodb": "aws"}.get(name, name))
    slow = {} if name == "ferretdb" else {"staleness": 1.0, "pause": 0.3}
    with Fleet(url, **slow) as fleet:
        fleet.settle()
        for _ in range(TURNS or 1):
            server.pause()
            fleet.unsettle()
            server.go_on()
            fleet.settle()
            server.kill()
            fleet.unsettle()
            server.start()
            if name == "dynamodb":
                server.table(url.partition("?")[0].rpartition("/")[2])
            fleet.settle()
    judge(fleet)
    if name != "dynamodb":
        assert sum(cache.stats().bus_breaks for cache in fleet.caches) == 0, "nothing was lost"


@pytest.mark.slow
@pytest.mark.plain
@pytest.mark.skipif(not DEMO.is_file(), reason="not in the checkout")
def test_the_demo():
    done = subprocess.run([sys.executable, str(DEMO), "4"], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("\ntoo old: 0\n"), done.stderr
    assert done.stdout.count("process ") == 3
    assert " 0 breaks" not in done.stdout


# ---- places that do not do as they should -----------------------------------------------------------


@pytest.mark.parametrize("said", [None, True, 1, -7, "OK", 2**80])
def test_what_a_place_returns_from_what_returns_nothing_is_not_looked_at(said):
    class Chatty(Place):
        def put(self, key, record, expires):
            super().put(key, record, expires)
            return said

        def delete(self, key):
            super().delete(key)
            return said

    place = Chatty()
    with Cache(storage=place, prefix="chatty") as there, Cache(storage=place, prefix="chatty") as here:
        calls = []
        assert counted(there, calls)(1) == counted(here, calls)(1) == 1
        until(lambda: any(key.startswith(b"chatty.nodes") for key in place.records))
        there.set("k", 1)
        there.delete("k")
        assert there.get("k") is None
        assert here.stats().hits_storage == 1
        assert (there.stats().storage_errors, here.stats().storage_errors) == (0, 0)


@dataclass(frozen=True)
class Frozen(Exception):
    """Takes no attribute, not even a traceback."""

    def __str__(self):
        raise ValueError


def test_an_error_of_a_place_that_takes_no_attributes():
    class Bad(Place):
        bad = False

        def get(self, key):
            return super().get(key) if not self.bad else self.fail()

        def swap(self, key, value, token):
            return super().swap(key, value, token) if not self.bad else self.fail()

        def fail(self):
            raise Frozen

    place = Bad()
    with Cache(storage=place, prefix="bad", ack="durable") as cache:
        calls = []
        load = counted(cache, calls)
        assert load(1) == 1
        place.bad = True
        assert load(2) == 2
        assert cache.stats().storage_errors == 1
        with pytest.raises(BusSilent):
            cache.invalidate("x:1")
        place.bad = False
        assert load(1) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_interrupted_is_not_taken_for_done():
    """A signal's handler may raise in a hook, outside of the storage."""
    place, said, numbers = Place(), [], count()
    with Cache(storage=place, prefix="struck", ack="durable") as cache:

        def before():
            until(lambda: invalidated("nothing"))

        def invalidated(tag):
            try:
                cache.invalidate(tag)
            except BusSilent:
                return False
            return True

        def call():
            tag = f"x:{next(numbers)}"
            if invalidated(tag):
                said.append(tag)

        def after():
            while said:
                assert said.pop().encode() in place.records[b"struck.log"], "nobody hears of it"

        assert sweep(before, call, after) > 300
