"""The shared library, by ctypes. No other module of the package imports ctypes.

The functions are described in ``_native.c``. They are called with the interpreter's lock held: all of
them take less than a microsecond or two, which is less than handing the lock over would. What may wait for
a storage or a bus is called without it (``_free``).
"""

from __future__ import annotations

import ctypes
import os
import sys
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

__all__ = ["CHANGES", "PERIOD", "WANTED", "Core", "Deps", "KnownDeps", "words"]

CHANGES: Final = 0  # differs from what an entry remembers: check the entry again
PERIOD: Final = 1  # nanoseconds between two ticks; 0: the ticker is asleep
WANTED: Final = 2  # set by whoever checks an entry with a deadline: go on ticking

# The library writes to the words until the process ends, so they must outlive the interpreter: for that, this is more
# than what Python takes from its own arenas. They stay what they are if this module is reloaded.
words: array[int] = globals().get("words") or array("Q", [1] + 127 * [0])

GIL: Final[bool] = getattr(sys, "_is_gil_enabled", lambda: True)()

_SUFFIX = ".dll" if os.name == "nt" else ".so"


def _load() -> tuple[ctypes.PyDLL, ctypes.CDLL]:
    path = os.environ.get("ZOOCACHE_LIB") or os.path.join(os.path.dirname(__file__), "_native" + _SUFFIX)
    try:
        return ctypes.PyDLL(path), ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"zoocache: the shared library cannot be loaded from {path}: {error}") from error


_lib, _free = _load()

_ptr = ctypes.c_void_p
_u64 = ctypes.c_uint64
_size = ctypes.c_size_t
_int = ctypes.c_int
_text = ctypes.c_char_p


def _declare(name: str, result: Any, *arguments: Any, lib: ctypes.CDLL = _lib) -> Callable[..., Any]:
    function = lib[name]
    function.restype = result
    function.argtypes = arguments
    return function


def _declare_quick(name: str, result: Any) -> Callable[..., Any]:
    """Without argument types, a call takes half the time; then numbers have to be C ints."""
    function = _lib[name]
    function.restype = result
    return function


_attach = _declare("zcpy_attach", _ptr, _ptr)
_begin_ago = _declare("zcpy_begin_ago", _u64, _ptr, _u64, _u64)
_close = _declare("zcpy_close", None, _ptr)
_holds = _declare("zcpy_holds", _ptr, _ptr)
_newest = _declare("zcpy_newest", _u64, _ptr)
_nothing = _declare("zcpy_nothing", _ptr, _ptr)
_open = _declare("zcpy_open", _ptr, _ptr, _ptr, _ptr, lib=_free)
_poll = _declare("zcpy_poll", _int, _ptr)
_prune = _declare("zcpy_prune", _size, _ptr, _u64)
_release = _declare("zcpy_release", None, _ptr)
_seen = _declare("zcpy_seen", _ptr, _ptr)
_stats = _declare("zcpy_stats", None, _ptr, _ptr)
_tags_text = _declare("zcpy_text", _size, _ptr, _ptr, _size)
_version = _declare("zcpy_version", _u64, _ptr, _text, _size)
_clear = _declare("zcpy_clear", _int, _ptr)
_hash = _declare("zcpy_hash", _u64, _text, _size)
_tag_ok = _declare("zcpy_tag_ok", _int, _text, _size)
_library_version = _declare("zc_version", _text)

_core_prepare = _declare("zcpy_core_prepare", None, _ptr)
_core_parent = _declare("zcpy_core_parent", None, _ptr)
_core_child = _declare("zcpy_core_child", None, _ptr)
_cache = _declare("zcpy_cache", _ptr, _ptr)

# These take the core's pointer in bytes, which are passed on quicker than a c_void_p is; bytes; and their length.
_invalidate = _declare_quick("zcpy_invalidate", _int)
_set = _declare_quick("zcpy_set", ctypes.c_ssize_t)
_set_marked = _declare_quick("zcpy_set_marked", ctypes.c_ssize_t)
_invalidate_mark = _declare_quick("zcpy_invalidate_mark", _int)

_parts = _declare("zcpy_parts", _int)
_error = _declare("zcpy_error", _text, _int)

_change = _declare("zcpy_change", None, _ptr)
_tick = _declare("zcpy_tick", _int, _ptr, _u64)
_fork_child = _declare("zcpy_fork_child", None, _ptr)


def _make_home() -> int:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(words))
    home: int | None = _attach(words.buffer_info()[0])
    if not home:  # pragma: no cover - no memory
        raise ImportError("zoocache: the shared library could not be set up")
    return home


_home: int = globals().get("_home") or _make_home()  # what the library knows this copy of the package by


def change() -> None:
    """Every entry is to be looked at again."""
    _change(_home)


def tick(period: int) -> None:
    """Ticks at least every so many nanoseconds from now on."""
    _tick(_home, period)


def fork_child() -> None:
    """In the child of a fork."""
    _fork_child(_home)


def hash_bytes(data: bytes) -> int:
    """XXH3, 64 bits."""
    return int(_hash(data, len(data)))


def tag_ok(tag: bytes) -> bool:
    """Whether the library takes it for a tag."""
    return bool(_tag_ok(tag, len(tag)))


def library_version() -> str:
    """The version of the library inside."""
    return str(_library_version().decode())


class Deps(int):
    """What an entry depends on, as the library holds it: its handle, which keeps its core open.

    A number, because the garbage collector does not look at those. Freed with the last entry that uses it.
    """

    __slots__ = ()

    def __del__(self, _release: Callable[..., Any] = _release) -> None:
        _release(self)

    def newest(self, _newest: Callable[..., int] = _newest) -> int:
        """The version of the latest invalidation of any tag on the path of any dependency.

        The one rule: what began at that version or later is fresh.
        """
        return _newest(self)

    def tags(self) -> tuple[str, ...]:
        """The tags, as text: one's own, and those of scopes; not the marks of single keys and functions."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            size = _tags_text(self, buffer, size)
            if size <= len(buffer):
                names = buffer.raw[:size].decode().split("\0")
                return tuple([name for name in names if name and (name[0] != "|" or name.startswith("|scope:"))])


class KnownDeps(Deps):
    """Dependencies of many entries, which know their text."""

    names: tuple[str, ...]

    def tags(self) -> tuple[str, ...]:
        """The tags, as text."""
        return self.names


OK, MISS, STALE, REFUSED, MORE = 0, 1, 2, 4, 9  # zc_result
E_NOMEM, E_INVAL, E_TIMEOUT, E_CORRUPT, E_STORE = -1, -2, -10, -14, -15
E_BUS, E_FULL, E_BUILD, E_BUSY = -20, -21, -22, -23


def error_text(code: int) -> str:
    """What a result of the library means."""
    return str(_error(code).decode())


def parts() -> dict[str, bool]:
    """The optional parts of this build; "openssl": TLS and sealing are, and only lack that."""
    bits = _parts()
    names = ("lmdb", "redis", "tls", "openssl", "seal")
    return {name: bool(bits >> n & 1) for n, name in enumerate(names)}


class Core:
    """One cache of the library: tags and their versions. Closed with the last ``Deps`` made of it."""

    __slots__ = ("__weakref__", "_last", "boxed", "holds", "nothing", "pointer", "seen")

    def __init__(self, options: Any = None) -> None:
        self.pointer: int | None = None
        code = _int()
        self.pointer = _open(_home, options, ctypes.byref(code))
        if not self.pointer:
            raise MemoryError("zoocache: no memory for a cache") if code.value == E_NOMEM else OSError(code.value)
        self.boxed = self.pointer.to_bytes(ctypes.sizeof(_ptr), sys.byteorder)
        self.seen = _u64.from_address(_seen(self.pointer))
        self.holds = ctypes.c_uint32.from_address(_holds(self.pointer))
        self.nothing = KnownDeps(_nothing(self.pointer))
        self.nothing.names = ()
        self._last: tuple[bytes, Deps] = (b"", self.nothing)

    def __del__(self, _close: Callable[..., Any] = _close) -> None:
        if self.pointer:
            _close(self.pointer)

    def _set(self, names: bytes) -> int | None:
        handle: int = _set(self.boxed, names, len(names))
        if -2 <= handle < 0:
            if handle == -2:  # pragma: no cover - no memory
                raise MemoryError("zoocache: no memory for a tag")
            return None
        return handle

    def deps(self, names: bytes) -> Deps | None:
        """The tags in ``names``, separated by NUL. None: one of them is no good."""
        known, deps = self._last
        if names == known:
            return deps
        handle = self._set(names)
        if handle is None:
            return None
        deps = Deps(handle)
        self._last = (names, deps)  # one reference: never the names of one call with the set of another
        return deps

    def shared(self, names: bytes) -> KnownDeps | None:
        """As deps(), for what many entries will have."""
        handle = self._set(names)
        if handle is None:
            return None
        deps = KnownDeps(handle)
        deps.names = tuple(names.decode().split("\0"))
        return deps

    def held(self, deps: Deps | str) -> Deps:
        """Dependencies as the library holds them; a single tag may have been kept as text until now.

        In between it may have been invalidated, and pruned: what is pruned leaves its version to the tag above.
        """
        if type(deps) is str:
            names = deps.encode()
            return Deps(_set(self.boxed, names, len(names)))
        return deps  # type: ignore[return-value]

    def invalidate(self, names: bytes) -> int:
        """Invalidates tags separated by NUL, in one step. E_INVAL: one of them is no good."""
        code: int = _invalidate(self.boxed, names, len(names))
        if code == E_NOMEM:  # pragma: no cover - no memory
            raise MemoryError("zoocache: no memory to invalidate")
        return code

    def invalidate_mark(self, mark: bytes) -> int:
        """Invalidates a tag of the package's own."""
        code: int = _invalidate_mark(self.boxed, mark, len(mark))
        return code

    def marked(self, names: bytes) -> Deps:
        """The tags in ``names``, which were checked, and the package's own."""
        handle = _set_marked(self.boxed, names, len(names))
        if -2 <= handle < 0:  # pragma: no cover - no memory
            raise MemoryError("zoocache: no memory for a tag")
        return Deps(handle)

    def clear(self) -> int:
        """Invalidates the root: everything."""
        return int(_clear(self.pointer))

    def version(self, tag: bytes) -> int:
        """The version of a tag's last invalidation; 0: never."""
        return int(_version(self.pointer, tag, len(tag)))

    def begin_ago(self, now: float, lag: float) -> int:
        """A version that was the last to be published at some time at least ``lag`` seconds before ``now``."""
        begin: int = _begin_ago(self.pointer, int(now * 1e9), int(min(lag, 1e9) * 1e9))
        return begin

    def prune(self, max_age: float) -> int:
        """Forgets tags that nothing has depended on for ``max_age`` seconds."""
        return int(_prune(self.pointer, int(min(max(max_age, 0), 1e9) * 1e9)))

    def poll(self) -> None:
        """A slice of the library's own housekeeping."""
        _poll(self.pointer)

    def address(self) -> int:
        """The ``zc_cache *``, for code in C."""
        return int(_cache(self.pointer))

    def fork_prepare(self) -> None:
        """Before fork(). With the interpreter's lock, nobody else is in the library when it happens."""
        if not GIL:
            _core_prepare(self.pointer)

    def fork_parent(self) -> None:
        """After fork(), in the parent."""
        if not GIL:
            _core_parent(self.pointer)

    def fork_child(self) -> None:
        """After fork(), in the child."""
        if not GIL:
            _core_child(self.pointer)

    def stats(self) -> tuple[int, int, int, int, int]:
        """Invalidations, tags, idle tags, bytes of tags, tags pruned."""
        out = (_u64 * 5)()
        _stats(self.pointer, out)
        return out[0], out[1], out[2], out[3], out[4]
