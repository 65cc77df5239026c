"""What is executed on a connection of Django, and its transactions.

Each connection has a Watch from its first use on. An execute wrapper sees every statement; commit(), rollback(),
close() and what concerns savepoints are wrapped in the connection itself, as Django has no signals for them, and
on_commit() says nothing of a rollback and shows in the tests of those who count its hooks.

    autocommit   what a statement changes is invalidated when it has been executed, whether or not it raised
    atomic       a transaction() of the cache, see zoocache.transactions: what is changed is held back from the
                 statement on, said after the commit and before the hooks of on_commit(), and dropped with a rollback
    TestCase     an atomic that is never committed: all that a test has changed is gone for its context, computed anew
                 and not stored
"""

from __future__ import annotations

from django.conf import settings
from django.db import connections
from django.db.backends.signals import connection_created

from zoocache import _default
from zoocache.context import ACTIVE, CURRENT, TRANSACTION
from zoocache.contrib._sql import belongs
from zoocache.contrib.django.tags import changed
from zoocache.transactions import lease_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from zoocache._cache import Cache
    from zoocache.transactions import Transaction

__all__ = ["Watch", "cache", "configure", "install", "watch"]

_WRAPPED = ["commit", "rollback", "close", "set_autocommit", "savepoint", "savepoint_commit", "savepoint_rollback"]


def configure() -> tuple[float | dict[str, float], float]:
    """Has the default cache made as settings.ZOOCACHE says, unless it is there or was configured.

    Returns its lag and its hold, which are of connections.
    """
    options = dict(getattr(settings, "ZOOCACHE", None) or {})
    lag: float | dict[str, float] = options.pop("lag", 0.0)
    lease = lease_of(options.pop("hold", 0.0))
    state = _default.state
    with state.lock:
        if options and state.cache is None and not state.config:
            _default.configure(**options)
    return lag, lease


def cache() -> Cache:
    """The default cache."""
    if _default.state.cache is None:
        configure()
    return _default.cache()


class Watch:
    """Sees what is executed on one connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.cache: Cache | None = None  # of the transaction that is open
        self.blocks: list[tuple[str | None, Transaction]] = []  # it, and its savepoints
        lag, self.lease = configure()
        self.lag = lag.get(connection.alias, 0.0) if isinstance(lag, dict) else lag
        connection.execute_wrappers.append(self)
        for name in _WRAPPED:
            self._wrap(name, getattr(connection, name))

    def _wrap(self, name: str, original: Callable[..., Any]) -> None:
        before, after = getattr(self, f"before_{name}", None), getattr(self, f"after_{name}", None)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = None
            try:
                if before is not None:
                    before(*args, **kwargs)
                result = original(*args, **kwargs)
            except BaseException:
                if name in ("commit", "set_autocommit"):
                    self.over(name == "commit")  # nobody knows what became of it; it has not begun
                raise
            if after is not None:
                after(result, *args)
            return result

        setattr(self.connection, name, wrapped)

    # ---- transactions --------------------------------------------------------------------------------

    @property
    def block(self) -> Transaction | None:
        """The innermost block of its transaction, if one is open."""
        if not self.blocks:
            return None
        if self.cache is not None and self.cache.closed:
            self.begin_anew()
        return self.blocks[-1][1]

    def begin_anew(self) -> None:
        """There is another default cache, as tests have it: what is held back is so in that."""
        old, self.blocks = self.blocks, []
        for sid, block in old:
            block.__exit__(Exception, None, None)
            self.enter(sid)
            self.blocks[-1][1].hold(block.held)

    def enter(self, sid: str | None = None) -> None:
        """A block begins: the transaction's, or that of a savepoint."""
        parent = self.block
        if parent is None:
            self.cache = cache()
        assert self.cache is not None
        block = self.cache.transaction(hold=self.lease)
        block.enter(parent)
        if parent is not None and parent not in _outwards(block):
            block.outer, block.begin = parent, parent.begin  # it was begun in another context
        self.blocks.append((sid, block))

    def leave(self, well: bool) -> None:
        """The innermost block ends."""
        block = self.block
        assert block is not None
        self.blocks.pop()
        block.__exit__(None if well else Exception, None, None)

    def over(self, well: bool) -> None:
        """The transaction ends."""
        while self.blocks:
            self.leave(well)

    def until(self, sid: str, well: bool) -> bool:
        """The blocks end, from the innermost to that of a savepoint. Whether there is one."""
        if all(each != sid for each, _ in self.blocks):
            return False
        while self.blocks[-1][0] != sid:
            self.leave(well)
        self.leave(well)
        return True

    def before_set_autocommit(self, autocommit: bool, *args: Any, **kwargs: Any) -> None:
        if autocommit:
            self.over(True)
        elif not self.blocks:
            self.enter()

    def after_commit(self, result: None) -> None:
        self.over(True)

    def after_rollback(self, result: None) -> None:
        self.over(False)

    def after_close(self, result: None) -> None:
        self.over(False)

    def after_savepoint(self, sid: str | None) -> None:
        if sid is not None:
            if not self.blocks:
                self.enter()
            self.enter(sid)

    def after_savepoint_commit(self, result: None, sid: str) -> None:
        self.until(sid, True)

    def after_savepoint_rollback(self, result: None, sid: str) -> None:
        if self.until(sid, False):
            self.enter(sid)  # it is still there

    # ---- statements ----------------------------------------------------------------------------------

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """A statement is about to be executed."""
        if not self.connection.autocommit and not self.blocks:
            self.enter()  # the last one was committed, and no atomic has begun this
        self.reads()
        text = sql if isinstance(sql, str) else str(sql)
        tags = changed(text, params, many)
        if not tags:
            return execute(sql, params, many, context)
        block = self.block
        if block is not None:
            block.hold(tags)
            return execute(sql, params, many, context)
        if self.lease:  # announced before it is committed, which is when it is executed
            self.enter()
            self.blocks[-1][1].hold(tags)
        try:
            return execute(sql, params, many, context)
        finally:
            if not self.lease:
                self.enter()
                self.blocks[-1][1].hold(tags)
            self.leave(True)

    def reads(self) -> None:
        """What is being computed here reads from this connection."""
        fill = CURRENT.get() if ACTIVE else None
        if fill is None:
            return
        block = self.block
        if block is not None and self.cache is not None:
            belongs(fill, self.cache, block)
        if self.lag and hasattr(fill, "lineage"):
            for each in fill.lineage():
                each.begin = min(each.begin, each.cache.begin_ago(self.lag))

    def inside(self, call: Callable[..., Any], *args: Any) -> Any:
        """The call, as in the transaction of this connection, whichever context this is."""
        block = self.block
        if block is None or block in _outwards(TRANSACTION.get()):
            return call(*args)
        token = TRANSACTION.set(block)
        try:
            return call(*args)
        finally:
            TRANSACTION.reset(token)


def _outwards(block: Transaction | None) -> Iterator[Transaction]:
    """It, and what its context was in."""
    while block is not None:
        yield block
        block = block.outer


def watch(connection: Any) -> Watch:
    """The watch of a connection, which has one from now on."""
    found: Watch | None = getattr(connection, "_zoocache", None)
    if found is None:
        found = connection._zoocache = Watch(connection)
    return found


def _created(sender: Any, connection: Any, **kwargs: Any) -> None:
    watch(connection)


def install() -> None:
    """Connections are watched from now on, and those that this thread has."""
    connection_created.connect(_created, dispatch_uid="zoocache")
    if settings.configured:
        for each in connections.all(initialized_only=True):
            watch(each)
