"""How values become bytes for a storage, and come back as they were.

    "msgpack"   the default: plain data, dates, dataclasses, ..., and what NumPy, pandas, pydantic and msgspec have
    "json"      what JSON has, and nothing else: for records that other programs read
    "arrow"     DataFrames, tables and arrays, whose columns are read where the record stands, without a copy
    "pickle"    anything, for storages that are trusted like code: reading a pickle runs what is in it

What would come back as something else is refused with Unserializable: the caller gets its result all the same, and
it is kept in this process only. Nothing is imported before it is named: "msgpack" needs the package msgpack, "arrow"
pyarrow and NumPy; "json" takes orjson if it is there. An object of NumPy or pandas is there only if its package is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from zoocache.serializers._arrow import Arrow
from zoocache.serializers._forms import register
from zoocache.serializers._json import Json
from zoocache.serializers._msgpack import MessagePack
from zoocache.serializers._pickle import Pickle

__all__ = ["Arrow", "Json", "MessagePack", "Pickle", "Serializer", "check", "register", "serializer"]


class Serializer(Protocol):
    """Values to bytes and back. ``name`` is stored with the bytes: no other serializer reads them.

    One that has an attribute ``compress = False`` has its bytes stored as they are, unless a function says otherwise.
    """

    name: str

    def dumps(self, value: Any) -> bytes | list[Any]:
        """The bytes of a value, or a list of bytes-like objects that make them up, one after the other.

        Raises Unserializable, or anything else, if there are none.
        """

    def loads(self, data: bytes | memoryview) -> Any:
        """The value. Raises for bytes that are not one: they are then taken for a miss."""


_NAMED: dict[str, Callable[[], Serializer]] = {"msgpack": MessagePack, "json": Json, "arrow": Arrow, "pickle": Pickle}


def check(given: object) -> None:
    """Raises ValueError for what is no serializer, nor the name of one."""
    if isinstance(given, str):
        good = given in _NAMED
    else:
        good = all(hasattr(given, name) for name in ("name", "dumps", "loads"))
    if not good:
        names = ", ".join(map(repr, _NAMED))
        raise ValueError(f"serializer must be {names} or an object with name, dumps() and loads(): {given!r}")


def serializer(given: str | Serializer) -> Serializer:
    """The serializer of this name, or the one given. Raises ImportError if a package that it needs is missing."""
    check(given)
    return _NAMED[given]() if isinstance(given, str) else given
