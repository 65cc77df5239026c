"""What is stored for an endpoint, and what is not."""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import HTTPException, Response

from zoocache._functions import Function
from zoocache._log import logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoocache._table import Entry, Fill

__all__ = ["Answer", "Ready", "Stored", "body_of", "digests", "listed", "private"]


class Answer(NamedTuple):
    """What is stored for an endpoint."""

    value: Any  # what it has returned; the body, if that was a Response
    status: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    whole: bool  # it was a Response


class Ready(Response):
    """A Response of what was stored."""

    def __init__(self, body: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.body = body
        self.status_code = status
        self.raw_headers = headers
        self.background = None


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


def body_of(response: Response, name: str) -> bytes:
    """The body. Raises TypeError for what is sent as it comes."""
    body = getattr(response, "body", None)
    if not isinstance(body, (bytes, memoryview)):
        raise TypeError(
            f"zoocache cannot cache `{name}`: it returns a {type(response).__name__}, which only one client can"
            " read; return a Response with the whole body, or leave cache_endpoint() out"
        )
    return bytes(body)


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
        """As for any; but what an endpoint refuses by an HTTPException below 500 is its answer, no failure."""
        error = sys.exc_info()[1]
        if isinstance(error, HTTPException) and error.status_code < 500:
            return None
        return super().stand_in(fill)
