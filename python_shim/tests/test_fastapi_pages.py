"""FastAPI: whole pages (http=True), and the caches in front of it."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import pytest
from fastapi import APIRouter, Cookie, Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, APIKeyHeader, APIKeyQuery, HTTPBearer, OAuth2PasswordBearer
from pydantic import BaseModel
from test_fastapi import client, get, served

import zoocache
from zoocache import add_deps, cacheable, invalidate
from zoocache.contrib.fastapi import cache_endpoint

pytestmark = pytest.mark.plain


class Public(BaseModel):
    id: int
    text: str = "milk"


solved: list[str] = []


async def session():
    solved.append("session")
    try:
        yield object()
    finally:
        solved.append("closed")


def user(authorization: Annotated[str, Header()] = ""):
    solved.append("user")
    if authorization == "bad":
        raise HTTPException(401)
    return authorization


@pytest.fixture(autouse=True)
def none_solved():
    solved.clear()


async def test_a_hit_solves_nothing():
    app, calls = FastAPI(), []

    @app.get("/notes/{note}", response_model=Public)
    @cache_endpoint(http=True, deps=lambda note: [f"note:{note}"])
    async def read(note: int, db: Annotated[object, Depends(session)], q: str = ""):
        calls.append((note, q))
        return {"id": note, "text": q, "secret": 1}

    first = await get(app, "/notes/1?q=a")
    again = await get(app, "/notes/1?q=a")
    assert first.json() == again.json() == {"id": 1, "text": "a"}
    assert first.status_code == again.status_code == 200
    assert dict(first.headers) == dict(again.headers)
    assert solved == ["session", "closed"]
    await get(app, "/notes/1?q=b")
    await get(app, "/notes/2?q=a")
    assert calls == [(1, "a"), (1, "b"), (2, "a")]
    assert (await get(app, "/notes/x")).status_code == 422
    invalidate("note:1")
    await get(app, "/notes/1?q=a")
    await get(app, "/notes/2?q=a")
    assert calls[3:] == [(1, "a")]
    assert read.cache_info().hits == 2
    read.cache_clear()
    await get(app, "/notes/2?q=a")
    assert len(calls) == 5
    assert await read(7, None) == {"id": 7, "text": "", "secret": 1}


async def test_what_dependencies_read_belongs_to_the_page():
    app, said = FastAPI(), ["a"]

    @cacheable(deps=["settings"])
    def settings():
        return said[0]

    @app.get("/x")
    @cache_endpoint(http=True)
    def x(found: str = Depends(settings)):
        add_deps(["x"])
        return found

    assert [(await get(app, "/x")).json() for _ in range(2)] == ["a", "a"]
    said[0] = "b"
    invalidate("settings")
    assert (await get(app, "/x")).json() == "b"
    said[0] = "c"
    invalidate("x")
    assert (await get(app, "/x")).json() == "b"  # of settings()
    assert x.cache_info().misses == 3


@pytest.mark.parametrize("named", ["{}", "W/{}", '"other", {}', 'W/"a,b",W/{} ', "*"])
async def test_not_modified(named):
    app = FastAPI()

    @app.get("/x")
    @cache_endpoint(http=True, ttl=60)
    async def x(response: Response):
        response.headers["X-Mine"] = "1"
        return {"a": 1}

    etag = (await get(app, "/x")).headers["etag"]
    assert etag[0] == etag[-1] == '"'
    found = await get(app, "/x", {"If-None-Match": named.format(etag)})
    assert (found.status_code, found.content, found.headers["etag"]) == (304, b"", etag)
    assert not {"content-length", "content-type", "x-mine"} & found.headers.keys()
    assert (await get(app, "/x", {"If-None-Match": '"other"'})).json() == {"a": 1}
    x.cache_clear()
    assert (await get(app, "/x", {"If-None-Match": etag})).status_code == 304  # computed anew, and it is the same


async def test_an_etag_of_the_endpoints_own():
    app = FastAPI()

    @app.get("/x")
    @cache_endpoint(http=True)
    async def x():
        return HTMLResponse("<p>", headers={"ETag": 'W/"mine"', "Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT"})

    assert (await get(app, "/x")).headers["etag"] == 'W/"mine"'
    found = await get(app, "/x", {"If-None-Match": '"mine"'})
    assert (found.status_code, found.headers["last-modified"]) == (304, "Sat, 28 Nov 2026 10:00:00 GMT")


async def test_max_age_is_what_is_left(kit):
    app = FastAPI()

    @app.get("/fixed")
    @cache_endpoint(http=True, ttl=60, tti=3600)
    async def fixed():
        return 1

    @app.get("/endless")
    @cache_endpoint(http=True)
    async def endless():
        return 1

    for passed in (0, 25, 34):
        kit.clock.advance(passed)
        found = (await get(app, "/fixed")).headers
    assert (found["age"], found["cache-control"]) == ("59", "max-age=60")
    kit.clock.advance(1)
    found = (await get(app, "/fixed")).headers
    assert (found["age"], found["cache-control"]) == ("0", "max-age=60")
    found = (await get(app, "/endless")).headers
    assert (found["age"], found["cache-control"]) == ("0", "no-cache")


@pytest.mark.parametrize(
    ("vary", "asked", "said", "control"),
    [
        ("Authorization", {}, None, "private, max-age=60"),
        ("Cookie", {}, None, "private, max-age=60"),
        ("Accept-Language", {}, None, "max-age=60"),
        ("Accept-Language", {"Authorization": "a"}, None, "private, max-age=60"),
        ("Accept-Language", {"Authorization": "a"}, "public", "public, max-age=60"),
        ("Authorization", {}, "private", "private, max-age=60"),
        ("Accept", {}, "max-age=5", "max-age=5"),
        ("Accept", {}, "no-cache", "no-cache"),
    ],
)
async def test_cache_control(vary, asked, said, control):
    app = FastAPI()

    @app.get("/x")
    @cache_endpoint(http=True, ttl=60, vary=vary)
    async def x(response: Response):
        if said:
            response.headers["Cache-Control"] = said
        response.headers["Vary"] = "Accept-Encoding"
        return 1

    for _ in range(2):
        found = await get(app, "/x", asked)
        assert found.headers["cache-control"] == control
        assert found.headers.get_list("vary") == [f"accept-encoding, {vary.lower()}"]
    assert x.cache_info().hits == 1


async def test_pages_vary():
    app = FastAPI()

    @app.get("/hello")
    @cache_endpoint(http=True, vary=["Accept-Language"])
    async def hello(accept_language: Annotated[str, Header()] = "en"):
        return accept_language

    for _ in range(2):
        for language in ("de", "fr"):
            assert (await get(app, "/hello", {"Accept-Language": language})).json() == language
        assert (await get(app, "/hello")).json() == "en"
    assert hello.cache_info().misses == 3


async def test_who_is_refused_stays_refused():
    app = FastAPI()

    @app.get("/me")
    @cache_endpoint(http=True, vary="Authorization")
    async def me(name: Annotated[str, Depends(user)]):
        return name

    for _ in range(2):
        assert (await get(app, "/me", {"Authorization": "ada"})).json() == "ada"
        assert (await get(app, "/me", {"Authorization": "bob"})).json() == "bob"
        assert (await get(app, "/me", {"Authorization": "bad"})).status_code == 401
    assert solved == ["user"] * 4


def deep(name: Annotated[str, Depends(user)]): ...
def by_request(request: Request): ...
def with_body(body: Public): ...


class CookieBearer(OAuth2PasswordBearer):
    async def __call__(self, request: Request):
        return request.cookies.get("token")


CHECKED = {
    "the header authorization": (user, ("Authorization",)),
    "`user` takes the header authorization": (deep, ("Authorization",)),
    "HTTPBearer` takes the header Authorization": (HTTPBearer(), ("Authorization",)),
    "the header Authorization": (OAuth2PasswordBearer("token"), ("Authorization",)),
    "the header X-Key": (APIKeyHeader(name="X-Key"), ("X-Key",)),
    "a cookie": (APIKeyCookie(name="key"), ("Cookie",)),
    "CookieBearer` takes the Request": (CookieBearer("token"), ("Authorization", "Cookie")),
    "`by_request` takes the Request": (by_request, ("Authorization", "Cookie")),
}


@pytest.mark.parametrize("where", ["endpoint", "route", "router", "include", "app"])
@pytest.mark.parametrize("what", CHECKED)
async def test_what_a_hit_would_skip_is_refused(what, where):
    dependency, vary = CHECKED[what]

    def build(**options):
        given = [Security(dependency)]
        app = FastAPI(dependencies=given if where == "app" else None)
        router = APIRouter(dependencies=given if where == "router" else None)

        async def plain():
            return 1

        async def taking(x=Security(dependency)):
            return 1

        cached = cache_endpoint(taking if where == "endpoint" else plain, http=True, **options)
        router.get("/x", dependencies=given if where == "route" else None)(cached)
        app.include_router(router, dependencies=given if where == "include" else None)
        return app

    with pytest.raises(TypeError, match=what):
        await get(build(), "/x")
    with pytest.raises(TypeError, match=what):
        await get(build(vary="Accept"), "/x")
    await get(build(vary=vary), "/x")
    if where == "endpoint":
        await get(build(ignore="x"), "/x")


def test_what_an_endpoint_takes_is_in_the_key():
    app = FastAPI()

    @cache_endpoint(http=True)
    async def cookie(x: Annotated[str, Cookie()]): ...

    @cache_endpoint(http=True, vary="Cookie")
    async def body(x: Public): ...

    @cache_endpoint(http=True)
    async def key(x: Annotated[str, Security(APIKeyQuery(name="key"))]): ...

    for endpoint in (cookie, body):
        with pytest.raises(TypeError, match=f"`{endpoint.__name__}` takes a {endpoint.__name__}"):
            app.get("/x")(endpoint)
    app.get("/x")(key)


async def test_an_endpoint_that_takes_the_request_is_no_cache_of_users():
    app, calls = FastAPI(), []

    def build(path, **options):
        @app.get(path)
        @cache_endpoint(http=True, **options)
        async def x(request: Request):
            calls.append(1)
            return request.cookies.get("user")

    build("/x")
    build("/varying", vary="Cookie")
    build("/ignored", ignore="request")
    for path in ("/x", "/varying"):
        for name in ("ada", "bob", "ada"):
            assert (await get(app, path, {"Cookie": f"user={name}"})).json() == name
        for _ in range(2):
            assert (await get(app, path)).json() is None
    assert len(calls) == 4 + 3
    assert [(await get(app, "/ignored", {"Cookie": f"user={name}"})).json() for name in ("ada", "bob")] == ["ada"] * 2


async def test_a_decorator_above_is_not_skipped():
    import functools

    def guarded(func):
        @functools.wraps(func)
        async def wrapper(*args, **kwargs):
            return await func(*args, **kwargs)

        return wrapper

    @guarded
    @cache_endpoint(http=True)
    async def x(): ...

    with pytest.raises(TypeError, match="what decorates `x` above"):
        FastAPI().get("/x")(x)


async def test_overridden_dependencies_are_asked():
    app = FastAPI()

    @app.get("/me")
    @cache_endpoint(http=True, vary="Authorization")
    async def me(name: Annotated[str, Depends(user)]):
        return name

    assert (await get(app, "/me", {"Authorization": "ada"})).json() == "ada"
    app.dependency_overrides[user] = lambda: "test"
    assert (await get(app, "/me", {"Authorization": "ada"})).json() == "test"
    app.dependency_overrides.clear()
    assert (await get(app, "/me", {"Authorization": "ada"})).json() == "ada"


async def test_methods_of_http():
    app, calls = FastAPI(), []

    @app.api_route("/x", methods=["GET", "HEAD", "POST"])
    @cache_endpoint(http=True)
    async def x(request: Request):
        calls.append(request.method)
        return request.method

    for _ in range(2):
        found = await get(app, "/x", method="HEAD")
        assert (found.status_code, found.content, found.headers["content-length"]) == (200, b"", "5")
    body = await get(app, "/x")
    assert body.json() == "GET"
    assert body.headers == found.headers
    for _ in range(2):
        assert (await get(app, "/x", method="POST")).json() == "POST"
    assert (await get(app, "/x", {"If-None-Match": body.headers["etag"]}, "HEAD")).status_code == 304
    assert calls == ["GET", "POST", "POST"]


@pytest.mark.parametrize("what", ["cookie", "private", "no-store", "404", "raised", "stream"])
async def test_what_no_page_is(what):
    app, calls = FastAPI(), []

    @app.api_route("/x", methods=["GET", "HEAD"])
    @cache_endpoint(http=True)
    async def x():
        calls.append(1)
        if what == "raised":
            raise HTTPException(503)
        if what == "stream":
            return StreamingResponse(iter([b"x"]))
        response = JSONResponse({}, 404 if what == "404" else 200)
        if what == "cookie":
            response.set_cookie("id", str(len(calls)))
        elif what != "404":
            response.headers["Cache-Control"] = what
        return response

    if what == "stream":
        with pytest.raises(TypeError, match="StreamingResponse"):
            await get(app, "/x")
        return
    found = await asyncio.gather(*[get(app, "/x") for _ in range(3)])
    assert len(calls) == 3
    assert all("etag" not in each.headers for each in found)
    if what == "cookie":
        assert len({each.headers["set-cookie"] for each in found}) == 3
    if what != "raised":
        assert (await get(app, "/x", method="HEAD")).content == b""


async def test_a_page_is_computed_once_for_many():
    app, calls, go = FastAPI(), [], asyncio.Event()

    @app.get("/x")
    @cache_endpoint(http=True)
    async def x(db: Annotated[object, Depends(session)]):
        calls.append(1)
        await go.wait()
        return 1

    async with client(app) as http:
        tasks = [asyncio.create_task(http.get("/x")) for _ in range(100)]
        while x.zoocache_endpoint[0].waits < 99:
            await asyncio.sleep(0)
        tasks[0].cancel()
        while len(calls) < 2:
            await asyncio.sleep(0)
        go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [each.json() for each in found[1:]] == [1] * 99
    assert len(calls) == 2
    assert solved.count("session") == solved.count("closed") == 2


async def test_routes_of_one_endpoint_do_not_share():
    app = FastAPI()

    @cache_endpoint(http=True)
    async def x():
        return {"id": 1, "secret": 2}

    app.get("/x")(x)
    app.get("/y", response_model=Public)(x)
    other = FastAPI()
    other.get("/x", response_model=Public)(x)
    mounting = FastAPI()
    mounting.mount("/in", app)
    assert (await get(app, "/x")).json() == {"id": 1, "secret": 2}
    assert (await get(app, "/y")).json() == {"id": 1, "text": "milk"}
    assert (await get(other, "/x")).json() == {"id": 1, "text": "milk"}
    assert (await get(mounting, "/in/x")).json() == {"id": 1, "secret": 2}


async def test_a_host_has_pages_of_its_own():
    """A page may have its URL in it: who asks by a name of his own must not give it to others."""
    app = FastAPI()

    @app.get("/x")
    @cache_endpoint(http=True)
    async def x(request: Request):
        return str(request.url_for("x"))

    for host in ("a", "b", "a"):
        assert (await get(app, "/x", {"Host": host})).json() == f"http://{host}/x"
    assert x.cache_info().hits == 1


async def test_what_wraps_a_handler_is_not_skipped():
    seen = []

    class Route(APIRoute):
        def get_route_handler(self):
            inner = super().get_route_handler()

            async def handler(request):
                seen.append(request.url.path)
                return await inner(request)

            return handler

    app = FastAPI()
    app.router.route_class = Route

    @app.get("/x")
    @cache_endpoint(http=True)
    async def x():
        return 1

    for _ in range(3):
        assert (await get(app, "/x")).json() == 1
    assert len(seen) == 3
    assert x.cache_info().hits == 2


async def test_disabled_and_never_stored():
    app, calls = FastAPI(), []

    @app.get("/x")
    @cache_endpoint(http=True, ttl=0)
    async def x():
        calls.append(1)
        return 1

    @app.get("/y")
    @cache_endpoint(http=True)
    async def y():
        calls.append(1)
        return 1

    for _ in range(2):
        found = await get(app, "/x")
        assert found.headers["cache-control"] == "no-cache"
        assert "age" not in found.headers
    await get(app, "/y")
    with zoocache.disabled():
        await get(app, "/y")
    assert len(calls) == 4


def test_options_of_pages():
    async def x(): ...

    for options in ({"soft_ttl": 1}, {"early_refresh": 1}, {"scope": "user"}, {"ignore": "y"}):
        with pytest.raises(TypeError):
            cache_endpoint(http=True, **options)(x)
    with pytest.raises(TypeError, match="takes no tag_header"):
        cache_endpoint(tag_header="Cache-Tag")
    with pytest.raises(TypeError, match="generator"):

        @cache_endpoint(http=True)
        async def lines():
            yield 1


@pytest.mark.parametrize(("header", "text"), [("Surrogate-Key", "a b b:c b:c:d "), ("Cache-Tag", "a,b,b:c,b:c:d,")])
async def test_tags_for_a_cache_in_front(header, text):
    app = FastAPI()

    async def tags(n):
        return ["b:c:d"]

    @app.get("/x")
    @cache_endpoint(http=True, tag_header=header, deps=tags)
    async def x(n: int = 0):
        add_deps(["a"])
        return 1

    @app.get("/y")
    @cache_endpoint(http=True, tag_header=header, deps=[f"t{n}:of:many" for n in range(1000)], ttl=60)
    async def y():
        return JSONResponse(1, headers={"Cache-Control": "public"})

    @app.get("/z")
    @cache_endpoint(http=True, tag_header=header)
    async def z():
        return 1

    for _ in range(2):
        found = await get(app, "/x")
        bears = found.headers[header]
        assert re.fullmatch(re.escape(text) + r"\|page:[0-9a-f]{16}", bears)
        assert (await get(app, "/x", {"If-None-Match": "*"})).headers[header] == bears
        found = await get(app, "/y")
        assert header not in found.headers
        assert found.headers["cache-control"] == "private, max-age=60"
        assert re.fullmatch(r"\|page:[0-9a-f]{16}", (await get(app, "/z")).headers[header])


@cache_endpoint(http=True, deps=["shared"], vary="Accept", tag_header="Surrogate-Key", ttl=60)
async def shared(q: int) -> Public:
    calls.append(q)
    return Public(id=q)


calls: list[int] = []


async def test_pages_are_shared_between_processes(tmp_path):
    """Two caches of one LMDB file, as two processes have."""
    app, found = FastAPI(), []
    app.get("/x")(shared)
    calls.clear()
    for _ in range(2):
        zoocache.configure(storage_url=f"lmdb://{tmp_path}")
        found.append(await get(app, "/x?q=1"))
        zoocache.reset()
    assert calls == [1]
    assert found[0].content == found[1].content
    assert {k: v for k, v in found[0].headers.items() if k != "age"}.items() <= found[1].headers.items()
    assert re.fullmatch(r"shared \|page:[0-9a-f]{16}", found[0].headers["surrogate-key"])


def test_pages_of_uvicorn():
    import httpx

    app = FastAPI()

    @app.api_route("/x", methods=["GET", "HEAD"])
    @cache_endpoint(http=True, ttl=60)
    def x():
        return {"a": 1}

    with served(app) as url, httpx.Client(base_url=url) as http:
        first = http.get("/x")
        assert http.get("/x").json() == {"a": 1}
        found = http.get("/x", headers={"If-None-Match": first.headers["etag"]})
        assert (found.status_code, found.content) == (304, b"")
        found = http.head("/x")
        assert (found.content, found.headers["content-length"]) == (b"", "7")
    assert x.cache_info().hits == 3
