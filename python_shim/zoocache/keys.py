"""What is no part of a key: types whose objects do not count, in every cached function.

    from zoocache.keys import ignore_type

    ignore_type(Session)

    @cacheable(deps=lambda db, uid: [f"user:{uid}"])
    def profile(db: Session, uid: int) -> dict: ...

    profile(session, 42)  # one entry for 42, whichever session it is read by

For one function, ``cacheable(ignore="db")`` says it by name.
"""

from __future__ import annotations

from typing import TypeVar

from zoocache import _keys

__all__ = ["ignore_type"]

T = TypeVar("T", bound=type)


def ignore_type(kind: T) -> T:
    """Objects of this class, and of classes derived from it, do not count as arguments. Returns it: a decorator, too.

    Raises TypeError for the type of a plain value, such as str, and for what such a type is derived from.
    """
    if not isinstance(kind, type):
        raise TypeError(f"zoocache: a class can be ignored, not {kind!r}")
    _keys.ignore(kind)
    return kind
