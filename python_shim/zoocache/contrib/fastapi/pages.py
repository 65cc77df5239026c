"""Whole pages: ``http=True``. A hit runs neither the endpoint nor any dependency, and a client that has it gets a 304.

    @app.get("/notes/{note}")
    @cache_endpoint(http=True, vary="Accept-Language", ttl=60)
    async def read(note: int, db: Annotated[Session, Depends(session)]) -> Note: ...

The key is the URL, with its host, and the headers that ``vary`` names, and nothing else. So what a dependency checks
must be one of these: a route is refused whose endpoint or dependencies, however deep, take a header, a cookie, a
security scheme or a body that the key knows nothing of. A dependency that takes the Request may look at anything: it is
refused unless ``vary`` names both Authorization and Cookie. If the endpoint takes it, requests that bring one of these,
unless ``vary`` names it, are handled without the cache. ``ignore`` names parameters of the endpoint, and so
dependencies, that no page depends on and whose work a hit may skip. While a dependency is overridden, its pages are not
cached.

What is sent along:

    ETag            of the content, or as the endpoint has set it; If-None-Match is answered with 304
    Age             the seconds since the page was computed
    Cache-Control   max-age, so that what is left after Age is what is left of the entry; no-cache, if that has no end:
                    then clients ask each time, and get a 304. private, if ``vary`` names Authorization or Cookie, or
                    the request has brought Authorization, unless the endpoint has said public. What the endpoint
                    says itself of its age stands.
    Vary            what ``vary`` names
    tag_header      the tags that the page depends on, and those above them, for a cache in front that is purged by
                    them: see zoocache.contrib.purge
"""

from __future__ import annotations

import functools
import inspect
import re
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import Request, Response
from fastapi.security.base import SecurityBase

from zoocache import _ffi
from zoocache._callables import Signature, is_async, is_generator, name_of
from zoocache.context import ACTIVE, add_deps, note, tags_of
from zoocache.contrib._endpoints import Stored, digests, listed
from zoocache.contrib.fastapi._answers import Ready, body_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from zoocache._cache import Cache
    from zoocache._table import Entry, Rules

    Handler = Callable[[Request], Awaitable[Response]]

__all__ = ["Page"]

_ETAG = re.compile(rb'(?:W/)?("[^"]*")')
_SAID = {"max-age", "s-maxage", "no-cache", "no-store", "immutable"}  # what an endpoint says of its page's age
_SLIM = {b"etag", b"vary", b"content-location", b"expires", b"date", b"last-modified"}  # what goes with a 304
_MOST = 8000  # bytes of tags in a header: proxies take no more


async def _answer(key: str, handler: Handler, request: Request) -> Response:
    return await handler(request)


class Sheet(NamedTuple):
    """What is stored of a page."""

    body: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...]  # all but Age and Cache-Control
    slim: tuple[tuple[bytes, bytes], ...]  # those of a 304
    etag: bytes
    control: str  # what the endpoint says itself in Cache-Control
    aged: bool  # it says how old the page may be
    shown: bool  # it says to whom


class Page(Stored):
    """An endpoint whose responses are cached."""

    def __init__(
        self,
        func: Any,
        namespace: str | None,
        deps: Any,
        cache: Cache | None,
        rules: Rules,
        vary: tuple[str, ...],
        ignore: tuple[str, ...],
        tag_header: str | None,
    ) -> None:
        if is_generator(func):
            raise TypeError(f"zoocache cannot cache `{name_of(func)}`: it is a generator; return a list instead")
        if rules.soft_ttl is not None or rules.early_refresh:
            raise TypeError(
                f"zoocache: `{name_of(func)}`: a page is computed for a request: no soft_ttl, early_refresh"
            )
        fixed = None if callable(deps) else deps
        super().__init__(_answer, namespace, fixed, None, cache, rules, None, ("handler", "request"))
        self.name = name_of(func)
        Signature(func, ignore)  # raises TypeError for names that it has not
        self.vary = vary
        self.unneeded = ignore
        self.personal = not {"authorization", "cookie"}.isdisjoint(vary)
        self.tag_header = tag_header.encode("latin-1") if tag_header else b""
        self.call = self.wrapper()
        self.func = func  # from now on known by it
        path = f"{namespace}|{name_of(func, '__module__')}.{name_of(func, '__qualname__')}"
        self.whole = f"|page:{_ffi.hash_bytes(path.encode('utf-8', 'surrogatepass')):016x}"  # all pages of it

    def empty(self) -> None:
        """Removes every page of it, in every process; a cache in front is told so (see purge)."""
        super().empty()
        events = self.bind().events
        if events is not None:
            events.invalidated((self.whole,))

    # ---- what is stored --------------------------------------------------------------------------------

    def settle_value(self, fill: Any, value: Any) -> None:
        """Makes a Sheet of the response, with the headers that it has for all who get it."""
        body = body_of(value, self.name)
        headers = [(name.lower(), text) for name, text in value.raw_headers]
        if not self.keeps(fill, value.background, value.status_code, headers, True):
            super().settle_value(fill, value)
            return
        if not any(name == b"etag" for name, _ in headers):
            headers.append((b"etag", b'"%016x"' % _ffi.hash_bytes(body)))
        varies = dict.fromkeys([*listed(headers, b"vary"), *self.vary])
        headers = [header for header in headers if header[0] != b"vary"]
        if varies:
            headers.append((b"vary", ", ".join(varies).encode("latin-1")))
        if self.tag_header:
            headers = self.tagged(headers, {*tags_of(fill.static), *fill.deps})
        control = ", ".join(listed(headers, b"cache-control"))
        said = {part.partition("=")[0] for part in control.split(", ")}
        headers = [header for header in headers if header[0] != b"cache-control"]
        slim = [header for header in headers if header[0] in _SLIM or header[0] == self.tag_header]
        etag = next(text for name, text in headers if name == b"etag")
        shown, aged = not said.isdisjoint({"public", "private"}), not said.isdisjoint(_SAID)
        sheet = Sheet(body, value.status_code, tuple(headers), tuple(slim), etag, control, aged, shown)
        super().settle_value(fill, sheet)

    def tagged(self, headers: list[tuple[bytes, bytes]], tags: set[str]) -> list[tuple[bytes, bytes]]:
        """The headers, and that of the tags: also those above them, as a cache in front knows no paths.

        Among them are scopes, and the tag of the endpoint, with a "|" in front, which no tag of a user has.
        """
        every = sorted({self.whole, *[part for tag in tags for part in _upwards(tag)]})
        comma = b"tag" in self.tag_header.lower()
        text = (b"," if comma else b" ").join([tag.encode() for tag in every])
        if len(text) > _MOST or not text.isascii() or (comma and any("," in tag for tag in every)):
            said = ", ".join([*listed(headers, b"cache-control"), "private"]).replace("public, ", "")
            headers = [header for header in headers if header[0] != b"cache-control"]
            return [*headers, (b"cache-control", said.encode("latin-1"))]  # for what cannot be purged must not be kept
        return [*headers, (self.tag_header, text)]

    # ---- what is sent ----------------------------------------------------------------------------------

    def reply(self, scope: Any, sheet: Sheet, entry: Entry | None) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and body."""
        body, status, headers, slim, etag, control, aged, shown = sheet
        authorized = self.personal
        asked = b""
        for name, text in scope["headers"]:
            if name == b"if-none-match":
                asked = asked + b"," + text if asked else text
            elif name == b"authorization":
                authorized = True
        if asked and status == 200 and (asked == etag or _matches(asked, etag)):
            status, headers, body = 304, slim, b""
        elif scope["method"] == "HEAD":
            body = b""
        if authorized and not shown:
            control = f"{control}, private" if control else "private"
        sent = [*headers]
        life = ""
        if entry is not None:
            born = entry.born
            sent.append((b"age", b"%d" % (self.cache.clock() - born)))  # type: ignore[union-attr]
            if entry.deadline != inf:
                life = f"max-age={int(entry.deadline - born)}"
        if not aged:
            life = life or "no-cache"
            control = f"{control}, {life}" if control else life
        sent.append((b"cache-control", control.encode("latin-1")))
        return status, sent, body

    # ---- a route ---------------------------------------------------------------------------------------

    def handler(self, inner: Handler, dependant: Any, provider: Any, shape: str) -> Any:
        """What handles the requests of a route, for what does it without the cache."""
        refuse(self, dependant)
        calls = set(_calls(dependant))
        taken = {dependant.request_param_name, dependant.http_connection_param_name} - {None, *self.unneeded}
        guarded = {b"authorization", b"cookie"} - {name.encode() for name in self.vary} if taken else set()
        entries = self.entries
        prefix = f"page\0{dependant.path}\0{shape}\0"

        def key_of(scope: Any) -> str | None:
            """The key of a request; None: it is handled as without the cache."""
            if scope["method"] not in ("GET", "HEAD"):
                return None
            if provider is not None and provider.dependency_overrides and calls & provider.dependency_overrides.keys():
                return None
            if guarded and any(name in guarded for name, _ in scope["headers"]):
                return None
            host = next((text for name, text in scope["headers"] if name == b"host"), b"")
            url = b"\0".join((host, scope["query_string"])).decode("latin-1")
            key = f"{prefix}{scope['scheme']}\0{scope['path']}\0{url}"
            return "\0".join((key, *digests(scope["headers"], self.vary))) if self.vary else key

        def look(scope: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
            """The reply, if the page is there."""
            key = key_of(scope)
            entry = None if key is None else entries.get(key)
            if entry is None or not entry.fresh():
                return None
            self.hits += 1
            if ACTIVE:
                note(entry)
            return self.reply(scope, entry.value, entry)

        async def handle(request: Request) -> Response:
            key = key_of(request.scope)
            if key is None:
                return await inner(request)
            asked = request
            if request.method == "HEAD":  # the page is that of a GET
                asked = Request({**request.scope, "method": "GET"}, request.receive)
            answer = await self.call(key, inner, asked)
            if isinstance(answer, Response):
                if request.method == "HEAD":
                    answer.body = b""
                return answer
            status, headers, body = self.reply(request.scope, answer, entries.get(key))
            return Ready(body, status, headers)

        handle.zoocache_look = look, handle  # type: ignore[attr-defined]
        return handle


def _matches(asked: bytes, etag: bytes) -> bool:
    """Whether If-None-Match names this ETag, by the weak comparison."""
    if asked.strip(b", ") == b"*":
        return True
    return etag.removeprefix(b"W/") in _ETAG.findall(asked)


def _upwards(tag: str) -> Iterator[str]:
    """A tag, and those above it."""
    while tag:
        yield tag
        tag = tag.rpartition(":")[0]


def quick(look: Callable[[Any], Any], app: Any) -> Any:
    """An ASGI application that sends what is there, and has the other one do the rest."""

    async def answered(scope: Any, receive: Any, send: Any) -> None:
        found = look(scope)
        if found is None:
            await app(scope, receive, send)
            return
        status, headers, body = found
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answered


# ---- what the key must know ----------------------------------------------------------------------------


_NOWHERE = {""}  # no header has this name: vary cannot have it


def refuse(page: Page, dependant: Any) -> None:
    """Raises TypeError if a hit would skip what looks at more than the key knows."""
    known = set(page.vary)
    missing = [f"`{who}` takes {what}" for who, what, names in _reads(dependant, page) if not names <= known]
    if missing:
        raise TypeError(
            f"zoocache: `{page.name}` cannot have http=True: on a hit nobody would look at what its key does not know:"
            f" {'; '.join(missing)}. Name the headers in vary=; or in ignore= a parameter that no answer depends on; or"
            " leave http=True out: then dependencies are solved for each request"
        )


def _reads(dependant: Any, page: Page | None = None) -> Iterator[tuple[str, str, set[str]]]:
    """Who takes what of a request, and the names of the headers that it is found in. page: of the endpoint itself."""
    who, unneeded = (name_of(dependant.call), ()) if page is None else (page.name, page.unneeded)
    scheme = dependant.call
    if isinstance(scheme, SecurityBase) and type(scheme).__module__.startswith("fastapi.security"):
        model: Any = scheme.model
        place = str(getattr(getattr(model, "in_", None), "value", "header"))
        if place == "cookie":
            yield type(scheme).__name__, "a cookie (Cookie)", {"cookie"}
        elif place == "header":
            name = str(getattr(model, "name", None) or "Authorization")
            yield type(scheme).__name__, f"the header {name}", {name.lower()}
        return
    for field in dependant.header_params:
        if field.name not in unneeded:
            yield who, f"the header {field.alias}", {field.alias.lower()}
    if any(field.name not in unneeded for field in dependant.cookie_params):
        yield who, "a cookie (Cookie)", {"cookie"}
    if dependant.body_params:
        yield who, "a body", _NOWHERE
    if page is None and (dependant.request_param_name or dependant.http_connection_param_name):
        yield who, "the Request, which may be asked for anything (Authorization, Cookie)", {"authorization", "cookie"}
    for inner in dependant.dependencies:
        if inner.name is None or inner.name not in unneeded:
            yield from _reads(inner)


def _calls(dependant: Any) -> Iterator[Any]:
    """What is called for a route, but for its endpoint."""
    for inner in dependant.dependencies:
        yield inner.call
        yield from _calls(inner)


# ---- the endpoint --------------------------------------------------------------------------------------


def endpoint(page: Page, func: Any, deps: Any) -> Any:
    """What FastAPI calls for a page that is not there: tells its dependencies, and is the endpoint."""
    wrapper: Any

    if is_async(func):

        @functools.wraps(func)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            if callable(deps):
                tags = deps(*args, **kwargs)
                add_deps(await tags if inspect.isawaitable(tags) else tags)
            return await func(*args, **kwargs)

        wrapper = awaited
    else:

        @functools.wraps(func)
        def called(*args: Any, **kwargs: Any) -> Any:
            if callable(deps):
                add_deps(deps(*args, **kwargs))
            return func(*args, **kwargs)

        wrapper = called
    wrapper.cache_info = page.cache_info
    wrapper.cache_clear = page.cache_clear
    return wrapper
