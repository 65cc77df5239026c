"""Transactions: invalidations that wait for the commit, and values that are not of before it.

    with transaction():
        session.execute(update(User)...)
        invalidate("user:42")  # held back
        profile(42)            # computed anew, as this transaction sees its own writes, and not stored
        session.commit()

When the block has ended well, what was held back is invalidated in one step; if it raised, nothing was said. So an
invalidation comes neither before its commit, when another would store the old value once more, nor without it.

    begin    Each fill of the block begins with it: a snapshot is as old as the transaction, so what it reads is not
             stored if it was invalidated since. The one rule of the library does the rest.
    held     Tags that are held back. For the contexts that are in the block, what depends on one of them, or on one
             below it, is gone already, and what is computed is of these contexts alone: others get what was there,
             and nobody waits for, or is given, what may never be committed.
    again    What takes effect at once, as it is by key (delete, clear, evict_scope), and once more at the end, for
             others may have stored the old value meanwhile.

With transaction(hold=seconds) what is held back is also announced at once, before the commit: it is invalidated, and
what depends on it is stored by nobody, in whichever process, until the block has ended or, if this process dies, the
seconds are over. So a crash between the commit and its invalidation leaves nothing stale: a value served at some time
reflects every commit that is older than max_staleness.

A block in a block is a savepoint: what it holds back goes to the one around it if it ends well, and is dropped if
not. Say what changes before it is read: a value that is computed between a write and its invalidate() is stored.
"""

from __future__ import annotations

from zoocache import _ffi, _tags
from zoocache._durations import duration, shown
from zoocache.context import OPEN, TRANSACTION, transaction_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from zoocache._cache import Cache

__all__ = ["Transaction", "lease_of"]


class Transaction:
    """A block, for with and async with, of one context and the tasks that are begun in it. Good for one block."""

    def __init__(self, cache: Cache, snapshot: bool = True, hold: float = 0.0) -> None:
        self.cache = cache
        self.snapshot = snapshot
        self.lease = lease_of(hold)
        self.announced: dict[int, tuple[str, ...]] = {}  # holds, and their tags
        self.held: set[str] = set()
        self.again: list[Callable[[], object]] = []
        self.begin: int | None = None  # of its fills, at the latest; None: as ever
        self.outer: Transaction | None = None  # what its context was in, of whichever cache
        self.parent: Transaction | None = None  # whose savepoint it is
        self.over = False
        self._entered = False

    # ---- what it holds back --------------------------------------------------------------------------

    def hold(self, tags: Iterable[str]) -> None:
        """Keeps these tags for the end. Raises InvalidTag."""
        checked = _tags.widened(tuple(tags))
        if not all(map(_tags.fine, checked)):
            _tags.refuse(checked)
        self.held.update(checked)
        _ffi.change()  # no entry has the word any more: each is looked at, and then seen to be held back
        self._announce(checked)

    def _announce(self, tags: tuple[str, ...]) -> None:
        """Has every process hold them, if that is wanted."""
        block: Transaction | None = self
        while block is not None and not block.lease:
            block = block.parent
        if block is None:
            return
        known = {tag for each in self._blocks() for held in each.announced.values() for tag in held}
        new = tuple(tag for tag in tags if not _below(tag, known))
        if not new:
            return
        from zoocache._ffi_shared import hold

        code, held = hold(self.cache.core, _tags.pack(new), block.lease)
        if code:
            self.cache._told(code, new)
        else:
            self.announced[held] = new

    def _release(self) -> None:
        """Ends what it has announced."""
        ended, self.announced = self.announced, {}
        if not ended:
            return
        from zoocache._ffi_shared import hold_end

        for held, tags in ended.items():
            code = hold_end(self.cache.core, held)
            if code:
                self.cache._told(code, tags)

    def holding(self) -> bool:
        """Whether it, or one around it, has held anything back."""
        return any(each.held for each in self._blocks())

    def holds(self, tags: Iterable[str]) -> bool:
        """Whether it, or one around it, holds back one of the tags, or one above it."""
        return any(_below(tag, each.held) for each in self._blocks() if each.held for tag in tags)

    def _blocks(self) -> Iterator[Transaction]:
        """It, and those around it."""
        found: Transaction | None = self
        while found is not None:
            if found.cache is self.cache and not found.over:
                yield found
            found = found.parent or found.outer

    # ---- the block -----------------------------------------------------------------------------------

    def enter(self, parent: Transaction | None) -> None:
        """Begins it: as a savepoint of the parent, or to be committed by itself, whatever it is in."""
        if self._entered:
            raise RuntimeError("zoocache: a transaction() is good for one block; call it again for another")
        self.cache.check_open()
        self._entered = True
        self.parent = parent
        self.outer = TRANSACTION.get()
        around = parent or transaction_of(self.cache)
        if around is not None and around.begin is not None:
            self.begin = around.begin
        elif self.snapshot:
            self.begin = self.cache.core.seen.value
        OPEN[self] = None
        TRANSACTION.set(self)

    def __enter__(self) -> Transaction:
        self.enter(transaction_of(self.cache))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ends(kind is None):
            self._say()
        elif self.announced:
            self._release()

    async def __aenter__(self) -> Transaction:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ends(kind is None):
            await self.cache._beside(self._say)
        elif self.announced:
            await self.cache._beside(self._release)

    def _ends(self, well: bool) -> bool:
        """Ends it. Whether what was held back is to be said now; if not, it was dropped, or is the parent's."""
        self.over = True
        OPEN.pop(self, None)
        if TRANSACTION.get() is self:  # not if the collector ends a generator in the context of another
            TRANSACTION.set(self.outer)
        parent = self.parent
        while parent is not None and parent.over:
            parent = parent.parent
        if well and parent is not None:
            parent.held |= self.held
            parent.again += self.again
            parent.announced.update(self.announced)  # until that is committed
            self.announced = {}
        return well and parent is None

    def _say(self) -> None:
        """What was held back takes effect; no other block holds it back once more."""
        around = TRANSACTION.get()
        TRANSACTION.set(None)
        try:
            if self.held:
                self.cache.invalidate(*self.held)
            for work in self.again:
                work()
        finally:
            TRANSACTION.set(around)
            self._release()


def lease_of(hold: float) -> float:
    """The seconds of a hold; 0: none. Raises TypeError or ValueError."""
    lease = duration("hold", hold)
    if lease and not 0.001 <= lease <= 3600:
        raise ValueError(f"hold is from 0.001 to 3600 seconds, not {shown(hold)}")
    return lease


def _below(tag: str, held: set[str]) -> bool:
    """Whether the tag, or one above it, is among these."""
    end = len(tag)
    while end > 0:
        if tag[:end] in held:
            return True
        end = tag.rfind(":", 0, end)
    return False
