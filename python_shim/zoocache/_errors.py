"""The exceptions of the package."""

from __future__ import annotations

__all__ = [
    "BuiltWithout", "BusSilent", "FlightTimeout", "InvalidTag", "Overloaded", "RecursiveFill", "ScopeMissing",
    "StorageIsFull", "UnkeyableArgument", "Unserializable",
]  # fmt: skip


class InvalidTag(Exception):
    """A tag that cannot be: its message says which character, or which rule."""


class StorageIsFull(Exception):
    """The storage has no room left, even after evicting."""


class UnkeyableArgument(ValueError):
    """An argument of a cached call that has no stable identity to make a key of."""


class RecursiveFill(RuntimeError):
    """A cached call waits for itself: directly, or through other cached calls."""


class ScopeMissing(ValueError):
    """A call in a scope that does not say which: an id is neither an argument nor given by Cache.scope()."""


class FlightTimeout(RuntimeError):
    """Another caller computes the value, and has taken longer than ``flight_timeout``."""


class Overloaded(RuntimeError):
    """``max_loads`` other functions run, and none has ended within ``flight_timeout``."""


class BuiltWithout(RuntimeError):
    """The storage or bus of this URL is known, but not part of this build."""


class Unserializable(TypeError):
    """A value that the serializer cannot turn into bytes and back: it is not stored, only returned."""


class BusSilent(RuntimeError):
    """The bus has been silent for too long, and ``silence="error"`` was chosen; or, with ``ack="durable"`` or
    ``"strict"``, the log has not taken an invalidation yet.
    """
