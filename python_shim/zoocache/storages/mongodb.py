"""MongoDB. Needs zoocache[mongodb].

    configure(storage_url="mongodb://user:password@host/shop", prefix="shop")
    cache = Cache(storage=MongoDBStorage("mongodb://host", "shop", "cache"), prefix="shop")

Writes are of a majority, and what reads the log is linearizable, of the primary, which asks a majority on its part: so
no log of before a failover is read. A server alone, without a replica set, has one copy, and its reads are that anyway.
A record is a document; an index ends it when it expires. Documents have 16 MB at most.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any
from urllib.parse import SplitResult, unquote

from zoocache.storage import SharedStorage
from zoocache.storages import bounded, digest, missing, patience

try:
    import pymongo
    from pymongo.errors import ConnectionFailure, DuplicateKeyError, OperationFailure, PyMongoError
    from pymongo.read_concern import ReadConcern
    from pymongo.read_preferences import ReadPreference
    from pymongo.write_concern import WriteConcern
except ImportError as error:
    raise missing("mongodb", "pymongo", "mongodb") from error

__all__ = ["MongoDBStorage"]

_LIMIT = 16 * 1024 * 1024 - 1024
_NO_REPLICA_SET = 123  # no reads are called linearizable there


class MongoDBStorage(SharedStorage):
    """Records as documents. The URL may have what pymongo knows; how reads and writes are made is decided here."""

    def __init__(self, url: str, database: str, collection: str = "zoocache") -> None:
        self._where = url, database, collection
        self.forked()

    def forked(self) -> None:
        url, database, collection = self._where
        try:
            self._client = pymongo.MongoClient[dict[str, Any]](url, connect=False)
            place = self._client[database][collection]
        except (PyMongoError, ValueError):  # which may have the password in its text
            raise ValueError("mongodb: pymongo cannot read the URL, or a name of database or collection") from None
        place = place.with_options(read_preference=ReadPreference.PRIMARY, write_concern=WriteConcern("majority"))
        self._records = place.with_options(read_concern=ReadConcern("local"))
        self._log = place.with_options(read_concern=ReadConcern("linearizable"))
        self._indexed = False

    @classmethod
    def from_url(cls, url: str, parts: SplitResult, options: dict[str, str]) -> MongoDBStorage:
        options.clear()  # they are pymongo's
        database, _, collection = unquote(parts.path[1:]).partition(".")
        return cls(url, database or "zoocache", collection or "zoocache")

    def get(self, key: bytes) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        names = [digest(key) for key in keys]
        found = self._call(lambda: {each["_id"]: each["v"] for each in self._records.find({"_id": {"$in": names}})})
        return list(map(found.get, names))

    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        bounded(_LIMIT, record, self, key, "a document of MongoDB")
        if not self._indexed:
            with suppress(OperationFailure):  # who may not make it has them stay
                self._call(self._records.create_index, "e", expireAfterSeconds=0)
            self._indexed = True
        document = {"_id": digest(key), "v": record, **_end(expires)}
        self._call(self._records.replace_one, {"_id": document["_id"]}, document, upsert=True)

    def delete(self, key: bytes) -> None:
        self._call(self._records.delete_one, {"_id": digest(key)})

    def touch(self, key: bytes, expires: float | None) -> None:
        end = _end(expires)
        self._call(self._records.update_one, {"_id": digest(key)}, {"$set": end} if end else {"$unset": {"e": ""}})

    def read(self, key: bytes) -> tuple[bytes | None, bytes]:
        try:
            found = self._call(self._log.find_one, {"_id": digest(key)})
        except OperationFailure as error:
            if error.code != _NO_REPLICA_SET:
                raise
            self._log = self._records
            return self.read(key)
        return (found["v"], found["t"]) if found else (None, b"")

    def swap(self, key: bytes, value: bytes, token: bytes) -> bool:
        document = {"_id": digest(key), "v": value, "t": os.urandom(12)}
        try:
            if not token:
                return bool(self._call(self._log.insert_one, document).acknowledged)
        except DuplicateKeyError:
            return False
        before = {"_id": document["_id"], "t": token}
        return bool(self._call(self._log.update_one, before, {"$set": document}).matched_count)

    def close(self) -> None:
        with suppress(PyMongoError), pymongo.timeout(0.5):  # it tells the server
            self._client.close()

    def _call(self, method: Any, *args: Any, **options: Any) -> Any:
        try:
            with pymongo.timeout(patience()):
                return method(*args, **options)
        except PyMongoError as error:
            if error.timeout:
                raise TimeoutError("mongodb: no answer in time") from None
            if isinstance(error, ConnectionFailure):
                raise ConnectionError("mongodb: the server cannot be reached") from None
            raise


def _end(expires: float | None) -> dict[str, Any]:
    """When a document ends; beyond the year 9999: never."""
    return {} if expires is None or expires > 2e11 else {"e": datetime.fromtimestamp(expires, timezone.utc)}
