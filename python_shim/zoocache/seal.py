"""Keys that seal what a storage and the log of invalidations get: whoever holds them can neither read a value, a key
or a tag of the cache, nor change one unseen, nor give it to another function, scope or cache.

    configure(storage_url="redis://host", seal_key=os.environ["SEAL_KEY"])

    @cacheable(sealed=True)  # never for a cache without a key
    def salary(person): ...

    seal_key            seals: 32 random bytes; or a text of them, in hexadecimal or base64; or file:PATH with one
    previous_seal_keys  open what they have sealed. To change the key, give every process the new one here; when all
                        have it, give it as seal_key and the old one here; when all have that, leave the old one out
    seal_strict         what does not open raises SealError and is left as it is; else it is a miss, and counted

``zoocache seal new-key`` prints a new one. No message, log or repr has a key in it. A log that a process with a key has
used refuses those without one: begin to seal under another prefix, and give the key to ``zoocache invalidate``, too.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable

__all__ = ["SealError", "new_key"]

_SIZE = 32  # bytes of a key
_MOST = 8  # keys, as the library has it
_WHAT = "32 bytes, as bytes, as text in hexadecimal or base64, or as file:PATH of a file with such a text"


class SealError(Exception):
    """With ``seal_strict``: what the storage has was not sealed for this key of the cache, or with a key that is not
    here. It is left as it is.
    """


def new_key() -> str:
    """A new key, as text in base64. Cost: a read of the system's random numbers."""
    return base64.b64encode(os.urandom(_SIZE)).decode()


def parsed(key: object) -> bytes:
    """The 32 bytes of a key. Raises ValueError, which has no part of it."""
    if isinstance(key, str) and key.startswith("file:"):
        try:
            with open(key[5:], "rb") as file:
                key = file.read(1024)
        except OSError as error:
            raise ValueError(f"its file cannot be read: {error.strerror}") from None
        key = key if len(key) == _SIZE else key.strip()
    if isinstance(key, (bytes, bytearray)) and len(key) == _SIZE:
        return bytes(key)
    text = key.encode("ascii", "replace") if isinstance(key, str) else key
    if isinstance(text, bytes):
        try:
            found = bytes.fromhex(text.decode()) if len(text) == 2 * _SIZE else base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            found = b""
        if len(found) == _SIZE:
            return found
    raise ValueError(f"a key is {_WHAT}")


def several(text: str) -> tuple[bytes, ...]:
    """The keys of a variable of the environment, with commas between them."""
    return tuple(parsed(each.strip()) for each in text.split(",") if each.strip())


def ring(seal_key: object, previous: object = ()) -> bytes:
    """The keys of a cache, one after the other: the first seals. Nothing: it has none."""
    if seal_key is None:
        if previous:
            raise ValueError("previous_seal_keys is of no use without a seal_key")
        return b""
    if isinstance(previous, (str, bytes, bytearray)) or not isinstance(previous, Iterable):
        raise TypeError("previous_seal_keys must be a list of keys")
    keys: list[bytes] = []
    for option, key in [("seal_key", seal_key), *[("previous_seal_keys", each) for each in previous]]:
        try:
            keys.append(parsed(key))
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None
    if len(set(keys)) < len(keys):
        raise ValueError("previous_seal_keys: a key is there twice")
    if len(keys) > _MOST:
        raise ValueError(f"previous_seal_keys: at most {_MOST - 1}")
    return b"".join(keys)
