"""What is called, and what comes out of it: told by types, never by asking an object for an attribute.

A mock, or the stub of a remote service, answers to every name. So only attributes count that are really
there: ``peek`` looks past __getattr__.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from functools import WRAPPER_ASSIGNMENTS, cached_property, partial, partialmethod
from types import CodeType, CoroutineType, FunctionType, MethodType

from zoocache._keys import defines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

__all__ = [
    "LASTING",
    "Signature",
    "binds",
    "check",
    "function_of",
    "imitate",
    "is_async",
    "is_generator",
    "name_of",
    "peek",
]

_POSITIONAL, _KEYWORD = 0x04, 0x08  # code flags: *args, **kwargs
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80, 0x200
_DEEP: Final = 32  # layers of decorators; who has more may have a ring

# Of these types no value is used up by whoever gets it first.
LASTING: Final = frozenset({type(None), bool, int, float, str, bytes, list, dict, tuple, set, frozenset})


def peek(thing: Any, name: str) -> Any:
    """An attribute that is really there, else None."""
    look = type if issubclass(type(thing), type) else object
    try:
        return look.__getattribute__(thing, name)
    except Exception:
        return None


def name_of(called: Any, name: str = "__name__") -> str:
    """What it is called in messages and keys."""
    found = peek(called.__func__ if type(called) is MethodType else called, name)
    return found if type(found) is str else type(called).__name__


def function_of(called: Any) -> Any:
    """The function in Python that runs when this is called, below partials and methods. None: there is none."""
    for _ in range(_DEEP):
        kind = type(called)
        if kind is MethodType:
            called = called.__func__
        elif issubclass(kind, partial):
            called = peek(called, "func")
        elif type(peek(called, "__code__")) is CodeType:
            return called if defines(kind, "__code__") else None
        elif issubclass(kind, type):
            return None
        else:
            owner = defines(kind, "__call__")
            called = None if owner is None else vars(owner)["__call__"]
            called = peek(called, "__func__") or called  # a staticmethod
    return None


def is_async(called: Any) -> bool:
    """Whether calling it gives a coroutine."""
    function = function_of(called)
    if function is not None and function.__code__.co_flags & _COROUTINE:
        return True
    while issubclass(type(called), partial) or type(called) is MethodType:
        called = called.func if issubclass(type(called), partial) else called.__func__
    for name, module, mark in _MARKS:
        found = peek(called, name)
        if found is not None and module in sys.modules and found is vars(sys.modules[module]).get(mark):
            return True
    return False


# What says of a function that is none that it is to be awaited: the name, and where its value is found.
_MARKS: Final = (
    ("_is_coroutine_mark", "inspect", "_is_coroutine_mark"),
    ("_is_coroutine_marker", "inspect", "_is_coroutine_mark"),
    ("_is_coroutine", "asyncio.coroutines", "_is_coroutine"),
)


def is_generator(called: Any) -> bool:
    """Whether calling it gives a generator, sync or async."""
    function = function_of(called)
    return function is not None and bool(function.__code__.co_flags & (_GENERATOR | _ASYNC_GENERATOR))


def imitate(wrapper: Any, called: Any) -> None:
    """As functools.update_wrapper, for whatever can be called."""
    source = called.__func__ if type(called) is MethodType else called
    for name in WRAPPER_ASSIGNMENTS:
        value = peek(source, name)
        if value is not None and (type(value) is str or name not in ("__name__", "__qualname__")):
            setattr(wrapper, name, value)
    if type(source) is FunctionType:
        wrapper.__dict__.update(source.__dict__)
    wrapper.__wrapped__ = called


def check(value: Any, name: str) -> None:
    """Refuses a value that only one caller can have: nothing would be left of it for the next."""
    kind = type(value)
    if issubclass(kind, Awaitable):
        if kind is CoroutineType:
            value.close()
        how = "return what comes out of it, from an `async def` function"
    elif _its_own(kind, value, Iterator, "__next__", iter):
        how = "an iterator: return a list, or another value that lasts"
    elif _its_own(kind, value, AsyncIterator, "__anext__", aiter):
        how = "an async iterator: return a list, or another value that lasts"
    else:
        return
    raise TypeError(f"zoocache cannot cache `{name}`: the first caller uses up its value ({kind.__name__}); {how}")


def _its_own(kind: type, value: Any, abstract: type, step: str, begin: Callable[[Any], Any]) -> bool:
    """Whether the value is an iterator. Mocks only have the name of the step, and record who begins."""
    owner = defines(kind, step) if issubclass(kind, abstract) else None
    try:
        return owner is not None and callable(vars(owner)[step]) and begin(value) is value
    except Exception:  # it cannot be iterated at all, as a closed file
        return False


# ---- methods -----------------------------------------------------------------------------------------


def binds(value: Any, called: Any, code: CodeType | None) -> bool:
    """Whether the function with this code, the wrapper of ``called``, is a method of this object.

    It is if it is found in the class, below other decorators, where access binds the object; or bound, in the
    object itself. A decorator may hide it; then what counts is that it was written in the body of the class,
    and its place is still taken.
    """
    kind = type(value)
    there = [attribute for base in kind.__mro__ for attribute in list(vars(base).values())]
    bound = [x for x in list((peek(value, "__dict__") or {}).values()) if type(x) is MethodType]
    if any(_leads(x, code) for x in there + [x.__func__ for x in bound if x.__self__ is value]):
        return True
    if function_of(called) is not called:
        return False
    path, _, name = name_of(called, "__qualname__").rpartition(".")
    home = name_of(called, "__module__")
    return any(
        base.__qualname__ == path and base.__module__ == home and _binding(vars(base).get(name))
        for base in kind.__mro__
    )


def _binding(attribute: Any) -> bool:
    return attribute is not None and not issubclass(type(attribute), (staticmethod, classmethod))


def _leads(attribute: Any, code: CodeType | None) -> bool:
    """Whether the attribute of a class is the function with this code, decorated or not."""
    for _ in range(_DEEP):
        if not _binding(attribute):
            return False
        kind = type(attribute)
        if kind is FunctionType:
            if attribute.__code__ is code:
                return True
            attribute = attribute.__dict__.get("__wrapped__")
        elif issubclass(kind, property):
            attribute = attribute.fget
        elif issubclass(kind, (partialmethod, cached_property)):
            attribute = attribute.func
        else:
            attribute = peek(attribute, "__wrapped__")
    return False


# ---- parameters --------------------------------------------------------------------------------------


class Signature:
    """The parameters of what is called, as source text; and which are a part of its key."""

    def __init__(self, called: Any, ignored: tuple[str, ...] = ()) -> None:
        self.ignored = ignored
        self._read(called)
        for name in ignored:
            if name not in self.names + self.only and not self.keyword:
                raise TypeError(f"zoocache: `{name_of(called)}` has no parameter {name!r} to be ignored")

    @property
    def keyed(self) -> list[str]:
        """The parameters whose arguments are a part of the key."""
        return [name for name in self.names + self.only if name not in self.ignored]

    def kept(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments without those that are ignored."""
        named = [x for name, x in zip(self.names, args) if name not in self.ignored]
        given = {name: x for name, x in kwargs.items() if name not in self.ignored}
        return (*named, *args[len(self.names) :]), given

    def _read(self, called: Any) -> None:
        self.defaults: dict[str, Any] = {}
        bound = type(called) is MethodType
        function = called.__func__ if bound else called
        if function_of(function) is not function:  # not known
            self.names: list[str] = []
            self.only: list[str] = []
            self.positional = "args"
            self.keyword = "kwargs"
            self.parameters = "*args, **kwargs"
            return
        code = function.__code__
        count, only = code.co_argcount, code.co_kwonlyargcount
        names = code.co_varnames
        skip = 1 if bound and count else 0  # the object is there already
        self.names = list(names[skip:count])
        self.only = list(names[count : count + only])
        rest = list(names[count + only :])
        self.positional = rest.pop(0) if code.co_flags & _POSITIONAL else ""
        self.keyword = rest.pop(0) if code.co_flags & _KEYWORD else ""
        self.defaults.update(zip(reversed(self.names), reversed(function.__defaults__ or ())))
        self.defaults.update(function.__kwdefaults__ or {})
        parts = [self._with_default(name) for name in self.names]
        if code.co_posonlyargcount > skip:
            parts.insert(code.co_posonlyargcount - skip, "/")
        if self.positional:
            parts.append("*" + self.positional)
        elif self.only:
            parts.append("*")
        parts += [self._with_default(name) for name in self.only]
        if self.keyword:
            parts.append("**" + self.keyword)
        self.parameters = ", ".join(parts)

    def _with_default(self, name: str) -> str:
        return f"{name}=_zc_default_{name}" if name in self.defaults else name

    @property
    def open(self) -> bool:
        """It takes arguments that it does not name."""
        return bool(self.positional or self.keyword)

    @property
    def args(self) -> str:
        """The tuple of its positional arguments, as an expression."""
        if self.positional and not self.names:
            return self.positional
        parts = [name + "," for name in self.names]
        if self.positional:
            parts.append(f"*{self.positional},")
        return "(" + " ".join(parts) + ")"

    @property
    def kwargs(self) -> str:
        """The dict of its keyword arguments, as an expression."""
        parts = [f"{name!r}: {name}" for name in self.only]
        if self.keyword:
            parts.append("**" + self.keyword)
        return "{" + ", ".join(parts) + "}"

    @property
    def call(self) -> str:
        """Its arguments, as a call passes them on."""
        parts = [*self.names, *(["*" + self.positional] if self.positional else [])]
        parts += [f"{name}={name}" for name in self.only]
        return ", ".join([*parts, *(["**" + self.keyword] if self.keyword else [])])
