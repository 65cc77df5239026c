"""What goes wrong outside: it is said, once and when it is over, without secrets, and takes nothing down."""

import inspect
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import traceback
from pathlib import Path

import pytest
from servers import Redis, free_port, until
from test_process import in_child

import zoocache
from zoocache import BusSilent, Cache, Scope, _ffi, _ffi_shared, _log, _shared
from zoocache._log import QUIET, Troubles
from zoocache.scopes import Scope
from zoocache.storage import Storage

PARTS = _ffi.parts()
needs_lmdb = pytest.mark.skipif(not PARTS["lmdb"], reason="without LMDB")
needs_redis = pytest.mark.skipif(not PARTS["redis"] or not Redis.there(), reason="without Redis")


@pytest.fixture
def own(tmp_path):
    redis = Redis(tmp_path)
    yield redis
    redis.stop()


# ---- a file that cannot be opened --------------------------------------------------------------------


def made(directory):
    """The file of a cache that was used."""
    with Cache(storage_url=f"lmdb://{directory}") as cache:
        for n in range(100):
            cache.set(f"k{n}", "v" * 100, deps=[f"t:{n}"])
        cache.invalidate("t:5")
    return directory / "data.mdb"


def other_version(file):
    data = bytearray(file.read_bytes())
    for at in range(0, len(data), 4096):  # of the two pages that say which
        if data[at + 16 : at + 20] == b"\xde\xc0\xef\xbe":
            data[at + 20] += 1
    file.write_bytes(data)


def only_garbage(file):
    file.write_bytes(random.Random(5).randbytes(file.stat().st_size))


def garbage_inside(file):
    data = bytearray(file.read_bytes())
    data[8192:] = random.Random(5).randbytes(len(data) - 8192)
    file.write_bytes(data)


def of_another_program(file):
    (file.parent / "zoocache").unlink()


def a_directory(file):
    file.unlink()
    file.mkdir()


KINDS = {
    "other version": other_version,
    "only garbage": only_garbage,
    "garbage inside": garbage_inside,
    "short": lambda file: os.truncate(file, 100),
    "two pages": lambda file: os.truncate(file, 8192),
    "of another program": of_another_program,
    "a directory": a_directory,
}


def snapshot(directory):
    files = [path for path in directory.rglob("*") if path.is_file() and path.name not in ("lock.mdb", "zoocache")]
    return {path.name: path.read_bytes().rstrip(b"\0") for path in files}


def works_alone(cache, caplog, why):
    """It does what it can: values are kept, invalidated, and computed anew."""
    calls = []
    f = cache.cacheable(namespace="n", deps=["t"])(lambda x: calls.append(x) or x)
    assert f(1) == f(1) == 1
    assert calls == [1], "kept in memory"
    cache.invalidate("t")
    assert f(1) == 1
    assert calls == [1, 1]
    cache.set("k", 1)
    assert cache.get("k") == 1
    assert cache.get_many(["k"]) == {"k": 1}
    cache.clear()
    assert cache.stats().storage_down == 1
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and errors[0].name == "zoocache", caplog.text
    assert "memory alone" in errors[0].getMessage() and why in errors[0].getMessage()


@needs_lmdb
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file(tmp_path, caplog, kind):
    KINDS[kind](made(tmp_path))
    before = snapshot(tmp_path)
    with Cache(storage_url=f"lmdb://{tmp_path}") as cache:
        works_alone(cache, caplog, str(tmp_path))
    assert snapshot(tmp_path) == before, "it is left as evidence"


@needs_lmdb
def test_a_damaged_file_of_the_default_cache(tmp_path, caplog):
    only_garbage(made(tmp_path))
    zoocache.configure(storage_url=f"lmdb://{tmp_path}")
    assert zoocache.cacheable(lambda: 5)() == 5
    works_alone(zoocache._default.cache(), caplog, str(tmp_path))


@needs_lmdb
def test_a_place_that_cannot_be(tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below", "none/below"):
        caplog.clear()
        with Cache(storage_url=f"lmdb://{tmp_path}/{place}") as cache:
            works_alone(cache, caplog, place)
    assert (tmp_path / "file").read_text() == "x"


@needs_lmdb
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="another user is needed")
@pytest.mark.plain
def test_a_place_that_is_not_ours(caplog):
    base = Path(tempfile.mkdtemp())
    made(base / "there")
    for path in (base / "there").iterdir():
        os.chmod(path, 0o400)
    for path in (base, base / "there"):
        os.chmod(path, 0o555)

    def child():
        os.seteuid(65534)
        for place in ("there", "new"):
            caplog.clear()
            with Cache(storage_url=f"lmdb://{base}/{place}") as cache:
                works_alone(cache, caplog, "Permission denied")

    try:
        in_child(child)
    finally:
        shutil.rmtree(base)


@needs_lmdb
def test_alone_it_forgets_within_the_bound(tmp_path, kit):
    """Whoever does not hear what others invalidate keeps nothing for longer than they may be unheard."""
    only_garbage(made(tmp_path))
    with Cache(storage_url=f"lmdb://{tmp_path}", clock=kit.clock, max_staleness=2, default_ttl=1000) as cache:
        calls = []
        f = cache.cacheable(namespace="n", soft_ttl=500)(lambda x: calls.append(x))
        g = cache.cacheable(namespace="m", tti=500)(lambda x: calls.append(x))
        cache.set("k", 1)
        for _ in range(2):
            f(1), g(1)
            kit.clock.advance(1)
        assert calls == [1, 1], "reads do not prolong it"
        kit.clock.advance(0.1)
        f(1), g(1)
        assert calls == [1, 1, 1, 1]
        assert cache.get("k") is None


@needs_lmdb
def test_alone_a_loud_writer_is_told(tmp_path):
    only_garbage(made(tmp_path))
    with Cache(storage_url=f"lmdb://{tmp_path}", ack="strict") as cache:
        cache.set("k", 1, deps=["t"])
        for invalidate in (lambda: cache.invalidate("t"), lambda: cache.invalidate_one("t"), cache.clear):
            with pytest.raises(BusSilent, match="in this process alone"):
                invalidate()
        assert cache.get("k") is None


@needs_lmdb
def test_alone_nobody_is_told_to_hold(tmp_path, caplog):
    """What cannot be announced is said once; who chose to have an error has it before the commit."""
    only_garbage(made(tmp_path))
    with Cache(storage_url=f"lmdb://{tmp_path}") as cache:
        cache.set("k", 1, deps=["t"])
        for _ in range(2):
            with cache.transaction(hold=60):
                cache.invalidate("t")
                assert cache.get("k") is None, "it is held back all the same"
                assert cache.stats().holds == 0
            assert cache.get("k") is None
        said = [record.getMessage() for record in caplog.records if "hold=" in record.getMessage()]
        assert len(said) == 1 and "announces nothing" in said[0]
    with Cache(storage_url=f"lmdb://{tmp_path}", ack="durable", scopes=Scope("org", "org_id")) as cache:
        cache.set("k", 1, deps=["t"])
        with pytest.raises(KeyError), cache.transaction(hold=60):
            with pytest.raises(BusSilent):
                cache.invalidate("t")
            assert cache.get("k") is None, "who goes on does not see it"
            raise KeyError
        assert cache.get("k") == 1, "nothing was committed"
        with pytest.raises(BusSilent):
            cache.evict_scope("org", org_id=1)


@needs_lmdb
@needs_redis
def test_a_bus_of_its_own_is_heard_without_the_storage(tmp_path, own, caplog):
    only_garbage(made(tmp_path / "file"))
    options = {"storage_url": f"lmdb://{tmp_path}/file", "bus_url": own.url}
    with Cache(**options) as one, Cache(bus_url=own.url) as two:
        assert one.stats().storage_down == 1 and one.most > 1e9
        one.set("k", 1, deps=["t"])
        two.invalidate("t")
        until(lambda: one.get("k") is None)
    assert "memory alone" in caplog.text and "at most" not in caplog.text


class Broken(Storage):
    """A storage that fails as it is told to."""

    error = None

    def get(self, key):
        if self.error:
            raise self.error
        return None

    def put(self, key, record, expires):
        self.get(key)

    def delete(self, key):
        self.get(key)

    def clear(self):
        self.get(b"")


def test_a_storage_of_ones_own_that_cannot_be_opened(caplog):
    storage = Broken()
    storage.error = OSError("no such shelf")
    with Cache(storage=storage) as cache:
        assert cache.stats().storage_down == 1
        cache.set("k", 1)
        assert cache.get("k") == 1
    assert "no such shelf" in caplog.text


# ---- the log -----------------------------------------------------------------------------------------


def test_troubles_are_told_once_and_when_they_are_over(caplog):
    now = [0.0]
    troubles = Troubles(lambda: now[0])
    for n in range(50):
        troubles.note(logging.ERROR, "a", lambda: f"the {n}th")
        troubles.note(logging.WARNING, "b")
        troubles.settle()
    troubles.tell()
    assert [record.getMessage() for record in caplog.records] == ["a\nthe 0th", "b"]
    now[0] = QUIET
    troubles.note(logging.ERROR, "a")
    troubles.settle()
    now[0] = 2 * QUIET
    troubles.settle()
    troubles.note(logging.ERROR, "a")
    troubles.tell()
    assert [record.getMessage() for record in caplog.records[2:]] == ["b (this is over)", "a (this is over)", "a"]
    for n in range(1000):
        troubles.note(logging.ERROR, str(n))
    assert len(troubles.met) <= 64, "bounded"


def lines(caplog, text):
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_a_storage_that_fails_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr(_log, "QUIET", 0.5)
    storage = Broken()
    with Cache(storage=storage) as cache:
        storage.error = KeyError("gone")
        for n in range(50):
            cache.set(f"k{n}", n)
        until(lambda: lines(caplog, "raised KeyError"))
        storage.error = None
        until(lambda: lines(caplog, "raised KeyError (this is over)"))
        assert len(lines(caplog, "Traceback")) == 1, "where it came from"


def test_a_handler_may_use_the_cache(caplog):
    storage = Broken()
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(f(1))
            cache.invalidate("t")
            cache.set("handler", 1)
            raise RuntimeError("a handler that fails")

    handler = Handler()
    logging.getLogger("zoocache").addHandler(handler)
    try:
        with Cache(storage=storage) as cache:
            f = cache.cacheable(namespace="n", deps=["t"])(lambda x: x)
            storage.error = KeyError("gone")
            f(1)
            until(lambda: len(seen) > 1)
            storage.error = None
    finally:
        logging.getLogger("zoocache").removeHandler(handler)


@needs_redis
@pytest.mark.plain
def test_a_child_tells_its_own(caplog, own):
    with Cache(storage_url=own.url, timeout=0.2) as cache:
        cache.set("k", 1)
        until(lambda: any(thread.name == "zoocache-log" for thread in threading.enumerate()))
        own.stop()

        def child():
            caplog.clear()
            cache.set("k", 2)
            until(lambda: lines(caplog, "cannot be reached"))

        in_child(child)
        until(lambda: lines(caplog, "cannot be reached"))


@needs_redis
def test_what_was_said_last_is_told_at_the_end(tmp_path):
    """The interpreter ends at once, and its threads with it."""
    code = f"""
    import logging, zoocache
    logging.basicConfig(format="LINE %(message)s")
    zoocache.configure(storage_url="redis://127.0.0.1:{free_port()}", timeout=0.2)
    zoocache.set("k", 1)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "LINE zoocache: redis" in done.stderr and "Traceback" not in done.stderr


@needs_redis
def test_a_server_that_is_not_there(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(_log, "QUIET", 0.5)
    server = Redis(tmp_path)
    server.stop()
    with Cache(storage_url=server.url, timeout=0.2) as cache:
        cache.set("k", 1)
        until(lambda: lines(caplog, "cannot be reached"))
        server.start()
        until(lambda: lines(caplog, "not known (this is over)"))
        cache.set("k", 2)
    server.stop()
    assert len(lines(caplog, "redis: 127.0.0.1")) == 2, "once, and when it was over"


@needs_redis
@pytest.mark.parametrize("password", ["wr0ng-s3cret", "wr0ng%2Fs3cret%40"])
def test_a_wrong_password(caplog, tmp_path, password):
    server = Redis(tmp_path, "--requirepass", "right")
    try:
        with Cache(storage_url=f"redis://:{password}@127.0.0.1:{server.port}", timeout=0.2) as cache:
            cache.set("k", 1)
            until(lambda: lines(caplog, "WRONGPASS"))
            assert "s3cret" not in caplog.text
        with Cache(storage_url=f"redis://127.0.0.1:{server.port}", timeout=0.2):
            until(lambda: lines(caplog, "NOAUTH"))
    finally:
        server.stop()


@needs_redis
def test_what_a_user_may_not_do_is_told(caplog, own):
    command(own, "ACL SETUSER poor on >pw ~* &* +@all -xread")
    with Cache(storage_url=f"redis://poor:pw@127.0.0.1:{own.port}", timeout=0.2) as cache:
        until(lambda: lines(caplog, "NOPERM"))
        assert lines(caplog, "XREAD")
        cache.set("k", 1)


@needs_redis
def test_a_user_without_info(own, caplog):
    """All but what is dangerous, as managed servers give it; and exactly what the guide lists."""
    guide = (Path(__file__).parents[1] / "README.md").read_text()
    listed = guide.partition("```acl\n")[2].partition("```")[0].split()
    assert "+script|load" in listed
    for n, rights in enumerate(["~* &* +@all -@dangerous", " ".join(listed).replace("shop", "p1")]):
        command(own, f"ACL SETUSER u{n} on >pw {rights}")
        options = {"storage_url": f"redis://u{n}:pw@127.0.0.1:{own.port}", "prefix": f"p{n}", "ack": "strict"}
        with Cache(**options) as one, Cache(**options) as two:
            one.set("k", 1, deps=["t"])
            assert two.get("k") == 1 and two.stats().hits_storage == 1
            two.invalidate("t")
            assert one.get("k") is None, "acknowledged by all"
            assert one.cacheable(namespace="n", fleet=True)(lambda: 5)() == 5
            one.set("k", 2)
            one.clear()
            until(lambda: two.get("k") is None)
            assert one.stats().bus_errors == one.stats().storage_errors == 0
    assert not caplog.records


def command(server, text):
    import socket

    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(text.encode() + b"\r\n")
        answer = s.makefile("rb").readline()
        assert not answer.startswith(b"-"), answer
        return answer


# ---- no secrets --------------------------------------------------------------------------------------

SECRET = "s3cr3t"
BAD = [
    "{s}", "redis:{s}", "redis:/u:{s}@h", "redis//u:{s}@h/0", "redis:// u:{s}@h:x", "ftp://u:{s}@h", "u:{s}@h",
    "redis://u:{s}@h:port", "redis://:{s}", "redis://u:{s}@h/db", "redis://u:{s}@h/0?x=y", "redis://{s}@h",
    "redis://u:{s}%zz@h", "redis://u:{s}%00@h", "redis://u:p@{s}@h:x", "redis://u:pass/{s}@h:x", "redis://h:1?password={s}",
    "redis+sentinel://u:{s}@h", "redis+sentinel://u:{s}@a:x,b/m", "unix://u:{s}@", "unix://u:{s}@/s?db=x",
    "redis://u:{s}@h\0", "redis://u:{s}@h\udcff", "REDIS://u:{s}@h", "lmdb://u:{s}@h/d\0", "u:{s}@redis://h", "{s}://",
    "rediss://u:{s}@h:x", "redis://u:{s}@[::1", "redis://u:{s}@h:99999", "redis://u:{s}@h/99999999999",
    "redis://h?password={s}", "rediss://h#{s}", "redis+sentinel://h/m?password={s}", "redis+sentinel://h/m#{s}",
    "lmdb:///d\0?password={s}",
]  # fmt: skip


@needs_redis
@pytest.mark.parametrize("url", BAD)
@pytest.mark.parametrize("option", ["storage_url", "bus_url"])
def test_no_secret_is_told(url, option, caplog, capfd):
    with pytest.raises((ValueError, TypeError)) as info:
        Cache(**{option: url.format(s=SECRET)})
    told = "".join(traceback.format_exception(info.value)) + repr(info.value) + str(info.value) + caplog.text
    assert SECRET not in told.replace("url.format(s=SECRET)", "")
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "redis+sentinel"])
def test_no_secret_is_told_by_other_builds(scheme, monkeypatch):
    monkeypatch.setattr(
        _ffi, "parts", lambda: {"lmdb": False, "redis": False, "tls": False, "openssl": False, "seal": False}
    )
    for url in (f"{scheme}://u:{SECRET}@h", f"{scheme}://:{SECRET}"):
        with pytest.raises(zoocache.BuiltWithout) as info:
            Cache(storage_url=url)
        assert SECRET not in "".join(traceback.format_exception(info.value))


@needs_redis
@pytest.mark.parametrize("url", ["redis://u:{s}@127.0.0.1:{p}", "redis+sentinel://u:{s}@127.0.0.1:{p}/m"])
def test_no_secret_is_told_by_what_lives(url, caplog):
    with Cache(storage_url=url.format(s=SECRET, p=free_port()), timeout=0.1) as cache:
        cache.set("k", 1)
        until(lambda: lines(caplog, "cannot be reached"))
        for thing in (cache, cache.shared, cache.shared.settings, cache.shared.core, cache.stats()):
            assert SECRET not in repr(thing) + str(thing)
    assert SECRET not in caplog.text


def test_what_may_be_shown():
    assert _shared.shown("lmdb:///var/cache@home") == "'lmdb:///var/cache@home'"
    assert _shared.shown("redis://host/0") == "'redis://...'"
    with pytest.raises(TypeError, match="storage_url must be a str, not bytes"):
        Cache(storage_url=b"redis://h")


# ---- options -----------------------------------------------------------------------------------------


def test_what_has_no_effect_is_told(caplog):
    zoocache.configure(
        tti_flush_secs=1, batch_size=5, lru_update_interval=2, channel_capacity=3, lru_cache_size=7, default_ttl=9
    )
    zoocache.set("k", 1)
    (line,) = lines(caplog, "no effect")
    for name in ("tti_flush_secs", "batch_size", "lru_update_interval", "channel_capacity", "lru_cache_size"):
        assert name in line
    caplog.clear()
    Cache(batch_size=1000, prune_after=5, default_ttl=1)
    assert not caplog.records, "the defaults are what they are"


OTHERWISE = {
    "bus_url": "redis://127.0.0.1:1", "prefix": "other", "prune_after": 60, "default_ttl": 5, "read_extend_ttl": False,
    "max_entries": 7, "lmdb_map_size": 2**24, "flight_timeout": 3, "auto_prune_secs": 9, "auto_prune_interval": 8,
    "clock": lambda: 5.0, "serializer": "pickle", "compression": False, "timeout": 1, "connections": 2, "replicas": 1, "log_shards": 2,
    "tls_ca": "/a", "tls_cert": "/b", "tls_key": "/c", "storage_ttl": 4, "write_behind": True, "sync": True,
    "max_staleness": 2, "max_stale": 3, "silence": "serve", "ack": "strict", "bus_pause": 1, "scopes": Scope("org", "org_id"), "tti_flush_secs": 1,
    "on_event": print, "seal_key": b"a" * 32, "previous_seal_keys": [b"b" * 32], "seal_strict": True, "breaker_failures": 9, "breaker_pause": 2,
    "max_bytes": 5000, "max_entry_bytes": 50, "weigh": len, "max_loads": 3,
    "lru_update_interval": 1, "channel_capacity": 1, "batch_size": 1, "lru_cache_size": 1,
}  # fmt: skip


@needs_redis
@needs_lmdb
@pytest.mark.parametrize("name", OTHERWISE)
def test_no_option_is_dropped(name, tmp_path, caplog):
    """Each reaches the library or the cache, or the log says that it has no effect."""
    known = inspect.signature(zoocache.configure).parameters.keys() - {"storage_url", "storage", "telemetry"}
    assert known == OTHERWISE.keys(), "what comes new is to be looked at here"

    def seen(**options):
        zoocache.reset()
        zoocache.configure(storage_url=f"lmdb://{tmp_path}", **options)
        cache = zoocache._default.cache()
        settings = cache.shared.settings
        own = {key: value for key, value in vars(cache).items() if type(value) in (int, float, str, bool, type(None))}
        return {**own, **settings.options, "clock": cache.clock, "serializer": cache.shared.codec.serializer.name, "plain": cache.shared.codec.plain,
                "limit": cache.policy is not None and cache.max_entries, "_pruned": 0,
                "told": cache.events is not None, "loads": cache.loads and cache.loads.most,
                "scales": cache.scales and (cache.scales.largest, cache.scales.weigh), "levels": cache._scopes and list(cache._scopes.levels)}  # fmt: skip

    more = {"seal_key": b"c" * 32} if name == "previous_seal_keys" else {}  # which it is of no use without
    usual = seen(**more)
    other = seen(**{**more, name: OTHERWISE[name]})
    changed = {key for key in usual.keys() | other.keys() if usual.get(key) != other.get(key)}
    assert changed or name in "".join(lines(caplog, "no effect"))


def test_a_storage_is_what_the_header_takes_for_one():
    header = Path(__file__).resolve().parents[2] / "zoocache.h"
    if not header.is_file():
        pytest.skip("not in the checkout")
    struct = re.search(r"typedef struct zc_store \{(.*?)\} zc_store;", header.read_text(), re.DOTALL)[1]
    members = re.sub(r"/\*.*?\*/", "", struct, flags=re.DOTALL).split(";")
    names = [re.search(r"\(\*(\w+)\)|(\w+)$", member.strip()) for member in members if member.strip()]
    assert [name[1] or name[2] for name in names] == [name.rstrip("_") for name, _ in _ffi_shared._Store._fields_]


@needs_lmdb
def test_options_reach_the_library(tmp_path):
    """What Settings has is what _native.c is given."""
    names = {field[0] for field in _ffi_shared._Options._fields_} - {"own", "place", "why"}
    with Cache(storage_url=f"lmdb://{tmp_path}") as cache:
        assert cache.shared.settings.options.keys() == names
    text = (Path(zoocache.__file__).parent / "_native.c").read_text()
    for name in names:
        assert f"o->{name}" in text, name
