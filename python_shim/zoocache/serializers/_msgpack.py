"""MessagePack. What it would change on the way (a tuple, a set, a large integer, a date) is wrapped so that it comes
back as it was.

Enum members, named tuples, dataclasses and the objects of pydantic and msgspec are stored with the name of their
class, and come back if that class is loaded in the reading process: nothing is imported because a storage says so.
Values of NumPy and pandas, and of registered types, have forms: see _forms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from zoocache._errors import Unserializable
from zoocache._keys import home, zone_key
from zoocache.serializers._forms import form_named, form_of, need
from zoocache.serializers._models import made, parts_of

__all__ = ["MessagePack"]


_TUPLE, _INT, _SET, _FROZENSET, _CLASS, _KIND, _FORM = range(1, 8)  # the numbers are stored


def _zone(zone: Any) -> Any:
    """A time zone: None, [seconds, microseconds, name] of a fixed one, or the key of a ZoneInfo."""
    import datetime

    if zone is None:
        return None
    if type(zone) is datetime.timezone:
        offset = zone.utcoffset(None)
        name = zone.tzname(None)
        return [int(offset.total_seconds() // 1), offset.microseconds, None if zone is datetime.timezone.utc else name]
    kind = type(zone)
    if home(kind) == "zoneinfo" and type(key := zone_key(kind, zone)) is str:
        return key
    raise Unserializable(f"{type(zone).__name__} objects cannot be stored by the MessagePack serializer")


def _to_zone(zone: Any) -> Any:
    import datetime

    if zone is None:
        return None
    if isinstance(zone, str):
        from zoneinfo import ZoneInfo

        return ZoneInfo(zone)
    seconds, micro, name = zone
    if name is None:
        return datetime.timezone.utc
    return datetime.timezone(datetime.timedelta(seconds=seconds, microseconds=micro), name)


def _from_time(x: Any) -> list[Any]:
    return [x.replace(tzinfo=None).isoformat(), x.fold, _zone(x.tzinfo)]


def _to_time(kind: Any, text: str, fold: int, zone: Any) -> Any:
    return kind.fromisoformat(text).replace(fold=fold, tzinfo=_to_zone(zone))


def _to_uuid(kind: Any, data: bytes) -> Any:
    return kind(bytes=data)


def _plainly(kind: Any, *parts: Any) -> Any:
    return kind(*parts)


# module, name, its parts, and how it is made of them. Never reorder: the places are stored.
_KINDS: tuple[tuple[str, str, Callable[[Any], list[Any]], Callable[..., Any]], ...] = (
    ("builtins", "complex", lambda x: [x.real, x.imag], _plainly),
    ("datetime", "date", lambda x: [x.year, x.month, x.day], _plainly),
    ("datetime", "datetime", _from_time, _to_time),
    ("datetime", "time", _from_time, _to_time),
    ("datetime", "timedelta", lambda x: [x.days, x.seconds, x.microseconds], _plainly),
    ("decimal", "Decimal", lambda x: [str(x)], _plainly),
    ("uuid", "UUID", lambda x: [x.bytes], _to_uuid),
    ("fractions", "Fraction", lambda x: [x.numerator, x.denominator], _plainly),
    ("builtins", "range", lambda x: [x.start, x.stop, x.step], _plainly),
)
_PLACES = {(kind[0], kind[1]): place for place, kind in enumerate(_KINDS)}
_MODULES = frozenset(kind[0] for kind in _KINDS)


def _loaded(module: str, name: str) -> Any:
    """The class of this name, if its module is loaded here. The package imports its own few by itself."""
    if module in _MODULES:
        __import__(module)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, type):
        raise TypeError(f"{module}.{name} is not a class")
    return found


class MessagePack:
    """MessagePack, by the library msgpack: quick, compact, and reading it runs nobody's code."""

    name = "msgpack"

    def __init__(self) -> None:
        msgpack = need("msgpack", "msgpack")
        self._pack, self._unpack, self._ext = msgpack.packb, msgpack.unpackb, msgpack.ExtType

    def dumps(self, value: Any) -> bytes:
        """The bytes of a value."""
        try:
            data: bytes = self._pack(value, default=self._wrap, strict_types=True)
            if b"\xc4" in data or b"\xc5" in data or b"\xc6" in data:
                _refuse_bytes_like(value)
            return data
        except Unserializable:
            raise
        except Exception as error:  # of a registered type's function, too
            raise Unserializable(f"cannot be stored by the MessagePack serializer: {error}") from error

    def loads(self, data: bytes | memoryview) -> Any:
        """The value."""
        return self._unpack(data, ext_hook=self._unwrap, strict_map_key=False)

    def _wrap(self, x: Any) -> Any:
        """What MessagePack does not have by itself."""
        kind = type(x)
        pack, ext = self.dumps, self._ext
        if kind is tuple:
            return ext(_TUPLE, pack(list(x)))
        if kind is int:
            return ext(_INT, x.to_bytes(x.bit_length() // 8 + 1, "little", signed=True))
        if kind is set or kind is frozenset:
            return ext(_SET if kind is set else _FROZENSET, pack(list(x)))
        form = form_of(kind, home(kind))
        if form is not None:
            return ext(_FORM, pack([form.name, form.dumps(x)]))
        place = _PLACES.get((home(kind), kind.__qualname__))
        if place is not None:
            return ext(_KIND, pack([place, *_KINDS[place][2](x)]))
        parts = _parts(kind, x)
        if parts is None:
            _refuse(kind)
        return ext(_CLASS, pack([home(kind), kind.__qualname__, parts]))

    def _unwrap(self, code: int, data: bytes) -> Any:
        if code == _INT:
            return int.from_bytes(data, "little", signed=True)
        inner = self.loads(data)
        if code == _TUPLE:
            return tuple(inner)
        if code == _SET:
            return set(inner)
        if code == _FROZENSET:
            return frozenset(inner)
        if code == _KIND:
            module, name, _, make = _KINDS[inner[0]]
            return make(_loaded(module, name), *inner[1:])
        if code == _CLASS:
            return _rebuild(_loaded(inner[0], inner[1]), inner[2])
        if code == _FORM:
            return form_named(inner[0]).loads(inner[1])
        raise ValueError(f"unknown extension {code}")


def _refuse(kind: type) -> NoReturn:
    raise Unserializable(
        f"{kind.__module__}.{kind.__qualname__} objects cannot be stored by the MessagePack serializer:"
        " return plain data, or choose another serializer"
    )


def _refuse_bytes_like(value: Any) -> None:
    """MessagePack takes these for bytes without asking."""
    kind = type(value)
    if kind is bytearray or kind is memoryview:
        _refuse(kind)
    if kind is list:
        for x in value:
            _refuse_bytes_like(x)
    elif kind is dict:
        for pair in value.items():
            for x in pair:
                _refuse_bytes_like(x)


def _fields(kind: Any) -> list[str]:
    from dataclasses import fields

    return [field.name for field in fields(kind)]


def _parts(kind: type, x: Any) -> list[Any] | None:
    """What an object of a class of yours consists of, if that is all there is to it."""
    if "<locals>" in kind.__qualname__:
        return None
    enum = sys.modules.get("enum")
    if enum is not None and issubclass(kind, enum.Enum):
        return [x.value]
    if issubclass(kind, tuple) and hasattr(kind, "_fields") and kind.__bases__ == (tuple,):
        return list(x)
    if hasattr(kind, "__dataclass_fields__"):
        names = _fields(kind)
        if not set(getattr(x, "__dict__", ())) - set(names):
            return [[name, getattr(x, name)] for name in names]
        return None
    return parts_of(kind, x)


def _rebuild(kind: Any, parts: list[Any]) -> Any:
    import enum

    if issubclass(kind, enum.Enum):
        return kind(parts[0])
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return kind._make(parts)
    if (x := made(kind, parts)) is not None:
        return x
    if [name for name, _ in parts] != _fields(kind):
        raise TypeError(f"{kind.__qualname__} has other fields now")
    x = object.__new__(kind)
    for name, value in parts:
        object.__setattr__(x, name, value)
    return x
