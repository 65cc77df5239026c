"""A storage of your own: where a cache keeps its records, beside the process's memory.

Write a class with ``get``, ``put``, ``delete`` and ``clear``, and give it to a cache:

    class Shelf(Storage):
        def __init__(self): self.records = {}
        def get(self, key): return self.records.get(key)
        def put(self, key, record, expires): self.records[key] = record
        def delete(self, key): self.records.pop(key, None)
        def clear(self): self.records.clear()

    cache = Cache(storage=Shelf())

``zoocache.testing.StorageConformance`` tests it. A storage that outlives the process is a VersionedStorage:
it keeps as well what was invalidated when, so that nothing stale comes back after a restart. Several
processes may share it only if they hear of each other's invalidations: a SharedStorage carries them as well, as
LMDB and Redis do; ``zoocache.storages`` has some.

Keys and records are bytes; a record is given back as it was put, or not at all: it carries a checksum, and
the cache judges whether it is fresh. Methods are called from several threads at once. What they raise never
reaches who called the cached function: it is counted, logged, and the value is computed. A method that
cannot go on because there is no room raises StorageIsFull; one that takes too long, TimeoutError: time_left() is what
it may take, which follows what calls have taken lately. The option ``connections`` says how many calls are inside at
once, at most.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from math import inf
from time import monotonic

__all__ = ["SharedStorage", "Storage", "VersionedStorage", "time_left"]

# When the call of a storage that runs here should have ended, by time.monotonic().
DEADLINE: ContextVar[float] = globals().get("DEADLINE") or ContextVar("zoocache_deadline", default=inf)


def time_left() -> float:
    """Inside a call of a storage: how many seconds of it are left; a time-out for what it asks. Elsewhere inf."""
    return max(0.0, DEADLINE.get() - monotonic())


class Storage(ABC):
    """Records by key. A cache clears it when it is opened: it cannot know what was invalidated since."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """The record under a key, or None. The key may be empty: a cache asks so whether anybody is there."""

    @abstractmethod
    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        """Stores a record in place of the one before.

        expires: when it may be forgotten, in seconds since 1970; None: never. Forgetting it sooner is allowed,
        giving it back later as well.
        """

    @abstractmethod
    def delete(self, key: bytes) -> None:
        """Removes a record, if it is there. Once it has returned, get() does not give it back."""

    @abstractmethod
    def clear(self) -> None:
        """Removes every record; of a VersionedStorage, the versions are kept."""

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """What get() returns for each key. Write one if it takes a single round trip: many() asks so, 16 at a time."""
        return [self.get(key) for key in keys]

    def touch(self, key: bytes, expires: float | None) -> None:  # noqa: B027
        """Moves the moment at which a record may be forgotten, if it is there."""

    def close(self) -> None:  # noqa: B027
        """The cache is closed: nothing is called afterwards."""


class VersionedStorage(Storage):
    """Records, and what was invalidated when: after a restart they are warm, and never stale."""

    @abstractmethod
    def generation(self) -> tuple[int, int]:
        """An id of the kept versions, and the highest version ever put (0: none).

        The id is a number from 1 to 2**64 - 1, made at random when there are no versions yet or they were lost.
        """

    @abstractmethod
    def tag_put(self, paths: Sequence[bytes], version: int) -> None:
        """Raises the version of each path to this one where it is lower; all of them or none.

        The empty path stands for everything. Must be kept when it returns: it raises if it cannot.
        """

    @abstractmethod
    def tag_get(self, paths: Sequence[bytes]) -> Sequence[int]:
        """The versions of paths; 0 for those that were never put."""


class SharedStorage(Storage):
    """A place that processes share: it can compare and set, so it tells the others what was invalidated.

    It promises that read() and swap() of a key are linearizable: a replica that lags, a server that takes another's
    place, or a cache in between breaks that. Keys of read() and swap() are none of get() and put(); delete() may be
    given either.
    """

    @abstractmethod
    def read(self, key: bytes) -> tuple[bytes | None, bytes]:
        """The value of a key, and a token that stands for it; None if there is none, which has a token as well.

        Linearizable: it is the value of the last swap() that had returned when this was called, or a later one.
        """

    @abstractmethod
    def swap(self, key: bytes, value: bytes, token: bytes) -> bool:
        """Puts a value in place of the one that the token of a read() stands for. False: it is no longer that.

        Of two with the same token one wins. If it raises, nobody knows whether it was done.
        """

    def clear(self) -> None:
        """Nothing: by the log, no record of before is fresh. They go as the place lets go of what is old."""

    def forked(self) -> None:
        """In the child of a fork, after close(): opens it again, with connections and locks of its own."""
