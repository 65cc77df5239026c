"""A directory of one user, whose files are replaced as a whole, under a lock that holds for threads and processes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from time import sleep

from zoocache.storage import time_left

__all__ = ["BOOT", "Directory"]

BOOT = Path("/proc/sys/kernel/random/boot_id")
_MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = r" - (nfs4?|cifs|smb3|smbfs|9p|afs|ceph|lustre|fuse\.(?:sshfs|glusterfs|s3fs)) "


class Directory:
    """Opens it; makes it, if it is not there. Raises ValueError for one that is not safe, OSError for one that is none.

    sync: whether each write waits for the disk.
    """

    def __init__(self, path: str, sync: bool, parent: int | None = None) -> None:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700, dir_fd=parent)
        self.sync = sync
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        why = self._unsafe()
        if why:
            self.close()
            raise ValueError(f"{path} {why}")

    def _unsafe(self) -> str:
        stat = os.fstat(self.fd)
        if stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
            return "is another user's, or others may write to it: it must be for the user alone, as chmod 700 makes it"
        mount = rf"^\d+ \d+ {os.major(stat.st_dev)}:{os.minor(stat.st_dev)} .*{_REMOTE}"
        remote = re.search(mount, _MOUNTS.read_text(), re.M)
        return f"is on {remote[1]}, where a lock is not sure: it must be on a disk of this machine" if remote else ""

    def close(self) -> None:
        os.close(self.fd)

    def read(self, name: str) -> bytes | None:
        """What is in a file; None: there is none."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        with open(fd, "rb", buffering=0) as file:
            return file.readall()

    def write(self, name: str, data: bytes, end: float) -> None:
        """Puts a file in place of the one before, with a time of modification. With the lock held."""
        fd = os.open("new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=self.fd)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.utime(fd, (end, end))
            if self.sync:
                os.fsync(fd)
        os.rename("new", name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        if self.sync:
            os.fsync(self.fd)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Its lock, which nobody else holds, as an open file."""
        lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=self.fd)
        try:
            while True:
                try:
                    flock(lock, LOCK_EX | LOCK_NB)
                    break
                except BlockingIOError:
                    if not time_left():
                        raise TimeoutError("another holds the lock of the directory") from None
                    sleep(0.001)
            yield lock
        finally:
            os.close(lock)
