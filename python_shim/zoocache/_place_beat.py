"""What a node tells about itself over a place, every five seconds, so that ``zoocache nodes`` finds it.

    <prefix>.nodes        one value, changed by compare-and-set: of each node the id, and when it was there last; a node
                          writes to it when it comes and three times a minute, and leaves out who has not for a minute
    <prefix>.node.<id>    a record: the facts, which end by themselves

It is told beside, by a thread of those that coroutines have their storage asked by. What fails is said as other calls
of the storage are, and tried again five seconds later.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

from zoocache._ffi import OK

if TYPE_CHECKING:
    from concurrent.futures import Future

    from zoocache._shared import Shared
    from zoocache.storage import SharedStorage

__all__ = ["FORGOTTEN", "PlaceBeat", "facts_key", "listed", "nodes_key"]

EVERY = 5.0  # seconds between two texts
LISTED = 20.0  # and between two looks at the list
FORGOTTEN = 60.0  # who was silent for so long is listed no longer


def nodes_key(prefix: str) -> bytes:
    """Of the list."""
    return f"{prefix}.nodes".encode()


def facts_key(prefix: str, node: str) -> bytes:
    """Of what a node tells."""
    return f"{prefix}.node.{node}".encode()


def listed(value: bytes | None) -> dict[str, float]:
    """The nodes, and when they were there last; of what is no list, none."""
    try:
        found = json.loads(value or b"{}")
        return {node: float(at) for node, at in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


class PlaceBeat:
    """Of one node."""

    def __init__(self, shared: Shared, prefix: str) -> None:
        self.node = secrets.token_hex(8)
        self._shared = shared
        self._prefix = prefix
        self._due = self._list_due = 0.0
        self._told: Future[None] | None = None

    def due(self, now: float) -> bool:
        """Whether it is time, and what was told last is over."""
        return now >= self._due and (self._told is None or self._told.done())

    def tell(self, now: float, facts: dict[str, Any]) -> None:
        """Has it told."""
        self._due = now + EVERY
        self._told = self._shared.later((), self._write, now, json.dumps({"at": time.time(), **facts}).encode())

    def _write(self, now: float, text: bytes) -> None:
        place = self._shared.core.place
        if place is None or place.storage is None:
            return  # it was closed meanwhile
        end = time.time() + 3 * EVERY
        code = place.do("put", facts_key(self._prefix, self.node), text, end)
        if code == OK and now >= self._list_due and place.call(self._enlist) == OK:
            self._list_due = now + LISTED

    def _enlist(self, storage: SharedStorage) -> int:
        value, token = storage.read(nodes_key(self._prefix))
        now = time.time()
        nodes = {node: at for node, at in listed(value).items() if now - at < FORGOTTEN}
        nodes[self.node] = round(now)
        return OK if storage.swap(nodes_key(self._prefix), json.dumps(nodes).encode(), token) else 1
