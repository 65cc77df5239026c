"""SQLAlchemy 2: what a session commits is invalidated, and nothing before that. Needs zoocache[sqlalchemy].

    track(Session)  # a sessionmaker, async_sessionmaker, scoped_session, or a class of sessions

    @cacheable(deps=lambda uid: [row(User, uid)])
    def profile(uid): ...

    @cacheable(deps=[table(User)])
    def newest(): ...

    row(User, 42)   one row, by its primary key
    table(User)     whatever depends on rows that are not named: it changes with each of them
    whole(User)     for invalidate() by hand: all rows, and the table

    session.scalars(select(User).execution_options(zoocache=60))  # cached for 60 seconds; True: as the cache says

A transaction of a tracked session is a transaction() of the cache (see zoocache.transactions): what it writes is held
back, sent in one step after the commit, and dropped with a rollback; a savepoint likewise. It is of its session alone,
whatever other sessions or blocks are open in the context. What a cached function reads through the session begins with
the transaction, in whichever context it runs.

What is written is seen at the connection: each statement that changes something, be it of a flush, a bulk statement of
the ORM, of Core, or text. A flush names its rows, if they are not many; any other statement is taken to change the
whole of its tables, text all tables of known metadata that it names, or everything, if it names none. Foreign keys
that have the database change rows by itself (ON DELETE CASCADE, SET NULL) change the whole of their tables. Not seen
are triggers and views, and what a handler of a flush has the driver execute.

Of a cached select is kept what the driver gave for its text and parameters. A session makes objects of that as it does
of what the database says: they are its own, one for each identity, and what was changed in them stays. A hit needs no
connection. What joinedload, selectinload and subqueryload bring with it is cached as well; what is loaded later is not.
It depends on the tables that it names; on rows alone if it reads one table, by integers or UUIDs that the primary key
equals or is IN (text may equal other text, by a collation). A transaction that has written one of them has it computed,
and it is not stored. Always computed is what is FOR UPDATE, streamed or yield_per, what has populate_existing, writes,
reads no known table, or has a parameter that cannot be a key; what is no select; and all of a session that is bound to
a connection, whose commit may be none. Whatever else decides what a statement gives is not looked at: now(), random(),
what the connection was told, as its search_path or role.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID
from weakref import WeakKeyDictionary, WeakSet, ref

from zoocache import _default
from zoocache._durations import duration
from zoocache._fills import ABSENT
from zoocache._functions import Function
from zoocache._keys import Unkeyable, freeze
from zoocache._table import Fill, Rules, deepcopy
from zoocache.context import ACTIVE, CURRENT, TRANSACTION
from zoocache.contrib._sql import ROOT as _ROOT
from zoocache.contrib._sql import belongs
from zoocache.contrib._sql import text as _text
from zoocache.contrib._sql import whole as _whole
from zoocache.transactions import lease_of

try:
    from sqlalchemy import (
        CTE,
        BindParameter,
        Connection,
        Delete,
        Engine,
        Insert,
        Integer,
        Select,
        Table,
        TableClause,
        TextClause,
        Update,
        Uuid,
        event,
        inspect,
    )
    from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
    from sqlalchemy.orm import Mapper, Session, scoped_session, sessionmaker
    from sqlalchemy.sql import operators
    from sqlalchemy.sql.visitors import iterate
    from sqlalchemy.util import await_only, greenlet_spawn
except ImportError as error:
    raise ImportError("zoocache.contrib.sqlalchemy needs SQLAlchemy 2: pip install 'zoocache[sqlalchemy]'") from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from sqlalchemy import MetaData, Pool, Result
    from sqlalchemy.orm import ORMExecuteState, SessionTransaction, UOWTransaction, registry

    from zoocache._cache import Cache
    from zoocache.transactions import Transaction

__all__ = ["row", "table", "track", "whole"]

_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE|REPLACE|TRUNCATE|COPY|CALL|EXEC|EXECUTE|DO|ALTER|DROP)\b", re.I)
_WORD = re.compile(r"\w+")
_QUIET = {None, "NO ACTION", "RESTRICT"}  # what a foreign key may say without changing rows

_MANY = 100  # rows of a model that a flush names; of more it changes the whole table

_known: WeakSet[registry] = WeakSet()  # registries of models that were asked for or written


# ---- tags --------------------------------------------------------------------------------------------


def whole(of: Any) -> str:
    """The tag of a table, by its model or Table: to invalidate it is to invalidate all that depends on it."""
    return _named(_base(of))


def table(of: Any) -> str:
    """The tag that each change of a row changes, too: for what depends on rows that cannot be named."""
    return f"{whole(of)}:table"


def row(of: Any, *key: Any) -> str:
    """The tag of a row, by the values of its primary key, whether or not there is such a row."""
    base = _base(of)
    if len(key) == 1 and isinstance(key[0], tuple):
        key = key[0]
    columns = len(base.primary_key.columns)
    if len(key) != columns:
        raise TypeError(f"the primary key of {base.fullname} has {columns} columns, {len(key)} were given")
    return f"{_named(base)}:rows:{','.join(map(_text, key))}"


def _named(base: Table) -> str:
    return _whole(base.fullname)


def _base(of: Any) -> Table:
    """The table whose primary key is the identity of a model: of the base, if it inherits."""
    if isinstance(of, Table):
        return next(iter(_bases(of)))
    mapper: Mapper[Any] = inspect(of)
    _meet(mapper)
    found = mapper.base_mapper.local_table
    if not isinstance(found, Table):
        raise TypeError(f"{of!r} is not mapped to a table")
    return found


def _meet(mapper: Mapper[Any]) -> None:
    """Its registry, and those that models of it are related to, are known from now on."""
    todo = [mapper.registry]
    while todo:
        registry = todo.pop()
        if registry not in _known:
            _known.add(registry)
            todo += [other.mapper.registry for each in registry.mappers for other in each.relationships]


def _bases(of: Table) -> set[Table]:
    """The tables by which rows of this one are named: that of the base, for models that inherit."""
    mappers = [mapper for known in list(_known) for mapper in known.mappers if of in mapper.tables]
    found = {mapper.base_mapper.local_table for mapper in mappers}
    return {each for each in found if isinstance(each, Table)} or {of}


# ---- what a statement changes ------------------------------------------------------------------------


def _cascade(of: Table, clause: str) -> set[Table]:
    """The tables that the database changes by itself, for their foreign keys say so."""
    found: set[Table] = set()
    todo = [of]
    while todo:
        parent = todo.pop()
        for child in parent.metadata.tables.values():
            rules = [getattr(fk, clause) for fk in child.foreign_keys if fk.column.table is parent]
            if child not in found and any((rule and rule.upper()) not in _QUIET for rule in rules):
                found.add(child)
                todo.append(child)
    return found


def _changes(of: Table, clauses: Iterable[str]) -> set[str]:
    """The whole of a table, and of those that change with it."""
    changed = {of}.union(*(_cascade(of, clause) for clause in clauses))
    return {_named(base) for each in changed for base in {each} | _bases(each)}


def _itself(table: Table) -> Table:
    """The table, not what the ORM has annotated."""
    return table.metadata.tables.get(table.key, table)


def _by_statement(statement: Any) -> set[str]:
    """What a statement of Core changes: the whole of its tables."""
    tags: set[str] = set()
    for each in (statement, *(cte.element for cte in iterate(statement) if isinstance(cte, CTE))):
        if isinstance(each, (Insert, Update, Delete)):
            target = each.table
            if not isinstance(target, Table):
                return {_ROOT}
            target = _itself(target)
            clauses = {Delete: ("ondelete",), Update: ("onupdate",)}.get(type(each), ("ondelete", "onupdate"))
            tags |= _changes(target, clauses)
    return tags


def _by_text(text: str) -> set[str]:
    """What a statement as text changes: the tables that it names; all, if it names none that is known."""
    if not _WRITES.search(text):
        return set()
    tags: set[str] = set()
    for each in _tables_in(text, {known.metadata for known in list(_known)}):
        tags |= _changes(each, ("ondelete", "onupdate"))
    return tags or {_ROOT}


def _tables_in(text: str, among: Iterable[MetaData]) -> set[Table]:
    """The tables whose names are in a text."""
    text = text.lower()
    words = {*_WORD.findall(text)}
    tables = {each: each.name.lower() for metadata in among for each in metadata.tables.values()}
    return {each for each, name in tables.items() if name in words or (name in text and not _WORD.fullmatch(name))}


# ---- what a select reads -----------------------------------------------------------------------------


class _Reads:
    """What a compiled select reads."""

    def __init__(self, compiled: Any) -> None:
        statement = getattr(compiled.compile_state, "statement", compiled.statement)
        parts = [*iterate(compiled.statement), *iterate(statement)]
        for part in parts:
            mapper = getattr(part, "_annotations", {}).get("parentmapper")
            if mapper is not None:
                _meet(mapper)
        named = {_itself(part) for part in parts if isinstance(part, Table)}
        metadata = {each.metadata for each in named} | {known.metadata for known in list(_known)}
        tables = named | _tables_in(compiled.string, metadata)
        names = {each.name for each in tables}
        self.rows: tuple[str, list[str]] | None = None  # the name of its table, and of the parameters that are its key
        self.tables = {f"{_named(each)}:table" for each in tables}
        self.fit = not any(  # to be cached
            getattr(part, "_for_update_arg", None) is not None
            or isinstance(part, (Insert, Update, Delete))
            or (isinstance(part, TableClause) and part.name not in names)
            or (isinstance(part, TextClause) and not tables)
            for part in parts
        )
        if isinstance(statement, Select) and len(self.tables) == 1 and compiled.string.upper().count("SELECT") == 1:
            self.rows = self.by_key(compiled, statement)

    @staticmethod
    def by_key(compiled: Any, statement: Any) -> tuple[str, list[str]] | None:
        """The table, and the parameters that its primary key is to equal; None: other rows are read, too."""
        table, *others = statement.get_final_froms()
        where = statement.whereclause
        if others or not isinstance(table, Table) or _bases(table) != {table} or where is None:
            return None
        columns = table.primary_key.columns
        found = {}
        for each in where.clauses if getattr(where, "operator", None) is operators.and_ else [where]:
            right = getattr(each, "right", None)
            single = each.operator is operators.eq or (each.operator is operators.in_op and len(columns) == 1)
            if single and isinstance(right, BindParameter) and columns.contains_column(each.left):
                found[each.left.key] = compiled.bind_names[right]
        if any(not isinstance(each.type, (Integer, Uuid)) or each.key not in found for each in columns):
            return None
        return _named(table), [found[each.key] for each in columns]

    def tags(self, context: Any) -> set[str]:
        """What depends on what it reads with these parameters."""
        if self.rows is None:
            return self.tables
        table, names = self.rows
        given, several = context.compiled_parameters[0], context._expanded_parameters
        keys = [[given[each] for each in several.get(name, [name])] for name in names]
        if len(keys[0]) > _MANY or not all(type(value) in (int, UUID) for key in keys for value in key):
            return self.tables
        return {f"{table}:rows:{','.join(map(_text, key))}" for key in zip(*keys)}


_reads: WeakKeyDictionary[Any, _Reads] = WeakKeyDictionary()  # of compiled selects
_places: WeakKeyDictionary[Pool, Any] = WeakKeyDictionary()

# Of these types a value does not change.
_FIXED = {type(None), bool, int, float, str, bytes, Decimal, date, datetime, time, timedelta, UUID}


def _place(engine: Engine) -> Any:
    """What tells a database from others: its URL; its pool, if it is of this process alone, or has no name."""
    found = _places.get(engine.pool)
    if found is None:
        url = engine.url
        found = url.render_as_string()  # without the password
        if not url.database or url.database == ":memory:" or "memory" in str(url.query.get("mode")):
            found = ref(engine.pool)
        _places[engine.pool] = found
    return found


class _Nowhere:
    """A connection and its cursor, which are asked for nothing."""

    description = None

    def cursor(self, *args: Any, **options: Any) -> _Nowhere:
        return self

    def close(self) -> None:
        pass


_nowhere: Any = _Nowhere()


class _Cached(Connection):
    """Stands in for a session's connection: what it would execute is answered by the cache, if that can.

    All around it is SQLAlchemy's own: how a statement is compiled, and what becomes of the rows.
    """

    def __init__(self, state: ORMExecuteState, engine: Engine, tracker: _Tracker, life: float | None) -> None:
        super().__init__(engine, _nowhere, _has_events=False)
        self.state = state
        self.tracker = tracker
        self.life = life
        self.asked: tuple[Any, ...] = ()
        self.tags: set[str] = set()

    def execute(self, statement: Any, parameters: Any = None, *, execution_options: Any = None) -> Any:
        self.asked = statement, parameters, execution_options
        return super().execute(statement, parameters, execution_options=execution_options)

    def _execute_context(
        self,
        dialect: Any,
        constructor: Any,
        statement: Any,
        parameters: Any,
        execution_options: Any,
        *args: Any,
        **kw: Any,
    ) -> Any:
        context = constructor(dialect, self, _nowhere, execution_options, *args, **kw)
        reads = _reads.get(context.compiled)
        if reads is None:
            reads = _reads[context.compiled] = _Reads(context.compiled)
        try:
            key = (_place(self.engine), context.statement, freeze(context.parameters[0]))
        except Unkeyable:
            return self.result()
        watch = self.tracker.watches.get(self.state.session)
        block = watch.blocks[-1][1] if watch is not None and watch.blocks else None
        if not reads.fit or (block is not None and key in self.tracker.selects.flights):
            return self.result()  # who has a connection does not wait for who may need one
        self.tags = reads.tags(context)
        around = TRANSACTION.get()
        if block is not None:
            TRANSACTION.set(block)  # whichever the context knows of
        try:
            description, rows, fixed = self.value(key)
        finally:
            if block is not None:
                TRANSACTION.set(around)
        buffer = rows if fixed else deepcopy(rows)
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(None, description, buffer)
        return context._setup_result_proxy()

    def value(self, key: Any) -> Any:
        """What is cached under this key, be it now."""
        selects = self.tracker.selects
        value = selects.serve(key, (self,), {})
        if value is not ABSENT:
            return value
        fill = Fill(selects, key)
        fill.ttl = self.life
        selects.ticks_for(self.life)
        if self.dialect.is_async:
            return await_only(selects.alead(fill, (self,), {}))
        return selects.lead(fill, (self,), {})

    def result(self) -> Any:
        """What the session's own connection gives."""
        statement, parameters, options = self.asked
        connection = self.state.session.connection(bind_arguments=self.state.bind_arguments)
        return connection.execute(statement, parameters, execution_options=options)

    def answer(self) -> Any:
        """What is cached of that: of each column its name and type, the rows, and whether no value of them changes."""
        result = self.result()
        description = [(name, code, None, None, None, None, None) for name, code, *_ in result.cursor.description]
        rows = [tuple(row) for row in result._fetchall_impl()]
        return description, rows, all(type(value) in _FIXED for row in rows for value in row)


def select(asked: _Cached) -> Any:
    """The function whose values are cached."""
    return greenlet_spawn(asked.answer) if asked.dialect.is_async else asked.answer()


# ---- sessions ----------------------------------------------------------------------------------------


class _Watch:
    """A session's transaction, and its savepoints, as blocks of the cache's."""

    def __init__(self, cache: Cache, lag: float, lease: float) -> None:
        self.cache = cache
        self.lag = lag
        self.lease = lease
        self.blocks: list[tuple[SessionTransaction | None, Transaction]] = []
        self.committed: SessionTransaction | None = None
        self.connections: list[Connection] = []
        self.flushing = False
        self.written: set[Table] = set()  # by the flush that runs

    def enter(self, of: SessionTransaction | None) -> None:
        """A block begins: a savepoint of the one before; or the first, which the session commits by itself."""
        block = self.cache.transaction(hold=self.lease)
        block.enter(self.blocks[-1][1] if self.blocks else None)
        if self.lag and block.begin is not None:
            block.begin = min(block.begin, self.cache.begin_ago(self.lag))
        self.blocks.append((of, block))

    def leave(self, well: bool) -> None:
        """The innermost block ends."""
        _, block = self.blocks.pop()
        beside = self.waits_beside()
        if not self.blocks:
            self.part()
        kind = None if well else Exception
        if beside:
            await_only(block.__aexit__(kind, None, None))
        else:
            block.__exit__(kind, None, None)

    def waits_beside(self) -> bool:
        """Whether what is told to others must not block the loop."""
        return self.cache.shared is not None and any(c.dialect.is_async for c in self.connections)

    def hold(self, tags: set[str]) -> None:
        """The innermost block holds these back, and announces it if it has a lease."""
        block = self.blocks[-1][1]
        if tags and self.lease and self.waits_beside():
            await_only(self.cache._beside(block.hold, tags))
        elif tags:
            block.hold(tags)

    def join(self, connection: Connection) -> None:
        """Sees what is executed on this connection, too."""
        if connection not in self.connections:
            self.connections.append(connection)
            event.listen(connection, "before_execute", self.executes)
            if not self.flushing:
                event.listen(connection, "before_cursor_execute", self.executes_text)

    def part(self) -> None:
        """Sees nothing more."""
        for connection in self.connections:
            event.remove(connection, "before_execute", self.executes)
            if not self.flushing:
                event.remove(connection, "before_cursor_execute", self.executes_text)
        self.connections.clear()

    def flush(self, begins: bool) -> None:
        """While a flush runs, cursors are not looked at: it may have one for each row."""
        if self.flushing is not begins:
            self.flushing = begins
            change = event.remove if begins else event.listen
            for connection in self.connections:
                change(connection, "before_cursor_execute", self.executes_text)

    def executes(self, connection: Any, statement: Any, *more: Any) -> None:
        """A statement is about to be executed."""
        if ACTIVE:
            belongs(CURRENT.get(), self.cache, self.blocks[-1][1])
        if isinstance(statement, TextClause):
            tags = _by_text(statement.text)
        elif self.flushing and self.by_flush(statement):
            return
        else:
            tags = _by_statement(statement)
        self.hold(tags)

    def executes_text(self, connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:
        """A statement is about to be executed, which may be one that the driver alone has seen."""
        if context is None or context.compiled is None:
            self.executes(connection, TextClause(text.replace(":", " ")))

    def by_flush(self, statement: Any) -> bool:
        """Whether a flush's statement is of a table, all of which changes unless flushed() names its rows."""
        target = getattr(statement, "table", None)
        if isinstance(target, Table):
            self.written.add(target)
        return isinstance(target, Table)

    def flushed(self, context: UOWTransaction) -> None:
        """Holds back the rows that a flush has written; the whole of tables that it has written and not named."""
        tags: set[str] = set()
        rows: dict[Mapper[Any], list[tuple[Any, bool]]] = {}
        for state, (gone, only_listed) in context.states.items():
            if not only_listed:
                rows.setdefault(state.mapper, []).append((state, gone))
        for mapper, states in rows.items():
            _meet(mapper)
            if len(states) > _MANY or any(each.post_update for each in mapper.relationships):
                continue
            for state, gone in states:
                tags |= _rows_of(state, gone)
            self.written -= set(mapper.tables)
        for each in self.written:
            tags |= _changes(each, ("ondelete", "onupdate"))
        self.written.clear()
        self.hold(tags)


def _rows_of(state: Any, gone: bool) -> set[str]:
    """The tags of an object that was written: its row, also by the key that it had before, and its table."""
    mapper: Mapper[Any] = state.mapper
    base = mapper.base_mapper.local_table
    if not isinstance(base, Table):
        return {_ROOT}
    name = _named(base)
    tags = {f"{_named(each)}:table" for each in mapper.tables if isinstance(each, Table)}
    keys = [tuple(mapper.primary_key_from_instance(state.obj()))]
    if state.key is not None:
        keys.append(state.key[1])
    moved = len(keys) == 2 and keys[0] != keys[1]
    for key in keys:
        try:
            tags.add(f"{name}:rows:{','.join(map(_text, key))}")
        except TypeError:  # of a type that has no text
            tags.add(name)
    if gone or moved:
        for each in mapper.tables:
            if isinstance(each, Table):
                for child in _cascade(each, "ondelete" if gone else "onupdate"):
                    tags |= _changes(child, ())
    return tags


class _Tracker:
    """The listeners of one kind of session."""

    def __init__(self, cache: Cache | None, lag: float, hold: float) -> None:
        self.given = cache
        self.lag = duration("lag", lag)
        self.lease = lease_of(hold)
        self.watches: WeakKeyDictionary[Session, _Watch] = WeakKeyDictionary()
        self.selects = Function(select, "sqlalchemy", lambda asked: asked.tags, None, cache, Rules(on_error="retry"))
        self.selects.method = True  # a key may have a database that is gone

    def listen(self, target: Any) -> None:
        for name in (
            "after_transaction_create",
            "after_begin",
            "before_flush",
            "after_flush",
            "after_flush_postexec",
            "after_commit",
            "after_transaction_end",
            "do_orm_execute",
        ):
            event.listen(target, name, getattr(self, name))

    def watch(self, session: Session) -> _Watch:
        found = self.watches.get(session)
        if found is None:
            cache = _default.cache() if self.given is None else self.given
            found = self.watches[session] = _Watch(cache, self.lag, self.lease)
        return found

    def after_transaction_create(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested:
            watch = self.watch(session)
            if not watch.blocks:
                watch.enter(None)
            watch.enter(transaction)

    def after_begin(self, session: Session, transaction: SessionTransaction, connection: Connection) -> None:
        watch = self.watch(session)
        if not watch.blocks:
            watch.enter(None)
        watch.join(connection)

    def before_flush(self, session: Session, context: UOWTransaction, instances: Any) -> None:
        self.watch(session).flush(True)

    def after_flush(self, session: Session, context: UOWTransaction) -> None:
        watch = self.watch(session)
        if watch.blocks:
            watch.flushed(context)

    def after_flush_postexec(self, session: Session, context: UOWTransaction) -> None:
        self.watch(session).flush(False)

    def after_commit(self, session: Session) -> None:
        self.watch(session).committed = session.get_nested_transaction() or session.get_transaction()

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        watch = self.watch(session)
        watch.flush(False)  # it may have failed
        watch.written.clear()
        well = watch.committed is transaction
        if transaction.nested:
            if watch.blocks and watch.blocks[-1][0] is transaction:
                watch.leave(well)
        elif transaction.parent is None:
            while watch.blocks:
                watch.leave(well and watch.blocks[-1][0] is None)

    def do_orm_execute(self, state: ORMExecuteState) -> Result[Any] | None:
        if not state.is_select or not state.execution_options.get("zoocache"):
            return None
        if state.is_column_load or state.lazy_loaded_from is not None:
            return None
        while state._remaining_events():  # other listeners come first, whenever they were added
            state._starting_event_idx += 1
            found: Any = state._events_todo[state._starting_event_idx](state)
            if found is not None:
                return found  # type: ignore[no-any-return]
        options = state.execution_options
        life = options.get("zoocache")
        bind = state.session.get_bind(**state.bind_arguments)
        if not life or not isinstance(bind, Engine) or any(options.get(each) for each in _NOT_CACHED):
            return state.invoke_statement()
        return _executed(state, _Cached(state, bind, self, None if life is True else duration("zoocache", life)))


# Options of statements that are not cached.
_NOT_CACHED = ("populate_existing", "yield_per", "stream_results")


def _executed(state: ORMExecuteState, connection: _Cached) -> Result[Any]:
    """What a session does to execute a select, by this connection."""
    session: Any = state.session
    statement, options = state.statement, state.local_execution_options
    compiling: Any = state._compile_state_cls
    if compiling is None:
        session._autoflush()
        return connection.execute(statement, state.parameters or {}, execution_options=options)  # type: ignore[no-any-return]
    bound = state.bind_arguments
    statement, options = compiling.orm_pre_session_exec(session, statement, state.parameters, options, bound, False)[:2]
    return compiling.orm_execute_statement(session, statement, state.parameters, options, bound, connection)  # type: ignore[no-any-return]


def track(sessions: Any, *, cache: Cache | None = None, lag: float = 0.0, hold: float = 0.0) -> Any:
    """From now on what these sessions commit is invalidated, in the cache or the default one. Returns what was given.

    sessions: a session, or what makes them: a sessionmaker, scoped_session, async_sessionmaker,
    async_scoped_session, a subclass of Session, or one of AsyncSession that has a sync_session_class of its own.
    lag: they read a replica, which may be so many seconds behind: what may have been invalidated since then is
    returned, not stored.
    hold: seconds in which a transaction is sure to be committed, from its first change on: what it changes is announced
    before the commit, so that a crash leaves nothing stale (see transaction()). It costs a round trip or two for each
    flush or statement that changes what was not changed before.
    """
    target = sessions
    if isinstance(target, (scoped_session, async_scoped_session)):
        target = target.session_factory
    if isinstance(target, async_sessionmaker):
        inner = target.kw.get("sync_session_class", Session)
        target.kw["sync_session_class"] = inner = type("TrackedSession", (inner,), {})
        target = inner
    elif isinstance(target, AsyncSession):
        target = target.sync_session
    elif isinstance(target, type) and issubclass(target, AsyncSession):
        if target.sync_session_class is Session:
            raise TypeError(f"{target.__name__} has no sync_session_class of its own: give an async_sessionmaker")
        target = target.sync_session_class
    kind = target if isinstance(target, type) else type(target)
    if not issubclass(kind, (Session, sessionmaker)):
        raise TypeError(f"track() takes sessions or what makes them, not {type(sessions).__name__}")
    _Tracker(cache, lag, hold).listen(target)
    return sessions
