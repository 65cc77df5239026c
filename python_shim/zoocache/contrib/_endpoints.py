"""What the endpoints of web frameworks have in common: their keys, what is stored of them, and what is not."""

from __future__ import annotations

import functools
import sys
from contextvars import ContextVar
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from zoocache import _tags
from zoocache._callables import Signature
from zoocache._errors import UnkeyableArgument
from zoocache._functions import Function
from zoocache._keys import KEYWORDS, Unkeyable, by_identity, freeze
from zoocache._log import logger
from zoocache._table import Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zoocache._cache import Cache
    from zoocache._table import Entry, Fill

__all__ = ["VARY", "Answer", "Endpoint", "Stored", "by_name", "digests", "listed", "options", "private"]

VARY: ContextVar[tuple[str, ...]] = ContextVar("zoocache_vary", default=())  # what this request gives of the key

_REFUSED = {
    "key": "name what is no part of the key by ignore",
    "cache_if": "call zoocache.no_store() in the endpoint",
    "cache_errors": "errors are not stored",
    "error_ttl": "errors are not stored",
    "negative_ttl": "call zoocache.set_ttl() in the endpoint",
}


class Answer(NamedTuple):
    """What is stored for an endpoint."""

    value: Any  # what it has returned; the body, if that was a Response
    status: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    whole: bool  # it was a Response


# ---- what is given -------------------------------------------------------------------------------------


def options(
    ttl: float | None, vary: str | Iterable[str], ignore: str | Iterable[str], deps: Any, rules: dict[str, Any]
) -> tuple[Rules, tuple[str, ...], tuple[str, ...], Any]:
    """The options of a cache_endpoint(): rules, headers, names, tags or a callable."""
    for name in _REFUSED.keys() & rules.keys():
        raise TypeError(f"cache_endpoint() takes no {name}: {_REFUSED[name]}")
    headers = tuple([name.lower() for name in _tags.listed(vary)])
    return Rules(ttl=ttl, **rules), headers, _tags.listed(ignore), deps if callable(deps) else _tags.listed(deps)


def by_name(deps: Callable[..., Any], func: Any) -> Callable[..., Any]:
    """deps, called with those of the endpoint's arguments that it names, or with all if it has **kwargs."""
    names, wanted = Signature(func).names, Signature(deps)
    named = {*wanted.names, *wanted.only}

    @functools.wraps(deps)
    def called(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(names, args)), **kwargs}
        return deps(**given if wanted.keyword else {name: x for name, x in given.items() if name in named})

    return called


# ---- what may be stored --------------------------------------------------------------------------------


def listed(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """The members of the lists that headers of a name are, in lower case."""
    text = ",".join([value.decode("latin-1") for key, value in headers if key.lower() == name])
    return [part.strip().lower() for part in text.split(",") if part.strip()]


def private(status: int | None, headers: Iterable[tuple[bytes, bytes]], vary: tuple[str, ...], shared: bool) -> str:
    """Why an answer is its own caller's alone; empty: it is for all. shared: so is a key that tells no users apart."""
    headers = tuple(headers)
    if status is not None and (status >= 400 or status in (206, 304)):
        return f"its status is {status}"
    if any(key.lower() == b"set-cookie" for key, _ in headers):
        return "it sets a cookie"
    said = [part.partition("=")[0] for part in listed(headers, b"cache-control")]
    if "no-store" in said or (shared and "private" in said and not {"authorization", "cookie"}.intersection(vary)):
        return "its Cache-Control says so"
    other = [name for name in listed(headers, b"vary") if name not in vary and name != "accept-encoding"]
    return f"it varies by {other[0]!r}, which is not in vary" if other else ""


def digests(headers: list[tuple[bytes, bytes]], names: tuple[str, ...]) -> tuple[str, ...]:
    """What stands for these headers of a request in a key: it may be a secret, and keys are seen by many."""
    found = []
    for name in names:
        wanted = name.encode("latin-1")
        values = [value for key, value in headers if key == wanted]
        found.append(blake2b(b"\0".join(values), digest_size=16).hexdigest() if values else "")
    return tuple(found)


class Stored(Function):
    """A function whose value is an Answer; or what its own caller alone is to have."""

    vary: tuple[str, ...] = ()
    _told = False

    def keeps(self, fill: Fill, background: Any, status: int | None, headers: Any, shared: bool) -> bool:
        """Whether the answer may be stored; else it is its own caller's, and who waits for it computes for himself."""
        if getattr(background, "tasks", background):
            why = "it leaves work for a background task, which would not run on a hit"
        else:
            why = private(status, headers, self.vary, shared)
        if not why:
            return True
        fill.store = False
        fill.private = True
        if not self._told and (status or 200) < 400:
            self._told = True
            logger.warning("zoocache: an answer of `%s` is not stored: %s; this is said once", self.name, why)
        return False

    def stand_in(self, fill: Fill) -> Entry | None:
        """As for any; but an exception with a status below 500 is the answer of an endpoint, no failure."""
        status = getattr(sys.exc_info()[1], "status_code", None)
        if isinstance(status, int) and status < 500:
            return None
        return super().stand_in(fill)


class Endpoint(Stored):
    """An endpoint whose return value is cached, by the values that it is called with."""

    injected: tuple[type, ...] = ()  # what belongs to one request, and is no part of the key

    def __init__(self, func: Any, namespace: str | None, deps: Any, cache: Cache | None, rules: Rules, **more: Any):
        super().__init__(func, namespace, deps, None, cache, rules, **more)
        self.own_key = self.frozen  # all keys are made there

    def frozen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The key: each value, and the headers that it varies by."""
        names, ignored = self.signature.names, self.signature.ignored
        parts = [self.part(name, x) for name, x in zip(names, args) if name not in ignored]
        parts += [self.part("*", x) for x in args[len(names) :]]
        for name in sorted(kwargs):
            if name not in ignored:
                parts += [KEYWORDS, name, self.part(name, kwargs[name])]
        return (Answer, *parts, *VARY.get()) if self.vary else (Answer, *parts)

    def part(self, name: str, value: Any) -> Any:
        """What an argument gives of the key."""
        if isinstance(value, self.injected):
            return None
        try:
            return freeze(value)
        except (Unkeyable, RecursionError):
            pass
        if name == "self" and by_identity(type(value)):
            from weakref import ref

            return ref(value)
        raise UnkeyableArgument(
            f"zoocache cannot tell by {name!r} of `{self.name}` whether two requests have one answer: a"
            f" {type(value).__name__} has no stable key.\nIf the answer does not depend on it, name it:"
            f" cache_endpoint(ignore={name!r}). Else depend on an id or another plain value, or give its class a"
            " __zoocache_key__() method."
        )
