"""What makes two calls the same call.

``freeze`` turns an argument into something that can be hashed and that tells apart what differs:
``int``, ``str``, ``bytes`` and ``None`` stand for themselves, everything else becomes a tuple of its type
and what it is, so ``1``, ``1.0`` and ``True`` are three different arguments, and so are ``(1, 2)`` and
``[1, 2]``, while two dicts with the same items in another order are one. How is decided once for a type,
by the type alone; no object is asked whether it has this or that attribute:

    content   of a type that is known (_KNOWN), exactly: 0.0 and -0.0 are two, noon in London and noon UTC are
              two; of a class that is derived from it, too
    fields    those that the == of a dataclass or an attrs class compares
    itself    the object, compared by the == of its class; besides its content, if it has one as well
    identity  the object: functions, modules, time zones without a name
    refused   all else: what is equal only to itself, what cannot be hashed, what is not even equal to itself

What is made of content and fields has a text that every process would give it, whichever Python it runs
(``portable``). The rest has not. Nobody's ``repr`` is ever a part of a key.
"""

from __future__ import annotations

import os
import sys
from weakref import ref

from zoocache import _ffi
from zoocache._errors import UnkeyableArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable
    from typing import Any, Final, NoReturn

    How = Callable[[type, Any], Hashable]

__all__ = [
    "RAW",
    "KEYWORDS",
    "Key",
    "Path",
    "Unkeyable",
    "Unportable",
    "by_identity",
    "defines",
    "explain",
    "freeze",
    "home",
    "module_of",
    "portable",
    "text_of",
    "zone_key",
]

RAW: Final = frozenset({int, str, bytes, type(None)})
KEYWORDS: Final = ("**",)  # between the positional arguments of a key and its keywords

_IGNORED: Final = ("-",)  # in place of an object of one of these types: it does not count
_ignored: list[type] = globals().get("_ignored", [])

_HEAP: Final = 1 << 9  # a class flag: written in Python
_BIG: Final = 1 << 256  # from here on integers are not written in decimals: Python has a limit for these


class Unkeyable(Exception):
    """There is no key for this object; carries it."""


class Unportable(Exception):
    """It has no text that another process would give it, too."""


def freeze(value: Any) -> Hashable:
    """The value as a part of a key. Raises Unkeyable, or RecursionError if it contains itself."""
    kind = type(value)
    if kind in RAW:
        return value  # type: ignore[no-any-return]
    known = _BUILTIN.get(kind)
    if known is not None:
        return known(value)
    learned = _learned.get(id(kind))
    return (_learn(kind) if learned is None else learned[1])(kind, value)


# ---- content -----------------------------------------------------------------------------------------


def _items(value: Iterable[Any]) -> tuple[Hashable, ...]:
    return tuple([x if type(x) in RAW else freeze(x) for x in value])


def _unordered(parts: list[Hashable]) -> Hashable:
    """Parts without their order. Several that freeze alike (NaN) count."""
    found = frozenset(parts)
    return found if len(found) == len(parts) else frozenset([(x, parts.count(x)) for x in found])


def _pairs(value: dict[Any, Any]) -> Hashable:
    return _unordered([(freeze(k), freeze(v)) for k, v in value.items()])


_BUILTIN: Final[dict[type, Callable[[Any], Hashable]]] = {
    bool: lambda x: (bool, x),
    float: lambda x: (float, x.hex()),
    complex: lambda x: (complex, x.real.hex(), x.imag.hex()),
    tuple: lambda x: (tuple, _items(x)),
    list: lambda x: (list, _items(x)),
    set: lambda x: (set, _unordered(list(_items(x)))),
    frozenset: lambda x: (frozenset, _unordered(list(_items(x)))),
    dict: lambda x: (dict, _pairs(x)),
    bytearray: lambda x: (bytearray, bytes(x)),
    memoryview: lambda x: (memoryview, x.format, x.shape, x.tobytes()),
    range: lambda x: (range, x.start, x.stop, x.step),
    slice: lambda x: (slice, freeze(x.start), freeze(x.stop), freeze(x.step)),
    type: lambda x: (type, x),
    type(Ellipsis): lambda x: (type(x), None),
    type(NotImplemented): lambda x: (type(x), None),
}

# The value of a subclass as its base has it, whatever the subclass overrides.
_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    int: int.__index__,
    str: str.__str__,
    bytes: lambda x: bytes.__getitem__(x, slice(None)),
    float: float.__float__,
    complex: lambda x: complex(complex.real.__get__(x), complex.imag.__get__(x)),
    tuple: lambda x: tuple(tuple.__iter__(x)),
    list: lambda x: list(list.__iter__(x)),
    dict: lambda x: dict(dict.items(x)),
    set: lambda x: set(set.__iter__(x)),
    frozenset: lambda x: frozenset(frozenset.__iter__(x)),
    bytearray: lambda x: bytearray.__getitem__(x, slice(None)),
}


def _plain(base: Any, x: Any) -> Hashable:
    return freeze(_PLAIN[base](x))


def _text(base: Any, x: Any) -> Hashable:
    return base.__str__(x)  # type: ignore[no-any-return]


def _state(base: Any, x: Any) -> Hashable:
    return base.__reduce__(x)[1]  # type: ignore[no-any-return]


def _moment(base: Any, x: Any) -> Hashable:
    """The bytes of a time as its pickle has them, fold included, and its zone."""
    return _items(base.__reduce_ex__(x, 4)[1])


def zone_key(base: Any, x: Any) -> Any:
    """The key of a ZoneInfo; the object itself if it was read from a file, whatever key it was given."""
    try:
        key = base.__reduce__(x)[1][0]
    except Exception:  # PicklingError
        return x
    return key if type(key) is str else x


def _wide(x: Any) -> Hashable:
    """A long double of NumPy: not all of its bytes belong to it."""
    try:
        return x.as_integer_ratio() if x else float(x).hex()
    except (OverflowError, ValueError):  # infinite, NaN
        return float(x).hex()


def _scalar(base: Any, x: Any) -> Hashable:
    """A scalar of NumPy, bit by bit, and its type with its byte order and unit."""
    dtype = x.dtype
    if dtype.char in "gG":
        return dtype.str, _wide(x.real), _wide(x.imag)
    if dtype.char == "V":
        return freeze(dtype.descr), freeze(x.item())
    return dtype.str, x.tobytes()


def _struct(base: Any, x: Any) -> Hashable:
    kind: Any = type(x)
    if not kind.__struct_config__.eq:
        raise Unkeyable(x)
    return tuple([freeze(getattr(x, name)) for name in kind.__struct_fields__])


def _model(base: Any, x: Any) -> Hashable:
    kind: Any = type(x)
    state = object.__getattribute__(x, "__dict__")
    fields = {name: state[name] for name in kind.model_fields if name in state}
    return freeze(fields), freeze(x.__pydantic_private__), freeze(x.__pydantic_extra__)


# Where a type is found, if its module is loaded, and its content (of an object of it or of a class derived from
# it; the type is given again, as a derived class may override anything). None: the object stands for itself.
# What is derived from another one comes first.
_KNOWN: Final[tuple[tuple[str, str, Callable[[Any, Any], Hashable] | None], ...]] = (
    ("numpy", "generic", _scalar),
    ("datetime", "datetime", _moment),
    ("datetime", "time", _moment),
    ("datetime", "date", _state),
    ("datetime", "timedelta", _state),
    ("datetime", "timezone", lambda base, x: _items(base.__getinitargs__(x))),
    ("zoneinfo", "ZoneInfo", zone_key),
    ("datetime", "tzinfo", None),
    ("decimal", "Decimal", lambda base, x: base.__str__(x).upper()),  # a context may write 1e+3
    ("fractions", "Fraction", lambda base, x: (x._numerator, x._denominator)),
    ("uuid", "UUID", lambda base, x: x.int),
    ("pathlib", "PurePath", _text),
    ("ipaddress", "IPv4Interface", _text),
    ("ipaddress", "IPv6Interface", _text),
    ("ipaddress", "IPv4Address", _text),
    ("ipaddress", "IPv6Address", _text),
    ("ipaddress", "IPv4Network", _text),
    ("ipaddress", "IPv6Network", _text),
    ("re", "Pattern", lambda base, x: (x.pattern, x.flags)),
    ("functools", "partial", lambda base, x: (freeze(x.func), _items(x.args), _pairs(x.keywords))),
    ("collections", "OrderedDict", lambda base, x: _items(base.items(x))),
    ("collections", "Counter", lambda base, x: _pairs(dict(dict.items(x)))),
    ("collections", "deque", lambda base, x: _items(base.__iter__(x))),
    ("msgspec", "Struct", _struct),
    ("pydantic.main", "BaseModel", _model),
    *[("builtins", base.__name__, _plain) for base in _PLAIN],
)

# Told apart by identity.
_SINGLE: Final = frozenset({type(freeze), type(len), type(sys), type(str.upper), type(str.__add__)})


# ---- how, for a type ---------------------------------------------------------------------------------

_learned: Final[dict[int, tuple[ref[type], How]]] = {}  # by the id of a type, which is not kept alive by it


def _learn(kind: type) -> How:
    how = _way(kind)
    place, pop = id(kind), _learned.pop
    _learned[place] = ref(kind, lambda _: pop(place, None)), how
    return how


def _way(kind: type) -> How:
    """How objects of this type are frozen. What it returns must not keep the type alive."""
    if _ignored and issubclass(kind, tuple(_ignored)):
        return lambda kind, x: _IGNORED
    if defines(kind, "__zoocache_key__") is not None:
        return lambda kind, x: (kind, freeze(kind.__zoocache_key__(x)))  # type: ignore[attr-defined]
    if issubclass(kind, type):
        return lambda kind, x: (type, x)
    enum = sys.modules.get("enum")
    if enum is not None and issubclass(kind, enum.Enum):
        name = "_value_" if issubclass(kind, enum.Flag) else "_name_"
        return lambda kind, x: (kind, freeze(getattr(x, name)))
    owner = defines(kind, "__eq__") or object
    fields = _fields(owner)
    base, content = _known(kind)
    if base is None:
        if fields is not None:
            return lambda kind, x: (kind, fields(x))
        return _refuse if owner is object and kind not in _SINGLE else _itself
    if content is None:
        return _itself
    if owner in base.__mro__ or home(owner).partition(".")[0] == home(base).partition(".")[0]:
        return lambda kind, x: (kind, content(base, x))
    more = fields or _own
    return lambda kind, x: (kind, content(base, x), more(x))


def defines(kind: type, name: str) -> type | None:
    """The class that defines this attribute, of a class and its bases. No __getattr__ is asked."""
    return next((base for base in kind.__mro__ if name in vars(base)), None)


def _known(kind: type) -> tuple[Any, Any]:
    """The known type that this one is, or is derived from, and its content."""
    for module, name, content in _KNOWN:
        for place in (module, f"_py{module}"):  # the one that is written in Python
            base = vars(sys.modules[place]).get(name) if place in sys.modules else None
            if base in kind.__mro__:
                return base, content
    return None, None


def _fields(owner: type) -> Callable[[Any], Hashable] | None:
    """What the == of this class compares, if a library has written it."""
    eq = vars(owner)["__eq__"]
    if type(eq) is not type(_fields):
        return None
    if "__dataclass_fields__" in vars(owner):
        from dataclasses import fields, make_dataclass

        names = [(field.name, None) for field in fields(owner) if field.compare]
        written: Any = make_dataclass("_", [name for name, _ in names]).__eq__
        if not _same_code(eq.__code__, written.__code__):
            return None
    elif "__attrs_attrs__" in vars(owner) and eq.__code__.co_filename.startswith("<attrs generated"):
        names = [(field.name, field.eq_key) for field in owner.__attrs_attrs__ if field.eq]  # type: ignore[attr-defined]
    else:
        return None

    def frozen(x: Any) -> Hashable:
        try:
            values = [(getattr(x, name), key) for name, key in names]
        except AttributeError:  # not set yet: == would raise, too
            raise Unkeyable(x) from None
        return tuple([freeze(value if key is None else key(value)) for value, key in values])

    return frozen


def _same_code(one: Any, other: Any) -> bool:
    return (one.co_code, one.co_names, one.co_consts) == (other.co_code, other.co_names, other.co_consts)


def _itself(kind: type, x: Any) -> Hashable:
    if not _equal(x):
        return _refuse(kind, x)
    return kind, x


def _own(x: Any) -> Any:
    """The object, besides its content; what is not equal to itself is told apart by the content alone."""
    return x if _equal(x) else None


def _equal(x: Any) -> bool:
    """Whether it is equal to itself. Raises Unkeyable if it cannot be hashed."""
    try:
        hash(x)
    except Exception:
        _refuse(type(x), x)
    try:
        return bool(x == x)
    except Exception:  # no answer, as that of pandas.NA: a dict asks for identity first
        return True


def _refuse(kind: type, x: Any) -> NoReturn:
    raise Unkeyable(x) from None


def by_identity(kind: type) -> bool:
    """Whether objects of this class, written in Python, are equal only to themselves, and nothing says otherwise."""
    return (
        bool(kind.__flags__ & _HEAP)
        and defines(kind, "__eq__") is object
        and defines(kind, "__hash__") is object
        and defines(kind, "__zoocache_key__") is None
        and not issubclass(kind, type)
    )


# ---- text --------------------------------------------------------------------------------------------


def portable(frozen: Any) -> str:
    """A frozen key as text that means the same in every process. Raises Unportable if there is none."""
    return _written(frozen, _without)


def text_of(frozen: Any) -> str:
    """A frozen key as text, for what has one in this process only, too."""
    return _written(frozen, _label)


def _written(frozen: Any, other: Callable[[Any], str]) -> str:
    kind = type(frozen)
    if kind is str or kind is Path:
        return ascii(frozen)  # what repr takes for printable changes with Python
    if kind is int and not -_BIG < frozen < _BIG:
        return hex(frozen)
    if kind in RAW or kind is bool:
        return repr(frozen)
    if kind is tuple:
        return "(" + ",".join([_written(x, other) for x in frozen]) + ")"
    if kind is frozenset:
        return "{" + ",".join(sorted([_written(x, other) for x in frozen])) + "}"
    if issubclass(kind, type) and "<" not in frozen.__qualname__:
        return f"<{module_of(frozen)}.{frozen.__qualname__}>"
    return other(frozen)


def _without(frozen: Any) -> NoReturn:
    raise Unportable


def _label(frozen: Any) -> str:
    if isinstance(frozen, type):
        return f"<{frozen.__module__}.{frozen.__qualname__}>"
    return f"@{id(frozen):x}" if isinstance(frozen, ref) else f"#{hash(frozen):x}"


def home(thing: Any) -> str:
    """The module that a class or function is known by, wherever this Python keeps it: not ``pathlib._local``."""
    module = str(getattr(thing, "__module__", None) or "")
    parts = module.split(".")
    for place, part in enumerate(parts):
        if part.startswith("_"):
            public = ".".join(parts[:place]) or part[1:]
            if public in sys.modules and vars(sys.modules[public]).get(thing.__qualname__) is thing:
                return public
    return module


def module_of(thing: Any) -> str:
    """The same, as a part of a key: the main module of each program is another one."""
    module = home(thing)
    if module != "__main__":
        return module
    path = getattr(sys.modules["__main__"], "__file__", None)
    return f"__main__({os.path.basename(path) if path else ''})"


def ignore(kind: type) -> None:
    """Objects of this type, and of those derived from it, are no part of a key from now on."""
    if any(issubclass(known, kind) for known in (*RAW, *_BUILTIN)):
        raise TypeError(f"zoocache: {kind.__name__} is the type of a value: it cannot be left out of all keys")
    _ignored.append(kind)
    _learned.clear()


class Path(str):
    """The path of a scope, at the end of a key."""

    __slots__ = ()


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
        " method that returns one, or decorate with cacheable(key=...); if its value does not depend on it, with"
        " cacheable(ignore=...)."
    )
