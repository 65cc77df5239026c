"""contrib.sqlalchemy: random programs of sessions against the database itself.

    in any order    the steps of three sessions, one after another, each in a context of its own (SQLite): outside of
                    transactions each cached read is what the database says
    threads, tasks  sessions that run at once (SQLite, PostgreSQL in both isolation levels): a cached read is not older
                    than what was committed before it began, and not newer than what the database says after it

Inside of a transaction, each sees what it has written itself; what was rolled back is seen by nobody.
"""

import asyncio
import contextvars
import random
import sqlite3
import threading

import pytest
from sqlalchemy import create_engine, delete, event, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.util import await_only, greenlet_spawn
from test_sqlalchemy import engine_of

import zoocache
from zoocache import cacheable
from zoocache.context import OPEN
from zoocache.contrib.sqlalchemy import row, track, whole

pytestmark = [pytest.mark.slow, pytest.mark.plain]


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(default=0)  # it only grows
    token: Mapped[str] = mapped_column(default="")  # who has written it


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str]


KEYS = 1, 2
ONE = select(Item.number, Item.token).execution_options(zoocache=True)
ITEMS = select(Item).order_by(Item.id).execution_options(zoocache=True)
NOTES = select(Note.token).execution_options(zoocache=True)


def directly(session, key):
    return tuple(session.execute(select(Item.number, Item.token).where(Item.id == key)).one())


@cacheable(deps=lambda session, key: [row(Item, key)], key=lambda session, key: key)
def one(session, key):
    return directly(session, key)


@cacheable(deps=lambda session, key: [row(Item, key)], key=lambda session, key: key)
async def aone(session, key):
    return await greenlet_spawn(directly, session, key)


def reads(session, key, call=one):
    """All that is cached of an item, and of the notes."""
    yield call(session, key)
    yield tuple(session.execute(ONE.where(Item.id == key)).one())
    for item in session.scalars(ITEMS):
        session.expire(item)  # what an earlier read has loaded is not what this one found
    item = session.scalars(ITEMS).all()[key - 1]
    yield item.number, item.token


def write(session, how, key, token):
    if how == "flush":
        item = session.get(Item, key)
        item.number, item.token = Item.number + 1, token
        session.flush()
    elif how == "bulk":
        session.execute(update(Item).where(Item.id == key).values(number=Item.number + 1, token=token))
    elif how == "text":
        session.execute(text("UPDATE item SET number = number + 1, token = :t WHERE id = :k"), {"t": token, "k": key})
    else:
        session.add(Note(token=token))
        session.flush()


def fill(engine):
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with sessionmaker(engine).begin() as session:
        session.add_all([Item(id=key) for key in KEYS])


# ---- in any order ------------------------------------------------------------------------------------

PROGRAMS = 1500
STEPS = ["flush", "bulk", "text", "note", "forget", "read", "read", "commit", "commit", "rollback", "nest", "unnest"]


def test_in_any_order(tmp_path):
    engine = engine_of(tmp_path / "db")
    fill(engine)
    truth = sqlite3.connect(tmp_path / "db", isolation_level=None)
    make = track(sessionmaker(engine))

    def check(session, seed):
        wanted = [tuple(found) for found in truth.execute("SELECT number, token FROM item ORDER BY id")]
        for key in KEYS:
            for found in reads(session, key):
                assert found == wanted[key - 1], seed
        notes = {token for (token,) in truth.execute("SELECT token FROM note")}
        assert {*session.scalars(NOTES)} == notes, seed
        session.rollback()

    def step(session, nested, mine, what, key, token, apart):
        if what in ("commit", "rollback"):
            (nested.pop() if nested else session).__getattribute__(what)()
            if what == "rollback":
                mine.clear()
        elif what == "nest":
            nested.append(session.begin_nested())
        elif what == "unnest" and nested:
            nested.pop().rollback()
            mine.clear()
        elif what == "forget":
            session.execute(delete(Note).where(Note.id % 2 == 0))
        elif what == "read":
            for found in [*reads(session, key)][apart:]:
                assert found[1] == mine.get(key, found[1])
        elif what != "unnest":
            write(session, what, key, token)
            if what != "note":
                mine[key] = token

    for seed in range(PROGRAMS):
        chance = random.Random(seed)
        actors = [(make(), contextvars.Context(), [], {}) for _ in range(2 + seed % 2)]
        for number in range(14):
            session, context, nested, mine = chance.choice(actors)
            apart = seed % 4 == 0  # each step in a context of its own, which knows of no transaction
            if apart:
                context = contextvars.Context()
            what, key = chance.choice(STEPS), chance.choice(KEYS)
            try:
                context.run(step, session, nested, mine, what, key, f"{seed}.{number}", apart)
            except DBAPIError:  # another writes, or its snapshot is too old
                nested.clear()
                mine.clear()
                context.run(session.rollback)
            if not session.in_transaction():
                mine.clear()
                if chance.random() < 0.1:  # rarely: what others were about to read is there after it
                    contextvars.Context().run(check, session, seed)
        for session, context, *_ in actors:
            context.run(session.close)
        contextvars.Context().run(check, session, seed)
    assert zoocache.stats().hits > 3 * PROGRAMS and not OPEN
    truth.close()
    engine.dispose()


# ---- at once -----------------------------------------------------------------------------------------


class World:
    """A database, and what is known of it: what was committed, and by which transactions."""

    def __init__(self, engine, call):
        self.engine = engine  # of who asks the database itself
        self.call = call
        self.lock = threading.Lock()
        self.least = dict.fromkeys(KEYS, 0)  # of each item, the greatest number that was committed
        self.notes = set()  # that were committed
        self.tokens = {""}  # of transactions that were, or may be, committed
        self.commits = self.failures = 0

    def now(self):
        """What the database says."""
        with self.engine.connect() as connection:
            return dict(connection.execute(select(Item.id, Item.number)).all()), {
                *connection.scalars(select(Note.token))
            }

    def begin(self):
        """Another program, which has few notes to read."""
        with self.engine.begin() as connection:
            connection.execute(delete(Note))
        zoocache.invalidate(whole(Note))
        self.notes.clear()

    def check(self, session, key):
        """What is read, outside of a transaction, lies between what was committed before and what is there after."""
        with self.lock:
            least, notes = self.least[key], {*self.notes}
        found = [*reads(session, key, self.call)]
        noted = {*session.scalars(NOTES)}
        items, now = self.now()
        session.rollback()
        for number, token in found:
            assert least <= number <= items[key] and token in self.tokens, (least, found, items)
        assert notes <= noted <= now

    def act(self, session, chance, name):
        """A program of one session."""
        mine, notes, nested = {}, set(), []

        def ended():
            mine.clear(), notes.clear(), nested.clear()

        for number in range(8):
            what, key, token = chance.choice(STEPS), chance.choice(KEYS), f"{name}.{number}"
            try:
                if what in ("flush", "bulk", "text", "note"):
                    write(session, what, key, token)
                    if what == "note":
                        notes.add(token)
                    else:
                        mine[key] = token
                elif what == "nest":
                    nested.append((session.begin_nested(), {**mine}, {*notes}))
                elif what == "unnest" and nested:
                    savepoint, was, noted = nested.pop()
                    savepoint.rollback()
                    mine, notes = was, noted
                elif what == "read" and not mine and not notes:
                    session.rollback()
                    ended()
                    self.check(session, key)
                elif what == "read":
                    for found in reads(session, key, self.call):
                        assert found[1] == mine.get(key, found[1])
                    assert notes <= {*session.scalars(NOTES)}
                elif what == "commit":
                    numbers = {key: directly(session, key)[0] for key in mine}
                    self.tokens |= {*mine.values()}
                    session.commit()
                    with self.lock:
                        self.commits += 1
                        self.notes |= notes
                        for key, number in numbers.items():
                            self.least[key] = max(self.least[key], number)
                    ended()
                    self.check(session, key)
                elif what == "rollback":
                    session.rollback()
                    ended()
            except DBAPIError:  # a deadlock, or its snapshot is too old
                self.failures += 1
                session.rollback()
                ended()
        session.rollback()
        self.check(session, chance.choice(KEYS))


def in_threads(engine, seeds):
    make = track(sessionmaker(engine))
    world = World(engine, one)

    def run(seed, number):
        try:
            with make() as session:
                world.act(session, random.Random(f"{seed}.{number}"), f"{seed}.{number}")
        except BaseException as error:
            errors.append((seed, error))

    for seed in range(seeds):
        errors = []
        world.begin()
        threads = [threading.Thread(target=run, args=(seed, number)) for number in range(2 + seed % 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed, error in errors:
            raise AssertionError(f"seed {seed}") from error
    assert world.commits > seeds / 2 and not OPEN
    assert zoocache.stats().hits > seeds
    return world


def test_threads_of_sqlite(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'db'}", connect_args={"timeout": 0.01})

    @event.listens_for(engine, "connect")
    def connected(connection, record):
        connection.isolation_level = None
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF")

    @event.listens_for(engine, "begin")
    def begun(connection):
        connection.exec_driver_sql("BEGIN")

    fill(engine)
    in_threads(engine, 150)
    engine.dispose()


LEVELS = ["READ COMMITTED", "REPEATABLE READ"]
SETTINGS = {"deadlock_timeout": "5ms", "synchronous_commit": "off"}


@pytest.fixture
def url(postgres):
    """Of a database of its own."""
    return postgres.dsn.split("://")[1]


@pytest.mark.parametrize("level", LEVELS)
def test_threads_of_postgres(url, level):
    settings = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    engine = create_engine(f"postgresql+psycopg://{url}", isolation_level=level, connect_args={"options": settings})
    fill(engine)
    assert in_threads(engine, 150).failures
    Base.metadata.drop_all(engine)
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("level", LEVELS)
def test_tasks_of_postgres(url, level, driver):
    """The same programs as tasks of an event loop."""
    engine = create_engine(f"postgresql+psycopg://{url}")
    fill(engine)
    world = World(engine, lambda session, key: await_only(aone(session, key)))
    given = {"options": " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())}
    if driver == "asyncpg":
        given = {"server_settings": SETTINGS}

    async def main():
        other = create_async_engine(f"postgresql+{driver}://{url}", isolation_level=level, connect_args=given)
        make = track(async_sessionmaker(other))

        async def run(seed, number):
            async with make() as session:
                await session.run_sync(world.act, random.Random(f"{seed}.{number}"), f"{seed}.{number}")

        for seed in range(40):
            world.begin()
            await asyncio.gather(*[run(seed, number) for number in range(2 + seed % 2)])
        await other.dispose()

    asyncio.run(main())
    assert world.commits > 20 and zoocache.stats().hits > 40 and not OPEN
    Base.metadata.drop_all(engine)
    engine.dispose()
