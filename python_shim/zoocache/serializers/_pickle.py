"""Pickle, by name alone."""

from __future__ import annotations

from typing import Any

from zoocache._errors import Unserializable

__all__ = ["Pickle"]


class Pickle:
    """Pickle, for storages that are trusted like code."""

    name = "pickle"

    def dumps(self, value: Any) -> bytes:
        """The bytes of a value."""
        import pickle

        try:
            return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise Unserializable(f"cannot be pickled: {error}") from error

    def loads(self, data: bytes | memoryview) -> Any:
        """The value."""
        import pickle

        return pickle.loads(data)
