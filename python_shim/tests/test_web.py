"""contrib.web: a real server, asked by a client and by a browser."""

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import sync_playwright
from prometheus_client.parser import text_string_to_metric_families
from servers import Redis, until

import zoocache
from zoocache import Cache
from zoocache.contrib import web

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def serve():
    """Serves applications, and tells where."""
    running = []

    def start(app, **options):
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", **options))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        until(lambda: server.started)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def cache():
    with Cache() as cache:
        yield cache


def asked(app, path, method="GET", root="", **headers):
    """An answer without a server, as one would give the scope."""

    async def ask():
        transport = httpx.ASGITransport(app, root_path=root)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path, headers=headers)

    with ThreadPoolExecutor(1) as thread:  # the browser has a loop in this one
        return thread.submit(asyncio.run, ask()).result()


def metrics(text):
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples if not s.labels}


# ---- what programs ask for -----------------------------------------------------------------------------


def test_health(serve):
    with Cache(max_entries=10) as cache:
        url = serve(web.app(cache))
        answer = httpx.get(f"{url}/health")
        assert (answer.status_code, answer.json()) == (200, json.loads(json.dumps(cache.health().as_dict())))
    answer = httpx.get(f"{url}/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "down")
    assert httpx.get(f"{url}/state").json()["health"]["status"] == "down"
    assert "closed" in httpx.get(f"{url}/explain?key=k").json()["error"]


def test_the_default_cache_is_the_one_that_there_is():
    app = web.app()
    assert asked(app, "/health").json()["status"] == "ok"
    zoocache.configure(max_entries=7)  # it was not made by being asked
    zoocache.set("k", 1)
    assert asked(app, "/state").json()["health"]["checks"]["memory"]["max_entries"] == 7
    zoocache.reset()
    zoocache.configure(max_entries=8)
    assert asked(app, "/state").json()["health"]["checks"]["memory"]["max_entries"] == 8


def test_metrics_are_of_this_cache(cache):
    app = web.app(cache)
    other = Cache()
    other.set("k", 1)
    square = cache.cacheable(lambda x: x * x)
    square(1), square(1), square(2)
    found = metrics(asked(app, "/metrics").text)
    assert found["zoocache_cache_hits_total"] == 1
    assert found["zoocache_cache_entries"] == 2
    assert found["zoocache_cache_fill_duration_seconds_count"] == 2
    assert "openmetrics" in asked(app, "/metrics", Accept="application/openmetrics-text").headers["content-type"]
    other.close()


def test_explain(cache):
    app = web.app(cache)

    @cache.cacheable(deps=lambda uid, page=0: [f"user:{uid}"], ttl=60)
    def profile(uid, page=0):
        return uid

    profile(7, page=1)
    cache.set("motd", "hello")
    before = cache.stats()
    (found,) = asked(app, '/explain?function=profile&args=[7]&kwargs={"page":1}').json()
    assert found["fresh"] and found["key"] == profile.key(7, page=1) and found["function"].endswith("test_web.profile")
    assert asked(app, f"/explain?key={profile.key(7, page=1)}").json()[0]["fresh"]
    assert asked(app, "/explain?function=profile&args=[8]").json()[0]["reason"] == "absent"
    assert asked(app, "/explain?key=motd").json()[0]["fresh"]
    assert asked(app, "/explain?key=profile:0").json()[0]["reason"] == "absent"
    assert cache.stats()[:16] == before[:16]  # the library knows more tags, as it was asked
    cache.invalidate("user")
    (found,) = asked(app, '/explain?function=profile&args=[7]&kwargs={"page":1}').json()
    assert (found["reason"], found["killer"]) == ("invalidated", "user")
    assert found["deps"][0].startswith("user:") and found["deps"] != ["user:7"]


@pytest.mark.parametrize(
    ("query", "status", "complaint"),
    [
        ("", 400, "give key="),
        ("key=a&function=f", 400, "give key="),
        ("function=f&args={}", 400, "args is a list"),
        ("function=f&args=[1", 400, "delimiter"),
        ("function=f", 400, "missing"),
        ("function=f&args=[1,2]", 400, "attribute"),
        ("function=g", 404, "no function of this name"),
    ],
)
def test_what_cannot_be_explained_is_said(cache, query, status, complaint):
    app = web.app(cache)

    @cache.cacheable(key=lambda x, y=None: y and y.attribute)
    def f(x, y=None):
        return x

    f(1)
    answer = asked(app, f"/explain?{query}")
    assert answer.status_code == status
    assert complaint in answer.json()["error"]


def test_no_value_argument_key_or_tag_is_told(cache):
    app = web.app(cache)

    @cache.cacheable(deps=lambda name, password: [f"login:{name}"])
    def login(name, password):
        return {"card": "5105-1051"}

    login("ann", "hunter2")
    cache.set("session-of-ann", "5105-1051", deps=["login:ann"])
    cache.invalidate("login:ann:deep", "login:ann")
    login("ann", "hunter2")
    told = "".join(
        asked(app, path).text
        for path in ("/", "/state", "/metrics", "/health", '/explain?function=login&args=["ann","hunter2"]')
    )
    assert "login" in told
    for secret in ("ann", "hunter2", "5105", "session"):
        assert secret not in told.replace("annotation", ""), secret


def test_it_only_reads(cache):
    app = web.app(cache)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in ("/", "/state", "/explain", "/health"):
            answer = asked(app, path, method)
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/", "/health"):
        answer = asked(app, path, "HEAD")
        assert answer.content == b"" and int(answer.headers["content-length"]) > 0
    assert asked(app, "/other").status_code == 404


def test_other_protocols_are_not_spoken(cache):
    with pytest.raises(RuntimeError, match="not websocket"):
        web.app(cache)({"type": "websocket"}, None, None).send(None)


def test_what_is_shown_is_bounded(cache):
    app = web.app(cache)
    for n in range(12_000):
        cache.set(f"k{n}", n, deps=[f"t{n % 3}:{n}", f"t{n % 3}:x"])
    for n in range(100):
        cache.invalidate(*[f"u:{n}:{m}" for m in range(10)])
        cache.cacheable(lambda x, n=n: n)(1)
    found = asked(app, "/state").json()
    assert len(found["functions"]) <= 20
    assert [each["sampled"] for each in found["tags"]] == [True] * 3
    assert all(abs(each["entries"] - 4000) < 500 for each in found["tags"])
    assert [each["number"] for each in found["invalidations"]] == list(range(51, 101))
    assert {(len(each["tags"]), each["count"]) for each in found["invalidations"]} == {(3, 10)}


def test_without_its_package_it_says_which_extra(cache):
    code = "import sys; sys.modules['prometheus_client'] = None; import zoocache.contrib.web"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'zoocache[web]'" in done.stderr


def test_the_nodes_of_a_bus(cache, tmp_path):
    assert asked(web.app(cache), "/nodes").json() == []
    redis = Redis(tmp_path)
    with Cache(bus_url=redis.url, prefix="a") as one, Cache(bus_url=redis.url, prefix="a"):
        app = web.app(one)
        until(lambda: len(asked(app, "/nodes").json()) == 2)
        assert {node["status"] for node in asked(app, "/nodes").json()} == {"ok"}
    redis.stop()


# ---- mounted -------------------------------------------------------------------------------------------


def test_below_another_application(serve, cache):
    site = FastAPI()
    site.mount("/ops/zoocache", web.app(cache))
    url = serve(site)
    with httpx.Client(follow_redirects=True) as client:
        for path in ("/ops/zoocache", "/ops/zoocache/"):
            answer = client.get(url + path)
            assert "<h1>zoocache</h1>" in answer.text
            assert str(answer.url) == f"{url}/ops/zoocache/"
        assert client.get(f"{url}/ops/zoocache/health").json()["status"] == "ok"
        assert "zoocache_cache_hits_total" in client.get(f"{url}/ops/zoocache/metrics").text
        assert client.get(f"{url}/ops/zoocache/other").status_code == 404


@pytest.mark.parametrize("root", ["/cache", "/a/b c"])
@pytest.mark.parametrize("whole", [True, False])
def test_as_servers_give_the_path(cache, root, whole):
    """ASGI has the root in the path; some mounts take it away."""
    app = web.app(cache)
    before = root if whole else ""
    assert asked(app, f"{before}/health", root=root).json()["status"] == "ok"
    assert "<h1>" in asked(app, f"{before}/", root=root).text
    if whole:
        answer = asked(app, root, root=root)
        assert (answer.status_code, answer.headers["location"]) == (
            307,
            root.rpartition("/")[2].replace(" ", "%20") + "/",
        )


# ---- the page ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens pages, as a telephone has them, which must have no trouble."""
    pages, troubles = [], []

    def open(url, **options):
        page = browser.new_page(viewport={"width": 390, "height": 844}, **options)
        pages.append(page)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: request.url.startswith(url) or troubles.append(request.url))
        page.goto(url)
        return page

    yield open
    for page in pages:
        page.close()
    assert troubles == []


def shows(page, where, text):
    page.wait_for_function("([at, text]) => document.querySelector(at).innerText.includes(text)", arg=[where, text])


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")


@pytest.mark.plain
@pytest.mark.slow
def test_the_page_follows_the_cache(serve, opened):
    site = FastAPI()
    with Cache(max_entries=1000, max_bytes=1 << 20) as cache:
        site.mount("/zoocache", web.app(cache))
        page = opened(serve(site) + "/zoocache/")
        shows(page, "#status", "ok")
        shows(page, "#entries-more", "of 1,000")

        @cache.cacheable(
            deps=lambda x: ["<b>bold</b>:1", f"square_of_a_rather_long_name_without_any_end_of_it_{x % 3}"]
        )
        def a_function_with_a_rather_long_name_that_no_telephone_has_room_for(x):
            return x * x

        for x in range(40):
            for _ in range(4):
                a_function_with_a_rather_long_name_that_no_telephone_has_room_for(x)
        shows(page, "#entries", "40")
        shows(page, "#ratio", "75.0 %")
        shows(page, "#calls-more", "120 hits, 40 misses")
        shows(page, "#functions", "a_function_with_a_rather_long")
        shows(page, "#tags", "<b>bold</b>")
        shows(page, "#fills-more", "40 in all")
        cache.invalidate("news:1")
        shows(page, "#invalidations", "news:")
        cache.clear()
        shows(page, "#invalidations", "everything")
        shows(page, "#entries", "0")
        page.fill("#call", "a_function_with_a_rather_long_name_that_no_telephone_has_room_for(3)")
        page.click("button")
        shows(page, "#explained", "no: absent")
        page.fill("#call", "f(")
        page.click("button")
        shows(page, "#explained", "no: absent")
        page.wait_for_function("document.querySelectorAll('#entries-line polyline').length == 1")
        assert width(page) == 390


@pytest.mark.plain
@pytest.mark.slow
def test_the_page_shows_storage_and_bus(serve, opened, tmp_path):
    redis = Redis(tmp_path)
    with Cache(storage_url=redis.url, bus_url=redis.url, max_staleness=1, breaker_failures=1) as cache:
        page = opened(serve(web.app(cache)), color_scheme="dark")
        shows(page, "#checks", "all heard")
        shows(page, "#nodes", f":{os.getpid()}")
        assert page.is_visible("#fleet")
        shows(page, "#checks", "closed")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 21)"
        redis.stop()
        cache.get("k")
        shows(page, "#checks", "open")
        shows(page, "#status", "degraded")
        assert asked(web.app(cache), "/nodes").status_code == 503
        assert width(page) == 390


@pytest.mark.plain
@pytest.mark.slow
def test_the_page_says_when_nobody_answers(serve, opened, browser):
    with Cache() as cache:
        page = browser.new_page()
        page.goto(serve(web.app(cache)))
        shows(page, "#status", "ok")
        page.context.set_offline(True)
        shows(page, "#status", "no answer")
        page.context.set_offline(False)
        shows(page, "#status", "ok")
        page.close()


# ---- the dashboard -------------------------------------------------------------------------------------


def test_the_dashboard_shows_what_there_is(cache):
    app = web.app(cache)
    cache.cacheable(lambda x: x)(1)
    dashboard = asked(app, "/grafana").json()
    families = list(text_string_to_metric_families(asked(app, "/metrics").text))
    there = {sample.name for family in families for sample in family.samples if not sample.name.endswith("_created")}
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    named = {name for query in queries for name in re.findall(r"zoocache_\w+", query)}
    assert named <= there
    assert there - named == {f"zoocache_cache_fill_duration_seconds_{end}" for end in ("count", "sum")}
    assert {label for query in queries for label in re.findall(r"by \((\w+)\)", query)} <= labels | {"instance"}
    assert {name for query in queries for name in re.findall(r"\$(\w+)", query)} == {
        "job",
        "instance",
        "__rate_interval",
    }
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables.keys() == {"datasource", "job", "instance"}
    assert {re.search(r"zoocache_\w+", variables[name]["query"]["query"])[0] for name in ("job", "instance")} <= there
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]}
    assert len(places) == len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
