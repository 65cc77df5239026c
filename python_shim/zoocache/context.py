"""What is being computed, and what it depends on so far; whether caches are switched off here, and transactions.

The innermost running cached call is kept in a context variable, so nested calls, tasks, and threads that
are started with a copy of the context find it.
"""

from __future__ import annotations

from contextvars import ContextVar

from zoocache import _ffi, _tags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextvars import Token
    from typing import Any

__all__ = ["DepsTracker", "add_deps", "disabled", "get_current_deps"]

# Both stay what they are if this module is reloaded: others have them.
# Who gathers dependencies here: a running fill, or a DepsTracker. Both have .deps and .done.
CURRENT: ContextVar[Any] = globals().get("CURRENT") or ContextVar("zoocache", default=None)

# Everything in this process that gathers dependencies. Empty: a hit need not look at CURRENT.
ACTIVE: dict[Any, None] = globals().get("ACTIVE", {})

# Everything in this process that switches caches off: a mark of each disabled() block that has not ended, and
# each cache that was made off. Empty: nobody need ask.
OFF: dict[object, None] = globals().get("OFF", {})

# The mark of the block that this context is in, or was in: once it is not in OFF, the block has ended everywhere.
DISABLED: ContextVar[object] = globals().get("DISABLED") or ContextVar("zoocache_disabled", default=None)


# The transactions of this process that have not ended (see transactions). Empty: nobody need ask.
OPEN: dict[Any, None] = globals().get("OPEN", {})

# The innermost transaction that this context is in, or was in.
TRANSACTION: ContextVar[Any] = globals().get("TRANSACTION") or ContextVar("zoocache_transaction", default=None)


def transaction_of(cache: Any) -> Any:
    """The transaction on this cache that this context is in, or None. Ask only if OPEN is not empty."""
    found = TRANSACTION.get()
    while found is not None and (found.over or found.cache is not cache):
        found = found.outer
    return found


def holds_back(cache: Any) -> bool:
    """Whether this context's transaction holds anything back. Ask only if OPEN is not empty."""
    found = transaction_of(cache)
    return found is not None and found.holding()


def held_here(cache: Any, deps: Any) -> bool:
    """Whether this context's transaction holds back a tag of these, or one above. Ask only if OPEN is not empty."""
    found = transaction_of(cache)
    return found is not None and found.holds(tags_of(deps))


def held_anywhere(cache: Any, deps: Any) -> bool:
    """Whether any transaction of the process does."""
    return any(each.held and each.cache is cache and each.holds(tags_of(deps)) for each in list(OPEN))


def is_off(cache: Any) -> bool:
    """Whether the cache computes everything anew here. Ask only if OFF is not empty."""
    return cache.off or DISABLED.get() in OFF


class disabled:
    """In its block, and in the tasks that are begun there, cached functions compute, and nothing is stored or served.

    get() gives None, and set() takes away what was there. Invalidations are done and told as always. It ends with its
    block, for all that was begun in it. A hit costs nothing for it: while there is such a block in the process, no
    entry has the word that lets it pass unseen (see Table.look), and whoever looks asks for the context.
    """

    def __init__(self) -> None:
        self._mark: object = None

    def __enter__(self) -> None:
        if self._mark is not None:
            raise RuntimeError("zoocache: a disabled() is good for one block at a time; call it again for another")
        self._mark = mark = object()
        if DISABLED.get() not in OFF:
            OFF[mark] = None  # first: from now on no entry gets the word,
            _ffi.change()  # and now none has it
            DISABLED.set(mark)

    def __exit__(self, *exc_info: object) -> None:
        mark, self._mark = self._mark, None
        OFF.pop(mark, None)


def add_deps(deps: Iterable[str]) -> None:
    """Adds tags to what the innermost running cached call depends on; outside of one, does nothing.

    Raises InvalidTag for what is not a tag. A single string is one tag.
    """
    gatherer = CURRENT.get()
    if gatherer is None:
        return
    tags = _tags.listed(deps)
    for tag in tags:
        if not _tags.fine(tag):
            _tags.refuse((tag,))
    gatherer.deps.update(tags)


def get_current_deps() -> set[str] | None:
    """The tags that the innermost running cached call depends on so far; None outside of one."""
    gatherer = CURRENT.get()
    return None if gatherer is None else gatherer.deps


class DepsTracker:
    """Gathers in ``.deps`` the tags of everything cached that is called in its block."""

    outer: Any = None  # what the block is in

    def __init__(self) -> None:
        self.deps: set[str] = set()
        self.done = False
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> DepsTracker:
        if not self._tokens:
            self.outer = CURRENT.get()
        self._tokens.append(CURRENT.set(self))
        ACTIVE[self] = None
        return self

    def __exit__(self, *exc_info: object) -> None:
        CURRENT.reset(self._tokens.pop())
        if not self._tokens:
            ACTIVE.pop(self, None)


def tags_of(deps: Any) -> tuple[str, ...]:
    """The tags of what an entry depends on."""
    if type(deps) is str:
        return (deps,)
    names: tuple[str, ...] = deps.tags()
    return names


def note(entry: Any) -> None:
    """A cached value was served: what computes here depends on what it depends on."""
    gatherer = CURRENT.get()
    if gatherer is not None and not gatherer.done:
        gatherer.deps.update(tags_of(entry.deps))
