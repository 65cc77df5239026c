"""FastAPI: cached endpoints, whole pages, and what is no cache's to keep."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from dataclasses import dataclass
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel
from servers import free_port, until
from starlette.background import BackgroundTask
from test_extras import run

import zoocache
from zoocache import UnkeyableArgument, add_deps, cacheable, invalidate
from zoocache.contrib.fastapi import cache_endpoint

pytestmark = pytest.mark.plain


def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def get(app, url, headers=None, method="GET"):
    async with client(app) as http:
        return await http.request(method, url, headers=headers)


class Note(BaseModel):
    id: int
    text: str = "milk"
    secret: str | None = None


class Public(BaseModel):
    id: int
    text: str


@dataclass(frozen=True)
class User:
    name: str


class Session:
    """Stands for what has no key."""

    def __init__(self):
        self.closed = False


def session():
    found = Session()
    yield found
    found.closed = True


def current_user(authorization: Annotated[str | None, Header()] = None) -> User:
    if authorization is None:
        raise HTTPException(401, "who are you?")
    return User(authorization)


# ---- the key -------------------------------------------------------------------------------------------


async def test_values_are_the_key_and_tags_end_it():
    app, calls = FastAPI(), []

    @app.get("/notes/{note}")
    @cache_endpoint(deps=lambda note: [f"note:{note}"])
    async def read(note: int, request: Request, q: str | None = None):
        calls.append((note, q))
        return {"note": note, "q": q}

    for _ in range(2):
        assert (await get(app, "/notes/1?q=a")).json() == {"note": 1, "q": "a"}
        assert (await get(app, "/notes/1")).json() == {"note": 1, "q": None}
        assert (await get(app, "/notes/2")).json() == {"note": 2, "q": None}
    assert calls == [(1, "a"), (1, None), (2, None)]
    invalidate("note:1")
    await get(app, "/notes/1")
    await get(app, "/notes/2")
    assert calls[3:] == [(1, None)]
    assert read.cache_info().hits == 4
    assert read.__wrapped__.__name__ == "read"


async def test_two_users_do_not_share():
    app = FastAPI()

    @app.get("/me")
    @cache_endpoint
    async def me(user: Annotated[User, Depends(current_user)]):
        return {"name": user.name}

    for _ in range(2):
        assert (await get(app, "/me", {"authorization": "ada"})).json() == {"name": "ada"}
        assert (await get(app, "/me", {"authorization": "bob"})).json() == {"name": "bob"}
        assert (await get(app, "/me")).status_code == 401
    assert me.cache_info().misses == 2


async def test_what_has_no_key_is_refused_or_named():
    app = FastAPI()

    @app.get("/refused")
    @cache_endpoint
    async def refused(db: Annotated[Session, Depends(session)]):
        return 1

    @app.get("/named")
    @cache_endpoint(ignore="db")
    async def named(db: Annotated[Session, Depends(session)]):
        assert not db.closed
        return 2

    with pytest.raises(UnkeyableArgument, match=r"'db' of `refused`.*(.|\n)*cache_endpoint\(ignore='db'\)"):
        await get(app, "/refused")
    assert [(await get(app, "/named")).json() for _ in range(2)] == [2, 2]
    assert named.cache_info().misses == 1
    with pytest.raises(TypeError, match="no parameter 'session'"):
        cache_endpoint(ignore="session")(named.__wrapped__)


async def test_bodies_and_enumerated_values_are_keys():
    app, calls = FastAPI(), []

    @app.post("/search")
    @cache_endpoint
    def search(note: Note, limit: Annotated[list[int], Header()] = [1]):  # noqa: B006
        calls.append(note)
        return note

    async with client(app) as http:
        for text in ("a", "b", "a"):
            found = await http.post("/search", json={"id": 1, "text": text})
            assert found.json() == {"id": 1, "text": text, "secret": None}
    assert len(calls) == 2


async def test_vary_names_headers_of_the_request():
    app = FastAPI()

    @app.get("/hello")
    @cache_endpoint(vary=["Accept-Language", "X-Tenant"])
    async def hello(request: Request, name: str = "you"):
        return f"{request.headers.get('accept-language')} {name}"

    for _ in range(2):
        assert (await get(app, "/hello", {"accept-language": "de"})).json() == "de you"
        assert (await get(app, "/hello", {"accept-language": "fr"})).json() == "fr you"
    assert hello.cache_info().misses == 2
    parameters = app.openapi()["paths"]["/hello"]["get"]["parameters"]
    assert [each["name"] for each in parameters] == ["name"]
    secret = await get(app, "/hello", {"accept-language": "token"})
    assert secret.status_code == 200
    assert not any("token" in repr(key) for key in hello.zoocache_endpoint[0].entries)


async def test_sync_endpoints_vary():
    app = FastAPI()

    @app.get("/hello")
    @cache_endpoint(vary="X-Tenant")
    def hello(request: Request):
        return request.headers["x-tenant"]

    for tenant in ("a", "b", "a"):
        assert (await get(app, "/hello", {"x-tenant": tenant})).json() == tenant
    assert hello.cache_info().misses == 2


async def test_overrides_are_those_of_fastapi():
    app = FastAPI()

    @app.get("/me")
    @cache_endpoint
    async def me(user: Annotated[User, Depends(current_user)]):
        return user.name

    app.dependency_overrides[current_user] = lambda: User("override")
    assert (await get(app, "/me")).json() == "override"
    app.dependency_overrides.clear()
    assert (await get(app, "/me")).status_code == 401
    assert (await get(app, "/me", {"authorization": "ada"})).json() == "ada"


async def test_methods_are_of_their_object():
    class View:
        def __init__(self, name):
            self.name = name

        @cache_endpoint(deps=lambda item: [f"item:{item}"])
        async def read(self, item: int):
            return f"{self.name} {item}"

    app, one, other = FastAPI(), View("one"), View("other")
    app.add_api_route("/one", one.read)
    app.add_api_route("/other", other.read)
    for _ in range(2):
        assert (await get(app, "/one?item=1")).json() == "one 1"
        assert (await get(app, "/other?item=1")).json() == "other 1"
    assert View.read.cache_info().misses == 2


async def test_routers_and_their_dependencies():
    app, asked = FastAPI(), []
    router = APIRouter(prefix="/in", dependencies=[Depends(current_user), Depends(lambda: asked.append(1))])

    @router.get("/x")
    @cache_endpoint
    async def x() -> int:
        return 1

    app.include_router(router, prefix="/api")
    assert (await get(app, "/api/in/x")).status_code == 401
    for _ in range(2):
        assert (await get(app, "/api/in/x", {"authorization": "ada"})).json() == 1
    assert x.cache_info().hits == 1
    assert len(asked) == 2


def test_the_signature_stays_what_it_is():
    @cache_endpoint
    def later(note: Forward, n: Annotated[int, Header()] = 1) -> Forward: ...

    @cache_endpoint(vary="Accept")
    def varying(note: Forward, **more) -> Forward: ...

    assert str(inspect.signature(later)) == str(inspect.signature(later.__wrapped__, eval_str=True))

    @cache_endpoint
    def unknown(note: Unknown): ...  # noqa: F821

    assert inspect.signature(unknown) == inspect.signature(unknown.__wrapped__)
    assert list(inspect.signature(varying).parameters) == ["note", "zoocache_request", "more"]
    app = FastAPI()
    app.get("/later")(later)
    assert app.routes[-1].dependant.query_params == [] and len(app.routes[-1].dependant.body_params) == 1


class Forward(BaseModel):
    id: int


# ---- answers -------------------------------------------------------------------------------------------


async def test_models_come_back_as_declared():
    app = FastAPI()

    @app.get("/model", response_model=Public)
    @cache_endpoint
    async def model():
        return Note(id=1, secret="x")

    @app.get("/annotated")
    @cache_endpoint
    async def annotated() -> list[Public]:
        return [{"id": 1, "text": "a", "secret": "x"}]

    for _ in range(2):
        assert (await get(app, "/model")).json() == {"id": 1, "text": "milk"}
        assert (await get(app, "/annotated")).json() == [{"id": 1, "text": "a"}]
    assert isinstance(await model(), Note)


async def test_responses_keep_status_headers_and_type():
    app = FastAPI()

    @app.get("/html", response_class=HTMLResponse)
    @cache_endpoint
    async def html():
        return HTMLResponse("<p>hello", 201, {"X-Mine": "1"})

    @app.get("/away")
    @cache_endpoint
    async def away():
        return RedirectResponse("/html")

    @app.get("/injected", status_code=202)
    @cache_endpoint
    def injected(response: Response):
        response.headers["X-Mine"] = "2"
        response.status_code = 203
        return {}

    first = {url: await get(app, url) for url in ("/html", "/away", "/injected")}
    for url, before in first.items():
        after = await get(app, url)
        assert (after.status_code, after.headers, after.content) == (before.status_code, before.headers, before.content)
    assert first["/html"].status_code == 201
    assert first["/html"].headers["content-type"] == "text/html; charset=utf-8"
    assert first["/injected"].status_code == 203
    assert first["/injected"].headers["x-mine"] == "2"
    assert [each.cache_info().misses for each in (html, away, injected)] == [1, 1, 1]


async def test_an_injected_response_has_what_dependencies_set():
    app = FastAPI()

    def named(response: Response, q: str):
        response.headers["X-Q"] = q
        response.headers["X-Both"] = "dependency"

    @app.get("/x", dependencies=[Depends(named)])
    @cache_endpoint
    async def x(response: Response):
        response.headers["X-Both"] = "endpoint"
        return 1

    for q in "ab":
        found = await get(app, f"/x?q={q}")
        assert (found.headers["x-q"], found.headers.get_list("x-both")) == (q, ["endpoint"])
    assert x.cache_info().hits == 1


@pytest.mark.parametrize("kind", ["injected", "whole"])
async def test_cookies_are_their_own_callers(kind):
    app, calls = FastAPI(), []

    @app.get("/x")
    @cache_endpoint
    async def x(response: Response):
        calls.append(1)
        await asyncio.sleep(0)
        answer = response if kind == "injected" else JSONResponse({})
        answer.set_cookie("id", str(len(calls)))
        return {} if kind == "injected" else answer

    found = await asyncio.gather(*[get(app, "/x") for _ in range(5)])
    assert sorted(each.headers["set-cookie"].partition(";")[0] for each in found) == [f"id={n}" for n in range(1, 6)]


ANSWERS = {
    "status 404": lambda: JSONResponse({}, 404),
    "status 500": lambda: JSONResponse({}, 500),
    "status 206": lambda: Response(b"x", 206),
    "no-store": lambda: Response(b"x", headers={"Cache-Control": "no-store"}),
    "vary": lambda: Response(b"x", headers={"Vary": "Accept-Encoding, X-Other"}),
    "background": lambda: Response(b"x", background=BackgroundTask(print)),
}


@pytest.mark.parametrize("what", ANSWERS)
async def test_what_is_not_stored(what, caplog):
    app, calls = FastAPI(), []

    @app.get("/x")
    @cache_endpoint
    async def x():
        calls.append(1)
        return ANSWERS[what]()

    for n in (1, 2):
        found = await get(app, "/x")
        assert found.status_code == ANSWERS[what]().status_code
        assert len(calls) == n
    told = [record.name for record in caplog.records if "is not stored" in record.message]
    assert told == ([] if what in ("status 404", "status 500") else ["zoocache"])


async def test_errors_are_not_stored():
    app, calls = FastAPI(), []

    @app.get("/x")
    @cache_endpoint(stale_if_error=60, ttl=0.001)
    async def x(fail: int = 0):
        calls.append(1)
        if fail:
            raise HTTPException(fail)
        return 1

    assert [(await get(app, "/x?fail=404")).status_code for _ in range(2)] == [404, 404]
    assert [(await get(app, "/x?fail=503")).status_code for _ in range(2)] == [503, 503]
    assert len(calls) == 4


async def test_an_old_answer_stands_in_for_a_failure_not_for_a_refusal(kit):
    app, said = FastAPI(), [None]

    @app.get("/x")
    @cache_endpoint(stale_if_error=60, ttl=10)
    async def x():
        if said[0]:
            raise HTTPException(said[0])
        return "old"

    assert (await get(app, "/x")).json() == "old"
    kit.clock.advance(11)
    said[0] = 404
    assert (await get(app, "/x")).status_code == 404
    said[0] = 503
    assert (await get(app, "/x")).json() == "old"


async def test_background_tasks_run_each_time(caplog):
    app, ran = FastAPI(), []

    @app.get("/x")
    @cache_endpoint
    async def x(tasks: BackgroundTasks, work: bool):
        if work:
            tasks.add_task(ran.append, 1)
        return 1

    for _ in range(2):
        await get(app, "/x?work=1")
        await get(app, "/x?work=0")
    assert ran == [1, 1]
    assert x.cache_info().hits == 1
    assert "background task" in caplog.text


@pytest.mark.parametrize("kind", [StreamingResponse, FileResponse])
async def test_streams_are_refused_by_name(kind):
    app = FastAPI()

    @app.get("/x")
    @cache_endpoint
    async def x():
        return kind(__file__)

    with pytest.raises(TypeError, match=f"`x`: it returns a {kind.__name__}, which only one client can read"):
        await get(app, "/x")
    with pytest.raises(TypeError, match="generator"):

        @cache_endpoint
        async def lines():
            yield 1

    with pytest.raises(TypeError, match="uses up its value"):
        await cache_endpoint(iterator)()


async def iterator():
    return iter([1])


def test_options_that_make_no_sense_are_refused():
    for name in ("key", "cache_if", "cache_errors", "error_ttl", "negative_ttl"):
        with pytest.raises(TypeError, match=f"takes no {name}: "):
            cache_endpoint(**{name: 1})
    with pytest.raises(TypeError, match="decorates functions"):
        cache_endpoint(1)
    with pytest.raises(TypeError):
        cache_endpoint(colour=1)


# ---- many requests -------------------------------------------------------------------------------------


async def test_a_hundred_requests_compute_once():
    app, calls, go = FastAPI(), [], asyncio.Event()

    @app.get("/x")
    @cache_endpoint
    async def x(response: Response):
        calls.append(1)
        response.headers["X-Mine"] = "1"
        await go.wait()
        return 1

    async with client(app) as http:
        tasks = [asyncio.create_task(http.get("/x")) for _ in range(100)]
        while x.zoocache_endpoint[0].waits < 99:
            await asyncio.sleep(0)
        go.set()
        found = await asyncio.gather(*tasks)
    assert len(calls) == 1
    assert {(each.json(), each.headers["x-mine"]) for each in found} == {(1, "1")}


async def test_a_hundred_requests_compute_once_in_threads():
    """Those that wait take a thread each, of the 40 that there are."""
    app, calls, go = FastAPI(), [], threading.Event()

    @app.get("/x")
    @cache_endpoint
    def x():
        calls.append(1)
        go.wait()
        return 1

    async with client(app) as http:
        tasks = [asyncio.create_task(http.get("/x")) for _ in range(100)]
        flights = x.zoocache_endpoint[0].flights
        while not flights or len(next(iter(flights.values())).waiters or ()) < 39:
            await asyncio.sleep(0)
        go.set()
        assert {each.json() for each in await asyncio.gather(*tasks)} == {1}
    assert len(calls) == 1


async def test_who_leaves_does_not_take_the_answer_along():
    """Each computes with what is of its own request: the one that is gone takes its session with it."""
    app, leaders, go = FastAPI(), [], asyncio.Event()

    @app.get("/x")
    @cache_endpoint(ignore="db")
    async def x(db: Annotated[Session, Depends(session)]):
        leaders.append(asyncio.current_task())
        await go.wait()
        assert not db.closed
        return 1

    async with client(app) as http:
        tasks = [asyncio.create_task(http.get("/x")) for _ in range(5)]
        while x.zoocache_endpoint[0].waits < 4:
            await asyncio.sleep(0)
        leaders[0].cancel()  # any of them: sessions are opened in threads
        while len(leaders) < 2:
            await asyncio.sleep(0)
        go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found.pop(tasks.index(leaders[0])), asyncio.CancelledError)
    assert [each.json() for each in found] == [1] * 4
    assert len(leaders) == 2


def test_no_refresh_uses_what_is_of_a_request():
    app = FastAPI()

    @cache_endpoint(soft_ttl=1)
    async def request(request: Request): ...

    @cache_endpoint(early_refresh=1, ignore="db")
    async def db(db: Annotated[Session, Depends(session)]): ...

    @cache_endpoint(soft_ttl=1)
    async def fine(q: int): ...

    for endpoint in (request, db):
        with pytest.raises(TypeError, match=f"`{endpoint.__name__}` cannot have soft_ttl.*'{endpoint.__name__}'"):
            app.get("/x")(endpoint)
    app.get("/fine")(fine)


async def test_a_refresh_runs_beside(kit):
    app, calls = FastAPI(), []
    done = asyncio.Event()

    @app.get("/x")
    @cache_endpoint(soft_ttl=5, ttl=60)
    async def x(q: int):
        calls.append(q)
        if len(calls) == 2:
            done.set()
        return len(calls)

    assert (await get(app, "/x?q=1")).json() == 1
    kit.clock.advance(6)
    assert (await get(app, "/x?q=1")).json() == 1
    await done.wait()
    while x.zoocache_endpoint[0].flights:
        await asyncio.sleep(0)
    assert (await get(app, "/x?q=1")).json() == 2


# ---- shared --------------------------------------------------------------------------------------------


@cache_endpoint(deps=["shared"], vary="Accept", ttl=60)
async def shared(q: int, response: Response, request: Request):
    response.headers["X-Mine"] = "1"
    calls.append(q)
    return Note(id=q)


@cache_endpoint
def shared_html(q: int):
    calls.append(q)
    return HTMLResponse("<p>")


calls: list[int] = []


async def test_answers_are_shared_between_processes(tmp_path):
    """Two caches of one LMDB file, as two processes have."""
    app = FastAPI()
    app.get("/model", response_model=Public)(shared)
    app.get("/html")(shared_html)
    calls.clear()
    for _ in range(2):
        zoocache.configure(storage_url=f"lmdb://{tmp_path}")
        found = await get(app, "/model?q=1")
        assert (found.json(), found.headers["x-mine"]) == ({"id": 1, "text": "milk"}, "1")
        found = await get(app, "/html?q=2")
        assert (found.text, found.headers["content-type"]) == ("<p>", "text/html; charset=utf-8")
        zoocache.reset()
    assert calls == [1, 2]


@cacheable
def loaded(q: int):
    return {"q": q}


async def test_an_endpoint_may_be_a_cached_function(tmp_path):
    """Each has a record of its own, though other processes know both by one function."""
    zoocache.configure(storage_url=f"lmdb://{tmp_path}")
    app = FastAPI()
    app.get("/x")(cache_endpoint(loaded))
    for _ in range(2):
        assert loaded(1) == {"q": 1}
        assert (await get(app, "/x?q=1")).json() == {"q": 1}
        for function in (loaded, cache_endpoint(loaded)):
            assert function(1) == {"q": 1}


# ---- a real server -------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(app):
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_uvicorn():
    app, counts = FastAPI(), []

    @cacheable(deps=["inner"])
    def inner():
        counts.append(1)
        return len(counts)

    @app.get("/sync")
    @cache_endpoint
    def sync():
        return inner()

    @app.get("/coroutine")
    @cache_endpoint
    async def coroutine(q: int = 0):
        add_deps(["mine"])
        return inner()

    with served(app) as url, httpx.Client(base_url=url) as http:
        assert [http.get(path).json() for path in ("/sync", "/coroutine", "/sync")] == [1, 1, 1]
        invalidate("inner")
        assert [http.get(path).json() for path in ("/sync", "/coroutine", "/sync")] == [2, 2, 2]


def test_without_fastapi():
    out = run(
        ["fastapi"],
        """
        import zoocache.contrib
        try:
            import zoocache.contrib.fastapi.route
        except ImportError as error:
            print(error)
        """,
    )
    assert "zoocache[fastapi]" in out
