"""Places that processes share: each is a storage, and tells the others what was invalidated.

    configure(storage_url="memcached://cache.internal", prefix="shop")
    cache = Cache(storage=MongoDBStorage("mongodb://h", "shop"))

    file:///directory                 zoocache.storages.file.FileStorage          one machine
    memcached://host:11211            zoocache.storages.memcached.MemcachedStorage
    mongodb://host/database           zoocache.storages.mongodb.MongoDBStorage    mongodb+srv:// as well
    dynamodb://region/table           zoocache.storages.dynamodb.DynamoDBStorage
    https://host/path                 zoocache.storages.http.HTTPStorage          WebDAV; S3 and what is compatible

The log of invalidations is one value there, changed by compare-and-set: who has read it knows all that was said, and a
value that was lost is seen to be another. It is read every ``max_staleness / 4`` seconds: so late is an invalidation
heard, usually; what is served is never staler than ``max_staleness``, as with Redis. A place of your own is a
``zoocache.storage.SharedStorage``.

Nothing connects before it is used. A call takes time_left() at most; DynamoDB's client is told its time-out once.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from zoocache.storage import SharedStorage, Storage, time_left

if TYPE_CHECKING:
    from typing import Any

__all__ = ["SCHEMES", "open_url"]

# Of a URL: the module, the class, and what the URL looks like.
SCHEMES = {
    "file": ("file", "FileStorage", "file:///directory?max_bytes=1000000000&max_records=100000&sync=0"),
    "memcached": ("memcached", "MemcachedStorage", "memcached://host:11211 or memcached:///path/of/a/socket"),
    "mongodb": ("mongodb", "MongoDBStorage", "mongodb://user:password@host/database.collection?option=value"),
    "mongodb+srv": ("mongodb", "MongoDBStorage", "mongodb+srv://user:password@host/database.collection?option=value"),
    "dynamodb": ("dynamodb", "DynamoDBStorage", "dynamodb://region/table?endpoint=http://host:8000"),
    "http": ("http", "HTTPStorage", "http://user:password@host/path?s3=region"),
    "https": ("http", "HTTPStorage", "https://user:password@host/path?s3=region"),
}


def open_url(url: str) -> SharedStorage:
    """The storage of a URL; raises ValueError, without the URL, which may have a password in it."""
    from importlib import import_module

    module, name, form = SCHEMES[url.partition("://")[0]]
    kind = getattr(import_module("zoocache.storages." + module), name)
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        storage: SharedStorage = kind.from_url(url, parts, options)  # pops the options that it knows
        if options or parts.fragment:
            raise ValueError
        return storage
    except (KeyError, ValueError):
        raise ValueError(f"storage_url is not as it has to be: {form}") from None


def digest(key: bytes) -> str:
    """A name that a key may have anywhere: 40 hexadecimal digits."""
    return blake2b(key, digest_size=20).hexdigest()


def patience() -> float | None:
    """How long a call may take, in seconds, for a client; None: for ever."""
    left = time_left()
    return None if left > 1e9 else max(left, 0.001)


def missing(module: str, package: str, extra: str) -> ImportError:
    """The error of a module whose client is not there."""
    return ImportError(f"zoocache.storages.{module} needs {package}: pip install 'zoocache[{extra}]'")


def bounded(limit: int, record: bytes, storage: Storage, key: bytes, what: str) -> Any:
    """Raises StorageIsFull for a record that is too large, after the one before it was removed."""
    if len(record) > limit:
        from zoocache._errors import StorageIsFull

        storage.delete(key)
        raise StorageIsFull(f"a record of {len(record)} bytes: {what} takes {limit} at most")
