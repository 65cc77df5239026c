"""The part of the shared library behind storages and buses; loaded when a cache has one.

Besides _ffi the only module that imports ctypes. Whatever may wait is called with the interpreter's lock
released.
"""

from __future__ import annotations

import ctypes
import traceback
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from itertools import accumulate
from logging import ERROR
from math import inf
from threading import Semaphore
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import finalize

from zoocache import _ffi
from zoocache._errors import StorageIsFull
from zoocache._ffi import E_BUS, E_BUSY, E_FULL, E_INVAL, E_STORE, E_TIMEOUT, MISS, MORE, OK, STALE, Core, Deps
from zoocache._log import logger
from zoocache.storage import DEADLINE, SharedStorage, Storage, VersionedStorage

if TYPE_CHECKING:
    from zoocache._log import Troubles

__all__ = ["Alone", "Found", "Refused", "Server", "SharedCore", "SharedStats", "Token", "open_core"]

NEVER = 2**64 - 1

_LARGE = 65536  # bytes of a value that is worth not being copied
_MOST = 1024  # parts of one
_TIMEOUT = 0.25  # seconds that a call may take, unless timeout says otherwise


class _Bytes(ctypes.Structure):
    _fields_ = [("ptr", c_void_p), ("len", c_size_t)]

    def take(self) -> bytes:
        return ctypes.string_at(self.ptr, self.len) if self.len else b""


_GET = ctypes.CFUNCTYPE(c_int, c_void_p, _Bytes, c_void_p)
_GET_MANY = ctypes.CFUNCTYPE(
    c_int, c_void_p, ctypes.POINTER(_Bytes), c_size_t, ctypes.POINTER(c_void_p), ctypes.POINTER(c_int)
)
_PUT = ctypes.CFUNCTYPE(c_int, c_void_p, _Bytes, _Bytes, c_uint64)
_DEL = ctypes.CFUNCTYPE(c_int, c_void_p, _Bytes)
_TOUCH = ctypes.CFUNCTYPE(c_int, c_void_p, _Bytes, c_uint64)
_CLEAR = ctypes.CFUNCTYPE(c_int, c_void_p)
_GENERATION = ctypes.CFUNCTYPE(c_int, c_void_p, ctypes.POINTER(c_uint64), ctypes.POINTER(c_uint64))
_TAG_PUT = ctypes.CFUNCTYPE(c_int, c_void_p, ctypes.POINTER(_Bytes), c_size_t, c_uint64)
_TAG_GET = ctypes.CFUNCTYPE(c_int, c_void_p, ctypes.POINTER(_Bytes), c_size_t, ctypes.POINTER(c_uint64))
_READ = ctypes.CFUNCTYPE(c_int, c_void_p, _Bytes, c_void_p, c_void_p)
_SWAP = ctypes.CFUNCTYPE(c_int, c_void_p, _Bytes, _Bytes, _Bytes)
_CLOSE = ctypes.CFUNCTYPE(None, c_void_p)


_DONE = 100  # ZCPY_DONE


class _Store(ctypes.Structure):
    _fields_ = [
        ("version", c_uint32), ("get", _GET), ("put", _PUT), ("put_parts", c_void_p), ("del_", _DEL),
        ("touch", _TOUCH), ("clear", _CLEAR),
        ("generation", _GENERATION), ("tag_put", _TAG_PUT), ("tag_get", _TAG_GET), ("get_many", _GET_MANY),
        ("lock", c_void_p), ("unlock", c_void_p), ("report", c_void_p), ("forked", c_void_p), ("close", _CLOSE),
        ("user", c_void_p),
    ]  # fmt: skip


class _Place(ctypes.Structure):
    _fields_ = [
        ("version", c_uint32), ("get", _GET), ("get_many", _GET_MANY), ("put", _PUT), ("del_", _DEL),
        ("read", _READ), ("swap", _SWAP), ("forked", c_void_p), ("close", _CLOSE), ("user", c_void_p),
    ]  # fmt: skip


class _Options(ctypes.Structure):
    _fields_ = [
        ("storage", c_char_p), ("bus", c_char_p), ("prefix", c_char_p),
        ("tls_ca", c_char_p), ("tls_cert", c_char_p), ("tls_key", c_char_p),
        ("map_size", c_uint64), ("max_entries", c_uint64), ("timeout", c_uint64),
        ("max_staleness", c_uint64), ("max_stale", c_uint64), ("storage_ttl", c_uint64),
        ("flight_timeout", c_uint64), ("bus_pause", c_uint64),
        ("connections", c_uint32), ("replicas", c_uint32), ("log_shards", c_uint32), ("ack", c_int32),
        ("silence", c_int32), ("write_behind", c_int32), ("sync", c_int32),
        ("breaker_pause", c_uint64), ("breaker_failures", c_uint32), ("nseal_keys", c_uint32),
        ("seal_keys", c_char_p), ("seal_strict", c_int32), ("own", _Store), ("place", _Place),
        ("why", ctypes.c_char * 256),
    ]  # fmt: skip


class _Buffer(ctypes.Structure):
    """Python's Py_buffer."""

    _fields_ = [
        ("ptr", c_void_p), ("object", c_void_p), ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
        ("readonly", c_int), ("ndim", c_int), ("format", c_char_p), ("shape", c_void_p), ("strides", c_void_p),
        ("suboffsets", c_void_p), ("internal", c_void_p),
    ]  # fmt: skip


class _Parts:
    """Bytes of several objects, where they are, for the library."""

    def __init__(self, data: list[Any]) -> None:
        self.data, self.held = data, 0
        self.buffers = (_Buffer * len(data))()

    def __enter__(self) -> Any:
        try:
            for part, buffer in zip(self.data, self.buffers):
                _get_buffer(part, ctypes.byref(buffer), 0)
                self.held += 1
        except BaseException:
            self.__exit__()
            raise
        return (_Bytes * self.held)(*[_Bytes(buffer.ptr, buffer.len) for buffer in self.buffers])

    def __exit__(self, *_: object) -> None:
        for buffer in self.buffers[: self.held]:
            _release_buffer(ctypes.byref(buffer))


class _Found(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p), ("size", c_size_t), ("pin", c_void_p), ("deps", c_size_t),
        ("begin", c_uint64), ("left", c_uint64), ("hard", c_uint64), ("tti", c_uint64),
    ]  # fmt: skip


class _Look(_Found):
    """A look-up in a place, which is asked between two calls of the library. The core may close when it is over."""

    _fields_ = [
        ("inside", c_void_p), ("key", _Bytes), ("lease", c_uint64), ("began", c_uint64), ("at", c_size_t),
        ("epoch", c_uint32), ("name", ctypes.c_char * 129),
    ]  # fmt: skip

    def __del__(self) -> None:
        if self.inside:
            _look_leave(ctypes.byref(self))


class Found(NamedTuple):
    """A value of the storage. Times are in seconds from now."""

    stale: bool  # the bus is silent: to be served now, not to be kept
    data: bytes | memoryview
    deps: Deps
    begin: int
    left: float
    hard: float
    tti: float


class SharedStats(NamedTuple):
    """Of storage and bus, as zcpy_shared_stats says."""

    hits: int
    errors: int
    corrupt: int
    stale: int
    forged: int
    unkeyed: int
    skipped: int
    epoch: int  # odd: the breaker is open
    heard: int
    breaks: int
    bus_errors: int
    silent: int
    pending: int
    age: int  # ns; NEVER: nothing was heard yet
    latency: int  # ns, of look-ups in the storage, smoothed; 0: none yet
    fault: int  # the last error of the storage; 0: none yet


def _declare(name: str, result: Any, *arguments: Any, hold: bool = False) -> Callable[..., Any]:
    return _ffi._declare(name, result, *arguments, lib=_ffi._lib if hold else _ffi._free)


_get_buffer = ctypes.PYFUNCTYPE(c_int, ctypes.py_object, c_void_p, c_int)(("PyObject_GetBuffer", ctypes.pythonapi))
_release_buffer = ctypes.PYFUNCTYPE(None, c_void_p)(("PyBuffer_Release", ctypes.pythonapi))

_has = _declare("zcpy_has", c_int, c_void_p, hold=True)
_news = _declare("zcpy_news", c_int, c_void_p, c_char_p, hold=True)
_gate = _ffi._declare_quick("zcpy_gate", c_int)
_lease = _ffi._declare_quick("zcpy_lease", c_uint64)
_find = _declare("zcpy_find", c_int, c_void_p, c_char_p, c_size_t, c_int, c_void_p)
_look_begin = _declare("zcpy_look_begin", c_int, c_void_p, c_char_p, c_size_t, c_int, c_void_p)
_look_end = _declare("zcpy_look_end", c_int, c_void_p, c_char_p, c_size_t, c_int)
_look_leave = _declare("zcpy_look_leave", None, c_void_p)
_find_many = _declare("zcpy_find_many", c_int, c_void_p, c_void_p, c_size_t, c_void_p, c_void_p)
_done = _declare("zcpy_done", None, c_void_p, c_void_p, hold=True)
_keep = _declare(
    "zcpy_keep", c_int, c_void_p, c_char_p, c_size_t, c_void_p, c_size_t, c_size_t, c_uint64, c_uint64, c_uint64, c_int
)
_drop = _declare("zcpy_drop", c_int, c_void_p, c_char_p, c_size_t)
_lock = _declare("zcpy_lock", c_int, c_void_p, c_char_p, c_size_t, c_uint64, c_void_p)
_unlock = _declare("zcpy_unlock", c_int, c_void_p, c_char_p, c_size_t, c_uint64)
_token = _declare("zcpy_token", c_uint64, c_void_p)
_catch_up = _declare("zcpy_catch_up", c_int, c_void_p, c_uint64, c_uint64)
_stats = _declare("zcpy_shared_stats", None, c_void_p, c_void_p)
_leave_behind = _declare("zcpy_leave_behind", None, c_void_p)
_sink = _declare("zcpy_sink", c_int, c_void_p, c_char_p, c_size_t, hold=True)
_invalidate = _declare("zcpy_invalidate", c_int, c_void_p, c_char_p, c_int)
_invalidate_mark = _declare("zcpy_invalidate_mark", c_int, c_void_p, c_char_p, c_size_t)
_clear = _declare("zcpy_clear", c_int, c_void_p)
_hold = _declare("zcpy_hold", c_int, c_void_p, c_char_p, c_int, c_uint64, c_void_p)
_hold_end = _declare("zcpy_hold_end", c_int, c_void_p, c_uint64)
_close = _declare("zcpy_close", None, c_void_p)
_shut = _declare("zcpy_shut", None, c_void_p)
_tell = _declare("zcpy_tell", None, c_void_p, c_char_p, c_size_t, hold=True)
_asked = _declare("zcpy_asked", c_void_p, c_void_p, hold=True)
_free = _declare("zcpy_free", None, c_void_p, hold=True)
_node = _declare("zcpy_node", c_uint64, c_void_p, hold=True)
_node_ask = _declare("zcpy_node_ask", c_int, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p)
_server_open = _declare("zcpy_server_open", c_void_p, c_void_p, c_void_p)
_server_ask = _declare("zcpy_server_ask", c_int, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_char_p)
_server_close = _declare("zcpy_server_close", None, c_void_p)

HAS_STORE, HAS_BUS, PEEKS, CAN_LOCK, BEATS = 1, 2, 4, 8, 16
UNSEALED = (-24, -25)  # ZC_E_SEAL, ZC_E_UNKEYED


def nanoseconds(seconds: float) -> int:
    """A duration as the library has it."""
    return NEVER if seconds >= 1e10 else int(seconds * 1e9)


class Token(c_uint64):
    """Of the fleet's lock; false: none."""


class SharedCore(Core):
    """A cache of the library with a storage, a bus, or both."""

    __slots__ = ("parts", "place")

    def __init__(self, options: _Options, place: _Caller | None = None) -> None:
        self.place = place
        try:
            super().__init__(ctypes.byref(options))
        except OSError as error:
            raise OSError(error.args[0], options.why.decode(errors="replace")) from None
        self.parts = int(_has(self.pointer))

    def __del__(self, _close: Callable[..., Any] = _close) -> None:
        if self.pointer:
            _close(self.pointer)  # with the interpreter's lock released: what closes may be a storage in Python

    def shut(self) -> None:
        """Closes storage and bus, at once or with the last call that is inside. What is asked afterwards fails,
        as a storage does; what depends on its tags can still be judged.
        """
        if self.pointer:
            _shut(self.pointer)

    def invalidate(self, names: bytes) -> int:
        """Invalidates tags separated by NUL, in one step. E_INVAL: one of them is no good."""
        return int(_invalidate(self.boxed, names, len(names)))

    def invalidate_mark(self, mark: bytes) -> int:
        """Invalidates a tag of the package's own."""
        return int(_invalidate_mark(self.boxed, mark, len(mark)))

    def clear(self) -> int:
        """Invalidates everything, and empties the storage."""
        return int(_clear(self.pointer))

    def lease_end(self) -> float:
        """Until when, by time.monotonic(), what is found fresh after this call may be served. 0: ask gate()."""
        now = monotonic()
        left: int = _lease(self.boxed)
        return now + left / 1e9 if left else 0.0

    def gate(self, silence: int) -> int:
        """May values be served at this moment? OK; else the bus is silent, and that is what is to be done."""
        heard: int = _gate(self.boxed, silence)
        return heard

    def find(self, key: bytes, silence: int) -> tuple[int, Found | None]:
        """Asks the storage; a place in Python between two calls of the library, not out of one."""
        code, place = MORE, self.place
        out = _Found() if place is None else _Look()
        if place is not None:
            code = _look_begin(self.pointer, key, len(key), silence, ctypes.byref(out))
            if code == OK:
                code, record = place.record(out.name)
                code = _look_end(ctypes.byref(out), record, len(record), code)
                if code == OK and out.at:
                    return OK, _found(out, False, record[out.at : out.at + out.size])
        if code == MORE:
            code = _find(self.pointer, key, len(key), silence, ctypes.byref(out))
        return code, self._take(code, out)

    def find_many(self, keys: Sequence[bytes]) -> list[tuple[int, Found | None]]:
        """Asks the storage for several keys in one step."""
        n = len(keys)
        texts = (_Bytes * n)(*[_Bytes(ctypes.cast(c_char_p(key), c_void_p), len(key)) for key in keys])
        outs, codes = (_Found * n)(), (c_int * n)()
        if _find_many(self.pointer, texts, n, outs, codes) < 0:
            return [(MISS, None)] * n
        return [(code, self._take(code, out)) for code, out in zip(codes, outs)]

    def _take(self, code: int, out: _Found) -> Found | None:
        if code != OK and code != STALE:
            return None
        data: bytes | memoryview
        if out.size >= _LARGE and not out.pin:
            block = (ctypes.c_char * out.size).from_address(out.data)
            finalize(block, _free, out.data).atexit = False  # with the last who looks at it
            data = memoryview(block).cast("B").toreadonly()
        else:
            data = ctypes.string_at(out.data, out.size) if out.size else b""
            _done(self.pointer, ctypes.byref(out))
        return _found(out, code == STALE, data)

    def keep(self, key: bytes, data: list[Any], deps: Deps, begin: int, ttl: float, tti: float, plain: bool) -> int:
        """Stores a value; plain: not compressed. What is large goes to the storage from where it is."""
        lives = 0 if ttl == inf else max(1, nanoseconds(ttl))
        if not plain or len(data) > _MOST or sum(map(len, data)) < _LARGE:
            data = [b"".join(data)]
        with _Parts(data) as parts:
            n = len(data)
            return int(_keep(self.pointer, key, len(key), parts, n, deps, begin, lives, nanoseconds(tti), plain))

    def drop(self, key: bytes) -> int:
        """Removes a key."""
        return int(_drop(self.pointer, key, len(key)))

    def lock(self, key: bytes, lease: float, token: Token) -> int:
        """Locks a key for the fleet, or renews its lock; the token says whose it is before this returns."""
        return int(_lock(self.pointer, key, len(key), nanoseconds(lease), ctypes.byref(token)))

    def unlock(self, key: bytes, token: Token) -> None:
        """Ends a lock."""
        _unlock(self.pointer, key, len(key), token)

    def token(self) -> int:
        """Stands for all invalidations that were finished here."""
        return int(_token(self.pointer))

    def catch_up(self, token: int, timeout: float) -> int:
        """Waits until they were heard of."""
        return int(_catch_up(self.pointer, token, nanoseconds(timeout)))

    def shared_stats(self) -> SharedStats:
        """What it has counted; waits for nothing."""
        out = (c_uint64 * len(SharedStats._fields))()
        _stats(self.pointer, out)
        *counted, fault = out
        return SharedStats._make([*counted, fault - 2**64 if fault else 0])

    def well(self) -> bool:
        """Whether the storage is asked, and the bus is heard, at this moment."""
        return not self.shared_stats().epoch & 1 and self.gate(1) == OK

    def news(self) -> Iterator[tuple[int, str]]:
        """What the library has said since the last time: levels and lines."""
        line = ctypes.create_string_buffer(256)
        while self.pointer and (level := _news(self.pointer, line)):
            yield level, line.value.decode(errors="replace")

    def node(self) -> str:
        """What the node is called on its bus, if that is Redis."""
        return f"{_node(self.pointer):016x}"

    def tell(self, facts: bytes) -> None:
        """What its beats tell from now on."""
        _tell(self.pointer, facts, len(facts))

    def asked(self) -> Iterator[bytes]:
        """What it was asked since the last time."""
        while self.pointer and (text := _asked(self.pointer)):
            try:
                yield ctypes.string_at(text)
            finally:
                _free(text)

    def ask(self, *commands: Sequence[bytes]) -> list[Reply]:
        """Gives the server of its bus some commands. Raises OSError."""
        return _ask(lambda *request: int(_node_ask(self.pointer, *request)), commands)

    def leave_behind(self) -> None:
        """In the child of a fork."""
        _leave_behind(self.pointer)
        self.pointer = None


def _found(out: _Found, stale: bool, data: bytes | memoryview) -> Found:
    left, hard = out.left, out.hard
    return Found(
        stale, data, Deps(out.deps), out.begin, inf if left == NEVER else left / 1e9,
        inf if hard == NEVER else hard / 1e9, out.tti / 1e9,
    )  # fmt: skip


class Alone(Core):
    """A cache of the library in place of one whose log cannot be had: what it invalidates, nobody else hears of."""

    __slots__ = ("asked",)  # to hold something

    def invalidate(self, names: bytes) -> int:
        """Invalidates tags separated by NUL, in one step: here."""
        return super().invalidate(names) or E_BUS

    def invalidate_mark(self, mark: bytes) -> int:
        """Invalidates a tag of the package's own: here."""
        return super().invalidate_mark(mark) or E_BUS

    def clear(self) -> int:
        """Invalidates everything: here."""
        return super().clear() or E_BUS

    def hold(self) -> int:
        """Nobody can be told to hold anything, which is said once."""
        if not hasattr(self, "asked"):
            self.asked = True
            logger.error(
                "zoocache: transaction(hold=) announces nothing, as the storage could not be opened: if this process"
                " dies between a commit and its invalidation, other processes do not hear of that"
            )
        return E_BUS


def hold(core: Core, names: bytes, lease: float) -> tuple[int, int]:
    """Holds tags separated by NUL: a result, and what to end."""
    if isinstance(core, Alone):
        return core.hold(), 0
    held = c_uint64()
    return int(_hold(core.pointer, names, len(names), nanoseconds(lease), ctypes.byref(held))), held.value


def hold_end(core: Core, held: int) -> int:
    """Ends a hold: what was held is invalidated."""
    return int(_hold_end(core.pointer, held))


def open_core(settings: dict[str, Any], storage: Storage | None, troubles: Troubles) -> SharedCore:
    """Opens a cache of the library. Raises OSError: its code, and what it has said, if anything."""
    options = _Options()
    for name, value in settings.items():
        setattr(options, name, value.encode() if isinstance(value, str) else value)
    place = None
    if storage is not None:
        caller = _Caller(storage, troubles, options.connections, options.timeout / 1e9)
        if isinstance(storage, SharedStorage):
            place = caller
            options.place = _place_of(caller)
        else:
            options.own = _store_of(caller)
    return SharedCore(options, place)


# ---- Redis, asked directly ----

Reply = Any  # None, bytes, int, Refused, or a list of replies


class Refused(Exception):
    """The error that a command was answered with; a value among other replies."""


class _Replies(ctypes.Structure):
    _fields_ = [("ptr", c_void_p), ("size", c_size_t), ("cap", c_size_t), ("failed", ctypes.c_bool)]


def _ask(call: Callable[..., int], commands: Sequence[Sequence[bytes]]) -> list[Reply]:
    """The replies to commands, which are sent in one step."""
    words = [word for command in commands for word in command]
    texts = (_Bytes * len(words))(*[_Bytes(ctypes.cast(c_char_p(word), c_void_p), len(word)) for word in words])
    ends = (c_size_t * len(commands))(*accumulate(map(len, commands)))
    out = _Replies()
    try:
        code = call(texts, ends, len(commands), ctypes.byref(out))
        text = ctypes.string_at(out.ptr, out.size) if out.size else b""
    finally:
        _free(out.ptr)
    if code != OK:
        raise OSError(_ffi.error_text(code))
    replies: list[Reply] = []
    at = 0
    while len(replies) < len(commands):
        reply, at = _reply(text, at)
        replies.append(reply)
    return replies


def _reply(text: bytes, at: int) -> tuple[Reply, int]:
    """The reply that begins there, and where the next does."""
    line = text.index(b"\n", at)
    kind, n = text[at : at + 1], int(text[at + 1 : line])
    at = line + 1
    if kind == b"*":
        found: list[Reply] = []
        for _ in range(n):
            each, at = _reply(text, at)
            found.append(each)
        return found, at
    if kind == b"_" or kind == b":":
        return (n if kind == b":" else None), at
    data = text[at : at + n]
    return (Refused(data.decode(errors="replace")) if kind == b"-" else data), at + n


class Server:
    """A Redis server that is asked by who is no node; for any thread. Connects when it is asked.

    A call takes ``timeout`` seconds at most.
    """

    def __init__(self, url: str, timeout: float, **options: str | None) -> None:
        self._pointer = None
        settings = _Options(bus=url.encode(), timeout=nanoseconds(timeout), connections=2)
        for name, value in options.items():
            setattr(settings, name, value.encode() if value else None)
        code = c_int()
        self._pointer = _server_open(ctypes.byref(settings), ctypes.byref(code))
        if not self._pointer:
            raise OSError(settings.why.decode(errors="replace") or _ffi.error_text(code.value))

    def ask(self, *commands: Sequence[bytes]) -> list[Reply]:
        """Gives it at most twelve commands, in one step. Raises OSError, with what the library has said."""
        why = ctypes.create_string_buffer(256)
        try:
            return _ask(lambda *request: int(_server_ask(self._pointer, *request, why)), commands)
        except OSError as error:
            said = why.value.decode(errors="replace")
            raise OSError(said or str(error)) from None

    def close(self) -> None:
        """Lets go of its connections; nobody may be asking."""
        pointer, self._pointer = self._pointer, None
        if pointer:
            _server_close(pointer)


# ---- a storage in Python ----

# Call-backs live as long as the process: the library may be inside of one when it closes.
_kept: list[Any] = globals().get("_kept", [])


class _Caller:
    """Calls a storage for the library, and turns what it raises into codes.

    A hook that an exception leaves returns anything to the library, as when a signal comes outside of the storage: so
    hooks of which nothing may be taken for done that was not return _DONE if it was.

    Of several calls at once, only so many are inside as there are places (0: all): the others wait for as long as a
    call may take, and then have not failed, but were in their own way. How long a call may take follows how long
    calls have taken lately, as for Redis: 16 times that, from a quarter of the time-out to all of it; the storage can
    ask for it (time_left). A time-out that was asked for holds also if the storage does not heed it: what get() gives
    later is no answer, so that a storage that hangs is left alone.
    """

    def __init__(self, storage: Storage, troubles: Troubles, places: int, timeout: float) -> None:
        self.storage: Any = storage
        self.troubles = troubles
        self.places = Semaphore(places) if places else None
        self.patience = timeout or inf
        self.timeout = timeout or _TIMEOUT
        self.lately = self.timeout  # seconds, smoothed

    def call(self, work: Callable[[Any], int | None], patient: bool = False) -> int:
        """patient: waits for a place until there is one, as who asked must not be told that it was not done."""
        places = self.places
        if places is None or DEADLINE.get() != inf:  # a call out of a call has its place
            return self.timed(work)
        if not places.acquire(timeout=None if patient else self.timeout):
            return E_BUSY
        try:
            return self.timed(work)
        finally:
            places.release()

    def timed(self, work: Callable[[Any], int | None]) -> int:
        """The call, with its deadline."""
        began = monotonic()
        token = DEADLINE.set(began + max(self.timeout / 4, min(self.timeout, 16 * self.lately)))
        try:
            return work(self.storage) or OK
        except BaseException as error:
            return self.failed(error)
        finally:
            DEADLINE.reset(token)
            self.lately += (monotonic() - began - self.lately) / 8

    def failed(self, error: BaseException) -> int:
        """What the storage has raised, as a code."""
        if not isinstance(error, (StorageIsFull, TimeoutError)):
            name = type(error).__name__
            where = None if isinstance(error, ConnectionError) else traceback.format_exc
            self.troubles.note(ERROR, f"zoocache: a call of the storage has raised {name}", where)
        BaseException.with_traceback(error, None)  # its frames would keep the cache open; it may refuse to be set
        return E_FULL if isinstance(error, StorageIsFull) else E_TIMEOUT if isinstance(error, TimeoutError) else E_STORE

    def record(self, key: bytes) -> tuple[int, bytes]:
        """What is under a key, with the result of asking for it."""
        record: Any = None

        def work(storage: Storage) -> int:
            nonlocal record
            began = monotonic()
            record = storage.get(key)
            if monotonic() - began > self.patience:
                return E_TIMEOUT
            return MISS if record is None else _checked(record)

        code = self.call(work)
        return code, record if code == OK else b""

    def get(self, user: Any, key: _Bytes, sink: int) -> int:
        code, record = self.record(key.take())
        return code or int(_sink(sink, record, len(record)))

    def get_many(self, user: Any, keys: Any, n: int, sinks: Any, results: Any) -> int:
        def work(storage: Storage) -> int:
            began = monotonic()
            found = storage.get_many([keys[i].take() for i in range(n)])
            if len(found) != n:
                raise ValueError(f"get_many() of {n} keys has returned {len(found)} records")
            if monotonic() - began > self.patience:
                return E_TIMEOUT
            for i, record in enumerate(found):
                results[i] = MISS if record is None else _checked(record) or _sink(sinks[i], record, len(record))
            return OK

        return self.call(work)

    def read(self, user: Any, key: _Bytes, sink: int, token_sink: int) -> int:
        def work(storage: SharedStorage) -> int:
            value, token = storage.read(key.take())
            code = int(_sink(token_sink, token, len(token)))
            if value is None or code != OK:
                return code or MISS
            return int(_sink(sink, value, len(value)))

        return self.call(work)

    def swap(self, user: Any, key: _Bytes, value: _Bytes, token: _Bytes) -> int:
        code = self.call(lambda storage: OK if storage.swap(key.take(), value.take(), token.take()) else MISS)
        return code or _DONE

    def do(self, name: str, *args: Any, patient: bool = False) -> int:
        """A call of a method, whatever it returns."""

        def work(storage: Storage) -> None:
            getattr(storage, name)(*args)

        return self.call(work, patient)

    def put(self, user: Any, key: _Bytes, record: _Bytes, expires: int) -> int:
        return self.do("put", key.take(), record.take(), expires / 1e3 if expires else None) or _DONE

    def delete(self, user: Any, key: _Bytes) -> int:
        return self.do("delete", key.take()) or _DONE

    def touch(self, user: Any, key: _Bytes, expires: int) -> int:
        return self.do("touch", key.take(), expires / 1e3 if expires else None)

    def clear(self, user: Any) -> int:
        return self.do("clear", patient=True) or _DONE

    def generation(self, user: Any, generation: Any, latest: Any) -> int:
        def work(storage: Any) -> int:
            generation[0], latest[0] = storage.generation()
            return OK if generation[0] else E_INVAL

        return self.call(work, patient=True) or _DONE

    def tag_put(self, user: Any, paths: Any, n: int, version: int) -> int:
        return self.do("tag_put", [paths[i].take() for i in range(n)], version, patient=True) or _DONE

    def tag_get(self, user: Any, paths: Any, n: int, versions: Any) -> int:
        def work(storage: Any) -> None:
            found = storage.tag_get([paths[i].take() for i in range(n)])
            if len(found) != n:
                raise ValueError(f"tag_get() of {n} paths has returned {len(found)} versions")
            for i, version in enumerate(found):
                versions[i] = version

        return self.call(work, patient=True) or _DONE

    def close(self, user: Any) -> None:
        try:
            self.storage.close()
        except BaseException as error:
            self.failed(error)
        self.storage = None


def _checked(record: object) -> int:
    """OK. Raises TypeError for what is no record."""
    if type(record) is not bytes:
        raise TypeError(f"get() must return bytes or None, not {type(record).__name__}")
    return OK


def _reads_many(storage: Storage) -> bool:
    return type(storage).get_many is not Storage.get_many


def _store_of(caller: _Caller) -> _Store:
    store = _Store(
        version=1, get=_GET(caller.get), put=_PUT(caller.put), del_=_DEL(caller.delete), touch=_TOUCH(caller.touch),
        clear=_CLEAR(caller.clear), close=_CLOSE(caller.close),
    )  # fmt: skip
    if isinstance(caller.storage, VersionedStorage):
        store.generation = _GENERATION(caller.generation)
        store.tag_put = _TAG_PUT(caller.tag_put)
        store.tag_get = _TAG_GET(caller.tag_get)
    if _reads_many(caller.storage):
        store.get_many = _GET_MANY(caller.get_many)
    store.user = ctypes.addressof(store)
    _kept.append(store)
    return store


def _place_of(caller: _Caller) -> _Place:
    place = _Place(
        version=1, get=_GET(caller.get), put=_PUT(caller.put), del_=_DEL(caller.delete), read=_READ(caller.read),
        swap=_SWAP(caller.swap), close=_CLOSE(caller.close),
    )  # fmt: skip
    if _reads_many(caller.storage):
        place.get_many = _GET_MANY(caller.get_many)
    place.user = ctypes.addressof(place)
    _kept.append(place)
    return place
