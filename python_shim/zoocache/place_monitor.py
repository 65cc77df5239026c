"""What there is of a fleet that shares a place: its nodes, and a way to invalidate.

    with PlaceBoard("memcached://cache.internal", prefix="shop") as board:
        for node in board.nodes():
            print(node.name, node.stats.get("hits"))
        board.invalidate("user:42")

Each node writes every five seconds what it has to tell about itself; that is read here. A place hands on no questions,
so ask() is refused, and what was invalidated is not listed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from zoocache._cache import Cache
from zoocache._place_beat import FORGOTTEN, facts_key, listed, nodes_key
from zoocache._shared import shown
from zoocache.doctor import BAD, FINE, NOTE, Finding
from zoocache.monitor import GONE, Board, Node, Said, _facts
from zoocache.storage import DEADLINE
from zoocache.storages import SCHEMES, open_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zoocache.storage import SharedStorage

__all__ = ["PlaceBoard", "board"]

_TIMEOUT = 2.0  # seconds of a call
_SLOW = 0.1  # seconds of a round trip that are worth a word


class PlaceBoard(Board):
    """The nodes that share a place under a prefix. For any thread; connects when it is asked something.

    url: as storage_url of configure(). seal_key: of caches that are sealed, needed to invalidate. Raises ValueError for
    a URL that is none; later OSError while the place does not answer, or what its client raises.
    """

    def __init__(self, url: str, prefix: str = "zoocache", *, seal_key: Any = None) -> None:
        self.url = url
        self.prefix = prefix
        self._seal_key = seal_key
        self._cache: Cache | None = None
        self.place: SharedStorage = open_url(url)

    def close(self) -> None:
        """Lets go of its connections. Nobody may be asking."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()
        self.place.close()

    def nodes(self) -> list[Node]:
        """Those that were heard of within the last minute, by name."""
        there = listed(self._ask(lambda place: place.read(nodes_key(self.prefix))[0]))
        texts = self._ask(lambda place: place.get_many([facts_key(self.prefix, node) for node in there]))
        now, found = time.time(), []
        for (node, at), text in zip(there.items(), texts):
            facts = _facts(text or b"{}")
            age = now - facts.get("at", at)
            status = facts.get("health", {}).get("status", GONE)
            if status != GONE or age < FORGOTTEN:
                found.append(Node(node, status, max(age, 0.0), facts))
        return sorted(found, key=lambda node: (node.name, node.id))

    def _ask(self, work: Callable[[SharedStorage], Any]) -> Any:
        """A call of the place. Raises OSError, whatever its client does."""
        token = DEADLINE.set(time.monotonic() + _TIMEOUT)
        try:
            return work(self.place)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"the place cannot be asked: {type(error).__name__}") from None
        finally:
            DEADLINE.reset(token)

    def examined(self) -> list[Any]:
        """How long a read takes, whether there is a log, and what is not well at which node."""
        began = time.monotonic()
        log = self._ask(lambda place: place.read(f"{self.prefix}.log".encode())[0])
        spent = time.monotonic() - began
        text = f"a read takes {spent * 1e3:.1f} ms"
        found = [Finding(FINE, "place", text)]
        if spent > _SLOW:
            found = [Finding(NOTE, "place", text, "four of them must have room in max_staleness")]
        if log is None:
            found.append(Finding(NOTE, "log", "there is none", f"no cache has used the prefix {self.prefix} here"))
        for node in self.nodes():
            bad = [name for name, check in node.checks.items() if check.get("status") != "ok"]
            if bad and node.status != GONE:
                found.append(Finding(BAD, "nodes", f"{node.name} is {node.status}: {', '.join(bad)}", "see its log"))
        return found

    def ask(self, do: str, *args: str | float, nodes: Iterable[str], timeout: float = 0.0) -> dict[str, dict[str, Any]]:
        """Refused, by a ValueError."""
        raise ValueError(f"nodes that share {shown(self.url)} cannot be asked: that needs Redis")

    @property
    def cache(self) -> Cache:
        """A cache of this process on the same log, which tells nothing about itself; made when it is needed."""
        if self._cache is None:
            made = Cache(storage_url=self.url, prefix=self.prefix, seal_key=self._seal_key, ack="durable")
            assert made.shared is not None
            made.shared.beat = None
            self._cache = made
        return self._cache

    def said(self, after: dict[int, str] | None = None) -> tuple[list[Said], dict[int, str]]:
        """Nothing."""
        return [], {}

    def invalidate(self, *tags: str) -> None:
        """Invalidates tags, everywhere; without tags, everything. Raises OSError if the log does not take it: if it is
        sealed, without its key.
        """
        from zoocache._errors import BusSilent

        try:
            self.cache.invalidate(*tags) if tags else self.cache.clear()
        except BusSilent as error:
            raise OSError(f"the log has not taken it: {error}") from None


def board(url: str, prefix: str = "zoocache", *, seal_key: Any = None, **tls: Any) -> Board:
    """That of the caches with this URL: a Board, or of a place a PlaceBoard."""
    if url.partition("://")[0] in SCHEMES:
        return PlaceBoard(url, prefix, seal_key=seal_key)
    return Board(url, prefix, seal_key=seal_key, **tls)
