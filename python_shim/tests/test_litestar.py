"""Litestar: cached handlers, and a store with tags."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import httpx
import msgspec
import pytest
from litestar import Controller, Litestar, MediaType, Request, Response, get, post
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException
from litestar.middleware.rate_limit import RateLimitConfig
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.response import File, Redirect, Stream, Template
from litestar.response.base import ASGIResponse
from litestar.stores.registry import StoreRegistry
from pydantic import BaseModel
from test_extras import run

import zoocache
from zoocache import Cache, UnkeyableArgument, add_deps, invalidate
from zoocache.contrib.litestar import ZooCacheStore, cache_endpoint

pytestmark = [pytest.mark.plain, pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")]


def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def ask(app, url, headers=None):
    async with client(app) as http:
        return await http.get(url, headers=headers)


class Struct(msgspec.Struct):
    id: int
    name: str = "Bob"


class Model(BaseModel):
    id: int
    name: str = "Ada"


@dataclass(frozen=True)
class User:
    name: str


class Session: ...


async def current_user(request: Request) -> User:
    return User(request.headers["authorization"])


# ---- handlers ------------------------------------------------------------------------------------------


async def test_values_are_the_key_and_tags_end_it():
    calls = []

    @get("/notes/{note:int}")
    @cache_endpoint(deps=lambda note: [f"note:{note}"])
    async def read(note: int, request: Request, state: State, scope: dict, q: str = "") -> dict[str, Any]:
        calls.append((note, q))
        add_deps(["notes"])
        return {"note": note, "q": q}

    app = Litestar([read])
    for _ in range(2):
        assert (await ask(app, "/notes/1?q=a")).json() == {"note": 1, "q": "a"}
        assert (await ask(app, "/notes/1")).json() == {"note": 1, "q": ""}
    assert calls == [(1, "a"), (1, "")]
    invalidate("note:1")
    await ask(app, "/notes/1")
    invalidate("notes")
    await ask(app, "/notes/1")
    assert len(calls) == 4


async def test_models_come_back_as_declared(tmp_path):
    calls = []

    @get("/struct")
    @cache_endpoint(namespace="struct")
    async def struct() -> Struct:
        calls.append(1)
        return Struct(1)

    @get("/model", sync_to_thread=True)
    @cache_endpoint(namespace="model")
    def model() -> list[Model]:
        calls.append(2)
        return [Model(id=1)]

    app = Litestar([struct, model])
    for _ in range(2):
        zoocache.configure(storage_url=f"lmdb://{tmp_path}")
        for _ in range(2):
            assert (await ask(app, "/struct")).json() == {"id": 1, "name": "Bob"}
            assert (await ask(app, "/model")).json() == [{"id": 1, "name": "Ada"}]
        assert type(await struct.fn()) is Struct
        zoocache.reset()
    assert calls == [1, 2]


async def test_two_users_do_not_share():
    @get("/me", dependencies={"user": Provide(current_user)})
    @cache_endpoint
    async def me(user: NamedDependency[User]) -> str:
        return user.name

    app = Litestar([me])
    for _ in range(2):
        for name in ("ada", "bob"):
            assert (await ask(app, "/me", {"authorization": name})).text == name
    assert me.fn.cache_info().misses == 2


async def test_what_has_no_key_is_refused_or_named():
    db = {"db": Provide(Session, sync_to_thread=False)}

    @get("/refused", dependencies=db)
    @cache_endpoint
    async def refused(db: NamedDependency[Session]) -> int:
        return 1

    @get("/named", dependencies=db)
    @cache_endpoint(ignore="db")
    async def named(db: NamedDependency[Session]) -> int:
        return 2

    app = Litestar([refused, named], debug=True)
    assert "cache_endpoint(ignore='db')" in (await ask(app, "/refused")).text
    with pytest.raises(UnkeyableArgument):
        await refused.fn(db=Session())
    assert [(await ask(app, "/named")).json() for _ in range(2)] == [2, 2]
    assert named.fn.cache_info().misses == 1


@pytest.mark.parametrize("takes", [False, True])
async def test_vary(takes):
    if takes:

        @get("/x")
        @cache_endpoint(vary="Accept-Language")
        async def x(request: Request, n: int = 1) -> str:
            calls.append(1)
            return request.headers["accept-language"]
    else:

        @get("/x", sync_to_thread=False)
        @cache_endpoint(vary="Accept-Language")
        def x(language: Annotated[str, "not a header"] = "") -> str:
            calls.append(1)
            return "x"

    calls: list[int] = []
    app = Litestar([x])
    for _ in range(2):
        for language in ("de", "fr"):
            assert (await ask(app, "/x", {"accept-language": language})).text in (language, "x")
    assert len(calls) == 2
    assert x.fn() if not takes else True


async def test_controllers():
    class Notes(Controller):
        path = "/notes"

        @get("/{note:int}")
        @cache_endpoint
        async def read(self, note: int) -> int:
            assert isinstance(self, Notes)
            return note

    app = Litestar([Notes])
    for _ in range(2):
        assert (await ask(app, "/notes/1")).json() == 1
    assert Notes.read.fn.cache_info().misses == 1


async def test_responses_keep_status_headers_and_type():
    @get("/html")
    @cache_endpoint
    async def html() -> Response[str]:
        return Response("<p>", status_code=201, headers={"X-Mine": "1"}, media_type=MediaType.HTML)

    @get("/struct")
    @cache_endpoint
    async def struct() -> Response[Struct]:
        return Response(Struct(1))

    @get("/away", status_code=302)
    @cache_endpoint
    async def away() -> Redirect:
        return Redirect("/html")

    @get("/encoded")
    @cache_endpoint
    async def encoded() -> Response[Any]:
        return Response({"user": Session()}, type_encoders={Session: lambda x: "session"})

    def changes(response: Response) -> Response:
        response.headers["X-Count"] = response.headers.get("X-Count", "") + "1"
        return response

    app = Litestar([html, struct, away, encoded], after_request=changes)
    for path in ("/html", "/struct", "/away", "/encoded"):
        first, again = await ask(app, path), await ask(app, path)
        assert (first.status_code, first.headers, first.content) == (again.status_code, again.headers, again.content)
        assert first.headers["x-count"] == "1"
    assert (await ask(app, "/html")).headers["content-type"] == "text/html; charset=utf-8"
    assert (await ask(app, "/away")).headers["location"] == "/html"
    assert again.json() == {"user": "session"}
    assert [each.fn.cache_info().misses for each in (html, struct, away, encoded)] == [1, 1, 1, 1]


@pytest.mark.parametrize("what", ["cookie", "404", "raised", "no-store", "background"])
async def test_what_is_not_stored(what):
    calls: list[int] = []

    @get("/x")
    @cache_endpoint
    async def x() -> Response[str]:
        calls.append(1)
        await asyncio.sleep(0)
        if what == "raised":
            raise NotFoundException
        response = Response("x", status_code=404 if what == "404" else 200)
        if what == "cookie":
            response.set_cookie("id", str(len(calls)))
        elif what == "no-store":
            response.headers["Cache-Control"] = "no-store"
        elif what == "background":
            response.background = BackgroundTask(calls.append, 2)
        return response

    app = Litestar([x])
    found = [await ask(app, "/x") for _ in range(3)]
    assert calls.count(1) == 3
    if what == "cookie":
        assert len({each.headers["set-cookie"] for each in found}) == 3
    if what == "background":
        assert calls.count(2) == 3
    if what != "raised":
        await asyncio.gather(*[ask(app, "/x") for _ in range(3)])
        assert calls.count(1) == 6


STREAMS = {
    "Stream": lambda: Stream(iter(["x"])),
    "File": lambda: File(__file__),
    "Template": lambda: Template(template_str="x"),
    "ASGIResponse": lambda: ASGIResponse(body=b"x"),
}


@pytest.mark.parametrize("kind", STREAMS)
async def test_streams_are_refused_by_name(kind):
    @cache_endpoint
    async def x():
        return STREAMS[kind]()

    with pytest.raises(TypeError, match=f"`x`: it returns a {kind}"):
        await x()


def test_options_that_make_no_sense_are_refused():
    async def request(request, q): ...
    async def db(db): ...

    with pytest.raises(TypeError, match="'request'"):
        cache_endpoint(soft_ttl=1)(request)
    with pytest.raises(TypeError, match="'db'"):
        cache_endpoint(early_refresh=1, ignore="db")(db)
    cache_endpoint(soft_ttl=1)(db)
    with pytest.raises(TypeError, match="decorates functions"):
        cache_endpoint(1)
    with pytest.raises(TypeError, match="no_store"):
        cache_endpoint(cache_if=bool)


async def test_a_hundred_requests_compute_once():
    calls, go = [], asyncio.Event()

    @post("/x")
    @cache_endpoint
    async def x(data: Struct) -> Struct:
        calls.append(data)
        await go.wait()
        return data

    async with client(Litestar([x])) as http:
        tasks = [asyncio.create_task(http.post("/x", json={"id": 1})) for _ in range(100)]
        while x.fn.zoocache_endpoint[0].waits < 99:
            await asyncio.sleep(0)
        go.set()
        assert {each.text for each in await asyncio.gather(*tasks)} == {'{"id":1,"name":"Bob"}'}
    assert len(calls) == 1


# ---- the store -----------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "lmdb"])
def store(request, kit, tmp_path):
    if request.param == "memory":
        yield ZooCacheStore(kit.cache)
        return
    with Cache(storage_url=f"lmdb://{tmp_path}", clock=kit.clock) as cache:
        yield ZooCacheStore(cache)


async def test_values_of_a_store(store):
    assert await store.get("a") is None
    assert not await store.exists("a")
    assert await store.expires_in("a") is None
    await store.set("a", b"1")
    await store.set("b", "2", expires_in=10)
    await store.set("c", b"3", expires_in=timedelta(minutes=1))
    assert [await store.get(key) for key in "abc"] == [b"1", b"2", b"3"]
    assert [await store.expires_in(key) for key in "abc"] == [None, 10, 60]
    await store.set("a", b"4")
    assert await store.get("a") == b"4"
    await store.delete("a")
    await store.delete("a")
    assert [await store.exists(key) for key in "abc"] == [False, True, True]
    await store.delete_all()
    assert [await store.exists(key) for key in "abc"] == [False, False, False]


async def test_lives_are_not_extended_by_reads_but_renewed(kit):
    store = ZooCacheStore(kit.cache)
    await store.set("a", b"1", expires_in=10)
    await store.set("b", b"2")
    for _ in range(3):
        kit.clock.advance(3)
        assert await store.get("a") == b"1"
    assert await store.expires_in("a") == 1
    assert await store.get("a", renew_for=20) == b"1"
    assert await store.expires_in("a") == 20
    assert await store.get("b", renew_for=20) == b"2"
    assert await store.expires_in("b") is None
    kit.clock.advance(20)
    assert await store.get("a", renew_for=20) is None
    assert await store.get("b") == b"2"


async def test_a_default_life_is_not_that_of_a_store(kit):
    with Cache(default_ttl=5, clock=kit.clock) as cache:
        store = ZooCacheStore(cache)
        await store.set("a", b"1")
        kit.clock.advance(6)
        assert await store.get("a") == b"1"


async def test_namespaces(store):
    child, other = store.with_namespace("child"), store.with_namespace("other: *")
    for each in (store, child, other):
        await each.set("a", each.namespace.encode())
    assert [await each.get("a") for each in (store, child, other)] == [
        b"litestar",
        b"litestar:child",
        b"litestar:other: *",
    ]
    await child.delete_all()
    assert [await each.exists("a") for each in (store, child, other)] == [True, False, True]
    await store.delete_all()
    assert not await other.exists("a")
    again = ZooCacheStore(store._given)
    await again.set("b", b"1")
    assert await store.get("b") == b"1"


async def test_tags_of_a_store(kit):
    store = ZooCacheStore(kit.cache, tags=lambda key: [f"page:{key}"])
    both = ZooCacheStore(kit.cache, "both", tags=["all"])
    await store.set("a", b"1")
    await store.set("b", b"2")
    await both.with_namespace("below").set("c", b"3")
    kit.cache.invalidate("page:a")
    assert [await store.get(key) for key in "ab"] == [None, b"2"]
    kit.cache.invalidate("all")
    assert await both.with_namespace("below").get("c") is None


async def test_what_was_deleted_is_not_renewed(store):
    """Each deletes while the other renews; the value is gone at the end."""
    for end in (lambda: store.delete("a"), store.delete_all):
        for _ in range(20):
            await store.set("a", b"1", expires_in=10)
            await asyncio.gather(*[store.get("a", renew_for=20) for _ in range(3)], end())
            await asyncio.gather(end(), *[store.get("a", renew_for=20) for _ in range(3)])
            assert await store.get("a") is None


async def test_a_deletion_between_read_and_write_wins(kit, monkeypatch):
    store = ZooCacheStore(kit.cache)
    await store.set("a", b"1", expires_in=10)
    write = ZooCacheStore._write

    async def late(self, key, made):
        await store.delete("a")
        await write(self, key, made)

    monkeypatch.setattr(ZooCacheStore, "_write", late)
    assert await store.get("a", renew_for=20) == b"1"
    assert not await store.exists("a")


async def test_litestar_uses_it_for_all():
    calls: list[int] = []

    @get("/cached", cache=60)
    async def cached() -> int:
        calls.append(1)
        return len(calls)

    @get("/count")
    async def count(request: Request) -> int:
        request.session["n"] = request.session.get("n", 0) + 1
        return request.session["n"]

    @get("/leave")
    async def leave(request: Request) -> None:
        request.clear_session()

    store = ZooCacheStore(tags=["litestar"])
    limits = RateLimitConfig(rate_limit=("hour", 3), exclude=["/count", "/leave"])
    sessions = ServerSideSessionConfig(renew_on_access=True)
    app = Litestar(
        [cached, count, leave],
        stores=StoreRegistry(default_factory=store.with_namespace),
        middleware=[sessions.middleware, limits.middleware],
    )
    async with client(app) as http:
        assert [(await http.get("/count")).json() for _ in range(3)] == [1, 2, 3]
        await http.get("/leave")
        assert (await http.get("/count")).json() == 1
        assert [(await http.get("/cached")).status_code for _ in range(4)] == [200, 200, 200, 429]
        assert calls == [1]
        await store.with_namespace("rate_limit").delete_all()
        await store.with_namespace("response_cache").delete_all()
        assert (await http.get("/cached")).json() == 2
        invalidate("litestar")
        assert (await http.get("/cached")).json() == 3
        assert (await http.get("/count")).json() == 1


def test_without_litestar():
    out = run(
        ["litestar"],
        """
        import zoocache.contrib
        try:
            import zoocache.contrib.litestar.route
        except ImportError as error:
            print(error)
        """,
    )
    assert "zoocache[litestar]" in out
