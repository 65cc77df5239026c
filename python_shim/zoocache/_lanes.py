"""Calls of a storage beside event loops: side by side, as many at once as there are lanes; those of one key in order.

A call is given with its keys, and begins when those that were given before with one of them are over. So what is still
being written for a coroutine that was cancelled comes before what is read, written or deleted next under that key.
What needs no order has no keys: invalidations have versions.

Who gives a call only appends it, since a signal or the garbage collector may come in between: the threads do the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import RLock
from typing import Any

__all__ = ["Lanes"]


class _Call:
    """A call that was given: what it waits for, and what waits for it."""

    def __init__(self, keys: Iterable[Any], work: Callable[[], Any]) -> None:
        self.keys = tuple(keys)
        self.work = work
        self.future: Future[Any] = Future()
        self.before = 0  # calls that are to be over before
        self.after: list[_Call] = []

    def run(self) -> None:
        """Calls, unless it was cancelled meanwhile."""
        if self.future.set_running_or_notify_cancel():
            try:
                result = self.work()
            except BaseException as error:
                self.future.set_exception(error)
            else:
                self.future.set_result(result)


class Lanes:
    """The threads, and the calls that are not over yet."""

    def __init__(self, width: int) -> None:
        self._pool = ThreadPoolExecutor(width, "zoocache-storage")
        self._width = width
        self._given: deque[_Call] = deque()
        self._lock = RLock()  # guards what follows
        self._busy = 0  # threads that look at what is given before they rest
        self._last: dict[Any, _Call] = {}  # of each key, the call that came last
        self._ready: deque[_Call] = deque()  # those that wait for a thread alone

    def give(self, keys: Iterable[Any], work: Callable[[], Any]) -> Future[Any]:
        """Has it called; here, if the process ends and there are no threads any more."""
        call = _Call(keys, work)
        self._given.append(call)
        try:
            self._pool.submit(self._drive)
        except RuntimeError:
            self._drive()
        return call.future

    def _drive(self) -> None:
        call = None
        while True:
            with self._lock:
                if call is not None:
                    self._over(call)
                while self._given:
                    self._queue(self._given.popleft())
                if not self._ready:
                    return
                call = self._ready.popleft()
            call.run()

    def _queue(self, call: _Call) -> None:
        for key in call.keys:
            last = self._last.get(key)
            if last is not None:
                last.after.append(call)
                call.before += 1
            self._last[key] = call
        if not call.before:
            self._ready.append(call)

    def _over(self, call: _Call) -> None:
        for key in call.keys:
            if self._last[key] is call:
                del self._last[key]
        for other in call.after:
            other.before -= 1
            if not other.before:
                self._ready.append(other)

    def close(self) -> None:
        """Waits for all that was given."""
        self._pool.shutdown(wait=True)
