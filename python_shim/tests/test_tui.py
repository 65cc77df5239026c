"""The dashboard, driven by keys, over real processes and a real Redis."""

import argparse
import asyncio
import gc
import html
import re
import sys

import pytest
from node import Process
from servers import Redis, until
from test_extras import run as run_without

from zoocache import Cache, _ffi, cli
from zoocache.monitor import GONE, Board, Node, labels
from zoocache.tui.app import ZooCacheCLI
from zoocache.tui.commands import Command, parse, summed
from zoocache.tui.history import History
from zoocache.tui.widgets import Cards

pytestmark = [
    pytest.mark.plain,
    pytest.mark.skipif(not _ffi.parts()["redis"] or not Redis.there(), reason="without Redis"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def fleet(server):
    """Two processes, with something in them."""
    with Process(server.url, "fleet", telemetry="redis") as one, Process(server.url, "fleet") as two:
        for x in range(3):
            for node in (one, two)[: 2 - x // 2]:
                node.run(f"load({x})")
        with Board(server.url, "fleet") as board:
            until(lambda: sum(node.stats.get("entries", 0) for node in board.nodes()) == 5)
        yield one, two


@pytest.fixture
def own(tmp_path):
    server = Redis(tmp_path)
    yield server
    server.stop()


def shown(app):
    """What is on the screen, as text."""
    lines = re.sub(r"</text>", "\n", re.sub(r"<style>.*?</style>", "", app.export_screenshot(), flags=re.S))
    return html.unescape(re.sub(r"<[^>]*>", "", lines)).replace("\xa0", " ")


async def until_shown(pilot, *texts):
    for _ in range(1200):
        screen = shown(pilot.app)
        if all(text in screen for text in texts):
            return screen
        await pilot.pause(0.05)
    raise AssertionError(f"not shown: {[text for text in texts if text not in screen]}\n{screen}")


async def until_true(pilot, condition):
    for _ in range(1200):
        if condition():
            return
        await pilot.pause(0.05)
    raise AssertionError("it has not come")


async def command(pilot, line):
    box = pilot.app.query_one("#command")
    box.focus()
    box.value = line
    await pilot.press("enter")


# ---- what is shown -----------------------------------------------------------------------------------


async def test_the_garbage_collector_does_not_look_at_what_stays(server):
    async with ZooCacheCLI(server.url, "nobody").run_test() as pilot:
        while not gc.get_freeze_count():
            await pilot.pause()
    assert not gc.get_freeze_count()


async def test_nodes_totals_and_invalidations(server, fleet):
    app = ZooCacheCLI(redis_url=server.url, prefix="fleet")
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await until_shown(pilot, "2 nodes", f":{fleet[0].pid}", f":{fleet[1].pid}", "entries 5", "0/s")
        assert "hits, % of calls" in screen and "computations, ms" in screen
        assert len(app.query_one(Cards).cards) == 2
        fleet[0].run("cache.invalidate('some:tag', 'other')")
        await until_shown(pilot, "some:tag, other", f"by {labels(app.nodes)[app.nodes[0].id].split(':')[0]}")
        for _ in range(20):
            fleet[0].run("[load(0) for _ in range(100)]")
            await pilot.pause(0.05)
        await until_true(pilot, lambda: any(each.ratio == 1 for each in app.history.moments))
        await pilot.press("c")
        await until_true(pilot, lambda: "some:tag" not in shown(app))


async def test_a_small_terminal_without_colours(server, fleet, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = ZooCacheCLI(redis_url=server.url, prefix="fleet")
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await until_shown(pilot, "2 nodes", f":{fleet[0].pid}", "ok")
        assert "% of calls" not in screen, "there is no room for curves"
        assert not app.query_one("#curves").display
        await pilot.resize_terminal(120, 40)
        await until_shown(pilot, "% of calls")


async def test_cards_of_many_nodes():
    class Still(ZooCacheCLI):
        def read(self): ...

    app = Still("redis://127.0.0.1:1")
    many = [node(f"{n:04}", "degraded" if n == 7 else "ok", hits=3, misses=1) for n in range(50)]
    async with app.run_test(size=(121, 40)) as pilot:
        cards = app.query_one(Cards)
        app.show(many, [])
        screen = await until_shown(pilot, "0000", "0007", "degraded", "75.0% hits")
        assert "0049" not in screen
        assert cards.virtual_size.height == 13 * 5, "four beside each other"
        assert [screen.count(corner) for corner in "╭╮┏┓"] == [15, 15, 1, 1]
        drawn = []
        cards.render_line = lambda y: drawn.append(y) or Cards.render_line(cards, y)
        app.show(many, [])
        app.show([*many[:5], node("0005", "down"), *many[6:]], [])
        await until_shown(pilot, "down")
        assert sorted(set(drawn)) == [5, 6, 7, 8, 9], "the row of what has changed"
        cards.scroll_end(animate=False)
        await until_shown(pilot, "0048", "0049")
        await pilot.resize_terminal(61, 40)
        await until_true(pilot, lambda: cards.virtual_size.height == 25 * 5)


@pytest.mark.slow
async def test_a_node_that_dies_and_one_that_comes(own):
    with Process(own.url, "p") as node, Process(own.url, "p") as other, Board(own.url, "p") as board:
        app = ZooCacheCLI(redis_url=own.url, prefix="p")
        async with app.run_test(size=(120, 40)) as pilot:
            await until_shown(pilot, "2 nodes", f":{node.pid}")
            id = next(each.id for each in board.nodes() if each.facts["pid"] == node.pid)
            node.kill()
            board.call(["PEXPIRE", f"{{p}}:node:{id}", 1])
            await until_shown(pilot, GONE, "heard", id[:4])
            assert len(app.query_one(Cards).cards) == 2
            board.call(["ZREM", "{p}:nodes", id])  # as after a minute
            await until_true(pilot, lambda: len(app.query_one(Cards).cards) == 1)
            await until_shown(pilot, "1 nodes", f":{other.pid}")


@pytest.mark.slow
async def test_a_server_that_is_gone_for_a_while(own):
    with Cache(bus_url=own.url, prefix="p"):
        app = ZooCacheCLI(redis_url=own.url, prefix="p")
        async with app.run_test(size=(120, 40)) as pilot:
            await until_shown(pilot, "1 nodes")
            own.stop()
            await until_shown(pilot, "does not answer since")
            await command(pilot, "invalidate t")
            await until_shown(pilot, "> all invalidate t: ")
            own.start()
            await until_true(pilot, lambda: "does not answer" not in shown(app))
            await until_shown(pilot, "1 nodes")


@pytest.mark.slow
async def test_what_others_have_written_is_harmless(tmp_path):
    server = Redis(tmp_path, "--requirepass", "hunter2")
    url = server.url.replace("//", "//:hunter2@")
    with Cache(bus_url=url, prefix="p") as cache:
        app = ZooCacheCLI(redis_url=url, prefix="p")
        async with app.run_test(size=(120, 40)) as pilot:
            await until_shown(pilot, "1 nodes")
            cache.invalidate("x" * 250, "[red]tag[/]", *[f"n:{n}" for n in range(50)])
            screen = await until_shown(pilot, "[red]tag[/]", "…", "and 47 more")
            assert "x" * 61 not in screen
            for n in range(400):
                cache.invalidate(f"many:{n}")
            await until_shown(pilot, "many:399")
            assert "hunter2" not in shown(app)
    server.stop()


# ---- commands ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_commands(server, fleet):
    app = ZooCacheCLI(redis_url=server.url, prefix="fleet")
    one, two = fleet
    async with app.run_test(size=(100, 70)) as pilot:  # all lines stay on the screen
        await until_shown(pilot, "2 nodes")
        await command(pilot, "invalidate user:1")
        await until_shown(pilot, "> all invalidate user:1: done")
        for node in fleet:
            await until_true(pilot, lambda node=node: node.run("load.explain(1).reason") == "'invalidated'")
        first = next(node for node in app.nodes if node.facts["pid"] == one.pid)
        lines = {
            f"{first.id[:6]} clear": f"clear: {first.name}: ",
            "prune 0": "all prune 0: ",
            "local prune": "local prune: local: ",
            "local clear": "local clear: local: done",
            "keys all": "all keys all: ",
            "inspect no:such": "all inspect no:such: ",
            "nobody clear": "no command and no node begins with nobody",
            "all dance": "one of invalidate",
            "keys": "keys takes 1 arguments",
            "invalidate a\0b": "all invalidate a?b: ",
        }
        for line in lines:
            await command(pilot, line)
        await until_shown(pilot, *lines.values())
        assert one.run("len(cache)") == "0"
        assert two.run("len(cache)") != "0"
        two.run("load(2)")
        await command(pilot, "all clear")
        await until_true(pilot, lambda: two.run("load.explain(2).fresh") == "False")
        await command(pilot, "")


@pytest.mark.slow
async def test_tags_by_size_down_and_up(server):
    with Process(server.url, "tags") as one, Process(server.url, "tags") as two:
        for x in range(3):
            one.run(f"load({x})")
        two.run("load(0)")
        app = ZooCacheCLI(redis_url=server.url, prefix="tags")
        async with app.run_test(size=(120, 40)) as pilot:
            await until_shown(pilot, "2 nodes")
            await pilot.press("t")
            table = app.query_one("#by-size")
            rows = lambda: [table.get_row_at(n) for n in range(table.row_count)]
            await until_true(pilot, lambda: rows() == [["all", "4"], ["user", "4"]])
            await pilot.press("down", "enter")
            await until_true(pilot, lambda: rows() == [["user:0", "2"], ["user:1", "1"], ["user:2", "1"]])
            await pilot.press("backspace")
            await until_true(pilot, lambda: rows() == [["all", "4"], ["user", "4"]])


@pytest.mark.slow
async def test_a_key_is_inspected(server):
    with Process(server.url, "key") as node:
        node.run("load(7)")
        key = eval(node.run("load.key(7)"))
        app = ZooCacheCLI(redis_url=server.url, prefix="key")
        async with app.run_test(size=(120, 40)) as pilot:
            await until_shown(pilot, "1 nodes")
            await pilot.press("i")
            app.screen.query_one("#key").value = key
            await pilot.press("enter")
            await until_shown(pilot, "yes", "int", "user:7 all")
            app.screen.query_one("#key").value = "no:such"
            await pilot.press("enter")
            await until_shown(pilot, "absent")
            await pilot.press("escape")
            await until_true(pilot, lambda: len(app.screen_stack) == 1)


async def test_keys(server):
    app = ZooCacheCLI(redis_url=server.url, prefix="none")
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await until_shown(pilot, "0 nodes")
        await pilot.press("h")
        await until_shown(pilot, "the command line (Escape leaves it)", "invalidate TAG...")
        await pilot.press("escape", "colon", "q", "escape")  # a letter of a command
        assert app.query_one("#command").value == "q"
        await pilot.press("ctrl+c")
        await until_shown(pilot, "ctrl+c once more quits")
        assert app.is_running
        await pilot.press("ctrl+c")
    assert app.return_code == 0
    app = ZooCacheCLI(redis_url=server.url, prefix="none")
    async with app.run_test() as pilot:
        await pilot.press("q")
    assert app.return_code == 0


# ---- without a screen --------------------------------------------------------------------------------


def node(id, status="ok", uptime=1.0, **stats):
    return Node(id, status, 0.1, {"host": "web", "pid": 7 if id != "cc11" else 8, "uptime": uptime, "stats": stats})


NODES = [node("aa11"), node("ab22"), node("cc11")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("invalidate a b", Command("all", "invalidate", ("a", "b"))),
        ("all clear", Command("all", "clear", ())),
        ("local prune 1.5", Command("local", "prune", ("1.5",))),
        ("  aa  tags  user ", Command("aa11", "tags", ("user",))),
        ("web:8 inspect k", Command("cc11", "inspect", ("k",))),
        ("web:7 clear", "several nodes begin"),
        ("a clear", "several nodes begin"),
        ("zz clear", "no node begins with zz"),
        ("", "one of invalidate"),
        ("all", "one of invalidate"),
        ("invalidate", "takes 1 or more"),
        ("clear all", "takes 0 arguments"),
        ("prune soon", "takes seconds"),
    ],
)
def test_lines(line, found):
    if isinstance(found, str):
        with pytest.raises(ValueError, match=found):
            parse(line, NODES)
    else:
        assert parse(line, NODES) == found


def test_nodes_of_one_name_are_told_apart():
    assert labels(NODES) == {"aa11": "web:7 aa11", "ab22": "web:7 ab22", "cc11": "web:8"}
    assert summed({"a": {"result": [["t", 1], ["u", 5]]}, "b": {"result": [["t", 6]]}, "c": {"error": "x"}}) == [
        ("t", 7),
        ("u", 5),
    ]


def test_what_nodes_do_is_by_their_own_clocks():
    history = History()
    assert history.add(0.0, []).ratio is None
    first = history.add(1.0, [node("aa11", hits=100, misses=100)])
    assert first.ratio is None, "one text tells no rate"
    moment = history.add(2.5, [node("aa11", uptime=2.0, hits=130, misses=110)])
    assert (moment.ratio, moment.rates["hits"], moment.rates["misses"]) == (0.75, 30.0, 10.0)
    assert history.add(2.9, [node("aa11", uptime=2.0, hits=130, misses=110)]).rates["hits"] == 30.0, "nothing new"
    moment = history.add(4.0, [node("aa11", uptime=4.0, hits=130, misses=110), node("ab22", hits=10**9)])
    assert (moment.ratio, moment.rates["hits"]) == (None, 0.0)
    moment = history.add(5.0, [node("aa11", uptime=0.5, hits=1)])
    assert moment.rates["hits"] == 0.0, "it has begun anew"
    assert history.add(6.0, [node("aa11", GONE)]).rates["hits"] == 0.0
    assert history.rates == {}


# ---- the command -------------------------------------------------------------------------------------


def test_how_it_is_started(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(ZooCacheCLI, "run", lambda app: started.append(str(app.board)))
    monkeypatch.delenv("REDIS_URL", raising=False)
    cli.main(["dashboard", "--redis", "redis://:hunter2@localhost", "--prefix", "shop"])
    monkeypatch.setenv("REDIS_URL", "redis://localhost:6379")
    monkeypatch.setattr(sys, "argv", ["zoocache", "cli"])
    cli.main()
    assert started == ["redis://... shop", "redis://... zoocache"]
    for args, said in [
        (argparse.Namespace(redis=None, prefix="zoocache"), "Redis URL is required"),
        (argparse.Namespace(redis="nonsense", prefix="zoocache"), "scheme"),
    ]:
        with pytest.raises(SystemExit):
            cli.run_cli(args)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("lacking", ["textual", "textual_plotext"])
def test_what_to_install(lacking):
    code = """
        from zoocache import cli
        import sys
        try:
            cli.main(["cli", "--redis", "redis://localhost"])
        except SystemExit as error:
            print(error.code)
        """
    assert run_without([lacking], "import sys; sys.stderr = sys.stdout\n" + code.replace("\n        ", "\n")).endswith(
        "pip install 'zoocache[cli]'\n2\n"
    )
    assert (
        run_without(["textual", "textual_plotext", "redis"], "import zoocache.cli, zoocache.monitor, zoocache.doctor")
        == ""
    )


def test_it_does_not_load_what_scripts_do_not_need():
    code = "import sys, zoocache.cli; print('textual' in sys.modules, 'asyncio' in sys.modules)"
    assert run_without([], code) == "False False\n"


async def test_over_a_place(tmp_path):
    """What nodes tell, and what is for all; they cannot be asked."""
    options = {"storage_url": f"file://{tmp_path}/files", "prefix": "place"}
    with Cache(**options) as cache:
        cache.set("k", 1, deps=["t:1"])
        app = ZooCacheCLI(redis_url=options["storage_url"], prefix="place")
        async with app.run_test(size=(120, 40)) as pilot:
            await until_true(pilot, lambda: [node.status for node in app.nodes] == ["ok"])
            await command(pilot, "tags")
            await until_shown(pilot, "cannot be asked: that needs Redis")
            await command(pilot, "all invalidate t:1")
            await until_shown(pilot, "done")
            await until_true(pilot, lambda: cache.get("k") is None)  # within max_staleness
        await asyncio.to_thread(app.board.close)
