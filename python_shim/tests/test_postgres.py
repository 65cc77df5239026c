"""contrib.postgres: whoever changes a table, whoever follows hears of it; a real server, real trouble."""

import datetime
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid

import psycopg
import pytest
import sqlalchemy as sa
from servers import Postgres, Redis, until
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import zoocache.contrib.postgres
from zoocache import Cache
from zoocache.contrib import sqlalchemy as models
from zoocache.contrib.postgres import follow, install, remove, row, sql, table, whole

pytestmark = pytest.mark.plain


class Database:
    """A database with one table, which is followed."""

    def __init__(self, server, dsn):
        self.server = server
        self.dsn = dsn
        self.connections = []
        self.main = self.connect()
        self.execute("DROP SCHEMA IF EXISTS zoocache, shop, public CASCADE; CREATE SCHEMA public;"
                     " GRANT USAGE ON SCHEMA public TO PUBLIC")  # fmt: skip
        self.execute("CREATE TABLE item (id int PRIMARY KEY, v int NOT NULL DEFAULT 0)")
        install(self.main, "item")

    def connect(self, **options):
        connection = psycopg.connect(self.dsn, **{"autocommit": True, **options})
        self.connections.append(connection)
        return connection

    def execute(self, text, *parameters):
        return self.main.execute(text, parameters or None)

    def followers(self):
        """The processes of the server that followers talk to."""
        found = self.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'zoocache'")
        return [pid for (pid,) in found.fetchall()]

    def close(self):
        for connection in self.connections:
            connection.close()


@pytest.fixture(scope="module")
def dsn(postgres):
    return postgres.database("followed")


@pytest.fixture
def db(postgres, dsn):
    found = Database(postgres, dsn)
    yield found
    found.close()


@pytest.fixture
def own():
    """A database of a server that may be treated badly."""
    server = Postgres()
    found = Database(server, server.dsn)
    yield found
    found.close()
    server.close()


class Heard:
    """A cache, who follows for it, and what was invalidated."""

    def __init__(self, dsn, **options):
        self.events = []
        self.cache = Cache(on_event=self.note)
        self.follower = follow(dsn, self.cache, **options)
        self.reads = []

    def note(self, event):
        if event.kind == "invalidated":
            self.events.append(event.tags)

    def tags(self):
        """What was heard since it was asked last; everything: ''."""
        self.follower.catch_up(30)
        found = {tag for tags in self.events for tag in tags or ("",)}
        self.events.clear()
        return found

    def close(self):
        self.follower.close()
        self.cache.close()


@pytest.fixture
def hear():
    all = []

    def start(db, **options):
        all.append(Heard(db.dsn, **options))
        all[-1].tags()
        return all[-1]

    yield start
    for each in all:
        each.close()


# ---- what is told --------------------------------------------------------------------------------------


def test_every_kind_of_change_is_told(db, hear):
    db.execute('CREATE TABLE "Order" (item int REFERENCES item ON DELETE CASCADE ON UPDATE CASCADE, n int,'
               " PRIMARY KEY (n, item))")  # fmt: skip
    install(db.main, "Order")
    heard = hear(db)

    def told(text, *tags):
        db.execute(text)
        assert heard.tags() == set(tags), text

    item, order = table("item"), table("Order")
    told("INSERT INTO item VALUES (1), (2), (3), (4)", item, *(row("item", n) for n in (1, 2, 3, 4)))
    told("UPDATE item SET v = 1 WHERE id = 1", item, row("item", 1))
    told("UPDATE item SET v = 1 WHERE id = 77")
    told("DELETE FROM item WHERE id = 77")
    told("INSERT INTO item SELECT 1 WHERE false")
    told('INSERT INTO "Order" VALUES (1, 10), (2, 20)', order, row("Order", 10, 1), row("Order", 20, 2))
    told("UPDATE item SET id = 9 WHERE id = 2", item, row("item", 2), row("item", 9), order, row("Order", 20, 2),
         row("Order", 20, 9))  # fmt: skip
    told("DELETE FROM item WHERE id = 1", item, row("item", 1), order, row("Order", 10, 1))
    told("INSERT INTO item VALUES (3, 5), (5, 5) ON CONFLICT (id) DO UPDATE SET v = 6", item, row("item", 3),
         row("item", 5))  # fmt: skip
    told("MERGE INTO item USING (VALUES (3), (6)) AS w(n) ON id = n WHEN MATCHED THEN DELETE"
         " WHEN NOT MATCHED THEN INSERT VALUES (n)", item, row("item", 3), row("item", 6))  # fmt: skip
    told("WITH x AS (UPDATE item SET v = 3 WHERE id = 4 RETURNING 1) INSERT INTO item SELECT 7 FROM x", item,
         row("item", 4), row("item", 7))  # fmt: skip
    told("DO $$ BEGIN UPDATE item SET v = 8 WHERE id = 7; END $$", item, row("item", 7))
    told("SET session_replication_role = replica; UPDATE item SET v = 9 WHERE id = 7; RESET session_replication_role",
         item, row("item", 7))  # fmt: skip
    with db.main.cursor() as cursor, cursor.copy("COPY item FROM STDIN") as copy:
        copy.write_row((50, 1))
    assert heard.tags() == {item, row("item", 50)}
    told("INSERT INTO item SELECT g FROM generate_series(101, 200) g", item, *(row("item", n) for n in range(101, 201)))
    told("UPDATE item SET v = 0 WHERE id BETWEEN 101 AND 151", item, *(row("item", n) for n in range(101, 152)))
    told("INSERT INTO item SELECT g FROM generate_series(301, 401) g", whole("item"))
    told("UPDATE item SET v = 0", whole("item"))
    told("DELETE FROM item WHERE id > 50", whole("item"))
    told("TRUNCATE item CASCADE", whole("item"), whole("Order"))


def test_what_is_rolled_back_is_not_told(db, hear):
    heard = hear(db)
    other = db.connect(autocommit=False)
    other.execute("INSERT INTO item VALUES (1)")
    other.rollback()
    other.execute("INSERT INTO item VALUES (2)")
    with pytest.raises(psycopg.Error), other.transaction():
        other.execute("INSERT INTO item VALUES (3)")
        other.execute("SELECT 1 / 0")
    other.commit()
    assert heard.tags() == {table("item"), row("item", 2)}


def test_keys_are_named_as_models_name_them(db, hear):
    day, some = datetime.date(2026, 2, 3), uuid.UUID(int=7)
    types = {
        "smallint": (sa.SmallInteger, [-3, 0]), "bigint": (sa.BigInteger, [1 << 40]),
        "text": (sa.Text, ["", "a", "a:b,c|%", "größe", "x" * 48, "x" * 49, "ü" * 30, "a b\n"]),
        "varchar(9)": (sa.String, ["Ab-1", "-"]), "uuid": (sa.Uuid, [some]), "bytea": (sa.LargeBinary, [b"", b"\0a\xff"]),
        "date": (sa.Date, [day]),
    }  # fmt: skip
    heard = hear(db)
    for n, (name, (kind, values)) in enumerate(types.items()):
        model = sa.Table(f"t{n}", sa.MetaData(), sa.Column("k", kind, primary_key=True))
        db.execute(f"CREATE TABLE t{n} (other int, k {name}, PRIMARY KEY (k) INCLUDE (other))")
        install(db.main, f"t{n}")
        assert heard.tags() == {whole(f"t{n}")}, "whatever it had before"
        for value in values:
            db.execute(f"INSERT INTO t{n} (k) VALUES (%s)", value)
            assert (
                heard.tags() == {models.table(model), models.row(model, value)} == {table(f"t{n}"), row(f"t{n}", value)}
            )
    with pytest.raises(TypeError, match="cannot be float"):
        row("t1", 1.5)


@pytest.mark.parametrize(
    "columns", ["k timestamptz PRIMARY KEY", "k numeric PRIMARY KEY", "k char(9) PRIMARY KEY", "k text"]
)
def test_without_keys_that_have_one_text_the_whole_table_is_told(db, hear, columns):
    db.execute(f"CREATE TABLE odd ({columns})")
    install(db.main, "odd")
    heard = hear(db)
    db.execute("DELETE FROM odd")
    assert heard.tags() == set()
    value = "2026-01-01 10:00+00" if "timestamptz" in columns else "12"
    db.execute(f"INSERT INTO odd VALUES ('{value}')")
    assert heard.tags() == {whole("odd")}


def test_schemas_partitions_and_other_names(db, hear):
    db.execute("""
        CREATE SCHEMA shop;
        CREATE TABLE shop.sale (id int, year int, PRIMARY KEY (year, id)) PARTITION BY RANGE (year);
        CREATE TABLE shop.early PARTITION OF shop.sale FOR VALUES FROM (0) TO (2000);
        CREATE TABLE shop.late PARTITION OF shop.sale FOR VALUES FROM (2000) TO (3000);
        CREATE TABLE engineer (id int PRIMARY KEY);
    """)
    install(db.main, "shop.sale", "engineer=employee")
    heard = hear(db)
    db.execute("INSERT INTO shop.sale VALUES (1, 1990), (2, 2020)")
    assert heard.tags() == {table("shop.sale"), row("shop.sale", 1990, 1), row("shop.sale", 2020, 2)}
    db.execute("UPDATE shop.late SET id = 3")
    assert heard.tags() == {table("shop.sale"), row("shop.sale", 2020, 2), row("shop.sale", 2020, 3)}
    db.execute("INSERT INTO engineer VALUES (4)")
    assert heard.tags() == {table("employee"), row("employee", 4)}
    remove(db.main, "shop.sale")
    db.execute("UPDATE shop.late SET id = 5; UPDATE engineer SET id = 5")
    assert heard.tags() == {table("employee"), row("employee", 4), row("employee", 5)}


def test_a_changed_primary_key_is_followed(db, hear):
    heard = hear(db)
    db.execute("INSERT INTO item VALUES (1, 70)")
    db.execute("ALTER TABLE item RENAME id TO number")
    heard.tags()
    db.execute("UPDATE item SET v = 71")
    assert heard.tags() == {table("item"), row("item", 1)}
    db.execute("ALTER TABLE item DROP CONSTRAINT item_pkey; ALTER TABLE item ADD PRIMARY KEY (v)")
    assert heard.tags() == {whole("item")}
    db.execute("UPDATE item SET number = 2")
    assert heard.tags() == {table("item"), row("item", 71)}
    db.execute("ALTER TABLE item DROP COLUMN v")
    heard.tags()
    db.execute("UPDATE item SET number = 3")
    assert heard.tags() == {whole("item")}


def test_who_writes_needs_no_rights_and_who_follows_few(db, hear, caplog):
    db.execute("CREATE ROLE writer LOGIN; GRANT ALL ON item TO writer; CREATE ROLE reader LOGIN")
    heard = hear(db)
    with psycopg.connect(db.dsn.replace("test@", "writer@"), autocommit=True) as other:
        other.execute("CREATE TEMP TABLE outbox (name text, keys text[])")
        other.execute("INSERT INTO item VALUES (8)")
    assert heard.tags() == {table("item"), row("item", 8)}
    reader = db.dsn.replace("test@", "reader:hidden@")
    with Cache() as cache, follow(reader, cache, keep=0.01) as follower:
        until(lambda: "GRANT USAGE ON SCHEMA zoocache is needed" in caplog.text)
        assert "hidden" not in caplog.text
        db.execute("GRANT USAGE ON SCHEMA zoocache TO reader")
        follower.catch_up(30)
        assert "this is over" in caplog.text


def test_the_sql_is_for_migrations_too(db, hear):
    with sa.create_engine(db.dsn.replace("postgresql:", "postgresql+psycopg:")).begin() as connection:
        db.execute('CREATE TABLE "it\'s" (id int PRIMARY KEY)')
        connection.execute(sa.text(sql("it's")))
    connection.engine.dispose()
    db.execute(sql())
    heard = hear(db)
    db.execute('INSERT INTO "it\'s" VALUES (1); INSERT INTO item VALUES (1)')
    assert heard.tags() == {table("it's"), row("it's", 1), table("item"), row("item", 1)}
    for wrong in ("", "=x", "a\0"):
        with pytest.raises(ValueError, match="the name of a table"):
            sql(wrong)
    with pytest.raises(psycopg.errors.UndefinedTable):
        install(db.main, "nowhere")


def test_the_command(db, hear, capsys):
    run = zoocache.contrib.postgres._main
    db.execute("CREATE TABLE more (id int PRIMARY KEY)")
    run(["sql", "more"])
    assert capsys.readouterr().out == sql("more")
    command = [sys.executable, "-m", "zoocache.contrib.postgres", "install", db.dsn, "more"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""
    heard = hear(db)
    db.execute("INSERT INTO more VALUES (1)")
    assert heard.tags() == {table("more"), row("more", 1)}
    run(["remove", db.dsn, "more"])
    db.execute("INSERT INTO more VALUES (2); INSERT INTO item VALUES (1)")
    assert heard.tags() == {table("item"), row("item", 1)}
    run(["remove", db.dsn])
    assert db.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'zoocache'").fetchone() == (0,)
    db.execute("INSERT INTO item VALUES (2)")


# ---- positions -----------------------------------------------------------------------------------------


def test_a_transaction_that_commits_later_is_not_missed(db, hear):
    heard = hear(db)
    first, second = db.connect(autocommit=False), db.connect(autocommit=False)
    first.execute("INSERT INTO item VALUES (1)")
    second.execute("SAVEPOINT a; INSERT INTO item VALUES (2); RELEASE a; SAVEPOINT b; INSERT INTO item VALUES (3)")
    for n in range(10, 15):
        db.execute("INSERT INTO item VALUES (%s)", n)
        assert heard.tags() == {table("item"), row("item", n)}
    second.commit()
    assert heard.tags() == {table("item"), row("item", 2), row("item", 3)}
    db.execute("INSERT INTO item VALUES (20)")
    assert heard.tags() == {table("item"), row("item", 20)}
    first.execute("INSERT INTO item VALUES (4)")
    first.commit()
    assert heard.tags() == {table("item"), row("item", 1), row("item", 4)}
    assert heard.tags() == set()


def test_an_old_log_is_deleted_and_who_has_not_read_it_knows(db):
    def position():
        return db.execute("SELECT pg_current_snapshot()::text").fetchone()[0]

    def since(position):
        found = db.execute("SELECT lost, name FROM zoocache.since(%s::pg_snapshot)", position).fetchall()
        return found[0][0], [name for _, name in found if name]

    def trim():
        db.execute("SELECT zoocache.trim(0)")

    before = position()
    late = db.connect(autocommit=False)
    late.execute("INSERT INTO item VALUES (1)")
    db.execute("INSERT INTO item VALUES (2)")
    trim(), trim()
    assert since(before) == (False, ["item"])  # what is open holds on to what came after it
    middle = position()
    late.commit()
    assert since(middle) == (False, ["item"])
    trim()
    assert since(before) == (False, ["item", "item"])  # it is kept for one round
    after = position()
    trim()
    assert since(before) == (True, [])
    assert since(middle) == (True, [])
    assert since(after) == (False, [])
    db.execute("SELECT zoocache.trim(3600)")
    db.execute("INSERT INTO item VALUES (3)")
    assert since(after) == (False, ["item"])


def test_a_log_from_another_server_does_no_harm(db, hear):
    """As in a dump: the numbers of its transactions are of another server."""
    db.execute("INSERT INTO zoocache.outbox VALUES ('99999999', 'item', NULL)")
    db.execute("UPDATE zoocache.trimmed SET below = '99999999', coming = '99999999'")
    heard = hear(db)
    assert heard.tags() == set()
    db.execute("INSERT INTO item VALUES (1)")
    assert heard.tags() == {table("item"), row("item", 1)}


@pytest.mark.parametrize(
    "wipe",
    [
        "TRUNCATE zoocache.outbox",
        "DELETE FROM zoocache.outbox",
        "DELETE FROM zoocache.outbox WHERE name = 'item'",
        "DROP SCHEMA zoocache CASCADE;" + sql("item"),
    ],
)
def test_what_is_taken_out_of_the_log_by_hand_is_noticed(db, hear, wipe):
    one, two = hear(db), hear(db)
    other = db.connect(autocommit=False)
    other.execute("SELECT pg_current_xact_id()")
    with db.main.transaction():  # while an older one runs
        db.execute("INSERT INTO item VALUES (1)")
        db.execute(wipe)
    assert "" in one.tags() and "" in two.tags()
    other.commit()
    one.tags()
    db.execute("UPDATE item SET v = 1 WHERE id = 1")
    assert one.tags() == {row("item", 1), table("item")}, "that is over"


AGAIN = "".join(
    f"ALTER TABLE item ENABLE ALWAYS TRIGGER zoocache_{each};" for each in ("insert", "update", "delete", "truncate")
)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE item ADD COLUMN w int DEFAULT 7",
        "ALTER TABLE item RENAME v TO w",
        "ALTER TABLE item DROP COLUMN v",
        "ALTER TABLE item ALTER COLUMN v TYPE int USING v + 1",
        "ALTER TABLE item ALTER COLUMN v TYPE text",
        "ALTER TABLE item DROP CONSTRAINT item_pkey; ALTER TABLE item ADD PRIMARY KEY (v)",
        "ALTER TABLE item DISABLE TRIGGER ALL; UPDATE item SET v = 4;" + AGAIN,
        "ALTER TABLE item RENAME TO other; ALTER TABLE other RENAME TO item",
    ],
)
def test_a_change_of_definitions_is_noticed_and_needs_nothing(db, hear, caplog, change):
    db.execute("INSERT INTO item VALUES (1, 3)")
    one, two = hear(db), hear(db)
    db.execute(change)
    assert one.tags() == two.tags() == {whole("item")}
    assert one.tags() == set(), "once"
    key = db.execute("INSERT INTO item (id) VALUES (2) RETURNING *").fetchone()["pkey" in change]
    assert one.tags() == {table("item"), row("item", key)}
    for text in ("ANALYZE item", "VACUUM item", "CREATE INDEX ON item (id)"):
        db.execute(text)
    assert one.tags() == set()
    assert "are not told" not in caplog.text


def test_tables_that_come_and_go(db, hear, caplog):
    heard = hear(db)
    db.execute("DROP TABLE item")
    assert heard.tags() == {whole("item")}
    assert heard.tags() == set(), "nobody can read it"
    assert "are not told" not in caplog.text
    db.execute("CREATE TABLE item (id int PRIMARY KEY, v int)")
    for _ in range(2):
        assert heard.tags() == {whole("item")}, "again and again"
    assert caplog.text.count("changes of item are not told") == 1
    install(db.main, "item")
    assert heard.tags() == {whole("item")}
    db.execute("INSERT INTO item VALUES (1)")
    assert heard.tags() == {table("item"), row("item", 1)}
    db.execute(
        "CREATE TABLE new (LIKE item INCLUDING ALL); ALTER TABLE item RENAME TO old; ALTER TABLE new RENAME TO item"
    )
    assert heard.tags() == heard.tags() == {whole("item")}
    install(db.main, "item")
    heard.tags()
    db.execute("DROP TABLE item")
    heard.tags()
    remove(db.main, "item")
    with pytest.raises(psycopg.errors.UndefinedTable, match="no table item"):
        remove(db.main, "item")
    db.execute("CREATE TABLE item (id int)")
    assert heard.tags() == set()


@pytest.mark.parametrize("off", ["DISABLE TRIGGER zoocache_update", "ENABLE TRIGGER zoocache_update"])
def test_triggers_that_do_not_run(db, hear, caplog, off):
    heard = hear(db)
    db.execute(f"ALTER TABLE item {off}")
    assert heard.tags() == heard.tags() == {whole("item")}
    assert "changes of item are not told" in caplog.text
    db.execute(AGAIN)
    assert heard.tags() == {whole("item")}
    assert heard.tags() == set()


def test_views_and_partitions(db, hear, caplog):
    heard = hear(db)
    db.execute("INSERT INTO item VALUES (1); CREATE VIEW few AS SELECT * FROM item WHERE id < 10; UPDATE few SET v = 3")
    assert heard.tags() == {row("item", 1), table("item")}
    with pytest.raises(psycopg.errors.WrongObjectType):
        install(db.main, "few")
    db.execute("CREATE TABLE part (id int PRIMARY KEY, v int) PARTITION BY LIST (id)")
    install(db.main, "part")
    assert heard.tags() == {whole("part")}
    db.execute("CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)")
    db.execute("INSERT INTO part VALUES (1, 1)")
    assert heard.tags() == {whole("part"), table("part"), row("part", 1)}, "the name that was given tells of rows"
    db.execute("UPDATE part_1 SET v = 2")
    assert heard.tags() == {whole("part")}
    assert "changes of part are not told" in caplog.text
    install(db.main, "part")
    heard.tags()
    db.execute("UPDATE part_1 SET v = 2")
    assert heard.tags() == {table("part"), row("part", 1)}
    db.execute("ALTER TABLE part DETACH PARTITION part_1")
    assert heard.tags() == {whole("part")}
    assert heard.tags() == set()


def test_what_replication_writes(postgres, db, hear, caplog):
    dsn = postgres.database("origin")
    with psycopg.connect(dsn, autocommit=True) as origin:
        origin.execute("CREATE TABLE item (id int PRIMARY KEY, v int); CREATE PUBLICATION p FOR TABLE item")
        origin.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        heard = hear(db, max_staleness=0.2)

        @heard.cache.cacheable(deps=[row("item", 1)])
        def value():
            found = db.execute("SELECT v FROM item").fetchone()
            return found and found[0]

        db.execute(
            f"CREATE SUBSCRIPTION s CONNECTION '{dsn}' PUBLICATION p WITH (create_slot = false, copy_data = false)"
        )
        try:
            until(lambda: "changes of item are not told" in caplog.text)
            for v in (1, 2):
                origin.execute("INSERT INTO item VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v", [v])
                until(lambda v=v: value() == v)
        finally:
            db.execute("DROP SUBSCRIPTION s")


def test_the_log_does_not_grow(db, hear):
    heard = hear(db, keep=0.02, max_staleness=0.2)
    for n in range(20):
        db.execute("INSERT INTO item VALUES (%s)", n)
        heard.tags()
    until(lambda: db.execute("SELECT count(*) FROM zoocache.outbox").fetchone() == (0,))
    assert heard.tags() == set()


# ---- following -----------------------------------------------------------------------------------------


def reader(db, cache):
    """A cached function, which asks the database by connections of its own."""
    local = threading.local()

    @cache.cacheable(deps=lambda n: [row("item", n)])
    def value(n):
        if not hasattr(local, "connection"):
            local.connection = db.connect()
        return local.connection.execute("SELECT v FROM item WHERE id = %s", [n]).fetchone()[0]

    return value


@pytest.mark.slow
def test_no_stale_value_once_it_was_heard(db, hear):
    """Writers of all kinds, and readers; the connection is lost now and then."""
    rows = 12
    db.execute("INSERT INTO item SELECT g FROM generate_series(0, %s) g", rows - 1)
    heard = hear(db, max_staleness=30)
    value = reader(db, heard.cache)
    errors, over = [], threading.Event()

    def write(number):
        chance = random.Random(number)
        connection = db.connect(autocommit=False)
        for step in range(40):
            n = chance.randrange(rows)
            kind = chance.randrange(6)
            try:
                with connection.transaction(force_rollback=kind == 0):
                    if kind == 1:
                        connection.execute("UPDATE item SET v = v + 1")
                    elif kind == 2:
                        with connection.transaction(force_rollback=True):
                            connection.execute("DELETE FROM item")
                    connection.execute("UPDATE item SET v = v + 1 WHERE id = %s", [n])
                    wrote = connection.execute("SELECT v FROM item WHERE id = %s", [n]).fetchone()[0]
                    if chance.random() < 0.2:
                        time.sleep(chance.random() / 50)
            except psycopg.errors.DeadlockDetected:  # of two that write all rows: one is rolled back
                continue
            if kind:
                heard.follower.catch_up(30)
                if value(n) < wrote:
                    errors.append((number, step, n))
            elif chance.random() < 0.5:
                db.main.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'zoocache'"
                                " AND datname = current_database()")  # fmt: skip

    def read():
        chance = random.Random(4)
        while not over.is_set():
            value(chance.randrange(rows))

    threads = [threading.Thread(target=write, args=[n]) for n in range(4)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads + readers:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    for thread in readers:
        thread.join()
    heard.follower.catch_up(30)
    assert errors == []
    assert {n: value(n) for n in range(rows)} == dict(db.execute("SELECT id, v FROM item").fetchall())
    assert value.cache_info().hits > 0


def test_what_is_computed_meanwhile_is_not_stored(db, hear):
    db.execute("INSERT INTO item VALUES (1, 1)")
    heard = hear(db)
    read, go_on = threading.Event(), threading.Event()

    @heard.cache.cacheable(deps=[row("item", 1)])
    def value():
        found = db.connect().execute("SELECT v FROM item WHERE id = 1").fetchone()[0]
        read.set()
        go_on.wait()
        return found

    thread = threading.Thread(target=value)
    thread.start()
    read.wait()
    db.execute("UPDATE item SET v = 2")
    heard.tags()
    go_on.set()
    thread.join()
    assert value() == 2


def test_a_lost_connection_loses_nothing(db, hear):
    db.execute("INSERT INTO item VALUES (1), (2)")
    heard = hear(db)
    value = reader(db, heard.cache)
    value(1), value(2)
    (pid,) = db.followers()
    db.execute("BEGIN; UPDATE item SET v = 5 WHERE id = 1")
    db.execute("SELECT pg_terminate_backend(%s, 10000)", pid)
    db.execute("COMMIT")
    assert heard.tags() == {table("item"), row("item", 1)}  # and not everything
    assert db.followers() != [pid]
    assert (value(1), value(2)) == (5, 0)
    assert value.cache_info().hits == 1


@pytest.mark.slow
def test_after_a_restart_or_a_crash_everything_is_computed_anew(own, hear, caplog):
    heard = hear(own)
    own.server.stop()
    until(lambda: "PostgreSQL is not heard (OperationalError)" in caplog.text or "AdminShutdown" in caplog.text)
    own.server.start()
    assert heard.tags() == {""}
    own.main = own.connect()
    own.execute("INSERT INTO item VALUES (1)")
    assert heard.tags() == {table("item"), row("item", 1)}
    victim = own.connect()
    os.kill(victim.info.backend_pid, signal.SIGKILL)  # the server begins anew, without being started again
    until(lambda: "" in heard.tags())
    own.main = own.connect()
    own.execute("INSERT INTO item VALUES (2)")
    assert heard.tags() == {table("item"), row("item", 2)}


def test_the_bound_is_kept_while_nothing_is_heard(db, hear):
    db.execute("INSERT INTO item VALUES (1, 1)")
    bound = 0.4
    heard = hear(db, max_staleness=bound)
    value = reader(db, heard.cache)
    (pid,) = db.followers()
    value(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        for n in (2, 3, 4):
            db.execute("UPDATE item SET v = %s", n)
            committed = time.monotonic()
            heard.events.clear()
            until(lambda n=n: value(1) == n)
            assert time.monotonic() - committed < bound + 20  # which is for a machine that is busy
            assert heard.events[0] == ()
        with pytest.raises(TimeoutError):
            heard.follower.catch_up(0.01)
        assert heard.follower.age > bound
    finally:
        os.kill(pid, signal.SIGCONT)
    heard.tags()
    assert heard.follower.age < 30


def test_who_finds_the_log_deleted_invalidates_everything(db, hear):
    heard = hear(db, max_staleness=30)
    (pid,) = db.followers()
    os.kill(pid, signal.SIGSTOP)
    try:
        db.execute("INSERT INTO item VALUES (1)")
        db.execute("SELECT zoocache.trim(0)")
        db.execute("SELECT zoocache.trim(0)")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert heard.tags() == {""}


def test_what_is_hung_can_be_closed(db, hear):
    heard = hear(db)
    (pid,) = db.followers()
    os.kill(pid, signal.SIGSTOP)
    try:
        heard.follower._wake()
        heard.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    heard.follower.close()
    with pytest.raises(RuntimeError, match="closed"):
        heard.follower.catch_up()


def test_it_ends_with_its_cache(db):
    with Cache() as cache:
        follower = follow(db.dsn, cache)
        follower.catch_up(30)
    follower._wake()
    until(lambda: not follower._threads[0].is_alive())
    follower.close()


def test_the_default_cache(db):
    with follow(db.dsn) as follower:
        follower.catch_up(30)
        zoocache.set("a", 1, deps=[row("item", 1)])
        db.execute("INSERT INTO item VALUES (1)")
        follower.catch_up(30)
        assert zoocache.get("a") is None


def test_without_the_tables_it_says_what_to_do(db, hear, caplog):
    remove(db.main)
    with Cache() as cache, follow(db.dsn, cache) as follower:
        until(lambda: "install DSN TABLE... is to be run first" in caplog.text)
        assert follower.age == float("inf")
        install(db.main, "item")
        follower.catch_up(30)
    for options in ({"max_staleness": 0}, {"keep": 0}, {"max_staleness": -1}):
        with pytest.raises(ValueError):
            follow(db.dsn, **options)
    with pytest.raises(psycopg.ProgrammingError):
        follow("not a dsn")


def test_without_its_package_it_says_which_extra():
    code = "import sys; sys.modules['psycopg'] = None; import zoocache.contrib.postgres"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'zoocache[postgres]'" in done.stderr


# ---- together with others ------------------------------------------------------------------------------


class Base(DeclarativeBase): ...


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    v: Mapped[int]


def test_together_with_sessions(db, hear):
    heard = hear(db)
    engine = sa.create_engine(db.dsn.replace("postgresql:", "postgresql+psycopg:"))
    Session = models.track(sessionmaker(engine), cache=heard.cache)

    @heard.cache.cacheable(deps=[models.row(Item, 1)])
    def value():
        with Session() as session:
            found = session.get(Item, 1)
            return found and found.v

    assert value() is None
    with Session.begin() as session:
        session.add(Item(id=1, v=1))
    assert value() == 1
    db.execute("UPDATE item SET v = 2")
    assert heard.tags() == {models.table(Item), models.row(Item, 1)}
    assert value() == 2
    engine.dispose()


def test_one_follower_is_enough_for_those_of_a_bus(db, tmp_path):
    redis = Redis(tmp_path)
    with Cache(bus_url=redis.url) as one, Cache(bus_url=redis.url) as other, follow(db.dsn, one) as follower:
        follower.catch_up(30)
        value = reader(db, other)
        db.execute("INSERT INTO item VALUES (1, 1)")
        follower.catch_up(30)
        other.catch_up(one.token())
        assert value(1) == 1
        db.execute("UPDATE item SET v = 2")
        follower.catch_up(30)
        other.catch_up(one.token())
        assert value(1) == 2
    redis.stop()


def test_a_storage_knows_how_far_it_was_heard(db, tmp_path):
    def open():
        return Cache(storage_url=f"lmdb://{tmp_path}")

    db.execute("INSERT INTO item VALUES (1, 1), (2, 1)")
    with open() as cache, follow(db.dsn, cache) as follower:
        follower.catch_up(30)
        until(lambda: cache.get("|zoocache.contrib.postgres") is not None)
        cache.set("one", 1, deps=[row("item", 1)])
        cache.set("two", 1, deps=[row("item", 2)])
    db.execute("UPDATE item SET v = 2 WHERE id = 1")  # while nobody follows
    with open() as cache, follow(db.dsn, cache) as follower:
        follower.catch_up(30)
        assert (cache.get("one"), cache.get("two")) == (None, 1)
        cache.set("one", 2, deps=[row("item", 1)])
    with open() as cache:  # when the follower, which may write it again, has ended
        cache.delete("|zoocache.contrib.postgres")
    with open() as cache, follow(db.dsn, cache) as follower:
        follower.catch_up(30)
        assert (cache.get("one"), cache.get("two")) == (None, None)


def test_it_goes_on_in_the_child_of_a_fork(db):
    code = f"""if True:
        import os, sys, psycopg
        from zoocache import Cache
        from zoocache.contrib.postgres import follow, row
        cache = Cache()
        follower = follow({db.dsn!r}, cache)
        follower.catch_up(30)
        cache.set("a", 1, deps=[row("item", 1)])
        cache.set("b", 1, deps=[row("item", 2)])
        child = os.fork()
        if not child:
            with psycopg.connect({db.dsn!r}, autocommit=True) as mine:
                mine.execute("INSERT INTO item VALUES (1)")
            follower.catch_up(30)
            sys.exit(10 if (cache.get("a"), cache.get("b")) == (None, 1) else 11)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10
        follower.catch_up(30)
        assert (cache.get("a"), cache.get("b")) == (None, 1)
        follower.close()
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
