"""What makes two calls the same call.

``freeze`` turns an argument into something that can be hashed and that tells apart what differs:
``int``, ``str``, ``bytes`` and ``None`` stand for themselves, everything else becomes a pair of its type
and its content, so ``1``, ``1.0`` and ``True`` are three different arguments, and so are ``(1, 2)`` and
``[1, 2]``, while two dicts with the same items in another order are one.
"""

from __future__ import annotations

import sys
from weakref import ref

from zoocache import _ffi
from zoocache._errors import UnkeyableArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any, Final

__all__ = ["RAW", "KEYWORDS", "Key", "Unkeyable", "by_identity", "freeze", "freeze_self", "text_of"]

RAW: Final = frozenset({int, str, bytes, type(None)})
KEYWORDS: Final = ("**",)  # between the positional arguments of a key and its keywords


class Unkeyable(Exception):
    """There is no key for this object; carries it."""


def _items(value: Any) -> tuple[Hashable, ...]:
    return tuple([x if type(x) in RAW else freeze(x) for x in value])


_BY_TYPE: Final[dict[type, Callable[[Any], Hashable]]] = {
    bool: lambda x: (bool, x),
    float: lambda x: (float, x.hex()),
    complex: lambda x: (complex, x.real.hex(), x.imag.hex()),
    tuple: lambda x: (tuple, _items(x)),
    list: lambda x: (list, _items(x)),
    set: lambda x: (set, frozenset(_items(x))),
    frozenset: lambda x: (frozenset, frozenset(_items(x))),
    dict: lambda x: (dict, frozenset([(freeze(k), freeze(v)) for k, v in x.items()])),
    bytearray: lambda x: (bytearray, bytes(x)),
    range: lambda x: (range, x.start, x.stop, x.step),
    slice: lambda x: (slice, freeze(x.start), freeze(x.stop), freeze(x.step)),
    type: lambda x: (type, x),
    type(Ellipsis): lambda x: (type(x), None),
}


def freeze(value: Any) -> Hashable:
    """The value as a part of a key. Raises Unkeyable, or RecursionError if it contains itself."""
    kind = type(value)
    if kind in RAW:
        return value  # type: ignore[no-any-return]
    known = _BY_TYPE.get(kind)
    if known is not None:
        return known(value)
    return _freeze_object(kind, value)


def _same(method: Any, other: Any) -> bool:
    return method is other


def _freeze_object(kind: type, value: Any) -> Hashable:
    own = getattr(kind, "__zoocache_key__", None)
    if own is not None:
        return kind, freeze(own(value))
    enum = sys.modules.get("enum")
    if enum is not None and isinstance(value, enum.Enum):
        return kind, freeze(value.value)
    if isinstance(value, type):
        return type, value
    if hasattr(kind, "__dataclass_fields__"):
        return kind, tuple([freeze(getattr(value, name)) for name in kind.__dataclass_fields__])
    for base in (int, str, bytes, float, tuple, list, dict, set, frozenset):
        if isinstance(value, base):
            return kind, freeze(_plain(base, value))
    if kind.__module__ in ("datetime", "decimal", "uuid", "fractions", "pathlib", "_pydatetime", "_decimal"):
        return kind, repr(value), getattr(value, "fold", 0)
    if not _same(kind.__eq__, object.__eq__) and kind.__hash__ is not None:
        try:
            hash(value)
        except TypeError:
            raise Unkeyable(value) from None
        return kind, value
    if kind.__name__ in ("function", "builtin_function_or_method", "module"):
        return kind, value
    raise Unkeyable(value)


def _plain(base: type, value: Any) -> Any:
    """The value of a subclass as its base has it, whatever the subclass overrides."""
    if base is int:
        return int.__index__(value)
    if base is float:
        return float.__add__(value, 0.0) if value == value and value else float.__float__(value)
    if base is str:
        return str.__str__(value)
    if base is bytes:
        return bytes.__getitem__(value, slice(None))
    if base is dict:
        return dict(dict.items(value))
    return base(base.__iter__(value))  # type: ignore[attr-defined]


def by_identity(kind: type) -> bool:
    """Whether objects of this class are equal only to themselves, and nothing says otherwise."""
    return (
        _same(kind.__eq__, object.__eq__)
        and _same(kind.__hash__, object.__hash__)
        and not hasattr(kind, "__zoocache_key__")
        and not issubclass(kind, type)
    )


def freeze_self(value: Any, identities: set[type]) -> Hashable:
    """As freeze, for the object of a method: told apart by identity, and not kept alive by the cache."""
    kind = type(value)
    if kind in identities:
        return ref(value)
    if by_identity(kind) and kind.__name__ != "function" and not hasattr(kind, "__dataclass_fields__"):
        try:
            weak = ref(value)
        except TypeError:
            raise Unkeyable(value) from None
        if not _has_value(kind):
            identities.add(kind)
            return weak
    return freeze(value)


def _has_value(kind: type) -> bool:
    enum = sys.modules.get("enum")
    return kind in _BY_TYPE or (enum is not None and issubclass(kind, enum.Enum))


def text_of(frozen: Any) -> str:
    """A frozen key as text: the same in every process, but for objects that have only an identity."""
    if isinstance(frozen, tuple):
        return "(" + ",".join([text_of(x) for x in frozen]) + ")"
    if isinstance(frozen, frozenset):
        return "{" + ",".join(sorted([text_of(x) for x in frozen])) + "}"
    if isinstance(frozen, type):
        return f"<{frozen.__module__}.{frozen.__qualname__}>"
    if type(frozen) in RAW or isinstance(frozen, bool):
        return repr(frozen)
    if isinstance(frozen, ref):
        return f"@{id(frozen):x}"
    return f"#{hash(frozen):x}"


class Key(str):
    """The text of a cached call's key, which still knows its call: get() finds its value."""

    table: Any
    frozen: Any

    @staticmethod
    def make(prefix: str, identity: str, table: Any, frozen: Any) -> Key:
        """prefix:hash, where the hash covers the function's identity and the arguments."""
        digest = _ffi.hash_bytes(f"{identity}|{text_of(frozen)}".encode("utf-8", "surrogatepass"))
        key = Key(f"{prefix}:{digest:016x}")
        key.table = table
        key.frozen = frozen
        return key


def explain(name: str, culprit: object) -> UnkeyableArgument:
    """The error for an argument that cannot be keyed."""
    return UnkeyableArgument(
        f"zoocache failed to serialize arguments for `{name}`: {type(culprit).__name__} objects have no"
        " stable key.\nPass an id or another simple value instead, give the class a __zoocache_key__()"
        " method that returns one, or decorate with cacheable(key=...)."
    )
