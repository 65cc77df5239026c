"""Places that processes share: each against a real server, or what speaks its protocol."""

import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from servers import AWS, PASSWORD, Apache, FerretDB, Memcached, free_port, until

from zoocache import StorageIsFull
from zoocache.storage import DEADLINE
from zoocache.storages import _directory, file, http, open_url
from zoocache.storages.file import FileStorage
from zoocache.storages.http import HTTPStorage
from zoocache.storages.memcached import MemcachedStorage
from zoocache.testing import StorageConformance

pytestmark = pytest.mark.plain


def server_of(kind):
    @pytest.fixture(scope="module")
    def server(tmp_path_factory):
        server = kind(tmp_path_factory.mktemp(kind.__name__))
        yield server
        server.stop()

    return server


memcached, ferretdb, aws = map(server_of, (Memcached, FerretDB, AWS))


@pytest.fixture(scope="module")
def apache():
    server = Apache()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


class TestFile(StorageConformance):
    def open(self, path):
        return FileStorage(path / "files")


class TestMemcached(StorageConformance):
    @pytest.fixture(autouse=True)
    def server(self, memcached):
        self.url = memcached.url
        memcached.ask(b"flush_all", b"OK")

    def open(self, path):
        return open_url(self.url)


@pytest.mark.slow
class TestMongoDB(StorageConformance):
    @pytest.fixture(autouse=True)
    def server(self, ferretdb):
        self.url = ferretdb.url

    def open(self, path):
        return open_url(f"{self.url}.{path.name}")


@pytest.mark.slow
class TestDynamoDB(StorageConformance):
    ROUNDS = 8

    @pytest.fixture(autouse=True)
    def server(self, aws):
        self.server = aws

    def open(self, path):
        return open_url(self.server.table(path.name))


@pytest.mark.slow
class TestWebDAV(StorageConformance):
    @pytest.fixture(autouse=True)
    def server(self, apache):
        self.server = apache

    def open(self, path):
        return open_url(self.server.collection(path.name))


@pytest.mark.slow
class TestS3(StorageConformance):
    ROUNDS = 8

    @pytest.fixture(autouse=True)
    def server(self, aws):
        self.server = aws

    def open(self, path):
        return open_url(self.server.bucket(path.name.replace("_", "-")))


# ---- files ----


def files_of(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def records_of(directory):
    return [path for path in files_of(directory) if len(path.name) == 40]


def test_files_are_for_their_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        storage = FileStorage(tmp_path / "files")
        storage.put(b"k", b"v", None)
        storage.swap(b"log", b"v", b"")
    finally:
        os.umask(before)
    found = list(tmp_path.rglob("*"))
    assert len(found) == 1 + 16 + 4, "the record, the log, and a lock for each"
    for path in found:
        assert stat.S_IMODE(path.lstat().st_mode) == (0o700 if path.is_dir() else 0o600)
    storage.close()


def test_no_symbolic_link_is_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of another program")
    storage = FileStorage(tmp_path / "files")
    storage.put(b"k", b"v", None)
    (record,) = records_of(tmp_path)
    for name in (record.name, "new"):
        (record.parent / name).unlink(missing_ok=True)
        (record.parent / name).symlink_to(secret)
    with pytest.raises(OSError):
        storage.get(b"k")
    with pytest.raises(OSError):
        storage.put(b"k", b"v", None)
    storage.touch(b"k", 4e9)
    storage.close()
    assert secret.read_text() == "of another program"
    assert secret.stat().st_mtime < 4e9
    (tmp_path / "link").symlink_to(tmp_path / "files")
    with pytest.raises(OSError):
        FileStorage(tmp_path / "link")


def test_a_directory_that_is_not_safe_is_refused(tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o770)
    with pytest.raises(ValueError, match="shared is another user's, or others may write to it"):
        FileStorage(shared)
    shared.chmod(0o700)
    device = shared.stat().st_dev
    mounts = tmp_path / "mounts"
    mounts.write_text(f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw,noatime shared:1 - nfs4 server:/x rw\n")
    monkeypatch.setattr(_directory, "_MOUNTS", mounts)
    with pytest.raises(ValueError, match="is on nfs4, where a lock is not sure"):
        FileStorage(shared)
    with pytest.raises(OSError):
        FileStorage(tmp_path / "none" / "there")
    with pytest.raises(ValueError, match="must be >= 16"):
        FileStorage(shared, max_bytes=1)


def sizes_of(directory):
    """Of the records at this moment, of which some may just be going."""
    found = []
    for part in "0123456789abcdef":
        for name in os.listdir(directory / part):
            with suppress(FileNotFoundError):
                found += [(directory / part / name).stat().st_size] if len(name) == 40 else []
    return found


def test_limits_hold_over_all_who_write(tmp_path):
    most = 64_000
    storages = [FileStorage(tmp_path / "files", max_bytes=most, max_records=160) for _ in range(2)]
    over = []

    def write(n):
        for turn in range(90):
            storages[n % 2].put(b"%d %d" % (n, turn), bytes(turn * 13 % 700), None)
            sizes = sizes_of(tmp_path / "files")
            if sum(sizes) > most or len(sizes) > 160:
                over.append(sizes)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert not over
    assert len(records_of(tmp_path)) > 20
    with pytest.raises(StorageIsFull, match="a record of 4001 bytes"):
        storages[0].put(b"0 199", bytes(4001), None)
    assert storages[0].get(b"0 199") is None
    for storage in storages:
        storage.close()


def test_what_has_expired_goes_first(tmp_path):
    storage = FileStorage(tmp_path / "files", max_records=160)
    for n in range(200):
        storage.put(b"stays %d" % n if n < 40 else b"goes %d" % n, b"x", 4e9 if n < 40 else 1.0)
    assert all(storage.get(b"stays %d" % n) for n in range(40))
    storage.touch(b"stays 7", 1.0)
    for n in range(400):
        storage.put(b"more %d" % n, b"x", None)
    assert storage.get(b"stays 7") is None
    storage.close()


def test_the_log_is_of_one_life_of_the_system_unless_all_is_synced(tmp_path, monkeypatch):
    for name, sync in (("files", False), ("synced", True)):
        storage = FileStorage(tmp_path / name, sync=sync)
        storage.swap(b"log", b"v", b"")
        storage.put(b"k", b"v", None)
        storage.close()
    another = tmp_path / "boot"
    another.write_text("another-id\n")
    monkeypatch.setattr(file, "BOOT", another)
    for name, expected in (("files", None), ("synced", b"v")):
        storage = FileStorage(tmp_path / name, sync=name == "synced")
        assert storage.read(b"log")[0] == expected
        storage.close()


def test_a_lock_that_is_held_is_waited_for_only_so_long(tmp_path):
    storage = open_url(f"file://{tmp_path}/files?max_bytes=1000000")
    with storage._root.locked(), limited(0.05), pytest.raises(TimeoutError, match="another holds the lock"):
        storage.swap(b"log", b"v", b"")
    assert storage.swap(b"log", b"v", b"")
    storage.close()


WRITER = """
import sys
from zoocache.storages.file import FileStorage
storage = FileStorage(sys.argv[1])
print("ready", flush=True)
n = 0
while True:
    n += 1
    storage.put(b"k%d" % (n % 7), bytes([n % 256]) * 30_000, None)
    value, token = storage.read(b"log")
    storage.swap(b"log", bytes([n % 256]) * 30_000, token)
"""


def test_a_writer_that_is_killed_leaves_nothing_half_there(tmp_path):
    storage = FileStorage(tmp_path / "files")
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path / "files"], stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            until(lambda: storage.get(b"k6") is not None)
            writer.kill()
        found = [storage.get(b"k%d" % n) for n in range(7)] + [storage.read(b"log")[0]]
        for value in found:
            assert value is None or (len(value) == 30_000 and len(set(value)) == 1)
        for n in range(7):
            storage.delete(b"k%d" % n)
        assert storage.swap(b"log", b"after", storage.read(b"log")[1]), "the lock is free"
    storage.close()


# ---- Memcached ----


def test_a_token_is_of_one_life_of_the_server(tmp_path):
    """Ids of cas begin at 1 again, so that one of before would be right."""
    server = Memcached(tmp_path)
    storage, other = MemcachedStorage(f"127.0.0.1:{server.port}"), MemcachedStorage(f"127.0.0.1:{server.port}")
    assert storage.swap(b"log", b"before", storage.read(b"log")[1])
    _, token = storage.read(b"log")
    server.stop()
    server.start()
    assert other.swap(b"log", b"new", other.read(b"log")[1])
    assert other.read(b"log")[1].split()[1] == token.split()[1], "it is the same id"
    with pytest.raises(ConnectionError):
        storage.swap(b"log", b"of a log that is lost", token)
    assert not storage.swap(b"log", b"of a log that is lost", token)
    assert storage.read(b"log")[0] == b"new"
    assert not storage.swap(b"log", b"of a log that is lost", token), "it is connected again"
    assert other.read(b"log")[0] == b"new"
    other.close()
    storage.close()
    server.stop()


def test_memcached_loses_what_it_likes(memcached):
    storage = open_url(memcached.url)
    storage.put(b"old", b"v", time.time() - 10)
    assert storage.get(b"old") is None
    storage.put(b"k", b"v", time.time() + 3600)
    storage.swap(b"log", b"v", storage.read(b"log")[1])
    _, token = storage.read(b"log")
    memcached.ask(b"flush_all", b"OK")
    assert storage.get(b"k") is None
    assert not storage.swap(b"log", b"again", token)
    value, token = storage.read(b"log")
    assert value is None
    assert storage.swap(b"log", b"again", token)
    storage.close()
    storage.forked()
    assert storage.read(b"log")[0] == b"again"
    storage.close()


def in_pieces(port, size):
    """A port that answers as the one of that server does, so many bytes at a time."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        with listener, listener.accept()[0] as client, socket.create_connection(("127.0.0.1", port)) as server:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while request := client.recv(65536):
                server.sendall(request)
                reply = b""
                while not reply.endswith(b"\r\n"):
                    reply += server.recv(65536)
                for at in range(0, len(reply), size):
                    client.sendall(reply[at : at + size])

    thread = threading.Thread(target=answer)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize("size", [1, 7, 50])
def test_an_item_that_comes_in_pieces(memcached, size):
    port, thread = in_pieces(memcached.port, size)
    storage = MemcachedStorage(f"127.0.0.1:{port}")
    assert storage.get(b"nothing") is None
    for value in (b"", b"v", b"\r\nEND\r\n", b"END\r\nVALUE x 0 3\r\n" * 20):
        storage.put(b"k", value, None)
        assert storage.get(b"k") == value
        assert storage.get(b"none") is None
    storage.close()
    thread.join()


def test_an_answer_that_is_none(memcached):
    storage = open_url(memcached.url)
    storage.get(b"connects")
    with storage._idle[0].sock:  # the replies to what nobody has waited for are in the way of the next
        storage._idle[0].sock.sendall(b"version\r\n")
        with pytest.raises(Exception, match="VERSION"):
            storage.get(b"k")
    storage.put(b"k", b"v", None)
    assert storage.get(b"k") == b"v", "over another connection"
    storage.close()


def test_a_socket_of_memcached(tmp_path):
    directory = tempfile.mkdtemp(prefix="zoocache-")  # its path is short
    os.chmod(directory, 0o777)
    path = f"{directory}/memcached"
    command = ["memcached", "-s", path, "-a", "0777", *(["-u", "nobody"] if os.geteuid() == 0 else [])]
    with subprocess.Popen(command) as server:
        until(lambda: os.path.exists(path))
        storage = open_url(f"memcached://{path}")
        storage.put(b"k", b"v", None)
        assert storage.get(b"k") == b"v"
        storage.close()
        server.kill()
    shutil.rmtree(directory)


# ---- the others ----


def test_an_etag_must_be_strong(tmp_path):
    server = Apache("None")
    storage = open_url(server.collection("weak"))
    assert storage.read(b"log") == (None, b"")
    assert storage.swap(b"log", b"v", b"")
    with pytest.raises(OSError, match="no strong ETag"):
        storage.read(b"log")
    storage.close()
    server.stop()


def test_an_answer_of_http_has_a_limit(apache, monkeypatch):
    monkeypatch.setattr(http, "_MOST", 1000)
    storage = open_url(apache.collection("large"))
    storage.put(b"k", bytes(1001), None)
    with pytest.raises(OSError, match="GET was answered with 200 and 1001 bytes"):
        storage.get(b"k")
    storage.close()
    for url in ("ftp://h/x", "http:///x", "http://h/x?y=1"):
        with pytest.raises(ValueError, match="HTTPStorage takes"):
            HTTPStorage(url)


@pytest.mark.slow
def test_a_server_of_mongodb_without_replicas_has_local_reads(ferretdb, monkeypatch):
    """The double takes every concern; MongoDB refuses linearizable reads there."""
    from pymongo.collection import Collection
    from pymongo.errors import OperationFailure

    find, codes = Collection.find_one, [123, 13]

    def find_one(collection, *args):
        if collection.read_concern.level == "linearizable":
            raise OperationFailure("no", codes[0])
        return find(collection, *args)

    monkeypatch.setattr(Collection, "find_one", find_one)
    storage = open_url(ferretdb.url + ".alone")
    assert storage.read(b"log") == (None, b"")
    assert storage.swap(b"log", b"v", b"")
    assert storage.read(b"log")[0] == b"v"
    codes.pop(0)
    storage.close()
    storage.forked()
    with pytest.raises(OperationFailure):
        storage.read(b"log")
    storage.close()


@contextmanager
def limited(seconds):
    """As inside of a cache's call."""
    token = DEADLINE.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        DEADLINE.reset(token)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memcached", "ferretdb", "aws", "apache"])
def test_a_server_that_hangs_or_is_gone(name, request):
    server = request.getfixturevalue(name)
    url = {"aws": lambda: server.table("hangs").replace("timeout=5", "timeout=0.2"),
           "apache": lambda: server.collection("hangs")}.get(name, lambda: server.url)()  # fmt: skip
    storage = open_url(url)
    storage.put(b"k", b"v", None)
    server.pause()
    try:
        began = time.monotonic()
        with limited(0.2), pytest.raises(TimeoutError):
            storage.get(b"k")
        with limited(0.2), pytest.raises(TimeoutError):
            storage.read(b"log")
        assert time.monotonic() - began < 10
    finally:
        server.go_on()
    until(lambda: works(storage))
    storage.touch(b"k", time.time() + 50)
    storage.touch(b"k", None)
    storage.touch(b"none", None)
    assert storage.get(b"k") == b"v"
    storage.close()
    storage.forked()
    assert storage.get(b"k") == b"v"
    storage.close()


def works(storage):
    try:
        return storage.get(b"k") == b"v"
    except OSError:
        return False


@pytest.mark.parametrize("url", [
    "file://host/x", "file:///", "file:///x?max_bytes=many", "file:///x?what=1", "file:///x?sync=2", "file:///x#y",
    "memcached://user:hidden@h", "memcached://", "memcached://h:hidden", "memcached://h?x=hidden", "memcached://h/x",
    "mongodb://user:hidden@", "mongodb://user:hid:den@h/x", "mongodb://user:pass@h:hidden/x", "mongodb://h/a$b",
    "dynamodb://region", "dynamodb://id:hidden@region/table", "dynamodb://r/t?timeout=hidden", "dynamodb://r/t/hidden",
    "https://user:hidden@/x", "https://user:hidden@h/x?y=hidden", "http://u:hidden@h:hidden/x",
])  # fmt: skip
def test_a_url_that_is_wrong_is_not_repeated(url):
    with pytest.raises(ValueError, match="storage_url is not as it has to be: ") as caught:
        open_url(url)
    text = "".join(traceback.format_exception(caught.value))
    assert "hidden" not in text.replace(repr(url), "").partition("open_url(url)")[2]


@pytest.mark.slow
def test_passwords_are_nowhere(tmp_path, apache, caplog):
    caplog.set_level(logging.DEBUG)
    port = free_port()
    for url in (apache.collection("x"), f"http://shop:hidden@127.0.0.1:{port}/x", f"http://shop:hidden@127.0.0.1:{apache.port}/x",
                f"mongodb://shop:hidden@127.0.0.1:{port}/x", "mongodb+srv://shop:hidden@nowhere.invalid/x"):  # fmt: skip
        storage = open_url(url)
        assert "hidden" not in repr(storage)
        assert PASSWORD not in repr(storage)
        with limited(0.2):
            try:
                storage.read(b"log")
            except Exception as error:
                text = "".join(traceback.format_exception(error))
                assert "hidden" not in text
            else:
                assert url == apache.collection("x")
        storage.close()
    assert "hidden" not in caplog.text
    assert PASSWORD not in caplog.text
