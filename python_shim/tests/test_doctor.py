"""What is wrong with a server's settings is found, on real servers that are set so."""

import json
import pathlib
import re
import shutil
import time

import pytest
from node import Process
from servers import Redis, until

from zoocache import _ffi, doctor
from zoocache.cli import main
from zoocache.doctor import BAD, FINE, NOTE, diagnose
from zoocache.monitor import Board

pytestmark = pytest.mark.skipif(not _ffi.parts()["redis"] or not Redis.there(), reason="without Redis")

GOOD = ["--appendonly", "yes", "--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]


@pytest.fixture
def redis(tmp_path):
    """Starts servers with these settings."""
    servers = []

    def start(*options):
        directory = tmp_path / str(len(servers))
        directory.mkdir()
        servers.append(Redis(directory, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def found(server, about=None, url=None):
    """What is found: levels and texts."""
    with Board(url or server.url, "p") as board:
        return [(each.level, each.text) for each in diagnose(board) if about in (None, each.about)]


def config(server, **settings):
    with Board(server.url, "p") as board:
        for name, value in settings.items():
            assert board.call(["CONFIG", "SET", name.replace("_", "-"), value]) == [b"OK"]


def run(server, capsys, *args):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--redis", server.url, "--prefix", "p", *args])
    return ended.value.code, capsys.readouterr().out


def test_a_good_server(redis, capsys):
    server = redis(*GOOD)
    with Process(server.url, "p"):
        code, text = run(server, capsys)
    assert code == 0
    assert "bad" not in text and "note" not in text
    code, text = run(server, capsys, "--json")
    assert code == 0
    findings = json.loads(text)
    assert {each["level"] for each in findings} == {FINE}
    assert {each["about"] for each in findings} == {
        "version", "eviction", "persistence", "replicas", "clock", "permissions", "way"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "level", "word"),
    [
        (["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"], BAD, "list of holds"),
        (["--maxmemory-policy", "allkeys-random"], BAD, "evicted"),
        (["--maxmemory", "100mb"], BAD, "refused"),
        ([], NOTE, "not set"),
        (["--maxmemory", "100mb", "--maxmemory-policy", "volatile-ttl"], FINE, "neither the log nor the list of holds"),
    ],
)
def test_eviction(redis, capsys, options, level, word):
    server = redis(*options)
    findings = found(server, "eviction")
    assert findings[0][0] == level
    assert any(word in text for _, text in findings)
    assert run(server, capsys)[0] == (1 if level == BAD else 0)


def test_what_is_bad_has_an_advice_and_comes_first(redis, capsys):
    code, text = run(redis("--maxmemory-policy", "allkeys-lru"), capsys)
    lines = text.splitlines()
    assert code == 1
    assert [line.split()[0] for line in lines] == sorted(
        (line.split()[0] for line in lines), key=[BAD, NOTE, FINE].index
    )
    assert "maxmemory-policy volatile-lru" in lines[0]
    assert all(line.endswith(".") for line in lines)


def test_nothing_is_kept_on_a_disk(redis):
    server = redis()
    ((level, text),) = found(server, "persistence")
    assert level == NOTE and "no append-only file, and no snapshot" in text
    config(server, save="3600 1")
    assert "snapshot" not in found(server, "persistence")[0][1]
    with Process(server.url, "p", ack="durable") as node, Board(server.url, "p") as board:
        until(lambda: board.nodes())
        levels = dict(found(server, "persistence"))
        assert BAD in levels and f"{node.pid}" in levels[BAD]
        config(server, appendonly="yes")
        assert "appendfsync is everysec" in dict(found(server, "persistence"))[BAD]
        config(server, appendfsync="always")
        assert found(server, "persistence") == [(FINE, "appendonly, appendfsync always")]


def test_a_disk_that_cannot_be_written(redis):
    server = redis("--save", "3600 1")
    shutil.rmtree(server.directory)
    with Board(server.url, "p") as board:
        board.call(["BGSAVE"])
        until(lambda: b"rdb_last_bgsave_status:err" in board.call(["INFO", "persistence"])[0])
    assert (BAD, "the server could not write to its disk, and refuses writes until it can") in found(
        server, "persistence"
    )
    config(server, stop_writes_on_bgsave_error="no")
    assert (NOTE, "the server could not write to its disk") in found(server, "persistence")


@pytest.mark.slow
def test_replicas_without_a_fence(redis):
    master = redis("--repl-diskless-sync-delay", "0")
    replica = redis("--replicaof", "127.0.0.1", str(master.port))
    with Board(master.url, "p") as board:
        until(lambda: b"state=online" in board.call(["INFO", "replication"])[0])
    ((level, text),) = found(master, "replicas")
    assert level == BAD and "min-replicas-to-write 0" in text
    with Process(master.url, "p") as node, Board(master.url, "p") as board:
        until(lambda: board.nodes())
        assert any(f":{node.pid} would not notice" in text for _, text in found(master, "replicas"))
    config(master, min_replicas_to_write=1, min_replicas_max_lag=2)
    with Process(master.url, "p", replicas=1) as node, Board(master.url, "p") as board:
        board.call(["DEL", "{p}:nodes"])
        until(lambda: [each.facts["pid"] for each in board.nodes()] == [node.pid])
        assert found(master, "replicas") == [(FINE, "1, and a master that is cut off stops within 2 s")]
        config(master, min_replicas_to_write=0)
        assert any(f":{node.pid} count on min-replicas" in text for _, text in found(master, "replicas"))
        config(master, min_replicas_to_write=1)
    assert found(replica, "replicas") == [(BAD, "this server is a replica, which takes no invalidation")]
    replica.stop()
    until(lambda: "fewer replicas keep up" in str(found(master, "replicas")))


def test_clocks(redis, monkeypatch):
    server = redis()
    assert [level for level, _ in found(server, "clock")] == [FINE]
    with Process(server.url, "p"), Board(server.url, "p") as board:
        until(lambda: board.nodes())
        (node,) = board.nodes()
        ahead = int((time.time() + 100) * 1000)
        until(lambda: board.call(["ZADD", "{p}:nodes", ahead, node.id]) and board.nodes()[0].age < -50)
        assert any(level == NOTE and f"the clock of {node.name}" in text for level, text in found(server, "clock"))
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() - 3600)
    assert any(level == NOTE and "3600 s apart" in text for level, text in found(server, "clock"))


def user(server, *rules):
    """A URL with a user of these rules."""
    with Board(server.url, "p") as board:
        assert board.call(["ACL", "SETUSER", "u", "reset", "on", ">hunter2", *rules]) == [b"OK"]
    return server.url.replace("//", "//u:hunter2@")


README = pathlib.Path(__file__).parents[1] / "README.md"
NEEDED = re.findall(r"\+[a-z|]+", re.search(r"```acl\n(.*?)```", README.read_text("utf-8"), re.DOTALL)[1])


def test_what_the_user_must_be_allowed(redis):
    server = redis()
    url = user(server, "~{p}:*", *NEEDED, "+zrange")
    assert found(server, "permissions", url) == [(FINE, "all commands that a cache needs")]
    assert [level for level, _ in found(server, "access", url)] == [NOTE, NOTE]
    assert [level for level, _ in found(server, "clock", url)] == [NOTE]
    for lacking in [*NEEDED, "+zrange"]:
        url = user(server, "~{p}:*", *[each for each in [*NEEDED, "+zrange"] if each != lacking])
        ((level, text),) = found(server, "permissions", url)
        assert (level, text.split(", ")[-1].split()[-1]) == (BAD, lacking), lacking
    ((level, text),) = found(server, "permissions", user(server, "~other:*", "+@all"))
    assert level == BAD and "+get" in text and "+xadd" in text
    assert {name for name, _ in doctor._NEEDED} | {"+multi"} == {*NEEDED, "+zrange"}, "as the README lists them"


def test_it_leaves_nothing_behind(redis):
    server = redis()
    found(server)
    with Board(server.url, "p") as board:
        assert board.call(["DBSIZE"]) == [0]


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("redis://cache.internal", NOTE),
        ("redis://u:p@10.0.0.7:6379/1", NOTE),
        ("redis://u:p@localhost", FINE),
        ("unix:///run/redis.sock", FINE),
    ],
)
def test_the_way_there(url, level):
    with Board(url, "p") as board:
        assert [each.level for each in doctor._way(board, None, [])] == [level]


@pytest.mark.parametrize(("version", "level"), [("4.0.14", BAD), ("6.2.6", NOTE), ("7.0.15", FINE), ("8.2.0", FINE)])
def test_versions(version, level):
    server = doctor.Server({"redis_version": version}, {}, 0.0, 0.0)
    assert [each.level for each in doctor._version(None, server, [])] == [level]
    assert list(doctor._version(None, doctor.Server({}, {}, 0.0, 0.0), [])) == []
