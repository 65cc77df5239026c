"""Memcached, or what speaks its text protocol. Needs zoocache[memcached].

    configure(storage_url="memcached://cache.internal:11211", prefix="shop")
    cache = Cache(storage=MemcachedStorage("cache.internal:11211"), prefix="shop")

It is one server, asked directly: behind a proxy, or with a client that moves keys to another server when one is down,
there may be two logs, and invalidations of which nobody hears. Down means that nothing is heard: see ``silence``.

The log is an item, changed by cas. An id of cas is unique in one life of the server only, so a token is good for the
connection that read it, which has not seen a restart. An item that was evicted or flushed, or lost by a restart, is
not there, and a new log has another generation, so what was stored before is no longer served.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Any
from urllib.parse import SplitResult, unquote

from zoocache._errors import StorageIsFull
from zoocache.storage import SharedStorage
from zoocache.storages import digest, missing, patience

try:
    from pymemcache.client.base import Client
    from pymemcache.exceptions import MemcacheServerError, MemcacheUnexpectedCloseError
except ImportError as error:
    raise missing("memcached", "pymemcache", "memcached") from error

__all__ = ["MemcachedStorage"]

_FULL = ("too large", "out of memory")
_ABSOLUTE, _FAR = 60 * 60 * 24 * 30 + 1, 2**31 - 1  # smaller numbers are seconds from now; larger ones are refused


class MemcachedStorage(SharedStorage):
    """Records as items of a server: "host", "host:port", "[::1]:port", or the path of a socket."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._idle: deque[Client] = deque()
        self.forked()

    @classmethod
    def from_url(cls, url: str, parts: SplitResult, options: dict[str, str]) -> MemcachedStorage:
        if "@" in parts.netloc or bool(parts.netloc) == bool(parts.path.strip("/")):
            raise ValueError  # there are no users in this protocol
        parts.port  # noqa: B018 - raises
        return cls(parts.netloc or unquote(parts.path))

    def get(self, key: bytes) -> bytes | None:
        return self._call("get", digest(key))  # type: ignore[no-any-return]

    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        self._call("set", digest(key), record, _end(expires))

    def delete(self, key: bytes) -> None:
        self._call("delete", digest(key))

    def touch(self, key: bytes, expires: float | None) -> None:
        self._call("touch", digest(key), _end(expires))

    def read(self, key: bytes) -> tuple[bytes | None, bytes]:
        with self._turn:
            value, cas = self._ask(self._log, "gets", digest(key))
            return value, b"%d %b" % (self._life, cas or b"")

    def swap(self, key: bytes, value: bytes, token: bytes) -> bool:
        life, _, cas = token.partition(b" ")
        with self._turn:
            if not cas:
                return bool(self._ask(self._log, "add", digest(key), value))
            if self._log.sock is None or int(life) != self._life:
                return False
            return bool(self._ask(self._log, "cas", digest(key), value, cas))

    def close(self) -> None:
        for client in (self._log, *self._idle):
            client.close()
        self._idle.clear()

    def forked(self) -> None:
        self._log, self._life, self._turn = self._client(), 0, Lock()

    def _client(self) -> Client:
        return Client(self._server, no_delay=True, default_noreply=False)

    def _call(self, method: str, *args: Any) -> Any:
        try:
            client = self._idle.pop()
        except IndexError:
            client = self._client()
        result = self._ask(client, method, *args)
        self._idle.append(client)
        return result

    def _ask(self, client: Client, method: str, *args: Any) -> Any:
        client.timeout = client.connect_timeout = patience()
        if client.sock is not None:
            client.sock.settimeout(client.timeout)
        elif client is self._log:
            self._life += 1
        try:
            return getattr(client, method)(*args)
        except BaseException as error:
            client.close()
            text = str(error)
            if isinstance(error, MemcacheServerError) and any(word in text for word in _FULL):
                raise StorageIsFull(f"memcached: {text}") from None
            while self._idle:  # most likely their server is gone as well
                self._idle.pop().close()
            if isinstance(error, MemcacheUnexpectedCloseError):
                raise ConnectionError("memcached: the server has closed the connection") from None
            raise


def _end(expires: float | None) -> int:
    """As an item has it; 0: never, or beyond 2038."""
    return 0 if expires is None or expires >= _FAR else max(int(expires) + 1, _ABSOLUTE)
