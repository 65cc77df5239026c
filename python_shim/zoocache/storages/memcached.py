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

import re
from collections import deque
from collections.abc import Callable, Sequence
from socket import SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET
from struct import pack
from threading import Lock
from typing import Any
from urllib.parse import SplitResult, unquote

from zoocache._errors import StorageIsFull
from zoocache.storage import SharedStorage
from zoocache.storages import digest, missing, patience

try:
    from pymemcache.client.base import Client
    from pymemcache.exceptions import MemcacheServerError, MemcacheUnexpectedCloseError, MemcacheUnknownError
except ImportError as error:
    raise missing("memcached", "pymemcache", "memcached") from error

__all__ = ["MemcachedStorage"]

_FULL = ("too large", "out of memory")
_END, _PLAIN = b"\r\nEND\r\n", re.compile(rb"[!-~]+").fullmatch
_ABSOLUTE, _FAR = 60 * 60 * 24 * 30 + 1, 2**31 - 1  # smaller numbers are seconds from now; larger ones are refused


class MemcachedStorage(SharedStorage):
    """Records as items of a server: "host", "host:port", "[::1]:port", or the path of a socket."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._idle: deque[_Client] = deque()
        self.forked()

    @classmethod
    def from_url(cls, url: str, parts: SplitResult, options: dict[str, str]) -> MemcachedStorage:
        if "@" in parts.netloc or bool(parts.netloc) == bool(parts.path.strip("/")):
            raise ValueError  # there are no users in this protocol
        parts.port  # noqa: B018 - raises
        return cls(parts.netloc or unquote(parts.path))

    def get(self, key: bytes) -> bytes | None:
        return self._call(_Client.fetch, _name(key))  # type: ignore[no-any-return]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        names = [_name(key) for key in keys]
        return list(map(self._call(Client.get_many, names).get, names))

    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        self._call(Client.set, _name(key), record, _end(expires))

    def delete(self, key: bytes) -> None:
        self._call(Client.delete, _name(key))

    def touch(self, key: bytes, expires: float | None) -> None:
        self._call(Client.touch, _name(key), _end(expires))

    def read(self, key: bytes) -> tuple[bytes | None, bytes]:
        with self._turn:
            value, cas = self._ask(self._log, Client.gets, _name(key))
            return value, b"%d %b" % (self._life, cas or b"")

    def swap(self, key: bytes, value: bytes, token: bytes) -> bool:
        life, _, cas = token.partition(b" ")
        with self._turn:
            if not cas:
                return bool(self._ask(self._log, Client.add, _name(key), value))
            if self._log.sock is None or int(life) != self._life:
                return False
            return bool(self._ask(self._log, Client.cas, _name(key), value, cas))

    def close(self) -> None:
        for client in (self._log, *self._idle):
            client.close()
        self._idle.clear()

    def forked(self) -> None:
        self._log, self._life, self._turn = self._client(), 0, Lock()

    def _client(self) -> _Client:
        return _Client(self._server, no_delay=True, default_noreply=False)

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            client = self._idle.pop()
        except IndexError:
            client = self._client()
        result = self._ask(client, method, *args)
        self._idle.append(client)
        return result

    def _ask(self, client: _Client, method: Callable[..., Any], *args: Any) -> Any:
        client.timeout = client.connect_timeout = patience()
        if client.sock is None:
            self._life += client is self._log
        elif method is not _Client.fetch:
            client.sock.settimeout(client.timeout)
        try:
            return method(client, *args)
        except BaseException as error:
            client.close()
            text = str(error)
            if isinstance(error, MemcacheServerError) and any(word in text for word in _FULL):
                raise StorageIsFull(f"memcached: {text}") from None
            while self._idle:  # most likely their server is gone as well
                self._idle.pop().close()
            if isinstance(error, MemcacheUnexpectedCloseError):
                raise ConnectionError("memcached: the server has closed the connection") from None
            if isinstance(error, BlockingIOError):
                raise TimeoutError("memcached: timed out") from None
            raise


class _Client(Client):  # type: ignore[misc]
    """The official client, with a get() for one item, which takes half of the time."""

    patient = 0.0  # seconds that the kernel waits: Python would ask it before each call whether that may begin

    def fetch(self, name: bytes) -> bytes | None:
        """As get(); raises BlockingIOError if it takes too long."""
        sock, left = self.sock, self.timeout or 86400.0
        if sock is None:
            return self.get(name)  # type: ignore[no-any-return]
        if sock.gettimeout() is not None or not left * 0.8 <= self.patient <= left:
            sock.settimeout(None)
            self.patient = left * 0.9  # for what is left the next times, too
            for option in SO_RCVTIMEO, SO_SNDTIMEO:
                sock.setsockopt(SOL_SOCKET, option, pack("ll", int(self.patient), int(self.patient % 1 * 1e6)))
        sock.sendall(b"get %b\r\n" % name)
        reply = _some(sock, 65536)
        while b"\n" not in reply:
            reply += _some(sock, 1)
        head, _, value = reply.partition(b"\r\n")
        if head == b"END":
            return None
        if not head.startswith(b"VALUE "):
            raise MemcacheUnknownError(head)
        size = int(head.rpartition(b" ")[2])
        while len(value) < size + len(_END):
            value += _some(sock, size + len(_END) - len(value))
        if value[size:] != _END:
            raise MemcacheUnknownError(head)
        return value[:size]


def _some(sock: Any, most: int) -> bytes:
    data: bytes = sock.recv(most)
    if not data:
        raise MemcacheUnexpectedCloseError
    return data


def _name(key: bytes) -> bytes:
    """As it is, if Memcached takes it."""
    return key if len(key) <= 128 and _PLAIN(key) else digest(key).encode()


def _end(expires: float | None) -> int:
    """As an item has it; 0: never, or beyond 2038."""
    return 0 if expires is None or expires >= _FAR else max(int(expires) + 1, _ABSOLUTE)
