"""What tells functions and keys from others in every process: what a storage knows them by.

A function is known by its place in a module, and by what it is bound to or closes over, where that has a text.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

from zoocache import _keys
from zoocache._callables import peek

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["identity", "named"]

_LONG = 200  # bytes of a key; what is longer is a hash of it


def named(text: str, path: str = "") -> bytes:
    """A text as a key of bounded length; the path of its scope, if it has one, stands at the end as it is."""
    name = text.encode("utf-8", "surrogatepass")
    if len(name) > _LONG:
        name = name[: _LONG - 44] + b"#" + blake2b(name, digest_size=20).hexdigest().encode()
    return name + f"|@{path}".encode() if path else name


def identity(called: Any, namespace: str | None) -> str | None:
    """What tells this function from others, in every process. None: it holds something without a text."""
    try:
        return _identity(called, namespace)
    except (_keys.Unportable, _keys.Unkeyable, RecursionError):
        return None


def _identity(called: Any, namespace: str | None = None) -> str:
    kind = type(called)
    if kind is FunctionType:
        table = peek(called.__dict__.get("cache_info"), "__self__")
        if peek(table, "code") is called.__code__:  # a cached function: that by which it computes
            return _identity(table.func, namespace)
    if kind is MethodType:  # of one object
        text = _identity(called.__func__, namespace)
        return text if namespace else f"{text}|{_held(called.__self__)}"
    if issubclass(kind, partial):
        text = _identity(called.func, namespace)
        return text if namespace else f"{text}|{_held((called.args, called.keywords))}"
    path = peek(called, "__qualname__")
    if type(path) is not str:  # an object that can be called
        text = f"{namespace or ''}|{_keys.module_of(kind)}.{kind.__qualname__}"
        return text if namespace else f"{text}|{_held(called)}"
    text = f"{namespace or ''}|{_keys.module_of(called)}.{path}"
    if namespace:
        return text
    if kind is BuiltinFunctionType and type(called.__self__) is not ModuleType:
        return f"{text}|{_held(called.__self__)}"
    if "<" not in path:
        return text
    if kind is not FunctionType:
        raise _keys.Unportable
    return f"{text}|{_code_text(called.__code__)}|{_cells(called)}"


def _held(value: Any) -> str:
    return _keys.portable(_keys.freeze(value))


def _code_text(code: Any) -> str:
    consts = [_code_text(x) if type(x) is CodeType else _held(x) for x in code.co_consts]
    parts = repr((code.co_code, code.co_names, consts)).encode("utf-8", "surrogatepass")
    return blake2b(parts, digest_size=12).hexdigest()


_NAMED = (FunctionType, BuiltinFunctionType, MethodType)


def _cells(function: Any) -> str:
    texts = []
    for cell in function.__closure__ or ():
        try:
            x = cell.cell_contents
        except ValueError:
            raise _keys.Unportable from None
        texts.append(_identity(x) if type(x) in _NAMED or issubclass(type(x), partial) else _held(x))
        if type(x) is FunctionType and "<" in x.__qualname__:
            texts.append(_held((x.__defaults__, x.__kwdefaults__)))
    return repr(texts)
