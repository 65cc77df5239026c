"""Sealing: what a storage sees, what it cannot change, keys that change, and who is refused."""

import base64
import hashlib
import os
import re
import secrets
import socket
import subprocess
import sys
import threading

import numpy
import pytest
from servers import Redis, until
from shelf import Shelf

import zoocache
from zoocache import Cache, Scope, SealError, cli, presets
from zoocache.monitor import Board
from zoocache.seal import new_key
from zoocache.storage import VersionedStorage

KEY, OTHER = new_key(), new_key()


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


class Kept(Shelf, VersionedStorage):
    """Records that outlive a cache, each with the versions that it is judged by."""

    def __init__(self):
        super().__init__()
        self.versions = {}

    def generation(self):
        return 7, max(self.versions.values(), default=0)

    def tag_put(self, paths, version):
        for path in paths:
            self.versions[path] = max(version, self.versions.get(path, 0))

    def tag_get(self, paths):
        return [self.versions.get(path, 0) for path in paths]


class Monitor:
    """All that a server is told, from now on."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(b"MONITOR\r\n")
        assert self.socket.recv(5) == b"+OK\r\n"
        self.seen = bytearray()
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self):
        while data := self.socket.recv(65536):
            self.seen += data

    def close(self, last):
        """After it has seen what was said last."""
        until(lambda: last in self.seen)
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()
        return bytes(self.seen)


def ask(port, *words):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(w), w) for w in words]))
        return s.recv(100)


def work(cache, texts):
    """Puts each of these texts where a secret may be: an argument, an id of a scope, a key, a value, a tag."""

    @cache.cacheable(scope="user", deps=lambda user_id, what, org_id: [f"{user_id}:{what}:x"])
    def profile(user_id, what, org_id):
        return {"what": what, "of": user_id}

    for n in range(0, len(texts), 4):
        org, user, what, value = texts[n : n + 4]
        assert profile(user, what, org_id=org)["of"] == user
        cache.set(what, value, scope="user", org_id=org, user_id=user)
        cache.set("plain " + what, [value, user], deps=[f"plain:{what}"])
        cache.invalidate(f"{user}:{what}", f"gone:{value}")
        if n % 40 == 0:
            profile.invalidate(user, what, org_id=org)
            cache.evict_scope("org", org_id=f"{org}-gone")
            with cache.transaction(hold=5):
                cache.invalidate(f"held:{org}")
    return profile


def found_in(seen, texts):
    """Which of the texts, or of the digests of them that a dictionary would have, stand in what was seen."""
    parts = {seen[at : at + 12] for at in range(len(seen) - 11)}
    return [text for text in texts if any(form[:12] in parts for form in forms(text))]


def forms(text):
    raw = text.encode()
    yield raw
    for tag in (raw, b"plain:" + raw, b"gone:" + raw, b"held:" + raw):
        for name in ("md5", "sha1", "sha256", "blake2b"):
            digest = hashlib.new(name, tag).digest()
            yield from (digest, digest.hex().encode(), base64.b64encode(digest))


SCOPES = Scope("org", "org_id", Scope("user", "user_id"))


@pytest.mark.slow
def test_what_a_server_is_told_has_no_secret_in_it(redis):
    texts = [secrets.token_hex(8) for _ in range(1000)]
    monitor = Monitor(redis.port)
    with Cache(storage_url=redis.url, prefix="sealed", seal_key=KEY, scopes=SCOPES, timeout=10) as cache:
        profile = work(cache, texts)
        stored = cache.stats()
        assert stored.storage_errors == stored.storage_skipped == 0
    assert ask(redis.port, b"ECHO", b"that was all").startswith(b"$12")
    told = monitor.close(b"that was all")
    assert told.count(b'"SET"') + told.count(b'"set"') > 500
    assert ask(redis.port, b"SAVE") == b"+OK\r\n"
    with open(os.path.join(redis.directory, "dump.rdb"), "rb") as file:
        dump = file.read()
    assert b"{sealed}" in dump
    assert told.count(b"XADD") > 250
    assert found_in(told, texts) == found_in(dump, texts) == []
    # Another process that has the key finds it all; none who has not.
    with Cache(storage_url=redis.url, prefix="sealed", seal_key=KEY, scopes=SCOPES) as again:
        org, user, what, value = texts[:4]
        assert again.get(what, scope="user", org_id=org, user_id=user) == value
        assert again.get("plain " + what) == [value, user]
        assert again.stats().hits_storage == 2
    with Cache(storage_url=redis.url, prefix="sealed", seal_key=OTHER, scopes=SCOPES) as other:
        assert other.get("plain " + what) is None
    assert profile.__wrapped__


@pytest.mark.parametrize("kind", ["lmdb", "file"])
def test_what_files_have_in_them(tmp_path, kind):
    texts = [secrets.token_hex(8) for _ in range(200)]
    url = f"{kind}://{tmp_path}"
    with Cache(storage_url=url, seal_key=KEY, scopes=SCOPES) as cache:
        work(cache, texts)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    seen = b"|".join([str(path).encode() + path.read_bytes() for path in files])
    assert b":sealed" in seen and len(seen) > 10_000
    assert found_in(seen, texts) == []
    with Cache(storage_url=url, seal_key=KEY, scopes=SCOPES) as cache:
        assert cache.get("plain " + texts[2]) == [texts[3], texts[1]]


@pytest.mark.parametrize("serializer", ["msgpack", "arrow"])
def test_large_values_in_a_file(tmp_path, serializer):
    """Which go there in parts, and are read where they are, if they are not sealed."""
    secret = secrets.token_bytes(1 << 20)
    for life in range(2):
        with Cache(storage_url=f"lmdb://{tmp_path}", seal_key=KEY, serializer=serializer) as cache:
            if life == 0:
                cache.set("large", numpy.frombuffer(secret, "u1") if serializer == "arrow" else secret)
            assert bytes(cache.get("large")) == secret
            assert cache.stats().hits_storage == life
    data = (tmp_path / "data.mdb").read_bytes()
    assert all(secret[at : at + 16] not in data for at in range(0, len(secret) - 16, 4096))


def test_a_value_for_one_tenant_is_nobody_elses():
    shelf = Kept()
    options = {"storage": shelf, "seal_key": KEY, "scopes": Scope("org", "org_id")}
    with Cache(**options) as cache:
        for org in ("acme", "umbra"):
            cache.set("salary", org + "'s", scope="org", org_id=org)
    first, second = shelf.records
    with Cache(**options) as cache:
        assert cache.get("salary", scope="org", org_id="acme") == "acme's"
    shelf.records[first], shelf.records[second] = shelf.records[second], shelf.records[first]
    with Cache(**options) as cache:
        for org in ("acme", "umbra"):
            assert cache.get("salary", scope="org", org_id=org) is None
        assert cache.stats().storage_forged == 2


def test_prefixes_keep_apart_who_has_the_same_key():
    shelf = Kept()
    with Cache(storage=shelf, seal_key=KEY, prefix="a") as cache:
        cache.set("k", "a's")
    with Cache(storage=shelf, seal_key=KEY, prefix="b") as cache:
        assert cache.get("k") is None
        cache.set("k", "b's")
    first, second = shelf.records
    shelf.records[second] = shelf.records[first]
    with Cache(storage=shelf, seal_key=KEY, prefix="b") as cache:
        assert cache.get("k") is None
        assert cache.stats().storage_forged == 1


# ---- what does not open ------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [False, True])
async def test_a_changed_record(strict):
    shelf = Kept()
    calls = []

    def functions(cache):
        @cache.cacheable(sealed=True, namespace="f")
        def f(x):
            calls.append(x)
            return x

        @cache.cacheable(namespace="g")
        async def g(x):
            calls.append(x)
            return x

        @cache.cacheable.many(namespace="h")
        def h(xs):
            calls.extend(xs)
            return xs

        return f, g, h

    with Cache(storage=shelf, seal_key=KEY) as cache:
        f, g, h = functions(cache)
        f(1), await g(2), h([3])
    for name, record in shelf.records.items():
        shelf.records[name] = record[:-1] + bytes([record[-1] ^ 1])
    before = dict(shelf.records)
    del calls[:]
    with Cache(storage=shelf, seal_key=KEY, seal_strict=strict) as cache:
        f, g, h = functions(cache)
        h([0])  # from now on it is known what h() returns, and the storage is asked
        del calls[:]
        if strict:
            with pytest.raises(SealError, match="not sealed by us for this key, or was changed"):
                f(1)
            with pytest.raises(SealError):
                await g(2)
            with pytest.raises(SealError):
                h([3])
            assert calls == []
            assert before.items() <= shelf.records.items(), "it is left as it is"
            shelf.records.update({name: record[:-1] + bytes([record[-1] ^ 1]) for name, record in before.items()})
            assert (f(1), await g(2), h([3])) == (1, 2, [3])
            assert calls == [], "the key is free again, and what was there is found"
        else:
            assert (f(1), await g(2), h([3])) == (1, 2, [3])
            assert calls == [1, 2, 3]
        stats = cache.stats()
        assert stats.storage_forged >= 3
        assert stats.storage_unkeyed == stats.storage_errors == 0


def test_a_plain_record_is_a_forgery():
    shelf, plain = Kept(), Kept()
    with Cache(storage=plain) as cache:
        cache.set("k", "planted")
    with Cache(storage=shelf, seal_key=KEY) as cache:
        cache.set("k", "good")
    ((name, _),) = shelf.records.items()
    (shelf.records[name],) = plain.records.values()
    with Cache(storage=shelf, seal_key=KEY) as cache:
        assert cache.get("k") is None
        assert cache.stats().storage_forged == 1


# ---- keys that change ----------------------------------------------------------------------------------

WORKER = """
import sys
from zoocache import Cache

url, *keys = sys.argv[1:]
with Cache(storage_url=url, prefix="turn", seal_key=keys[0], previous_seal_keys=keys[1:], ack="durable") as cache:
    @cache.cacheable(deps=lambda n: [f"n:{n}"])
    def f(n):
        return n * n
    print("ready", flush=True)
    for line in sys.stdin:
        wrong = sum(f(n) != n * n for n in range(50))
        f.cache_clear() if line == "clear\\n" else None
        stats = cache.stats()
        print(wrong, stats.hits_storage, stats.storage_forged + stats.storage_errors, stats.storage_unkeyed, flush=True)
"""


@pytest.mark.slow
def test_keys_change_while_processes_work(redis):
    """One by one the processes learn the new key, seal with it, and forget the old one."""

    def start(*keys):
        process = subprocess.Popen([sys.executable, "-c", WORKER, redis.url, *keys], stdin=-1, stdout=-1, text=True)
        assert process.stdout.readline() == "ready\n"
        return process

    def turn(process):
        process.stdin.write("go\n")
        process.stdin.flush()
        return [int(word) for word in process.stdout.readline().split()]

    def end(process):
        process.communicate("")
        assert process.returncode == 0

    old, new = new_key(), new_key()
    workers = [start(old) for _ in range(2)]
    turn(workers[1])
    for keys in ([old, new], [new, old], [new]):
        for n in range(2):
            end(workers[n])
            workers[n] = start(*keys)
            for worker in workers:
                wrong, hits, bad, unkeyed = turn(worker)
                assert wrong == bad == unkeyed == 0
                if worker is workers[n] and keys != [new]:
                    assert hits == 50, "what another has sealed is found"
    for worker in workers:
        end(worker)


def test_a_key_that_is_dropped_takes_its_records_with_it():
    shelf = Kept()
    with Cache(storage=shelf, seal_key=KEY) as cache:
        cache.set("k", 1)
    with Cache(storage=shelf, seal_key=OTHER, previous_seal_keys=[KEY]) as cache:
        assert cache.get("k") == 1
        cache.set("l", 2)
    with Cache(storage=shelf, seal_key=OTHER) as cache:
        assert cache.get("l") == 2
        assert cache.get("k") is None
    with Cache(storage=shelf, seal_key=KEY) as cache:
        assert cache.get("l") is None
        assert cache.stats().storage_forged == 0


# ---- who is refused ------------------------------------------------------------------------------------


def test_without_a_key_nothing_is_decorated():
    with Cache(storage=Shelf()) as cache:
        with pytest.raises(RuntimeError, match="needs a cache with a key.*seal_key"):
            cache.cacheable(sealed=True)(len)
        with pytest.raises(RuntimeError, match="seal_key"):
            presets.secure(cache=cache)(len)
    with pytest.raises(RuntimeError, match="seal_key"):
        zoocache.cacheable(sealed=True)(len)
    with pytest.raises(RuntimeError, match="seal_key"):
        presets.secure(len)
    zoocache.configure(seal_key=KEY)

    @presets.secure
    def f(x):
        return x

    assert f(1) == 1
    zoocache.reset()
    with pytest.raises(RuntimeError, match="seal_key"):
        f(2)  # it is asked again of each cache that it meets


def test_the_environment_has_a_key(monkeypatch, tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    monkeypatch.setenv("ZOOCACHE_SEAL_KEY", f"file:{path}")
    monkeypatch.setenv("ZOOCACHE_PREVIOUS_SEAL_KEYS", f"{OTHER},{base64.b64decode(new_key()).hex()}")

    @presets.secure
    def f(x):
        return x

    assert f(1) == 1
    assert zoocache._default.cache().sealed


RAW = base64.b64decode(KEY)


@pytest.mark.parametrize("key", [RAW, bytearray(RAW), KEY, KEY.encode(), RAW.hex(), RAW.hex().upper().encode()])
def test_a_key_in_each_form(key):
    shelf = Kept()
    with Cache(storage=shelf, seal_key=KEY) as cache:
        cache.set("k", 1)
    with Cache(storage=shelf, seal_key=key) as cache:
        assert cache.get("k") == 1, "it is the same key"


@pytest.mark.parametrize(
    "key", ["", "x", b"x" * 31, RAW.hex()[:-1], KEY[:-1], "file:/nowhere", 5, "\u00e9" * 64, ("file:" + "\0")]
)
@pytest.mark.parametrize("storage", [False, True])
def test_what_is_no_key_is_refused_and_not_repeated(key, storage):
    options = {"storage": Shelf()} if storage else {}
    with pytest.raises(ValueError, match="^seal_key: ") as caught:
        Cache(seal_key=key, **options)
    text = str(key)
    assert len(text) < 3 or "file:" in text or text not in str(caught.value)


def test_odd_rings_are_refused():
    with pytest.raises(ValueError, match="without a seal_key"):
        Cache(storage=Shelf(), previous_seal_keys=[KEY])
    with pytest.raises(ValueError, match="twice"):
        Cache(storage=Shelf(), seal_key=KEY, previous_seal_keys=[RAW])
    with pytest.raises(ValueError, match="at most 7"):
        Cache(storage=Shelf(), seal_key=KEY, previous_seal_keys=[new_key() for _ in range(8)])
    with pytest.raises(TypeError, match="a list of keys"):
        Cache(storage=Shelf(), seal_key=KEY, previous_seal_keys=OTHER)


def test_no_key_is_told(caplog):
    with Cache(storage=Shelf(), seal_key=KEY, previous_seal_keys=[OTHER]) as cache:
        cache.set("k", 1)
        told = repr((cache, cache.stats(), cache.health(), cache.shared)) + caplog.text
    for key in (KEY, OTHER):
        raw = base64.b64decode(key)
        for form in (key, raw.hex(), repr(raw)[2:-1]):
            assert form not in told


def test_new_keys_are_new():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch("[A-Za-z0-9+/]{43}=", key) for key in keys)


# ---- nodes that hear of each other -----------------------------------------------------------------------


def two_nodes(url, prefix, *rings, **options):
    return [
        Cache(storage_url=url, prefix=prefix, seal_key=ring[0], previous_seal_keys=ring[1:], **options)
        for ring in rings
    ]


@pytest.mark.parametrize("shards", [1, 3])
def test_nodes_hear_of_what_the_log_does_not_show(redis, shards):
    prefix = f"hear{shards}"
    one, two = two_nodes(redis.url, prefix, [KEY, OTHER], [OTHER, KEY], log_shards=shards, timeout=10)
    with one, two:
        for cache in (one, two):
            cache.set("alices", 1, deps=["acme:user:alice"])
        (three,) = two_nodes(redis.url, prefix, [KEY, OTHER], log_shards=shards, timeout=10)
        with three:
            assert three.get("alices") == 1
        one.set("bobs", 2, deps=["umbra:user:bob"])
        two.invalidate("acme:user")
        until(lambda: one.get("alices") is None)
        assert one.get("bobs") == 2
        one.invalidate("umbra:user:bob")
        until(lambda: two.get("bobs") is None)
        for keys in ([KEY, OTHER], [OTHER, KEY]):  # who comes later knows it
            (late,) = two_nodes(redis.url, prefix, keys, log_shards=shards, timeout=10)
            with late:
                assert late.get("alices") is None
                assert late.get("bobs") is None
        assert one.stats().storage_forged == one.stats().storage_unkeyed == 0
        assert two.stats().storage_forged == two.stats().storage_unkeyed == 0


def test_a_sealed_log_takes_nobody_in_without_a_key(redis, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("ZOOCACHE_SEAL_KEY", raising=False)
    path = tmp_path / "key"
    path.write_text(KEY)
    with Cache(storage_url=redis.url, prefix="mine", seal_key=KEY) as cache:
        cache.set("k", 1, deps=["user:42"])

        def command(*more):
            with pytest.raises(SystemExit) as ended:
                cli.main(["invalidate", "user:42", "--redis", redis.url, "--prefix", "mine", *more])
            return ended.value.code, capsys.readouterr().err

        code, said = command()
        assert code == 2
        assert "sealed" in said and "ZOOCACHE_SEAL_KEY" in said
        assert cache.get("k") == 1
        assert command("--seal-key", f"file:{path}") == (0, "")
        until(lambda: cache.get("k") is None)
        with Board(redis.url, "mine") as board:
            said, _ = board.said()
            assert {tag for each in said for tag in each.tags} == {"(sealed)"}
            with pytest.raises(ValueError, match="log is sealed"):
                board.invalidate("user:42")
        with Cache(storage_url=redis.url, prefix="mine") as plain:
            plain.set("k", 2, deps=["user:42"])
            assert plain.get("k") is None, "it serves nothing"
            plain.invalidate("user:42")
            assert plain.stats().bus_pending > 0
            assert plain.health().status != "ok"
        assert cache.stats().storage_forged == 0


def test_a_node_that_only_listens_is_sealed_too(redis):
    monitor = Monitor(redis.port)
    with (
        Cache(bus_url=redis.url, prefix="only", seal_key=KEY) as one,
        Cache(bus_url=redis.url, prefix="only", seal_key=KEY) as two,
    ):
        two.set("k", 1, deps=["secret:tag"])
        one.invalidate("secret:tag")
        until(lambda: two.get("k") is None)
    ask(redis.port, b"ECHO", b"that was all")
    assert b"secret" not in monitor.close(b"that was all")
