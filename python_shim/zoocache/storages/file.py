"""A directory that the processes of a machine share.

    configure(storage_url="file:///var/cache/shop?max_bytes=200000000")
    cache = Cache(storage=FileStorage("/var/cache/shop", max_bytes=200_000_000, sync=True))

A record is a file, which takes the place of the one before by rename(): none is ever half there, and reading takes no
lock. Writing takes flock() on one of sixteen parts of the directory, and counts there what was written, so the limits
hold at each moment, over all processes. Over a limit, what has expired goes, then what was written first, until a part
is full to 7/8. The time of modification of a file is when it expires.

Without ``sync`` a crash of the system, not of a process, may lose what was written: the name of the log has the
system's start in it, so afterwards there is none, and no record of before is served. With ``sync`` each write waits
for the disk, and records outlive the crash.

Files are for their owner alone (0600, 0700), and no symbolic link is followed. A directory that others may write to is
refused, and so is a network's file system, whose locks are not what they say.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import blake2b
from struct import Struct
from time import time
from urllib.parse import SplitResult, unquote

from zoocache._errors import StorageIsFull
from zoocache.storage import SharedStorage
from zoocache.storages import digest
from zoocache.storages._directory import BOOT, Directory

__all__ = ["FileStorage"]

_COUNTS = Struct("<QQ")  # bytes and files, in the file of a part's lock
_NEVER = 2**33  # seconds since 1970


class FileStorage(SharedStorage):
    """Records in files. Every process gives the same limits; a sixteenth of max_bytes is for the largest record."""

    def __init__(
        self, directory: str | os.PathLike[str], *, max_bytes: int = 2**30, max_records: int = 2**17, sync: bool = False
    ) -> None:
        if min(max_bytes, max_records) < 16:
            raise ValueError("max_bytes and max_records must be >= 16")
        self._most = max_bytes // 16, max_records // 16
        self._where, self._sync = os.path.abspath(directory), sync
        self.forked()
        self._log = "log-" if sync else f"log-{BOOT.read_text().strip()}-"

    @classmethod
    def from_url(cls, url: str, parts: SplitResult, options: dict[str, str]) -> FileStorage:
        limits = {name: int(options.pop(name)) for name in ("max_bytes", "max_records") if name in options}
        if parts.netloc or len(parts.path) < 2:
            raise ValueError
        return cls(unquote(parts.path), sync={"0": False, "1": True}[options.pop("sync", "0")], **limits)

    def _place(self, key: bytes) -> tuple[Directory, str]:
        return self._parts[(name := digest(key))[0]], name

    def get(self, key: bytes) -> bytes | None:
        part, name = self._place(key)
        return part.read(name)

    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        part, name = self._place(key)
        size = len(record)
        if size > self._most[0]:
            part.remove(name)
            raise StorageIsFull(f"a record of {size} bytes; of max_bytes, {self._most[0]} are for one")
        with part.locked() as lock:
            used, count = _COUNTS.unpack(os.pread(lock, 16, 0) or b"\xff" * 16)
            if used + size > self._most[0] or count >= self._most[1]:
                used, count = self._make_room(part, size)
            os.pwrite(lock, _COUNTS.pack(used + size, count + 1), 0)  # who dies after this has counted too much
            part.write(name, record, _NEVER if expires is None else expires)

    def delete(self, key: bytes) -> None:
        part, name = self._place(key)
        part.remove(name)
        self._root.remove(self._log + name)

    def touch(self, key: bytes, expires: float | None) -> None:
        part, name = self._place(key)
        with suppress(FileNotFoundError):
            os.utime(name, (expires or _NEVER,) * 2, dir_fd=part.fd, follow_symlinks=False)

    def read(self, key: bytes) -> tuple[bytes | None, bytes]:
        value = self._root.read(self._log + digest(key))
        return value, b"" if value is None else blake2b(value).digest()

    def swap(self, key: bytes, value: bytes, token: bytes) -> bool:
        with self._root.locked():
            same = self.read(key)[1] == token
            if same:
                self._root.write(self._log + digest(key), value, _NEVER)
            return same

    def forked(self) -> None:
        self._root = Directory(self._where, self._sync)
        self._parts = {part: Directory(part, self._sync, self._root.fd) for part in "0123456789abcdef"}

    def close(self) -> None:
        for directory in (self._root, *self._parts.values()):
            directory.close()

    def _make_room(self, part: Directory, size: int) -> tuple[int, int]:
        """Removes so many that a record of this size has room; what is left, in bytes and files."""
        now = time()
        with os.scandir(part.fd) as entries:
            found = [(each.stat(follow_symlinks=False), each.name) for each in entries if len(each.name) == 40]
        found.sort(key=lambda each: (each[0].st_mtime >= now, each[0].st_ctime_ns), reverse=True)
        used = sum(stat.st_size for stat, _ in found)
        most = min(self._most[0] * 7 // 8, self._most[0] - size), min(self._most[1] * 7 // 8, self._most[1] - 1)
        while found and (used > most[0] or len(found) > most[1] or found[-1][0].st_mtime < now):
            stat, name = found.pop()
            part.remove(name)
            used -= stat.st_size
        return used, len(found)
