"""What the logger ``zoocache`` is told about storages and buses: each kind of trouble once, and when it is over.

The library says what it meets in threads of its own, and with locks held; a storage in Python is called like that,
too. So their lines are kept where they are said, and a thread of this module, one a process, brings them to the
logger: a handler may use the cache, or take its time. The thread lives while there is a cache that is watched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Troubles", "logger", "watch"]

logger = logging.getLogger("zoocache")

QUIET = 5.0  # seconds: what has not come again for so long is over, if nothing is wrong now
_PERIOD = 0.25
_MOST = 64  # kinds of trouble at a time

LEVELS = {1: logging.ERROR, 2: logging.WARNING}  # of the library


class Watched(Protocol):
    """What has lines to be told."""

    def speak(self) -> bool:
        """Tells them. False: it is closed."""


class Troubles:
    """The kinds of trouble that one cache has."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.met: dict[str, float] = {}  # when it came last
        self.waiting: deque[tuple[int, str]] = deque(maxlen=_MOST)

    def note(self, level: int, kind: str, more: Callable[[], str] | None = None) -> None:
        """It has come: to be told, with ``more``, if it is new."""
        if kind not in self.met:
            if len(self.met) == _MOST:
                return
            self.waiting.append((level, f"{kind}\n{more()}" if more else kind))
        self.met[kind] = self.clock()

    def settle(self) -> None:
        """Nothing is wrong at this moment: what has not come for a while is over."""
        now = self.clock()
        for kind, last in list(self.met.items()):
            if now - last >= QUIET and self.met.pop(kind, None) is not None:
                self.waiting.append((logging.WARNING, f"{kind} (this is over)"))

    def tell(self) -> None:
        """Brings to the logger what is to be told."""
        while self.waiting:
            try:
                level, line = self.waiting.popleft()
            except IndexError:  # another thread has told it
                return
            try:
                logger.log(level, "%s", line)
            except Exception:  # of a handler: the next line is told all the same
                pass


_watched: list[ref[Any]] = globals().get("_watched", [])
_thread: threading.Thread | None = globals().get("_thread")


def watch(one: Watched) -> None:
    """Tells what it has to say, from now until it is closed or nobody has it any more."""
    global _thread
    if _thread is not None and not _thread.is_alive():  # in the child of a fork: those are the parent's
        _watched.clear()
        _thread = None
    _watched.append(ref(one))
    if _thread is None:
        try:
            _thread = threading.Thread(target=_run, name="zoocache-log", daemon=True)
            _thread.start()
        except RuntimeError:  # no threads in this interpreter: it is told when it is closed
            _thread = None


def _run() -> None:
    global _thread
    me = threading.current_thread()
    while _thread is me:
        time.sleep(_PERIOD)
        for each in list(_watched):
            one = each()
            if (one is None or not one.speak()) and each in _watched:
                _watched.remove(each)
            del one
        if not _watched:
            _thread = None
            if _watched:  # it came in between; if it found no thread, this one gives way to its own
                _thread = _thread or me
