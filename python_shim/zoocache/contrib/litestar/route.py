"""The decorator: cached answers of handlers.

    @get("/notes", dependencies={"user": current_user, "db": session})
    @cache_endpoint(deps=["notes"], ttl=60, ignore="db")
    async def notes(tag: str, user: str, db: Session) -> list[Note]: ...

Litestar resolves the dependencies of each request and checks its parameters, as without the cache; what it calls the
handler with is the key:

    values      of path, query, headers, cookies, data, and those of dependencies: all are part of the key. What has no
                stable key raises UnkeyableArgument; ``ignore`` names what the answer does not depend on.
    injected    Request, WebSocket, State and scope are no part of the key. ``vary`` names the headers of the request
                that the handler reads by itself.

An answer is what the handler returns, and is given to Litestar anew each time: objects (msgspec, pydantic, plain) as
they are, a Response or Redirect with its status, headers and media type. What sets a cookie, is an error (a status from
400 on, 206, 304), says no-store, varies by a header that is not in ``vary``, or has a background task is given to its
own caller alone, and not stored. Streams, files, templates and ASGI applications are refused.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from litestar import Controller, Request
from litestar.connection import ASGIConnection
from litestar.datastructures import ImmutableState
from litestar.response import Redirect, Response

from zoocache._callables import check
from zoocache.contrib._endpoints import VARY, Answer, Endpoint, by_name, digests, options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoocache._cache import Cache

__all__ = ["cache_endpoint"]

_REQUEST = "request"  # the parameter by which Litestar gives it
_INJECTED = {_REQUEST, "socket", "state", "scope"}


class _Endpoint(Endpoint):
    """A handler of Litestar."""

    injected = (ASGIConnection, ImmutableState)

    def part(self, name: str, value: Any) -> Any:
        """As for any; controllers are made by Litestar, one like the other."""
        if name == "scope":
            return None
        return super().part(name, type(value) if isinstance(value, Controller) else value)

    def settle_value(self, fill: Any, value: Any) -> None:
        """Makes an Answer of what the handler has returned."""
        if type(value) in (Response, Redirect):
            check(value.content, self.name)
            headers = [(str(k).lower().encode("latin-1"), str(v).encode("latin-1")) for k, v in value.headers.items()]
            if isinstance(value, Redirect):
                headers.append((b"location", value.url.encode("latin-1")))
            said = [*headers, (b"set-cookie", b"")] if value.cookies else headers
            kept = self.keeps(fill, value.background, value.status_code, said, False)
            parts = (
                value.content,
                getattr(value.media_type, "value", value.media_type),
                value.response_type_encoders or None,
            )
            answer: Any = Answer(parts, value.status_code, tuple(headers), True) if kept else value
        elif isinstance(value, Response) or callable(value):
            raise TypeError(
                f"zoocache cannot cache `{self.name}`: it returns a {type(value).__name__}, which is sent once, or made"
                " for one request; return the content, or a Response of it, or leave cache_endpoint() out"
            )
        else:
            check(value, self.name)
            answer = Answer(value, None, (), False)
        super().settle_value(fill, answer)


def _given(answer: Any) -> Any:
    """What Litestar is given: a Response is its own, for hooks may change it."""
    if isinstance(answer, Response):
        return answer
    if not answer.whole:
        return answer.value
    content, media_type, encoders = answer.value
    headers = {name.decode("latin-1"): text.decode("latin-1") for name, text in answer.headers}
    return Response(content, status_code=answer.status, headers=headers, media_type=media_type, type_encoders=encoders)


def cache_endpoint(
    func: Any = None,
    *,
    namespace: str | None = None,
    deps: Any = None,
    ttl: float | None = None,
    vary: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    cache: Cache | None = None,
    scope: str | None = None,
    **rules: Any,
) -> Any:
    """Caches the answers of a handler; stands directly below @get(...), bare or called with options.

    namespace, ttl, cache, scope: as of cacheable(), as are tti, jitter, stale_if_error, on_error, fleet, copy, silence,
        serializer, compression, lag, and soft_ttl and early_refresh, for handlers that take nothing of their request.
    deps: the tags that an answer depends on: a list, or a callable of those of the handler's arguments that it names.
        add_deps() adds more from inside.
    vary: the names of headers of the request that are a part of the key.
    ignore: the names of parameters that are no part of it: sessions, clients, what an answer does not depend on.
    """
    settings, headers, ignored, tags = options(ttl, vary, ignore, deps, rules)

    def decorate(target: Any) -> Any:
        if not callable(target):
            raise TypeError(f"cache_endpoint() decorates functions, not {type(target).__name__}")
        called = by_name(tags, target) if callable(tags) else tags
        handler = _Endpoint(target, namespace, called, cache, settings, scope=scope, ignore=ignored)
        handler.vary = headers
        names = {*handler.signature.names, *handler.signature.only}
        left = [*sorted(_INJECTED & names), *ignored]
        if left and (settings.soft_ttl is not None or settings.early_refresh):
            raise TypeError(
                f"zoocache: `{handler.name}` cannot have soft_ttl or early_refresh: a refresh runs when the request"
                f" that has begun it is over, and with it its {left[0]!r}. Have the handler call a cacheable() function"
                " of plain values that has them"
            )
        return _wrapped(handler, target, _REQUEST in names)

    return decorate if func is None else decorate(func)


def _wrapped(handler: _Endpoint, func: Any, takes: bool) -> Any:
    """What Litestar calls. takes: the handler has the request itself."""
    call, vary = handler.wrapper(), handler.vary

    def varying(kwargs: dict[str, Any]) -> None:
        request = kwargs.get(_REQUEST) if takes else kwargs.pop(_REQUEST, None)
        VARY.set(() if request is None else digests(request.scope["headers"], vary))

    wrapper: Any
    if handler.is_async:

        @functools.wraps(func)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            if vary:
                varying(kwargs)
            return _given(await call(*args, **kwargs))

        wrapper = awaited
    else:

        @functools.wraps(func)
        def called(*args: Any, **kwargs: Any) -> Any:
            if vary:
                varying(kwargs)
            return _given(call(*args, **kwargs))

        wrapper = called
    if vary and not takes:
        signature = inspect.signature(func)
        mine = inspect.Parameter(_REQUEST, inspect.Parameter.KEYWORD_ONLY, annotation=Request)
        wrapper.__signature__ = signature.replace(parameters=[*signature.parameters.values(), mine])
        wrapper.__annotations__ = {**func.__annotations__, _REQUEST: Request}
    for name in ("cache_info", "cache_clear", "invalidate", "key", "explain"):
        setattr(wrapper, name, getattr(handler, name))
    wrapper.zoocache_endpoint = handler, wrapper
    return wrapper
