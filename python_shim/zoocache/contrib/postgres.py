"""PostgreSQL: whatever changes a table invalidates what depends on it, whoever it was. Needs zoocache[postgres].

    python -m zoocache.contrib.postgres install postgresql://localhost/shop user order

    follow("postgresql://localhost/shop")

    @cacheable(deps=lambda uid: [row("user", uid)])
    def profile(uid): ...

    @cacheable(deps=[table("user")])
    def newest(): ...

    row("user", 42)   one row, by its primary key
    table("user")     whatever depends on rows that are not named: it changes with each of them
    whole("user")     for invalidate() by hand: all rows, and the table

The tags are those of zoocache.contrib.sqlalchemy: both may be used together, and models name the same rows.

    log       Triggers of the tables write what a statement has changed into a table, zoocache.outbox, as a part of its
              transaction: a program in another language, psql, COPY, TRUNCATE, a cascade, another trigger. Of up to
              100 rows it has the keys; of more, or without a primary key of integers, text, UUIDs, bytea and dates,
              that the whole table has changed.
    doorbell  NOTIFY, which wakes who follows; what it says is read from the log.
    position  How far a process has read: a snapshot of the database, not a number, so that a transaction that commits
              after others which began later is still read.
    bound     After ``max_staleness`` seconds, T, in which the log could not be read, everything is invalidated, and
              again after each further T. So no value is served T after a commit that it does not know of, whatever
              becomes of the connection, as long as the threads of the process run; connected, it is milliseconds.

A value that is being computed when its invalidation arrives is not stored: the one rule of the library holds.

Memory alone: each process follows for itself. With a bus one process does it for all, as what it invalidates goes to
the others: have a second one, since the bound is kept by who follows.

What is taken out of the log by hand (TRUNCATE, DELETE, DROP and install) has all invalidated. A change of definitions
(ALTER, DROP, a partition that comes or goes) changes no rows, but who follows looks at the catalog, too, four times in
T, and invalidates all of a table that is not what it was. Nothing else is needed then: triggers find the primary key
when they run. A table without its triggers (made anew, renamed into its place, DISABLE TRIGGER, a new partition, or one
that logical replication writes, for which they do not run) is invalidated as often, and named in a warning, until
install is run again. A view has no tag: what is read through one depends on its tables. A transaction that has written
cannot be PREPAREd. PostgreSQL 14 or later.
"""

from __future__ import annotations

import os
import random
import selectors
import socket
import threading
import time
from contextlib import suppress
from math import ceil, inf
from weakref import WeakSet

from zoocache import _default
from zoocache._durations import duration, seconds
from zoocache._errors import BusSilent
from zoocache._log import logger
from zoocache.contrib import _sql
from zoocache.contrib._sql import table, whole

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise ImportError("zoocache.contrib.postgres needs psycopg 3: pip install 'zoocache[postgres]'") from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any

    from zoocache._cache import Cache

__all__ = ["Follower", "follow", "install", "remove", "row", "sql", "table", "whole"]

_POSITION = "|zoocache.contrib.postgres"  # the key under which a storage has it
_PAUSE = 4  # the log is read at least this often in T
_SAVE = 10.0  # seconds between positions that are kept
_TAGS = 1000  # of one invalidation
_SOON, _LATE = 0.05, 5.0  # seconds until it connects again

_SQL = """
CREATE SCHEMA IF NOT EXISTS zoocache;

-- What was changed: the keys of these rows, as text; all of the table, if there are none.
CREATE TABLE IF NOT EXISTS zoocache.outbox (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    name text NOT NULL,
    keys text[]
);
CREATE INDEX IF NOT EXISTS outbox_xid ON zoocache.outbox (xid);

-- What ended before `below` is deleted. What had ended before `coming`, at that time, comes next.
CREATE TABLE IF NOT EXISTS zoocache.trimmed (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    below xid8 NOT NULL DEFAULT '0',
    coming xid8 NOT NULL DEFAULT '0',
    at timestamptz NOT NULL DEFAULT now()
);
-- Who last removed what was not trimmed, or made all of this: who has not seen that transaction has lost something.
ALTER TABLE zoocache.trimmed ADD COLUMN IF NOT EXISTS wiped xid8 NOT NULL DEFAULT pg_current_xact_id();
INSERT INTO zoocache.trimmed DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE OR REPLACE FUNCTION zoocache.wiped() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP <> 'TRUNCATE' THEN
        IF NOT EXISTS (SELECT FROM gone, zoocache.trimmed t WHERE gone.xid >= t.below) THEN
            RETURN NULL;
        END IF;
    END IF;
    UPDATE zoocache.trimmed SET wiped = pg_current_xact_id();
    PERFORM pg_notify('zoocache', '');
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER zoocache_wiped AFTER DELETE ON zoocache.outbox REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION zoocache.wiped();
CREATE OR REPLACE TRIGGER zoocache_wiped_all AFTER TRUNCATE ON zoocache.outbox
    FOR EACH STATEMENT EXECUTE FUNCTION zoocache.wiped();

-- The trigger of every table that is followed, once a statement. Its argument is the table's name.
CREATE OR REPLACE FUNCTION zoocache.changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    columns text;  -- of the primary key, as text; NULL: it has none, or one without a text that all agree on
    texts text[];
BEGIN
    IF TG_OP <> 'TRUNCATE' THEN
        SELECT string_agg(format(CASE a.atttypid
                    WHEN 'bytea'::regtype THEN 'encode(%I, ''hex'')'
                    WHEN 'date'::regtype THEN 'to_char(%I, ''YYYY-MM-DD'')'
                    ELSE '%I::text' END, a.attname), ',' ORDER BY array_position(i.indkey::int2[], a.attnum))
            INTO columns
            FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
            WHERE i.indrelid = TG_RELID AND i.indisprimary
                AND array_position(i.indkey::int2[], a.attnum) < i.indnkeyatts
            HAVING bool_and(a.atttypid = ANY ('{smallint,integer,bigint,text,varchar,uuid,bytea,date}'::regtype[]));
        EXECUTE format(CASE TG_OP
                WHEN 'INSERT' THEN 'SELECT array_agg(key) FROM (SELECT ARRAY[%1$s] AS key FROM come LIMIT 101) x'
                WHEN 'DELETE' THEN 'SELECT array_agg(key) FROM (SELECT ARRAY[%1$s] AS key FROM gone LIMIT 101) x'
                ELSE 'SELECT array_agg(DISTINCT key) FROM ((SELECT ARRAY[%1$s] AS key FROM come LIMIT 101)'
                    ' UNION ALL (SELECT ARRAY[%1$s] FROM gone LIMIT 101)) x'
                END, coalesce(columns, 'NULL::text')) INTO texts;
        IF texts IS NULL THEN  -- it has changed nothing
            RETURN NULL;
        END IF;
        IF columns IS NULL OR array_length(texts, 1) > 100 THEN
            texts := NULL;
        END IF;
    END IF;
    INSERT INTO zoocache.outbox (name, keys) VALUES (TG_ARGV[0], texts);
    PERFORM pg_notify('zoocache', '');
    RETURN NULL;
END $$;

-- The tables that are followed, by names that mean the same to everybody, and by what name they are told of.
CREATE TABLE IF NOT EXISTS zoocache.watched (relation text PRIMARY KEY, told text NOT NULL);

-- A name of a table, whatever letters are in it.
CREATE OR REPLACE FUNCTION zoocache.quoted(name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(quote_ident(part), '.') FROM unnest(string_to_array(name, '.')) part
$$;

-- A table and its partitions.
CREATE OR REPLACE FUNCTION zoocache.parts(top regclass) RETURNS SETOF regclass LANGUAGE sql STABLE AS $$
    SELECT top WHERE top IS NOT NULL UNION SELECT relid FROM pg_partition_tree(top)
$$;

-- Of each table what changes whenever its definition does, and whether all triggers tell what changes its rows.
CREATE OR REPLACE FUNCTION zoocache.shapes() RETURNS TABLE (relation text, told text, shape text, heard boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT relation, told, md5(string_agg(concat_ws(' ', part, class, key, columns, triggers), ',' ORDER BY part)),
        coalesce(bool_and(cardinality(triggers) = 4 AND NOT applied) FILTER (WHERE part IS NOT NULL), true)
    FROM (
        SELECT w.relation, w.told, part, (SELECT xmin FROM pg_class WHERE oid = part) AS class,
            (SELECT indexrelid FROM pg_index WHERE indrelid = part AND indisprimary) AS key,
            ARRAY(SELECT xmin FROM pg_attribute WHERE attrelid = part AND attnum > 0) AS columns,
            ARRAY(SELECT xmin FROM pg_trigger
                WHERE tgrelid = part AND tgfoid = 'zoocache.changed'::regproc AND tgenabled = 'A') AS triggers,
            EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = part) AS applied
        FROM zoocache.watched w LEFT JOIN LATERAL zoocache.parts(to_regclass(w.relation)) part ON true
    ) parts
    GROUP BY relation, told
$$;

-- A table is followed from now on, and told of by the second name; what was before is told of as a change of all of it.
CREATE OR REPLACE FUNCTION zoocache.watch(name text, told text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    top regclass := zoocache.quoted(name);
    part regclass;
    event text;
BEGIN
    FOR part IN SELECT zoocache.parts(top) LOOP
        FOREACH event IN ARRAY '{insert,update,delete,truncate}'::text[] LOOP
            EXECUTE format(
                'CREATE OR REPLACE TRIGGER zoocache_%1$s AFTER %1$s ON %2$s %3$s'
                ' FOR EACH STATEMENT EXECUTE FUNCTION zoocache.changed(%4$L)', event, part,
                CASE event
                WHEN 'insert' THEN 'REFERENCING NEW TABLE AS come'
                WHEN 'update' THEN 'REFERENCING NEW TABLE AS come OLD TABLE AS gone'
                WHEN 'delete' THEN 'REFERENCING OLD TABLE AS gone' END, told);
            EXECUTE format('ALTER TABLE %2$s ENABLE ALWAYS TRIGGER zoocache_%1$s', event, part);
        END LOOP;
    END LOOP;
    INSERT INTO zoocache.watched SELECT format('%s.%I', relnamespace::regnamespace, relname), told
        FROM pg_class WHERE oid = top
        ON CONFLICT (relation) DO UPDATE SET told = excluded.told;
    INSERT INTO zoocache.outbox (name) VALUES (told);
    PERFORM pg_notify('zoocache', '');
END $$;

-- A table that is no more is known by the name that it was told of.
CREATE OR REPLACE FUNCTION zoocache.unwatch(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    top regclass := to_regclass(zoocache.quoted(name));
    part regclass;
    event text;
BEGIN
    DELETE FROM zoocache.watched WHERE coalesce(to_regclass(relation) = top, told = name);
    IF top IS NULL AND NOT FOUND THEN
        RAISE undefined_table USING MESSAGE = format('there is no table %s', name);
    END IF;
    FOR part IN SELECT zoocache.parts(top) LOOP
        FOREACH event IN ARRAY '{insert,update,delete,truncate}'::text[] LOOP
            EXECUTE format('DROP TRIGGER IF EXISTS zoocache_%1$s ON %2$s', event, part);
        END LOOP;
    END LOOP;
END $$;

-- What was committed since a snapshot, and the snapshot to ask with next time; lost: some of it may be gone. Not
-- seen was what was to begin, and what ran. Without the settings the planner may read all of it, or compile the query.
CREATE OR REPLACE FUNCTION zoocache.since(seen pg_snapshot)
RETURNS TABLE (here pg_snapshot, lost boolean, name text, keys text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
    SELECT pg_current_snapshot(),
        t.below > pg_snapshot_xmin(seen) AND t.below <= pg_snapshot_xmin(pg_current_snapshot())
            OR NOT pg_visible_in_snapshot(t.wiped, seen) AND pg_visible_in_snapshot(t.wiped, pg_current_snapshot()),
        o.name, o.keys
    FROM zoocache.trimmed t LEFT JOIN (
        SELECT o.name, o.keys FROM zoocache.outbox o
        WHERE o.xid >= pg_snapshot_xmax(seen) AND o.xid < pg_snapshot_xmax(pg_current_snapshot())
        UNION ALL
        SELECT o.name, o.keys FROM pg_snapshot_xip(seen) ran JOIN zoocache.outbox o ON o.xid = ran
    ) o ON true
$$;

-- Deletes what everybody could read for so many seconds. Of who did not, the snapshot is older than `below`.
CREATE OR REPLACE FUNCTION zoocache.trim(older double precision) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    WITH round AS (
        UPDATE zoocache.trimmed
        SET below = coming, coming = pg_snapshot_xmin(pg_current_snapshot()), at = now()
        WHERE at < now() - older * interval '1 second' RETURNING below)
    DELETE FROM zoocache.outbox o USING round r WHERE o.xid < r.below
$$;
"""

# A database of a server is known by its number, when the server was started, and when it lost its statistics, as in a
# crash: across these a transaction that was seen may be undone, if commits are not synchronous, and its number be
# given again.
_SERVER = """
SELECT (SELECT oid FROM pg_database WHERE datname = current_database())::text,
    pg_postmaster_start_time()::text, stats_reset::text FROM pg_stat_bgwriter
"""


# ---- tables ------------------------------------------------------------------------------------------


def row(name: str, *key: Any) -> str:
    """The tag of a row, by the name of its table and the values of its primary key. Raises TypeError for others."""
    return _sql.row(name, key)


def sql(*tables: str) -> str:
    """The SQL by which these tables are followed, for a migration; it may be executed again. Nothing else is changed.

    Tables are given as models and tags have them: "user", or "shop.user" with a schema. "engineer=employee" is told of
    as employee: so name the tables of models that inherit from another one, whose rows have that one's tags.
    """
    calls = []
    for each in tables:
        name, _, told = each.partition("=")
        calls.append(f"SELECT zoocache.watch({_quoted(name)}, {_quoted(told or name)});\n")
    return _SQL.lstrip() + "".join(calls)


def install(connection: Any, *tables: str) -> None:
    """Has changes of these tables told: executes sql(). Who calls it commits.

    connection: what has execute() and takes text: psycopg's, or a cursor of Django's. Its role owns the schema
    zoocache then, and must be allowed to create schemas and triggers; a role that follows needs USAGE of the schema,
    and those who write need nothing. Waits for transactions that write to the tables.
    """
    connection.execute(sql(*tables))


def remove(connection: Any, *tables: str) -> None:
    """Changes of these tables are not told any more; without tables: of none, and the schema zoocache is gone."""
    calls = [f"SELECT zoocache.unwatch({_quoted(name)});" for name in tables]
    connection.execute("".join(calls) or "DROP SCHEMA IF EXISTS zoocache CASCADE")


def _quoted(name: str) -> str:
    if not name or "\0" in name:
        raise ValueError(f"the name of a table is not {name!r}")
    return "'" + name.replace("'", "''") + "'"


# ---- following ---------------------------------------------------------------------------------------


class Follower:
    """What follow() has begun, until close(), or the end of a with block. Its methods may be called in any thread."""

    def __init__(self, dsn: str, cache: Cache | None, max_staleness: float, keep: float) -> None:
        self._dsn = dsn
        self._given = cache
        self._bound = max_staleness
        self._keep = keep
        self._position: str | None = None  # the snapshot that was read last,
        self._shapes: dict[str, str] = {}  # and how tables were defined then,
        self._server: tuple[str, ...] | None = None  # of this server
        self._heard = self._asked = -inf  # all that was committed before is invalidated; is to be
        self._cleared = time.monotonic()  # so was everything that there was
        self._trouble: str | None = None
        self._untold: list[str] = []  # the tables whose changes are not told
        self._saved = self._trimmed = -inf
        self._begin()
        _followers.add(self)

    def _begin(self) -> None:
        """Starts its threads; in the child of a fork those, and the connection, are the parent's."""
        self._change = threading.Condition()  # of what follows, and of _heard
        self._closed = False
        self._connection: psycopg.Connection[Any] | None = None
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._threads = [
            threading.Thread(target=work, name="zoocache-postgres", daemon=True) for work in (self._follow, self._guard)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def _cache(self) -> Cache:
        return _default.cache() if self._given is None else self._given

    # ---- what users call -----------------------------------------------------------------------------

    @property
    def age(self) -> float:
        """Seconds since all was known that had been committed; inf: that was never so."""
        return time.monotonic() - self._heard

    def catch_up(self, timeout: float = 5.0) -> None:
        """Read your writes: returns when all is invalidated that was committed before. Raises TimeoutError."""
        timeout = duration("timeout", timeout)
        self._asked = asked = time.monotonic()
        self._wake()
        with self._change:
            if not self._change.wait_for(lambda: self._heard > asked or self._closed, timeout):
                raise TimeoutError("zoocache: what was committed before has not been read in time")
            if self._closed:
                raise RuntimeError("zoocache: the follower is closed")

    def close(self) -> None:
        """Ends it. What changes from now on is not heard of. Waits for a connection that is being made."""
        with self._change:
            if self._closed:
                return
            self._closed = True
            self._change.notify_all()
            connection = self._connection
            if connection is not None and not connection.closed:
                # Ends what waits for an answer, whatever has become of who would give it.
                with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as shared:
                    shared.shutdown(socket.SHUT_RDWR)
        self._wake()
        for thread in self._threads:
            thread.join()
        self._bell.close()
        self._ring.close()

    def __enter__(self) -> Follower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- its threads ---------------------------------------------------------------------------------

    def _wake(self) -> None:
        with suppress(OSError):  # full: it is awake; closed
            self._ring.send(b"!")

    def _over(self) -> bool:
        return self._closed or self._cache.closed

    def _guard(self) -> None:
        """Clears the cache whenever nothing was heard for as long as something may be missed."""
        while not self._over():
            with self._change:
                left = max(self._heard, self._cleared) + self._bound - time.monotonic()
                if left > 0 and not self._closed:
                    self._change.wait(left)
            if left <= 0:
                self._clear()

    def _clear(self) -> None:
        """Whatever there is may be too old."""
        began = time.monotonic()
        self._say(self._cache.clear)
        self._cleared = began

    def _say(self, invalidate: Callable[..., None], *tags: str) -> None:
        try:
            invalidate(*tags)
        except BusSilent:  # done here, and sent again
            pass
        except RuntimeError:
            if not self._over():
                raise

    def _follow(self) -> None:
        """Reads what there is to be read, and tries again when that cannot be done."""
        pause = _SOON
        while not self._over():
            began = self._heard
            try:
                with psycopg.connect(autocommit=True, **self._settings()) as connection:
                    with self._change:
                        self._connection = connection
                    self._session(connection)
            except Exception as error:  # whatever it is, there is a bound that is kept
                self._met(error)
            finally:
                self._connection = None
            pause = _SOON if self._heard > began else min(pause * 2, _LATE)
            with self._change:
                self._change.wait_for(lambda: self._closed, pause * random.uniform(0.5, 1))

    def _settings(self) -> dict[str, Any]:
        """How it connects: so that a connection that is no more is noticed within the bound, more or less."""
        bound = max(2, ceil(self._bound))
        usual = {"connect_timeout": bound, "tcp_user_timeout": bound * 1000, "keepalives_idle": bound}
        return {"application_name": "zoocache", **usual, **conninfo_to_dict(self._dsn)}

    def _session(self, connection: psycopg.Connection[Any]) -> None:
        """All that is done with one connection."""
        connection.add_notify_handler(lambda notify: None)  # so that it does not keep them
        connection.execute("LISTEN zoocache")
        self._attach(connection)
        while not self._over():
            self._read(connection)
            self._after(connection)
            self._wait(connection)

    def _attach(self, connection: psycopg.Connection[Any]) -> None:
        """Goes on where it was, or where the storage knows that somebody was; or begins at the present."""
        server = tuple(connection.execute(_SERVER).fetchone() or ())
        if server != self._server:
            self._server = server
            self._position, self._shapes = self._kept()
        if self._position is None:
            (self._position,) = connection.execute("SELECT pg_current_snapshot()::text").fetchone() or (None,)
            self._shapes, _ = self._defined(connection)
            self._clear()

    def _read(self, connection: psycopg.Connection[Any]) -> None:
        """Invalidates what was committed since the position."""
        began = time.monotonic()
        found = connection.execute(
            "SELECT here::text, lost, name, keys FROM zoocache.since(%s::pg_snapshot)", [self._position]
        ).fetchall()
        position, lost, *_ = found[0]
        tags = _changed((name, keys) for *_, name, keys in found if name is not None)
        # The catalog costs more: it is read four times in T, and for who waits, not whenever somebody writes.
        complete = self._asked >= self._heard or began - self._heard >= self._bound / _PAUSE
        if complete:
            shapes, others = self._defined(connection)
            tags |= dict.fromkeys(map(whole, others))
        if lost:
            self._clear()
        else:
            said = list(tags)
            for n in range(0, len(said), _TAGS):
                self._say(self._cache.invalidate, *said[n : n + _TAGS])
        if self._trouble is not None:
            logger.warning("%s (this is over)", self._trouble)
            self._trouble = None
        with self._change:
            self._position = position
            if complete:
                self._shapes, self._heard = shapes, began
            self._change.notify_all()

    def _defined(self, connection: psycopg.Connection[Any]) -> tuple[dict[str, str], list[str]]:
        """How tables are defined, and those that may have changed without being told of; warns of such."""
        found = connection.execute("SELECT relation, told, shape, heard FROM zoocache.shapes()").fetchall()
        untold = sorted({told for _, told, _, heard in found if not heard})
        if untold and untold != self._untold:
            logger.warning(
                "zoocache: changes of %s are not told: a trigger is missing, off, or does not run, as for replication. "
                "Until python -m zoocache.contrib.postgres install DSN TABLE... is run again, all of it is invalidated "
                "every %g s",
                ", ".join(untold),
                self._bound / _PAUSE,
            )
        self._untold = untold
        others = [told for name, told, shape, heard in found if not heard or self._shapes.get(name, shape) != shape]
        return {name: shape for name, _, shape, _ in found}, others

    def _after(self, connection: psycopg.Connection[Any]) -> None:
        """What is to be done now and then."""
        now = time.monotonic()
        if now - self._trimmed > self._keep / 4:
            self._trimmed = now
            connection.execute("SELECT zoocache.trim(%s)", [self._keep])
        shared = self._cache.shared
        if shared is not None and shared.stores and now - self._saved > _SAVE and not self._cache.stats().bus_pending:
            self._saved = now
            self._cache.set(_POSITION, [self._position, self._shapes, *(self._server or ())], ttl=self._keep)

    def _kept(self) -> tuple[str | None, dict[str, str]]:
        """The position that the cache's storage has: all up to it is invalidated there."""
        found = self._cache.get(_POSITION) if self._cache.shared is not None else None
        if isinstance(found, list) and tuple(found[2:]) == self._server:
            return found[0], found[1]
        return None, {}

    def _wait(self, connection: psycopg.Connection[Any]) -> None:
        """Until there may be something to read, or it is to be proved that there is not."""
        if connection.pgconn.notifies() is not None:  # came with the last answer
            return
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            selector.select(self._bound / _PAUSE)
        with suppress(BlockingIOError):
            self._bell.recv(4096)

    def _met(self, error: Exception) -> None:
        """Says once what is wrong; what a server says may have a name in it that is nobody's business."""
        hint = ""
        if isinstance(error, (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction)):
            hint = ": python -m zoocache.contrib.postgres install DSN TABLE... is to be run first"
        elif isinstance(error, psycopg.errors.InsufficientPrivilege):
            hint = ": GRANT USAGE ON SCHEMA zoocache is needed"
        trouble = f"zoocache: PostgreSQL is not heard ({type(error).__name__}{hint})"
        if not self._closed and trouble != self._trouble:
            self._trouble = trouble
            logger.warning("%s. Until it is, everything is invalidated every %g s", trouble, self._bound)


def _changed(found: Iterable[tuple[str, list[list[str]] | None]]) -> dict[str, None]:
    """The tags of what the log says, each once."""
    tags: dict[str, None] = {}
    for name, keys in found:
        if keys is None:
            tags[whole(name)] = None
        else:
            tags[table(name)] = None
            tags.update(dict.fromkeys(_sql.row(name, key) for key in keys))
    return tags


def follow(dsn: str, cache: Cache | None = None, *, max_staleness: float = 5.0, keep: float = 3600.0) -> Follower:
    """Invalidates in a cache, or the default one, what is changed in a database. Returns at once; see Follower.

    dsn: as psycopg.connect() takes it; with "" as the environment says. Of the database itself, not of a pooler that
    gives each transaction another session. max_staleness: T, see above, in seconds; the log is read four times in it.
    keep: for how long the log is kept at least, in seconds. Who has not read for so long invalidates everything.

    It begins with what is committed from now on, and invalidates what there was, unless the cache has a storage, in
    which a follower has left how far it had come. In the child of a fork it goes on, with a connection of its own.
    """
    bound, kept = seconds("max_staleness", max_staleness), seconds("keep", keep)
    if not bound or not kept:
        raise ValueError("max_staleness and keep are seconds, more than 0")
    conninfo_to_dict(dsn)
    return Follower(dsn, cache, bound, kept)


_followers: WeakSet[Follower] = WeakSet()


def _fork_child() -> None:
    for follower in list(_followers):
        if not follower._closed:
            follower._bell.close()
            follower._ring.close()
            follower._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_child)


# ---- the command -------------------------------------------------------------------------------------


def _main(arguments: list[str] | None = None) -> None:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m zoocache.contrib.postgres", description="Has changes of tables told to caches that follow."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text, least in (
        ("install", "has changes of these tables told; may be run again", "+"),
        ("remove", "they are not told any more; without tables, nothing is", "*"),
        ("sql", "prints what install would execute", "*"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        if name != "sql":
            command.add_argument("dsn", help='the database, as libpq takes it; "" for what PGHOST and others say')
        command.add_argument("tables", nargs=least, metavar="table", help="user, shop.user, or engineer=employee")
    given = parser.parse_args(arguments)
    if given.command == "sql":
        print(sql(*given.tables), end="")
        return
    with psycopg.connect(given.dsn) as connection:
        (install if given.command == "install" else remove)(connection, *given.tables)


if __name__ == "__main__":
    _main()
