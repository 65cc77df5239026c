"""What a cache does, in a browser and for the programs that watch over it: an ASGI application.

    app.mount("/zoocache", web.app())  # of the default cache; in FastAPI or Starlette
    uvicorn.run(web.app(cache))        # by itself

    /          a page that follows the cache: hits, latencies, entries, memory, tags, invalidations, storage and bus
    /health    health() as JSON; the status is 503 if it is down, else 200
    /metrics   what the PrometheusAdapter has, of this cache alone
    /explain   ?function=profile&args=[42]&kwargs={} says what explain() does, of each function of this name;
               ?key=motd of the value under a key; also of a function's, as its key() gives it
    /state     what the page shows, as JSON
    /nodes     the nodes of its Redis bus, as zoocache.monitor has them
    /grafana   a dashboard for Grafana, of what /metrics of all processes has: to be imported there

It only reads: nothing that it is asked changes the cache. It shows no value, no argument and no key; of a tag the first
segment, and a hash in place of the rest. But it tells what functions there are, how much they are used, and, to who
knows the arguments, whether they were called: put it behind a login, or on a port that only operators reach.

Latencies and invalidations are those since app(); of the default cache, since it was first asked for here. To follow
them costs what any listener of events does. Needs zoocache[web], and asyncio.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from base64 import b64encode
from collections import Counter, deque
from hashlib import sha256
from pathlib import Path
from re import DOTALL, findall
from urllib.parse import parse_qs, quote
from weakref import WeakKeyDictionary

from zoocache import _default
from zoocache._explain import Explanation, explain, own
from zoocache._functions import Function
from zoocache.context import tags_of
from zoocache.monitor import Board, ratio
from zoocache.telemetry.eventlog import blinded

try:
    from prometheus_client import CollectorRegistry, make_asgi_app
except ImportError as error:
    raise ImportError("zoocache.contrib.web needs prometheus_client: pip install 'zoocache[web]'") from error

from zoocache.telemetry.adapters.prometheus import PrometheusAdapter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zoocache._cache import Cache
    from zoocache._table import Table
    from zoocache.events import Event

__all__ = ["app"]

_FILLS = 1000  # computations whose times are kept
_SAID = 50  # invalidations that are shown,
_NAMED = 3  # and tags of each
_ROWS = 20  # functions, and tags, that are shown
_LOOKED_AT = 5000  # entries whose tags are counted; of more, a sample

_PAGE = Path(__file__).with_name("web.html").read_bytes()
_DASHBOARD = Path(__file__).with_name("grafana.json").read_bytes()


def _source(element: str) -> str:
    """What the page has between these tags, as its policy names it: nothing else is run or applied."""
    (inner,) = findall(f"<{element}>(.*?)</{element}>".encode(), _PAGE, DOTALL)
    return f"'sha256-{b64encode(sha256(inner).digest()).decode()}'"


_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (
        b"content-security-policy",
        "; ".join(
            [
                "default-src 'none'",
                f"script-src {_source('script')}",
                f"style-src {_source('style')}",
                "connect-src 'self'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            ]
        ).encode(),
    ),
]


class _Watch:
    """Follows a cache. Called in any thread."""

    def __init__(self, cache: Cache) -> None:
        self.fills: deque[tuple[str | None, float]] = deque(maxlen=_FILLS)
        self.said: deque[tuple[int, float, tuple[str, ...], int]] = deque(maxlen=_SAID)
        self.number = 0
        registry = CollectorRegistry()
        PrometheusAdapter(registry=registry).bind_core(cache)
        self.metrics = make_asgi_app(registry)
        cache.listen(self)

    def __call__(self, event: Event) -> None:
        if event.elapsed is not None:
            self.fills.append((event.function, event.elapsed))
        elif event.kind == "invalidated":
            self.number += 1
            self.said.append((self.number, time.time(), event.tags[:_NAMED], len(event.tags)))


class _App:
    """The application."""

    def __init__(self, cache: Cache | None) -> None:
        self.given = cache
        self.watches: WeakKeyDictionary[Cache, _Watch] = WeakKeyDictionary()
        if cache is not None:
            self.watch(cache)

    def watch(self, cache: Cache) -> _Watch:
        found = self.watches.get(cache)
        if found is None:
            found = self.watches[cache] = _Watch(cache)
        return found

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI 3, HTTP."""
        if scope["type"] != "http":  # of a server, which goes on without
            raise RuntimeError(f"zoocache.contrib.web answers HTTP, not {scope['type']}")
        path = scope["path"]
        root = scope.get("root_path", "").rstrip("/")
        if root and f"{path}/".startswith(f"{root}/"):
            path = path[len(root) :]
        if scope["method"] not in ("GET", "HEAD"):
            await _send(send, scope, 405, b"text/plain", b"GET or HEAD", (b"allow", b"GET, HEAD"))
        elif path == "" and root:  # what is relative to the page needs the slash
            location = f"{quote(root.rpartition('/')[2])}/".encode()
            await _send(send, scope, 307, b"text/plain", b"", (b"location", location))
        elif path in ("", "/"):
            await _send(send, scope, 200, b"text/html; charset=utf-8", _PAGE)
        elif path == "/grafana":
            await _send(send, scope, 200, b"application/json", _DASHBOARD)
        elif path == "/health":
            health = _default.health() if self.given is None else self.given.health()
            await _send_json(send, scope, 503 if health.status == "down" else 200, health.as_dict())
        elif path in ("/metrics", "/state", "/nodes", "/explain"):
            cache = _default.cache() if self.given is None else self.given
            watch = self.watch(cache)
            if path == "/metrics":
                await watch.metrics(scope, receive, send)
            elif path == "/state":
                await _send_json(send, scope, 200, await asyncio.to_thread(_state, cache, watch))
            elif path == "/nodes":
                await _send_json(send, scope, *await asyncio.to_thread(_nodes, cache))
            else:
                query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
                given = {name: values[-1] for name, values in query.items()}
                await _send_json(send, scope, *await asyncio.to_thread(_explained, cache, given))
        else:
            await _send(send, scope, 404, b"text/plain", b"see zoocache.contrib.web for what there is")


async def _send(send: Any, scope: Any, status: int, kind: bytes, body: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *_HEADERS, *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _send_json(send: Any, scope: Any, status: int, found: Any) -> None:
    await _send(send, scope, status, b"application/json", json.dumps(found).encode())


# ---- what there is -----------------------------------------------------------------------------------


def _state(cache: Cache, watch: _Watch) -> dict[str, Any]:
    """What the page shows."""
    fills = list(watch.fills)
    return {
        "time": time.time(),
        "health": cache.health().as_dict(),
        "stats": cache.stats()._asdict(),
        "fills": _times([elapsed for _, elapsed in fills]),
        "functions": _functions(cache, fills),
        "tags": _tags(cache),
        "invalidations": [
            {"number": number, "time": when, "tags": list(map(_tag, tags)), "count": count}
            for number, when, tags, count in list(watch.said)
        ],
    }


def _times(elapsed: list[float]) -> dict[str, float] | None:
    """How long computations took, in seconds."""
    if not elapsed:
        return None
    elapsed.sort()
    return {"median": elapsed[len(elapsed) // 2], "p99": elapsed[len(elapsed) * 99 // 100], "most": elapsed[-1]}


def _functions(cache: Cache, fills: list[tuple[str | None, float]]) -> list[dict[str, Any]]:
    """Those that are called most; without a name: what get() and set() are for."""
    elapsed: dict[str | None, list[float]] = {}
    for name, seconds in fills:
        elapsed.setdefault(name, []).append(seconds)
    found: list[dict[str, Any]] = []
    for table in cache.tables():
        name = table.name if isinstance(table, Function) else None
        hits = table.hits + table.fast_hits()
        misses = table.absent + table.expired + table.invalidated
        if hits or misses or table.entries:
            times = _times(elapsed.get(name, []))
            entries = len(table.entries)
            found.append({"name": name, "hits": hits, "misses": misses, "entries": entries, "fills": times})
    found.sort(key=lambda each: -each["hits"] - each["misses"])
    return found[:_ROWS]


def _tags(cache: Cache) -> list[dict[str, Any]]:
    """How many entries depend on tags that begin with the same segment; of many entries, by a sample."""
    entries = [entry for table in cache.tables() for entry in list(table.entries.values())]
    sampled = len(entries) > _LOOKED_AT
    counted: Counter[str] = Counter()
    for entry in random.sample(entries, _LOOKED_AT) if sampled else entries:
        counted.update({tag.partition(":")[0] for tag in own(tags_of(entry.deps))})
    share = len(entries) / _LOOKED_AT if sampled else 1
    found = counted.most_common(_ROWS)
    return [{"tag": tag, "entries": round(count * share), "sampled": sampled} for tag, count in found]


def _tag(tag: str) -> str:
    """A tag, without what may be a secret."""
    return blinded(tag) if ":" in tag else tag


def _nodes(cache: Cache) -> tuple[int, Any]:
    """The status, and what the nodes of the fleet tell of themselves; none, if there is no bus in Redis."""
    shared = cache.shared
    url = None if shared is None else shared.settings.options["bus"]
    if shared is None or not url:
        return 200, []
    tls = {name: shared.settings.options[name] for name in ("tls_ca", "tls_cert", "tls_key")}
    try:
        with Board(url, cache.prefix, **tls) as board:
            nodes = board.nodes()
    except OSError:
        return 503, {"error": "Redis does not answer"}
    return 200, [
        {"name": node.name, "status": node.status, "age": node.age, "ratio": ratio(node.stats), "stats": node.stats}
        for node in nodes
    ]


# ---- why something is not served ---------------------------------------------------------------------


def _explained(cache: Cache, given: dict[str, str]) -> tuple[int, Any]:
    """The status, and what explain() says; a list, as several functions may have one name."""
    try:
        cache.check_open()
        if given.keys() == {"key"}:
            return 200, [_shown(*each) for each in _under(cache, given["key"])]
        if "function" not in given or not given.keys() <= {"function", "args", "kwargs"}:
            raise TypeError("give key=, or function= with args= and kwargs= as JSON")
        args, kwargs = json.loads(given.get("args", "[]")), json.loads(given.get("kwargs", "{}"))
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise TypeError("args is a list, and kwargs an object")
        named = [table for table in cache.tables() if isinstance(table, Function) and table.name == given["function"]]
        if not named:
            return 404, {"error": "this cache has no function of this name that was called"}
        return 200, [_shown(table, table.explain(*args, **kwargs)) for table in named]
    except Exception as error:  # of the arguments, or of a function's own key=
        return 400, {"error": str(error)}


def _under(cache: Cache, key: str) -> list[tuple[Table, Explanation]]:
    """What has this key: the calls of a function whose key() it is, or else the value of set()."""
    name = key.rpartition(":")[0].rpartition(":")[2]
    named = [table for table in cache.tables() if isinstance(table, Function) and table.name == name]
    found: list[tuple[Table, Explanation]] = [
        (table, explain(table, frozen))
        for table in named
        for frozen in list(table.entries)
        if table.key_text(frozen) == key
    ]
    return found or [(cache._raw, explain(cache._raw, key))]


def _shown(table: Table, found: Explanation) -> dict[str, Any]:
    """An explanation, without what may be a secret."""
    function = f"{table.func.__module__}.{table.name}" if isinstance(table, Function) else None
    tags = {"deps": list(map(_tag, found.deps)), "killer": found.killer and _tag(found.killer)}
    return {"function": function, **found._asdict(), **tags}


def app(cache: Cache | None = None) -> Any:
    """An ASGI application that shows a cache, or the default one: to be mounted anywhere, or served by itself.

    Safe to be asked from any number of clients. The page asks once a second while it is visible: for a few thousand
    entries that takes a millisecond or two, and for more it looks at a sample.
    """
    return _App(cache)
