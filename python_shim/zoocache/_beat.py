"""What a node tells about itself on its bus, every second, and what it does for a monitor that asks.

facts      one JSON text: who it is, health(), stats(). The thread that speaks for a cache (see _log) makes it, the
           bus' own thread sends it with its beat: no call pays for it, and nobody has to ask for it
questions  {"token", "do", "args"}: what monitors have left for this node, which comes with the answer to a beat.
           Answered by a thread that lives while there are some, to the list reply:<token>

Over a place there are facts alone, every five seconds (see _place_beat).
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import ref

from zoocache import _ffi
from zoocache._explain import explained
from zoocache._fill_times import FILLS
from zoocache._log import logger
from zoocache._shared import ACKS
from zoocache.context import tags_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoocache._cache import Cache
    from zoocache._place_beat import PlaceBeat
    from zoocache._shared import Shared
    from zoocache._table import Entry

__all__ = ["Beat"]

EVERY = 1.0  # seconds between two texts
LISTED = 100  # lines of an answer, at most


class Beat:
    """Of one node."""

    def __init__(self, cache: Cache, shared: Shared) -> None:
        self.core = shared.core
        self._node = self.core.node()  # now: at exit a core may have been shut before the last facts are told
        self._place: PlaceBeat | None = None
        if self.core.place is not None:
            from zoocache._place_beat import PlaceBeat

            self._place = PlaceBeat(shared, cache.prefix)
            self._node = self._place.node
        self._cache = ref(cache)
        told = shared.settings.options
        self._options = {name: told[name] for name in ("replicas", "log_shards")}
        self._options["ack"] = next(name for name, code in ACKS.items() if code == told["ack"])
        self._began = time.monotonic()
        self._due = -EVERY
        self._questions: deque[bytes] = deque()
        self._answering = threading.Lock()

    def tell(self) -> None:
        """To be called a few times a second: makes the facts, and has answered what was asked."""
        cache = self._cache()
        if cache is None or cache.closed:
            return
        now = time.monotonic()
        if self._place is not None:
            if self._place.due(now):
                self._place.tell(now, self.facts(cache))
            return
        if now - self._due >= EVERY:
            self._due = now
            self.core.tell(json.dumps(self.facts(cache)).encode())
        self._questions.extend(self.core.asked())
        if self._questions and not self._answering.locked():
            try:
                threading.Thread(target=self._answer, name="zoocache-answers", daemon=True).start()
            except RuntimeError:  # the process ends
                pass

    def facts(self, cache: Cache) -> dict[str, Any]:
        """What it tells."""
        fills = FILLS.get(cache)
        return {
            "node": self._node,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "program": os.path.basename(sys.argv[0]) if sys.argv else "",
            "version": _ffi.library_version(),
            "uptime": round(time.monotonic() - self._began, 3),
            "health": cache.health().as_dict(),
            "stats": cache.stats()._asdict(),
            "options": self._options,
            "fills": None if fills is None else fills.as_dict(),
            "metrics": {} if fills is None else fills.metrics.copy(),
        }

    # ---- questions ---------------------------------------------------------------------------------

    def _answer(self) -> None:
        with self._answering:
            while self._questions:
                try:
                    asked = json.loads(self._questions.popleft())
                    cache = self._cache()
                    if cache is None:
                        return
                    reply = f"{{{cache.prefix}}}:reply:{asked['token']}".encode()
                    text = json.dumps({"node": self._node, **_done(cache, asked)}).encode()
                    self.core.ask((b"RPUSH", reply, text), (b"PEXPIRE", reply, b"10000"))
                except Exception as error:  # no question, or the server is gone: who asks does not wait for ever
                    logger.debug("zoocache: a monitor gets no answer: %s", type(error).__name__)


def _done(cache: Cache, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to a question."""
    work = _ANSWERS.get(asked["do"])
    if work is None:
        return {"error": f"this node does not know the command {asked['do']}"}
    try:
        return {"result": work(cache, *asked["args"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _inspect(cache: Cache, key: str) -> dict[str, Any] | None:
    """The entry of a key, and why it would not be served; None: there is none here."""
    for table in cache.tables():
        for entry in list(table.entries.values()):
            if table.key_text(entry.key) == key:
                return {"type": type(entry.value).__name__, **explained(table, cache, entry)._asdict()}
    return None


def _tags(cache: Cache, above: str = "") -> list[tuple[str, int]]:
    """The tags right below one, with how many entries depend on each or on what is below it; the largest first."""
    start, counts = f"{above}:" if above else "", dict[str, int]()
    for table in cache.tables():
        for entry in list(table.entries.values()):
            for tag in {_child(tag, start) for tag in tags_of(entry.deps) if tag[0] != "|" and tag.startswith(start)}:
                counts[tag] = counts.get(tag, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:LISTED]


def _child(tag: str, start: str) -> str:
    end = tag.find(":", len(start))
    return tag if end < 0 else tag[:end]


def _clear(cache: Cache) -> int:
    """Drops what this process has in its memory, and that alone. Returns how much that was."""
    entries: list[Entry] = [entry for table in cache.tables() for entry in list(table.entries.values())]
    for entry in entries:
        entry.owner.remove(entry, "deleted")
    return len(entries)


_ANSWERS: dict[str, Callable[..., Any]] = {
    "inspect": _inspect,
    "tags": _tags,
    "keys": lambda cache, tag: cache.keys(tag)[:LISTED],
    "clear": _clear,
    "prune": lambda cache, age=3600: cache.prune(float(age)),
    "invalidate": lambda cache, *tags: cache.invalidate(*tags),
}
