"""The arguments of a call, for a computation that goes on after it: a refresh. Imported by the first.

Their owner goes on meanwhile, and may change them. So it has containers of its own where the key is what they hold
now; of what else a key is made of, it is looked at afterwards whether it is still the same: if not, what was computed
is of another call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zoocache._functions import Function

__all__ = ["kept"]


def kept(
    table: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], Callable[[], bool]]:
    """What to compute with, and whether that still is what was asked for."""
    ignored = table.signature.ignored
    at = [n for n, name in enumerate(table.signature.names) if name in ignored]

    def own() -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = {name: x if name in ignored else _snapshot(x) for name, x in kwargs.items()}
        return tuple([x if n in at else _snapshot(x) for n, x in enumerate(args)]), named

    witness = own()  # whose containers the function does not get
    frozen = table.frozen(*witness)
    return (*own(), lambda: bool(table.frozen(*witness) == frozen))


def _snapshot(value: Any) -> Any:
    """The value, with containers of its own."""
    kind = type(value)
    if kind is list or kind is tuple:
        return kind([_snapshot(x) for x in value])
    if kind is dict:
        return {key: _snapshot(x) for key, x in value.items()}
    return kind(value) if kind is set or kind is bytearray else value
