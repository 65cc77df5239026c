"""A cache in front is told what was invalidated: over HTTP, to a server of this test."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request

import pytest
from servers import free_port, until

import zoocache
from zoocache import Cache, clear, invalidate, transaction
from zoocache.contrib import purge
from zoocache.contrib.purge import Purger, cloudflare, fastly

pytestmark = pytest.mark.plain


class Front(ThreadingHTTPServer):
    """A service that is purged. What it answers is what stands in .answers, and else 200."""

    daemon_threads = True

    def __init__(self):
        self.got, self.answers = [], []
        self.go = threading.Event()
        self.go.set()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def end(self):
        self.go.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    @property
    def tags(self):
        return [sorted(headers["Surrogate-Key"].split()) for _, headers, _ in self.got if "Surrogate-Key" in headers]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.got.append((self.path, self.headers, body))
        self.server.go.wait()
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        self.send_response(status)
        for name, text in {"Content-Length": "2", **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args): ...


@pytest.fixture
def front():
    front = Front()
    yield front
    front.end()


def test_what_is_invalidated_is_purged_twice(front, monkeypatch):
    monkeypatch.setattr(Purger, "again", 0.05)
    with Purger(fastly("shop", "secret", url=front.url)) as purger:
        invalidate("user:1", "b")
        until(lambda: len(front.got) == 2)
        until(lambda: not purger._waiting)
        path, headers, _ = front.got[0]
        assert (path, headers["Fastly-Key"]) == ("/service/shop/purge", "secret")
        assert front.tags == [["b", "user:1"]] * 2
    assert len(front.got) == 2
    invalidate("after")
    assert len(front.got) == 2


def test_clear_and_cloudflare(front):
    with Cache() as cache, Purger(cloudflare("zone", "secret", url=front.url), cache=cache):
        front.go.clear()
        cache.invalidate("a")
        until(lambda: front.got)
        cache.invalidate("b")
        cache.clear()
        front.go.set()
        until(lambda: len(front.got) >= 2)
    path, headers, body = front.got[0]
    assert (path, headers["Authorization"]) == ("/client/v4/zones/zone/purge_cache", "Bearer secret")
    assert json.loads(body) == {"tags": ["a"]}
    assert json.loads(front.got[1][2]) == {"purge_everything": True}
    assert headers["Content-Type"] == "application/json"


def test_everything_by_fastly(front):
    with Purger(fastly("shop", "secret", url=front.url)):
        clear()
    assert {path for path, _, _ in front.got} == {"/service/shop/purge_all"}


def test_tags_are_sent_together_and_not_twice_while_they_wait(front):
    front.go.clear()
    with Purger(fastly("shop", "secret", url=front.url)) as purger:
        invalidate("first")
        until(lambda: front.got)
        for n in range(100):
            invalidate(f"t:{n % 40}")
        assert len(purger._waiting) == 40
        front.go.set()
        until(lambda: len(front.tags) >= 3)
        assert [len(tags) for tags in front.tags[:3]] == [1, 30, 10]


def test_too_many_tags_are_everything(front, monkeypatch):
    monkeypatch.setattr(purge, "_MANY", 50)
    front.go.clear()
    with Purger(fastly("shop", "secret", url=front.url)) as purger:
        invalidate("first")
        until(lambda: front.got)
        invalidate(*[f"t:{n}" for n in range(51)])
        assert list(purger._waiting) == [purge._ALL]
        front.go.set()
        until(lambda: len(front.got) >= 2)
        assert front.got[1][0] == "/service/shop/purge_all"


def test_what_fails_is_tried_again(front, monkeypatch, caplog):
    monkeypatch.setattr(purge, "_PAUSE", 0.01)
    front.answers += [(500, {}), (503, {"Retry-After": "0"}), (429, {"Retry-After": "soon"})]
    with caplog.at_level("INFO", "zoocache"), Purger(fastly("shop", "secret", url=front.url)) as purger:
        invalidate("a")
        until(lambda: len(front.got) >= 4 and not purger.failing)
        assert front.tags[:4] == [["a"]] * 4
    said = [record.message for record in caplog.records if record.name == "zoocache"]
    assert ["could not be told" in said[0], "is told again" in said[1], len(said)] == [True, True, 2]
    assert "status 500" in said[0]


def test_a_service_that_is_not_there_yet(monkeypatch):
    monkeypatch.setattr(purge, "_PAUSE", 0.01)
    port = free_port()
    with Purger(fastly("shop", "secret", url=f"http://127.0.0.1:{port}")) as purger:
        invalidate("a")
        until(lambda: purger.failing)
        assert purger.close(timeout=0.02) is False
    asked = []

    def broken(tags):
        asked.append(tags)
        raise KeyError(tags)

    purger = Purger(broken)
    invalidate("a")
    until(lambda: len(asked) > 2)
    assert purger.failing == "KeyError"
    assert not purger.close(timeout=0)


def test_close_sends_what_waits(front, monkeypatch):
    monkeypatch.setattr(purge, "_PAUSE", 0.01)
    front.go.clear()
    front.answers += [(500, {})]
    purger = Purger(fastly("shop", "secret", url=front.url))
    invalidate("a")
    until(lambda: front.got)
    invalidate("b")
    front.go.set()
    assert purger.close()
    assert {tag for tags in front.tags for tag in tags} == {"a", "b"}
    assert not purger._thread.is_alive()


def test_transactions_and_other_events(front):
    purger = Purger(fastly("shop", "secret", url=front.url))
    with pytest.raises(ValueError, match="rolled back"), transaction():
        invalidate("a")
        raise ValueError("rolled back")
    zoocache.set("key", 1, ["b"])
    zoocache.delete("key")
    with transaction():
        invalidate("c")
        assert not purger._waiting
    until(lambda: front.got)
    assert purger.close()
    assert front.tags[0] == ["c"]


def test_a_bus_makes_the_second_time_later(tmp_path):
    with Cache(storage_url=f"lmdb://{tmp_path}", max_staleness=7) as cache:
        purger = Purger(lambda tags: Request("http://127.0.0.1"), cache=cache)
        assert purger._later == 1 + cache.shared.bound
        assert purger.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_tells_what_is_invalidated_in_it(front):
    purger = Purger(fastly("shop", "secret", url=front.url))
    invalidate("parent")
    until(lambda: front.got)
    child = os.fork()
    if child == 0:
        try:
            invalidate("child")
            os._exit(0 if purger.close() else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert purger.close()
    assert {tag for tags in front.tags for tag in tags} == {"parent", "child"}


async def test_a_page_bears_what_is_purged(front):
    from fastapi import FastAPI
    from test_fastapi import get

    from zoocache.contrib.fastapi import cache_endpoint

    app = FastAPI()

    @app.get("/x")
    @cache_endpoint(http=True, tag_header="Surrogate-Key", deps=["org:1:user:2"])
    async def x():
        return 1

    with Purger(fastly("shop", "secret", url=front.url)):
        page = await get(app, "/x")
        invalidate("org:1")
    assert {tag for tags in front.tags for tag in tags} <= set(page.headers["surrogate-key"].split())


async def test_scopes_and_whole_endpoints(front):
    from fastapi import FastAPI
    from test_fastapi import get

    from zoocache import Scope
    from zoocache.contrib.fastapi import cache_endpoint

    app = FastAPI()
    with Cache(scopes=Scope("org", "org_id", Scope("user", "user_id"))) as cache:

        @cache.cacheable(scope="user")
        def name(org_id, user_id):
            return f"{org_id}.{user_id}"

        @app.get("/{org}/{user}")
        @cache_endpoint(http=True, tag_header="Surrogate-Key", cache=cache)
        async def page(org: int, user: int):
            return name(org, user)

        @app.get("/other")
        @cache_endpoint(http=True, tag_header="Surrogate-Key", cache=cache)
        async def other():
            return 1

        async def borne(path):
            return set((await get(app, path)).headers["surrogate-key"].split())

        one, two, third = await borne("/1/7"), await borne("/2/7"), await borne("/other")
        with Purger(fastly("shop", "secret", url=front.url), cache=cache) as purger:

            def purged(work):
                before = len(front.tags)
                work()
                until(lambda: len(front.tags) > before)
                found = {tag for tags in front.tags[before:] for tag in tags}
                return [bool(found & tags) for tags in (one, two, third)]

            purger.again = purger._later = 600  # once is enough
            assert purged(lambda: cache.evict_scope("org", org_id=1)) == [True, False, False]
            assert purged(lambda: cache.evict_scope("user", org_id=2, user_id=7)) == [False, True, False]
            assert purged(page.cache_clear) == [True, True, False]
            assert purged(other.cache_clear) == [False, False, True]
