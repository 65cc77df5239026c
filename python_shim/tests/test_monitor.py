"""What a fleet is seen to be by who watches it: real processes, a real Redis."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from node import Process
from servers import Redis, certificate, until

from zoocache import Cache, _beat, _ffi, _ffi_shared
from zoocache.cli import main
from zoocache.monitor import GONE, Board, ratio, totals
from zoocache.telemetry import TelemetryManager
from zoocache.telemetry.adapters.redis_adapter import RedisTelemetryAdapter

PARTS = _ffi.parts()
pytestmark = [
    pytest.mark.skipif(not PARTS["redis"] or not Redis.there(), reason="without Redis"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def own(tmp_path):
    server = Redis(tmp_path)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def fleet(server):
    """Three processes, with something in them."""
    nodes = [Process(server.url, "fleet") for _ in range(2)]
    nodes.append(Process(server.url, "fleet", telemetry="redis"))
    for n, node in enumerate(nodes):
        for x in range(n + 1):
            node.run(f"load({x})")
            node.run(f"load({x})")
    with Board(server.url, "fleet") as board:
        until(lambda: totals(board.nodes()).get("hits") == 6)
    yield nodes
    for node in nodes:
        node.end()


@pytest.fixture
def board(server, fleet):
    with Board(server.url, "fleet") as board:
        yield board


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs the command; what it has printed."""
    monkeypatch.delenv("REDIS_URL", raising=False)

    def run(*args, code=0):
        with pytest.raises(SystemExit) as ended:
            main(args)
        out, err = capsys.readouterr()
        assert ended.value.code == code, (out, err)
        return out if code in (0, 1) else err

    return run


# ---- nodes -------------------------------------------------------------------------------------------


def test_every_process_tells_about_itself(fleet, board):
    nodes = board.nodes()
    assert sorted(node.facts["pid"] for node in nodes) == sorted(node.pid for node in fleet)
    assert len({node.id for node in nodes}) == len(nodes) == 3
    for node in nodes:
        n = [each.pid for each in fleet].index(node.facts["pid"])
        assert node.status == "ok"
        assert node.stats["hits"] == node.stats["fills"] == node.stats["entries"] == n + 1
        assert node.checks["bus"]["age"] <= node.checks["bus"]["max_staleness"] == 1.0
        assert node.name.endswith(f":{node.facts['pid']}")
        assert -1 < node.age < 5 and node.facts["uptime"] > 0
        assert node.facts["program"] == "node.py"
    found = totals(nodes)
    assert (found["hits"], found["misses"], ratio(found)) == (6, 6, 0.5)
    assert ratio({}) is None


def test_facts_may_be_told_before_a_cache_is_made(server, monkeypatch):
    """The thread that does it has seen the node before its maker had a chance to go on."""
    told = []

    class Hasty(_beat.Beat):
        def __init__(self, cache, shared):
            super().__init__(cache, shared)
            told.append(self.facts(cache))

    monkeypatch.setattr(_beat, "Beat", Hasty)
    with Cache(storage_url=server.url, prefix="hasty"):
        assert told[0]["stats"]["entries"] == 0


def test_the_latencies_of_loads_are_told_if_they_are_wanted(board, fleet):
    fills = {node.facts["pid"]: node.facts["fills"] for node in board.nodes()}
    assert fills[fleet[0].pid] is None
    told = fills[fleet[2].pid]
    assert told["count"] == 3
    assert 0 < told["p50"] <= told["p99"] <= told["seconds"]


def test_a_monitor_is_no_node_and_asks_no_node(server, fleet, board):
    """It reads what there is: no command of it looks for keys, and its own cache is not listed."""
    before = _commands(board)
    for _ in range(20):
        board.nodes()
        board.said()
    board.invalidate("nobody:1")
    assert board.cache.shared.core.catch_up(board.cache.token(), 5.0) == 0
    time.sleep(1.3)  # it would tell about itself by now
    assert len(board.nodes()) == 3
    after = _commands(board)
    assert after.get("rpush", 0) == before.get("rpush", 0), "no node was asked"
    assert not {"keys", "scan", "hscan", "sscan", "zscan"} & after.keys()
    assert after["zrange"] - before.get("zrange", 0) == 21


def _commands(board):
    (text,) = board.call(["INFO", "commandstats"])
    lines = [line for line in text.decode().split("\r\n") if line.startswith("cmdstat_")]
    return {line[8:].partition(":")[0]: int(line.partition("calls=")[2].partition(",")[0]) for line in lines}


def test_a_node_that_has_died_is_gone_and_another_comes(own):
    with Process(own.url, "p") as node, Board(own.url, "p") as board:
        until(lambda: [n.status for n in board.nodes()] == ["ok"])
        first = board.nodes()[0].id
        node.kill()
        key = f"{{p}}:node:{first}"
        assert 0 < board.call(["PTTL", key])[0] <= 5000
        board.call(["PEXPIRE", key, 1])  # as if that was over
        until(lambda: [n.status for n in board.nodes()] == [GONE])
        assert board.ask("tags", nodes=[first], timeout=0.5) == {}
        with Process(own.url, "p"):
            until(lambda: sorted(n.status for n in board.nodes()) == [GONE, "ok"])


@pytest.mark.plain
def test_a_fork_is_a_node_of_its_own(own):
    code = (
        "import os, sys, zoocache\n"
        f"cache = zoocache.Cache(bus_url={own.url!r}, prefix='p')\n"
        "pid = os.fork()\n"
        "cache.set('k', pid)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(0) if pid == 0 else os.waitpid(pid, 0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with Board(own.url, "p") as board:
        until(lambda: len([n for n in board.nodes() if n.status == "ok" and n.stats["entries"] == 1]) == 2)
        assert len({node.facts["pid"] for node in board.nodes()}) == 2
    process.communicate()


def test_a_server_that_is_gone_is_an_error_and_one_that_is_back_is_none(own):
    with Board(own.url, "p", timeout=0.3) as board, Cache(bus_url=own.url, prefix="p"):
        until(lambda: len(board.nodes()) == 1)
        own.stop()
        for ask in (board.nodes, board.said):
            with pytest.raises(OSError, match=r".+"):
                ask()
        own.start()
        until(lambda: _there(board))


def _there(board):
    try:
        return len(board.nodes()) == 1
    except OSError:
        return False


def test_what_a_program_in_c_tells_is_understood(own):
    """Its beat is the text of its metrics."""
    text = (
        "# TYPE zoocache_hits_total counter\n"
        'zoocache_hits_total{cache=""} 30\n'
        'zoocache_misses_total{cache="",reason="absent"} 9\n'
        'zoocache_misses_total{cache="",reason="expired"} 1\n'
        'zoocache_store_open{cache=""} 0\n'
        'zoocache_load_seconds_bucket{cache="",le="0.1"} 4\n'
    )
    with Board(own.url, "p") as board:
        ms = int(time.time() * 1000)
        board.call(
            ["SET", "{p}:node:00000000000000aa", text, "PX", 5000], ["ZADD", "{p}:nodes", ms, "00000000000000aa"]
        )
        (node,) = board.nodes()
        assert (node.status, node.name) == ("ok", "00000000000000aa")
        assert node.stats == {"hits": 30, "misses": 10, "absent": 9, "expired": 1, "storage_down": 0}
        board.call(["SET", "{p}:node:00000000000000aa", "{broken", "PX", 5000])
        assert board.nodes()[0].stats == {}


# ---- questions ---------------------------------------------------------------------------------------


def test_nodes_answer_with_their_next_beat(fleet, board):
    ids = {node.facts["pid"]: node.id for node in board.nodes()}
    first, last = ids[fleet[0].pid], ids[fleet[2].pid]
    key = eval(fleet[2].run("load.key(1)"))
    questions = [("tags",), ("tags", "user"), ("keys", "user:1"), ("inspect", key), ("dance",), ("keys", "")]
    with ThreadPoolExecutor(len(questions)) as pool:  # as several monitors do
        answers = list(pool.map(lambda question: board.ask(*question, nodes=[first, last]), questions))
    assert all(answer.keys() == {first, last} for answer in answers)
    highest, below, keys, inspected, unknown, bad = ([answer[id] for id in (first, last)] for answer in answers)
    assert highest == [{"result": [["all", 1], ["user", 1]]}, {"result": [["all", 3], ["user", 3]]}]
    assert below[1] == {"result": [["user:0", 1], ["user:1", 1], ["user:2", 1]]}
    assert keys == [{"result": []}, {"result": [key]}]
    assert inspected[0] == {"result": None}
    found = inspected[1]["result"]
    assert (found["fresh"], found["type"], found["deps"]) == (True, "int", ["user:1", "all"])
    assert unknown[0] == {"error": "this node does not know the command dance"}
    assert "InvalidTag" in bad[0]["error"]


@pytest.mark.slow
def test_one_node_clears_its_memory_and_prunes_its_tags(server):
    with Process(server.url, "two") as one, Process(server.url, "two") as two, Board(server.url, "two") as board:
        nodes = [one, two]
        until(lambda: len(board.nodes()) == 2)
        for node in nodes:
            node.run("load(1)")
        ids = {node.facts["pid"]: node.id for node in board.nodes()}
        first = ids[nodes[0].pid]
        with ThreadPoolExecutor(2) as pool:
            cleared, pruned = pool.map(lambda do: board.ask(*do, nodes=[first]), [("clear",), ("prune", 0)])
        assert cleared == {first: {"result": 1}}
        assert pruned[first]["result"] >= 0
        assert [node.run("len(cache)") for node in nodes] == ["0", "1"]
        assert board.ask("invalidate", "user:1", nodes=[first]) == {first: {"result": None}}
        until(lambda: nodes[1].run("load.explain(1).reason") == "'invalidated'")


def test_questions_without_sense_hurt_nobody(own):
    with Cache(bus_url=own.url, prefix="p") as cache, Board(own.url, "p") as board:
        until(lambda: len(board.nodes()) == 1)
        (node,) = board.nodes()
        box = f"{{p}}:ask:{node.id}"
        board.call(*[["RPUSH", box, text] for text in ("{", "[]", "7", '{"do": 1}', "x" * 5000, '{"token": "t"}')])
        assert board.ask("tags", nodes=[node.id])[node.id] == {"result": []}
        cache.set("k", 1)
        assert cache.get("k") == 1


@pytest.mark.slow
def test_many_questions_at_once_are_all_answered(own):
    with Cache(bus_url=own.url, prefix="p"), Board(own.url, "p") as board:
        until(lambda: len(board.nodes()) == 1)
        (node,) = board.nodes()
        box = f"{{p}}:ask:{node.id}"
        for n in range(20):
            board.call(["RPUSH", box, json.dumps({"token": f"t{n}", "do": "tags", "args": []})])
        until(lambda: all(board.call(["LRANGE", f"{{p}}:reply:t{n}", 0, 0])[0] for n in (0, 15, 16, 19)))


# ---- invalidations -----------------------------------------------------------------------------------


def test_invalidations_are_seen_as_they_come(own):
    with Cache(bus_url=own.url, prefix="p") as cache, Board(own.url, "p") as board:
        assert board.said()[0] == []
        cache.invalidate("user:1")
        found, seen = board.said()
        assert [each.tags for each in found] == [("user:1",)]
        assert found[0].node == cache.shared.core.node()
        assert abs(found[0].at - time.time()) < 60
        assert board.said(seen) == ([], seen)
        huge = [f"t{n}:" + "x" * 200 for n in range(50)]
        cache.invalidate(*huge)
        cache.clear()
        found, seen = board.said(seen)
        assert [set(each.tags) for each in found] == [set(huge), set()]
        for n in range(150):
            cache.invalidate(f"n:{n}")
        assert len(board.said(seen)[0]) == 150
        assert len(board.said()[0]) == 100


@pytest.mark.parametrize("shards", [1, 3])
def test_a_monitor_invalidates_for_all(own, shards):
    with Process(own.url, "p", log_shards=shards) as node, Board(own.url, "p") as board:
        node.run("load(1)")
        node.run("cache.invalidate('other')")
        board.invalidate("user:1", "x:2")
        until(lambda: node.run("load.explain(1).reason") == "'invalidated'")
        node.run("load(1)")
        board.invalidate()
        until(lambda: node.run("load.explain(1).fresh") == "False")
        said, seen = board.said()
        assert {tag for each in said for tag in each.tags} == {"other", "user:1", "x:2"}
        assert len(seen) == shards


# ---- the command -------------------------------------------------------------------------------------


def test_nodes_and_stats(server, fleet, command, monkeypatch):
    url = ["--redis", server.url, "--prefix", "fleet"]
    lines = command("nodes", *url).splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:3] == ["NODE", "ID", "STATUS"]
    assert all(" ok " in line for line in lines[1:])
    found = json.loads(command("nodes", "--json", *url))
    assert {node["pid"] for node in found} == {node.pid for node in fleet}
    assert {node["status"] for node in found} == {"ok"}
    monkeypatch.setenv("REDIS_URL", server.url)
    found = json.loads(command("stats", "--json", "--prefix", "fleet"))
    assert found["nodes"] == 3
    assert found["hits"] >= 6
    assert "hit_ratio" in command("stats", *url)


def test_nobody_is_there(server, command):
    assert command("nodes", "--redis", server.url, "--prefix", "none", code=1).startswith("NODE")
    assert json.loads(command("stats", "--json", "--redis", server.url, "--prefix", "none", code=1))["nodes"] == 0


@pytest.mark.slow
def test_invalidate_and_explain(server, command):
    with Process(server.url, "one") as node:
        node.run("load(1)")
        url = ["--redis", server.url, "--prefix", "one"]
        with Board(server.url, "one") as board:
            until(lambda: totals(board.nodes()).get("entries") == 1)
        key = eval(node.run("load.key(1)"))
        found = json.loads(command("explain", key, "--json", *url))
        assert [each["result"]["fresh"] for each in found.values()] == [True]
        assert command("invalidate", "user:1", "b", *url) == ""
        until(lambda: node.run("load.explain(1).reason") == "'invalidated'")
        found = json.loads(command("explain", key, "--json", *url, code=1))
        assert [each["result"]["killer"] for each in found.values()] == ["user:1"]
        lines = command("explain", key, *url, code=1).splitlines()
        assert len(lines) == 2 and " no " in lines[1]
        assert json.loads(command("invalidate", "c", "--json", *url)) == {"invalidated": ["c"]}


def test_how_it_ends(server, command):
    assert "usage" in command(code=1)
    assert "REDIS_URL" in command("nodes", code=2)
    assert "scheme" in command("nodes", "--redis", "ftp://secret:word@h", code=2)
    assert command("invalidate", "a\0b", "--redis", server.url, code=2).startswith("zoocache: ")
    text = command("nodes", "--redis", "redis://user:hunter2@127.0.0.1:1/0", code=3)
    assert "hunter2" not in text and text.startswith("zoocache: redis://...")
    for args in (["nodes"], ["invalidate", "t"]):
        assert "hunter2" not in command(*args, "--redis", "redis://user:hunter2@h:x/0", code=2)


def test_as_a_process(server, fleet):
    """The same, as it is installed."""
    done = subprocess.run(
        [sys.executable, "-m", "zoocache", "stats", "--redis", server.url, "--prefix", "fleet"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nodes              3\n")
    assert subprocess.run([sys.executable, "-m", "zoocache"], capture_output=True).returncode == 1


def test_control_characters_do_not_reach_the_terminal(own, command):
    with Cache(bus_url=own.url, prefix="p"), Board(own.url, "p") as board:
        until(lambda: len(board.nodes()) == 1)
        facts = {"host": "\x1b[31mred\n", "pid": 1, "program": "x" * 300, "health": {"status": "ok"}}
        board.call(["SET", "{p}:node:00000000000000aa", json.dumps(facts), "PX", 5000])
        board.call(["ZADD", "{p}:nodes", int(time.time() * 1000), "00000000000000aa"])
        text = command("nodes", "--redis", own.url, "--prefix", "p")
    assert "\x1b" not in text and "?[31mred?:1" in text and "x" * 61 not in text


# ---- ways to the server ------------------------------------------------------------------------------


def test_over_a_unix_socket(own):
    url = f"unix://{own.directory}/s"
    with Cache(bus_url=url, prefix="p"), Board(url, "p") as board:
        until(lambda: len(board.nodes()) == 1)
        board.invalidate("t")


@pytest.mark.skipif(not PARTS["tls"], reason="without TLS")
def test_over_tls_with_a_password(tmp_path, command):
    from servers import free_port

    cert, key = certificate(tmp_path, "IP:127.0.0.1")
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no"]
    server = Redis(tmp_path, *options, "--requirepass", "hunter2")
    url = f"rediss://:hunter2@127.0.0.1:{port}"
    with Cache(bus_url=url, prefix="p", tls_ca=cert), Board(url, "p", tls_ca=cert) as board:
        until(lambda: len(board.nodes()) == 1)
        assert "hunter2" not in str(board)
    assert "1" in command("stats", "--redis", url, "--prefix", "p", "--tls-ca", cert, code=0)
    with Board(f"rediss://:wrong@127.0.0.1:{port}", "p", tls_ca=cert) as board, pytest.raises(OSError):
        board.nodes()
    server.stop()


def test_a_user_who_may_not_list_is_told(tmp_path):
    server = Redis(tmp_path, "--user", *"u on >p ~* +@all -zrange".split())
    with Board(f"redis://u:p@127.0.0.1:{server.port}", "p") as board, pytest.raises(OSError, match="zrange"):
        board.nodes()
    server.stop()


# ---- below -------------------------------------------------------------------------------------------


def test_replies_of_every_kind(own):
    server = _ffi_shared.Server(own.url, 2.0, prefix="p")
    replies = server.ask(
        [b"SET", b"k", b"a\r\n\0b"], [b"GET", b"k"], [b"GET", b"none"], [b"INCR", b"n"], [b"LPOP", b"k"],
        [b"EVAL", b"return {1, {'x', {}}, false}", b"0"], [b"GET", b""], [b"SET", b"", b""], [b"GET", b""],
    )  # fmt: skip
    assert isinstance(replies[4], _ffi_shared.Refused) and "WRONGTYPE" in str(replies[4])
    del replies[4]
    assert replies == [b"OK", b"a\r\n\0b", None, 1, [1, [b"x", []], None], None, b"OK", b""]
    with pytest.raises(OSError, match=r"."):
        server.ask(*[[b"PING"]] * 13)
    server.close()
    server.close()


def test_the_adapter_reports_on_a_cache_that_it_is_given(own):
    with Cache(bus_url=own.url, prefix="p") as cache, Board(own.url, "p") as board:
        adapter = RedisTelemetryAdapter(cache)
        adapter.bind_core(cache)
        manager = TelemetryManager([adapter])
        manager.increment("orders", 2, {"shop": "b", "day": "mon"})
        manager.increment("orders", 1, {"day": "mon", "shop": "b"})
        manager.observe("price", 0.5)
        manager.observe("price", 1.5)
        manager.set_gauge("queue", 9)
        manager.set_gauge("queue", 4)
        cache.cacheable(lambda: 1)()
        until(lambda: any((node.facts.get("fills") or {}).get("count") == 1 for node in board.nodes()))
        (node,) = board.nodes()
        told = {"orders_day=mon_shop=b": 3.0, "price_sum": 2.0, "price_count": 2.0, "queue": 4}
        assert node.facts["metrics"] == told
        for n in range(300):
            manager.increment("visits", 1, {"user": str(n)})
        until(lambda: len(board.nodes()[0].facts["metrics"]) == 201)
        assert board.nodes()[0].facts["metrics"]["other"] == 300 - (200 - len(told))
