"""A storage of one's own: a file for each record, and a journal of what was invalidated when.

Values outlive the process, and none of them comes back after it was invalidated.
"""
#   first life: computed 3 times
#   second life: computed 1 times, price 12

import os
import struct
import tempfile
import zlib
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from zoocache import Cache
from zoocache.storage import VersionedStorage


class FileStorage(VersionedStorage):
    """Records as files of a directory, which belongs to one process at a time."""

    _HEAD = struct.Struct("<IIQ")  # of an entry of the journal: checksum, length of the path, version

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        (self.directory / "records").mkdir(parents=True, exist_ok=True)
        self.lock = Lock()
        self.versions: dict[bytes, int] = {}
        self.journal = open(self.directory / "journal", "a+b")  # noqa: SIM115 - closed by close()
        self._replay()

    # ---- records: the file begins with its key, as two keys might share a name ----

    def _path(self, key: bytes) -> Path:
        return self.directory / "records" / blake2b(key, digest_size=20).hexdigest()

    def get(self, key: bytes) -> bytes | None:
        try:
            data = self._path(key).read_bytes()
        except FileNotFoundError:
            return None
        (length,) = struct.unpack_from("<I", data)
        return data[4 + length :] if data[4 : 4 + length] == key else None

    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        path = self._path(key)
        with self.lock:  # of two writers of a key, the later one wins as a whole
            temporary = path.with_suffix(".new")
            temporary.write_bytes(struct.pack("<I", len(key)) + key + record)
            os.replace(temporary, path)

    def delete(self, key: bytes) -> None:
        self._path(key).unlink(missing_ok=True)

    def clear(self) -> None:
        for path in (self.directory / "records").iterdir():
            path.unlink(missing_ok=True)

    # ---- versions: a journal that begins with their generation ----

    def _replay(self) -> None:
        self.journal.seek(0)
        data = self.journal.read()
        if len(data) < 8:
            data = os.urandom(7) + b"\1"
            self.journal.truncate(0)
            self._write(data)
        self._generation = int.from_bytes(data[:8], "little")
        at = 8
        while at + self._HEAD.size <= len(data):
            check, length, version = self._HEAD.unpack_from(data, at)
            end = at + self._HEAD.size + length
            if end > len(data) or check != zlib.crc32(data[at + 4 : end]):
                break
            self._raise(data[end - length : end], version)
            at = end
        self.journal.truncate(at)  # what was being written when the process died had not been promised

    def _write(self, data: bytes) -> None:
        self.journal.write(data)
        self.journal.flush()
        os.fsync(self.journal.fileno())

    def _raise(self, path: bytes, version: int) -> None:
        self.versions[path] = max(version, self.versions.get(path, 0))

    def generation(self) -> tuple[int, int]:
        return self._generation, max(self.versions.values(), default=0)

    def tag_put(self, paths, version: int) -> None:
        with self.lock:
            entries = []
            for path in paths:
                body = struct.pack("<IQ", len(path), version) + path
                entries.append(struct.pack("<I", zlib.crc32(body)) + body)
            self._write(b"".join(entries))
            for path in paths:
                self._raise(path, version)

    def tag_get(self, paths) -> list[int]:
        return [self.versions.get(path, 0) for path in paths]

    def close(self) -> None:
        self.journal.close()


def live(directory: str, prices: dict[str, int]) -> tuple[int, int]:
    """One life of a process: asks for three prices, and invalidates one."""
    computed = 0
    with Cache(storage=FileStorage(directory)) as cache:

        @cache.cacheable(namespace="shop", deps=lambda item: [f"price:{item}"])
        def price(item):
            nonlocal computed
            computed += 1
            return prices[item]

        found = [price(item) for item in prices]
        if prices["tea"] == 10:
            cache.invalidate("price:tea")  # the price will be another one
    return computed, found[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(f"first life: computed {live(directory, {'tea': 10, 'milk': 2, 'salt': 1})[0]} times")
        computed, tea = live(directory, {"tea": 12, "milk": 2, "salt": 1})
        print(f"second life: computed {computed} times, price {tea}")
