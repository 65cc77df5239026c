"""Which entry gives way when a cache with ``max_entries`` is full.

S3-FIFO (Yang et al., 2023): new entries wait in a small queue, a tenth of the room; those that are read
there move on to the main queue, the others leave, and only hashes of their keys are remembered for a
while (a key has the arguments of its call), so that a second visit goes straight to the main queue. Two keys
of one hash cost a good place, nothing else. The main queue is a CLOCK.

The mark of a visit costs a hit nothing: ``entry.word`` is 0 after the queue has looked at an entry, which
sends its next reader the long way round, and that writes the word.
"""

from __future__ import annotations

from collections import OrderedDict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Policy"]


class Policy:
    """Called with the cache's lock held."""

    weight = 0  # of all entries, where they are weighed

    __slots__ = ("ghosts", "limit", "main", "small", "small_limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.small_limit = max(1, limit // 10)
        self.small: OrderedDict[Any, None] = OrderedDict()
        self.main: OrderedDict[Any, None] = OrderedDict()
        self.ghosts: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.small) + len(self.main)

    def insert(self, entry: Any) -> list[Any]:
        """Takes a new entry in. Returns those that give way."""
        leaving = []
        while len(self) >= self.limit:
            leaving.append(self._evict())
        if self.ghosts.pop(hash((id(entry.owner), entry.key)), self) is None:
            self.main[entry] = None
        else:
            self.small[entry] = None
        return leaving

    def remove(self, entry: Any) -> None:
        """An entry has left by itself."""
        if self.small.pop(entry, self) is self:
            self.main.pop(entry, None)

    def clear(self) -> None:
        """Every entry has left."""
        self.small.clear()
        self.main.clear()
        self.ghosts.clear()

    def _evict(self) -> Any:
        while True:
            if self.small and (len(self.small) >= self.small_limit or not self.main):
                entry, _ = self.small.popitem(last=False)
                if entry.word:
                    entry.word = 0
                    self.main[entry] = None
                    continue
                self.ghosts[hash((id(entry.owner), entry.key))] = None
                if len(self.ghosts) > len(self) + 1:  # as many as there were entries
                    self.ghosts.popitem(last=False)
                return entry
            entry, _ = self.main.popitem(last=False)
            if not entry.word:
                return entry
            entry.word = 0
            self.main[entry] = None
