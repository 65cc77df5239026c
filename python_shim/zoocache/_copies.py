"""Exceptions that more than one caller gets.

Each raise has a copy of its own: raising an exception writes to it (its traceback grows, its context is the
caller's), and a traceback keeps the frames of a failed call, with all that is in them. A copy has the type,
the arguments, the attributes and the cause; not the traceback, nor the context, which is the caller's business.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["again", "copied"]

_HEAP = 1 << 9  # the flag of a class that was made by a class statement
_OWN = frozenset({  # not copied as they are; "obj" is what an AttributeError was met at
    "__traceback__", "__context__", "__cause__", "__suppress_context__", "__dict__", "__weakref__", "args", "obj",
})  # fmt: skip
_FIELDS = (type(BaseException.__suppress_context__), type(BaseException.args))  # what C and __slots__ make of a field


_plans: WeakKeyDictionary[type, tuple[Any, list[str]]] = WeakKeyDictionary()


def copied(error: BaseException) -> BaseException:
    """What is kept of an exception that its own caller gets. Runs no code of its class, if that can be avoided."""
    return _copy(error, {})


def again(error: BaseException) -> BaseException:
    """What another caller gets for one that was kept."""
    copy = _copy(error, {})
    copy.__traceback__ = copy.__context__ = None  # one that cannot be copied is raised itself
    return copy


def _copy(error: BaseException, known: dict[int, BaseException]) -> BaseException:
    copy = known.get(id(error))
    if copy is not None:
        return copy
    try:
        copy = _made(error, known)
    except Exception:
        copy = _by_its_own(error)
    known[id(error)] = copy
    if copy is error:
        return error
    suppress = error.__suppress_context__
    copy.__traceback__ = copy.__context__ = None
    copy.__cause__ = None if error.__cause__ is None else _copy(error.__cause__, known)
    copy.__suppress_context__ = suppress
    return copy


def _made(error: BaseException, known: dict[int, BaseException]) -> BaseException:
    """A bare one, and field by field: __init__ may want other arguments, or do more than once what is done once."""
    kind = type(error)
    plan = _plans.get(kind)
    if plan is None:
        plan = _plans[kind] = _plan(kind)
    make, names = plan
    args = tuple([_clean(x, known) for x in error.args])
    copy: BaseException = make(kind, *args)
    known[id(error)] = copy
    copy.args = args
    for name in names:
        _set(copy, error, name, known)
    own = vars(error)
    if own:
        vars(copy).update({name: _clean(value, known) for name, value in own.items()})
    return copy


def _plan(kind: type) -> tuple[Any, list[str]]:
    """How a bare one of this class is made, and the fields that it has besides its dict."""
    fields = [name for c in kind.__mro__ for name, x in vars(c).items() if isinstance(x, _FIELDS) and name not in _OWN]
    return next(c for c in kind.__mro__ if not c.__flags__ & _HEAP).__new__, fields


def _set(copy: BaseException, error: BaseException, name: str, known: dict[int, BaseException]) -> None:
    try:
        value = getattr(error, name)
    except AttributeError:
        return  # a slot that is empty
    value = _clean(value, known)
    if value is getattr(copy, name, known):
        return
    try:
        setattr(copy, name, value)
    except (AttributeError, TypeError):
        if value != getattr(copy, name, known):
            raise  # a field of an extension module


def _clean(value: Any, known: dict[int, BaseException]) -> Any:
    """What an exception carries. Exceptions in it (a group's, a wrapped one) are copied, too, and what holds
    them or the notes.
    """
    if isinstance(value, BaseException):
        return _copy(value, known)
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_clean(x, known) for x in value])
    if kind is dict:
        return {name: _clean(x, known) for name, x in value.items()}
    return value


def _by_its_own(error: BaseException) -> BaseException:
    """As its class copies it; if it cannot, the exception itself."""
    import copy

    try:
        other = copy.copy(error)
    except Exception:
        return error
    return other if type(other) is type(error) else error
