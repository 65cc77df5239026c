"""Types that are stored in another form, yours and those of NumPy and pandas; and packages that are not there."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, NoReturn, TypeVar

from zoocache._errors import Unserializable

__all__ = ["Form", "form_named", "form_of", "need", "refuse", "register"]

T = TypeVar("T")


class Form(NamedTuple):
    """How values of a type are stored: as data that can be stored, and made of it again."""

    name: str
    dumps: Callable[[Any], Any]
    loads: Callable[[Any], Any]


_types: dict[type, Form] = globals().get("_types", {})
_names: dict[str, Form] = globals().get("_names", {})

# Packages with forms of their own: the module that has them, as FORMS. Imported when a value is met.
_FAMILIES = {"numpy": "zoocache.serializers._numpy", "pandas": "zoocache.serializers._pandas"}

_NATIVE = (type(None), bool, int, float, str, bytes, bytearray, memoryview, list, dict, tuple, set, frozenset)


def register(kind: type[T], name: str, dumps: Callable[[T], Any], loads: Callable[[Any], T]) -> None:
    """Values of exactly this type are stored inside of MessagePack as what ``dumps`` makes of them.

    ``dumps`` gives data that can be stored by itself, ``loads`` makes the value of it again. The name is stored, and
    is to be the same in every process: one that does not know it takes the value for a miss.
    """
    if not isinstance(kind, type) or kind in _NATIVE:
        raise TypeError(f"register() takes a type that MessagePack does not have by itself, not {kind!r}")
    if not isinstance(name, str) or not name or name.partition(".")[0] in _FAMILIES:
        raise ValueError(f"the name must be a text, and not begin as the package's own do: {name!r}")
    if not callable(dumps) or not callable(loads):
        raise TypeError("dumps and loads must be functions")
    for other, form in list(_types.items()):
        same = (other.__module__, other.__qualname__) == (kind.__module__, kind.__qualname__)  # defined anew
        if form.name == name and other is not kind and not same:
            raise ValueError(f"the name {name!r} is that of {other.__module__}.{other.__qualname__} already")
    form = Form(name, dumps, loads)
    _names[name] = form
    _types[kind] = form


def form_of(kind: type, home: str) -> Form | None:
    """The form in which values of a type from this module are stored, if there is one."""
    form = _types.get(kind)
    if form is None and (family := _FAMILIES.get(home.partition(".")[0])):
        form = import_module(family).form_of(kind)
    return form


def form_named(name: str) -> Form:
    """The form of this name."""
    form = _names.get(name)
    return import_module(_FAMILIES[name.partition(".")[0]]).FORMS[name] if form is None else form


def need(module: str, extra: str) -> Any:
    """A module of another package; the error names the extra that has it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"zoocache: the serializer {extra!r} needs the package {package}, which cannot be imported ({error}):"
            f" pip install 'zoocache[{extra}]', or choose another serializer",
            name=package,
        ) from error


def refuse(what: str, why: str) -> NoReturn:
    """It cannot be kept as it is."""
    raise Unserializable(f"{what} cannot be stored: {why}")
