"""How the values of a table become bytes for a storage: by which serializer, compressed or not.

In front of what the serializer makes of a value are 12 bytes: which serializer that was, and when, in milliseconds
since 1970. What another one has written is a miss.
"""

from __future__ import annotations

import struct
import time
from typing import Any

from zoocache import _ffi
from zoocache.serializers import check, serializer

__all__ = ["Codec", "known"]

_HEADER = struct.Struct("<IQ")


def known(given: Any, compression: bool | None) -> None:
    """Refuses what is no serializer, and no choice. Nothing is imported for it."""
    check(given)
    if compression not in (None, True, False):
        raise ValueError(f"compression must be True, False or None, not {compression!r}")


class Codec:
    """A serializer, and whether its bytes are compressed. Raises ImportError if a package that it needs is missing."""

    def __init__(self, given: Any, compression: bool | None) -> None:
        self.serializer = serializer(given)
        self.magic = _ffi.hash_bytes(self.serializer.name.encode()) & 0xFFFFFFFF
        usual = getattr(self.serializer, "compress", True)
        self.plain = not (usual if compression is None else compression)

    def data(self, value: Any) -> list[Any]:
        """What is stored of a value, in parts. Raises if there is no such thing."""
        header = _HEADER.pack(self.magic, int(time.time() * 1000))
        data = self.serializer.dumps(value)
        return [header, *data] if isinstance(data, list) else [header + data]

    def value(self, data: bytes | memoryview) -> Any:
        """The value. Raises anything for what is none, or another serializer's."""
        if _HEADER.unpack_from(data)[0] != self.magic:
            raise ValueError
        return self.serializer.loads(memoryview(data)[_HEADER.size :])
