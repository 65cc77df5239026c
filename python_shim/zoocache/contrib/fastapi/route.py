"""The decorator: cached answers of endpoints.

    @router.get("/notes")
    @cache_endpoint(deps=["notes"], ttl=60, ignore="db")
    async def notes(tag: str, user: Annotated[str, Depends(current_user)], db: Annotated[Session, Depends(new)]): ...

FastAPI solves the dependencies of each request and checks its parameters, as without the cache; what it calls the
endpoint with is the key:

    values        of path, query, headers, cookies, body, and those that dependencies give: all are part of the key.
                  What has no stable key (a session, a client, an ORM object) raises UnkeyableArgument: two users never
                  share an answer because nobody has thought of it. ``ignore`` names those that it does not depend on.
    injected      Request, Response, BackgroundTasks, WebSocket are no part of the key. ``vary`` names the headers of
                  the request that the endpoint reads by itself.

An answer is what the endpoint returns, with the status and the headers that it has set on an injected Response; a
Response keeps status, headers and media type. These are given to their own caller alone, and not stored: what sets a
cookie, is an error (a status from 400 on, 206, 304), says no-store, varies by a header that is not in ``vary``, or
leaves work for a background task, which would not run on a hit.

With ``http=True`` whole pages are cached, see zoocache.contrib.fastapi.pages.
"""

from __future__ import annotations

import asyncio  # noqa: F401 (others look for it here)
import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any

from fastapi import BackgroundTasks, Depends, Request, Response, routing
from fastapi.security import SecurityScopes
from starlette.background import BackgroundTask
from starlette.requests import HTTPConnection

from zoocache._callables import check
from zoocache.contrib._endpoints import VARY, Answer, Endpoint, Stored, by_name, digests, options
from zoocache.contrib.fastapi import pages
from zoocache.contrib.fastapi._answers import Ready, body_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoocache._cache import Cache
    from zoocache._table import Fill

__all__ = ["cache_endpoint"]

_REQUEST = "zoocache_request"  # a parameter that endpoints which vary have for FastAPI


class _Endpoint(Endpoint):
    """An endpoint of FastAPI."""

    injected = (HTTPConnection, Response, BackgroundTask)

    def part(self, name: str, value: Any) -> Any:
        """As for any."""
        return super().part(name, value.scopes if type(value) is SecurityScopes else value)

    def begin(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """As for any."""
        _remember(fill, args, kwargs)
        return super().begin(fill, args, kwargs)

    async def abegin(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """The same, for a coroutine function."""
        _remember(fill, args, kwargs)
        return await super().abegin(fill, args, kwargs)

    def settle_value(self, fill: Any, value: Any) -> None:
        """Makes an Answer of what the endpoint has returned."""
        if isinstance(value, Response):
            answer = Answer(body_of(value, self.name), value.status_code, tuple(value.raw_headers), True)
        else:
            check(value, self.name)
            response = fill.response
            status, headers = (None, ()) if response is None else (response.status_code, tuple(response.raw_headers))
            answer = Answer(value, status, headers, False)
        tasks = value.background if answer.whole else None
        if tasks is None and fill.tasks is not None:
            tasks = fill.tasks.tasks[fill.had :]
        kept = self.keeps(fill, tasks, answer.status, answer.headers, False)
        super().settle_value(fill, answer if kept or not answer.whole else value)


def _remember(fill: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What the endpoint may say of its answer by."""
    fill.response = fill.tasks = None
    for value in (*args, *kwargs.values()):
        if isinstance(value, Response):
            fill.response = value
        elif isinstance(value, BackgroundTasks):
            fill.tasks, fill.had = value, len(value.tasks)


def _blank() -> Response:
    """What an endpoint is given instead of the Response of its request, for what it sets is to be told apart."""
    response = Response()
    del response.headers["content-length"]
    response.status_code = None  # type: ignore[assignment]
    return response


def _apply(answer: Any, response: Response | None) -> Any:
    """What FastAPI is given; what goes with it is set on the Response of this request."""
    if isinstance(answer, Response):
        return answer
    value, status, headers, whole = answer
    if whole:
        return Ready(value, status, list(headers))
    if response is not None:
        if status is not None:
            response.status_code = status
        for name in {name for name, _ in headers} - {b"set-cookie"}:
            del response.headers[name.decode("latin-1")]
        response.raw_headers.extend(headers)
    return value


def _swap(kwargs: dict[str, Any]) -> Response | None:
    """The injected Response, in whose place there is a blank one from now on."""
    for name, value in kwargs.items():
        if isinstance(value, Response):
            kwargs[name] = _blank()
            return value
    return None


async def _request(request: Request) -> Request:
    return request


def _signature(func: Any) -> inspect.Signature:
    """What FastAPI is to see: text in annotations means what it does where the endpoint was written, if it is known."""
    names = getattr(inspect.unwrap(func), "__globals__", {})

    def meant(annotation: Any) -> Any:
        try:
            return eval(annotation, names) if isinstance(annotation, str) else annotation
        except Exception:  # not yet defined: FastAPI may know more when it makes the route
            return annotation

    how: Any = {}
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        how = {"annotation_format": Format.FORWARDREF}
    found = inspect.signature(func, **how)
    parameters = [each.replace(annotation=meant(each.annotation)) for each in found.parameters.values()]
    return found.replace(parameters=parameters, return_annotation=meant(found.return_annotation))


def _varying(signature: inspect.Signature) -> inspect.Signature:
    """Has FastAPI give the wrapper the request, in which the headers are, beside what the endpoint takes."""
    parameters = list(signature.parameters.values())
    mine = inspect.Parameter(_REQUEST, inspect.Parameter.KEYWORD_ONLY, default=Depends(_request), annotation=Any)
    end = len(parameters) - sum(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    return signature.replace(parameters=[*parameters[:end], mine, *parameters[end:]])


def _wrapped(endpoint: _Endpoint, func: Any) -> Any:
    """What FastAPI calls."""
    call = endpoint.wrapper()
    wrapper: Any

    if endpoint.is_async:

        @functools.wraps(func)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            if endpoint.vary:
                request = kwargs.pop(_REQUEST, None)
                VARY.set(() if request is None else digests(request.scope["headers"], endpoint.vary))
            response = _swap(kwargs)
            return _apply(await call(*args, **kwargs), response)

        wrapper = awaited
    else:

        @functools.wraps(func)
        def called(*args: Any, **kwargs: Any) -> Any:
            if endpoint.vary:
                request = kwargs.pop(_REQUEST, None)
                VARY.set(() if request is None else digests(request.scope["headers"], endpoint.vary))
            response = _swap(kwargs)
            return _apply(call(*args, **kwargs), response)

        wrapper = called
    signature = _signature(func)
    wrapper.__signature__ = _varying(signature) if endpoint.vary else signature
    for name in ("cache_info", "cache_clear", "invalidate", "key", "explain"):
        setattr(wrapper, name, getattr(endpoint, name))
    return wrapper


# ---- the decorator -------------------------------------------------------------------------------------


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
    http: bool = False,
    tag_header: str | None = None,
    **rules: Any,
) -> Any:
    """Caches the answers of an endpoint; stands directly below @router.get(...), bare or called with options.

    namespace, ttl, cache, scope: as of cacheable(), as are tti, jitter, stale_if_error, on_error, fleet, copy, silence,
        serializer, compression, lag, and soft_ttl and early_refresh, for endpoints that take nothing of their request.
    deps: the tags that an answer depends on: a list, or a callable of those of the endpoint's arguments that it names.
        add_deps() adds more from inside.
    vary: the names of headers of the request that are a part of the key.
    ignore: the names of parameters that are no part of it: sessions, clients, what an answer does not depend on.
        Of pages: parameters, and so dependencies, whose work a hit may skip whatever they look at.
    http: whole pages by path, query and vary alone, without a look at dependencies: see zoocache.contrib.fastapi.pages.
    tag_header: of such pages: the name of a header with their tags, as Surrogate-Key or Cache-Tag.
    """
    settings, headers, ignored, tags = options(ttl, vary, ignore, deps, rules)
    if scope if http else tag_header:
        raise TypeError(f"cache_endpoint(http={http}) takes no {'scope' if http else 'tag_header'}")

    def decorate(target: Any) -> Any:
        if not callable(target):
            raise TypeError(f"cache_endpoint() decorates functions, not {type(target).__name__}")
        called = by_name(tags, target) if callable(tags) else tags
        if http:
            page = pages.Page(target, namespace, called, cache, settings, headers, ignored, tag_header)
            wrapper = pages.endpoint(page, target, called)
            wrapper.__signature__ = _signature(target)
            wrapper.zoocache_endpoint = page, wrapper
            return wrapper
        endpoint = _Endpoint(target, namespace, called, cache, settings, scope=scope, ignore=ignored)
        endpoint.vary = headers
        wrapper = _wrapped(endpoint, target)
        wrapper.zoocache_endpoint = endpoint, wrapper
        return wrapper

    return decorate if func is None else decorate(func)


# ---- where FastAPI makes a route -----------------------------------------------------------------------


def _no_refresh(endpoint: Stored, dependant: Any) -> None:
    """Raises TypeError if what is computed beside the requests would use what is of one of them."""
    rules = endpoint.rules
    if rules.soft_ttl is None and not rules.early_refresh:
        return
    taken = [each.name for each in dependant.dependencies if each.name != _REQUEST]
    for kind in ("request", "websocket", "http_connection", "response", "background_tasks", "security_scopes"):
        taken.append(getattr(dependant, f"{kind}_param_name", None))
    for name in taken:
        if name is not None:
            raise TypeError(
                f"zoocache: `{endpoint.name}` cannot have soft_ttl or early_refresh: a refresh runs when the request"
                f" that has begun it is over, and with it its {name!r}. Have the endpoint call a cacheable() function"
                " of plain values that has them"
            )


_get_request_handler: Any = globals().get("_get_request_handler") or routing.get_request_handler
_request_response: Any = globals().get("_request_response") or routing.request_response


@functools.wraps(_get_request_handler)
def _handler_of(dependant: Any, **options: Any) -> Any:
    """What handles the requests of a route, as FastAPI makes it; for a page, what looks for it first."""
    handler = _get_request_handler(dependant=dependant, **options)
    endpoint, wrapper = getattr(dependant.call, "zoocache_endpoint", (None, None))
    if endpoint is None:
        return handler
    if not isinstance(endpoint, pages.Page):
        _no_refresh(endpoint, dependant)
        return handler
    if wrapper is not getattr(dependant.call, "__func__", dependant.call):
        raise TypeError(
            f"zoocache: what decorates `{endpoint.name}` above cache_endpoint(http=True) would not run on a hit: put"
            " cache_endpoint() on top, directly below the decorator that makes the route"
        )
    names = ("response_field", "response_class", "status_code", "response_model_include", "response_model_exclude")
    shape = " ".join([str(options.get(name)) for name in names])
    return endpoint.handler(handler, dependant, options.get("dependency_overrides_provider"), shape)


@functools.wraps(_request_response)
def _app_of(handler: Any) -> Any:
    """The ASGI application of a handler; for a page, one that needs nothing of FastAPI if it is there."""
    app = _request_response(handler)
    look, own = getattr(handler, "zoocache_look", (None, None))
    return app if look is None or own is not handler else pages.quick(look, app)


setattr(routing, "get_request_handler", _handler_of)
setattr(routing, "request_response", _app_of)
