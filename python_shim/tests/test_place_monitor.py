"""``zoocache nodes``, ``stats``, ``invalidate`` and ``doctor`` over a place."""

import json
import logging
import secrets

import pytest
from servers import Memcached, until
from test_places import memcached  # noqa: F401 - a fixture

from zoocache import Cache, _place_beat, cli
from zoocache._place_beat import listed
from zoocache.doctor import diagnose
from zoocache.place_monitor import PlaceBoard
from zoocache.seal import new_key
from zoocache.storages import open_url

pytestmark = pytest.mark.plain


@pytest.fixture
def options(request, memcached, tmp_path):  # noqa: F811
    url = memcached.url if getattr(request, "param", "") != "file" else f"file://{tmp_path}/files"
    return {"storage_url": url, "prefix": secrets.token_hex(4)}


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.mark.parametrize("options", ["memcached", "file"], indirect=True)
def test_nodes_tell_about_themselves(options, capsys):
    where = ["--storage-url", options["storage_url"], "--prefix", options["prefix"]]
    with PlaceBoard(options["storage_url"], options["prefix"]) as board:
        assert board.nodes() == []
        assert run(capsys, "nodes", *where)[0] == cli.AMISS
        with Cache(**options) as one, Cache(**options):
            one.set("k", 1, deps=["t:1"])
            until(lambda: [node.status for node in board.nodes()] == ["ok", "ok"])
            first, second = board.nodes()
            assert first.id != second.id
            assert first.name == second.name
            assert 0 <= first.age < 60
            code, out, _ = run(capsys, "nodes", "--json", *where)
            assert (code, [each["status"] for each in json.loads(out)]) == (cli.FINE, ["ok", "ok"])
            code, out, _ = run(capsys, "stats", "--json", *where)
            assert (code, json.loads(out)["nodes"]) == (cli.FINE, 2)
            code, out, _ = run(capsys, "doctor", *where)
            assert (code, out.split()[:2]) == (cli.FINE, ["fine", "place:"])
            assert run(capsys, "invalidate", "t:1", *where)[0] == cli.FINE
            until(lambda: one.get("k") is None)
            assert len(board.nodes()) == 2, "who looks is no node"
            code, _, err = run(capsys, "explain", "k", *where)
            assert (code, "cannot be asked: that needs Redis" in err) == (cli.WRONG, True)


def test_who_is_gone_is_forgotten(options):
    with PlaceBoard(options["storage_url"], options["prefix"]) as board, Cache(**options):
        until(board.nodes)
        (node,) = board.nodes()
        place = open_url(options["storage_url"])
        place.delete(f"{options['prefix']}.node.{node.id}".encode())  # as it ends by itself, after 15 seconds
        assert [(each.status, each.id) for each in board.nodes()] == [("gone", node.id)]
        key = f"{options['prefix']}.nodes".encode()
        assert place.swap(key, json.dumps({node.id: 1.0}).encode(), place.read(key)[1])
        assert board.nodes() == []
        for nonsense in (b"[]", b"{", b"\xff", b'{"a": "x"}'):
            assert place.swap(key, nonsense, place.read(key)[1])
            assert board.nodes() == []
            assert listed(nonsense) == {}
        place.close()


def test_a_list_is_changed_by_all_of_many(options, monkeypatch):
    monkeypatch.setattr(_place_beat, "EVERY", 0.05)  # who was not quick enough tries again with the next text
    caches = [Cache(**options) for _ in range(6)]
    with PlaceBoard(options["storage_url"], options["prefix"]) as board:
        until(lambda: len(board.nodes()) == 6)
    for cache in caches:
        cache.close()


def test_doctor(options, tmp_path):
    with PlaceBoard(options["storage_url"], options["prefix"]) as board:
        assert [(each.level, each.about) for each in diagnose(board)] == [("note", "log"), ("fine", "place")]
        with Cache(**options):
            until(board.nodes)
            (node,) = board.nodes()
            ill = {"host": "h", "pid": 1, "health": {"status": "down", "checks": {"bus": {"status": "down"}}}}
            board.place.put(f"{options['prefix']}.node.{node.id}".encode(), json.dumps(ill).encode(), None)
            found = [each for each in diagnose(board) if each.level == "bad"]
            assert [each.text for each in found] == ["h:1 is down: bus"]


def test_a_log_that_is_sealed_takes_nothing_without_its_key(options, caplog):
    caplog.set_level(logging.CRITICAL, "zoocache")
    key = new_key()
    with Cache(**options, seal_key=key) as cache:
        cache.set("k", 1, deps=["t"])
        with (
            PlaceBoard(options["storage_url"], options["prefix"]) as board,
            pytest.raises(OSError, match="not taken it"),
        ):
            board.invalidate("t")
        assert cache.get("k") == 1
        with PlaceBoard(options["storage_url"], options["prefix"], seal_key=key) as board:
            board.invalidate("t")
        until(lambda: cache.get("k") is None)


def test_a_server_that_is_not_there(tmp_path, capsys):
    server = Memcached(tmp_path)
    server.stop()
    code, _, err = run(capsys, "nodes", "--redis", server.url)
    assert (code, err.startswith("zoocache: memcached://...: ")) == (cli.AWAY, True)
    code, _, err = run(capsys, "nodes", "--redis", "memcached://h/x/y")
    assert (code, "storage_url is not as it has to be" in err) == (cli.WRONG, True)
