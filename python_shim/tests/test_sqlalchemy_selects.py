"""contrib.sqlalchemy: cached selects. What is read is what the database has; objects are of the session that asked."""

import asyncio
import contextvars
import gc
import threading
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import (
    JSON,
    Column,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    literal,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy import table as lightweight
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    joinedload,
    mapped_column,
    selectinload,
    sessionmaker,
    subqueryload,
    with_loader_criteria,
)
from sqlalchemy.types import TypeDecorator
from test_sqlalchemy import Admin, Base, Comment, Pair, Post, User, engine, engine_of, likes, make  # noqa: F401

import zoocache
from zoocache import Cache, cacheable, disabled
from zoocache.contrib.sqlalchemy import table, track
from zoocache.testing import FakeClock

pytestmark = pytest.mark.plain


class Lower(TypeDecorator):
    impl = String
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return value and value.lower()


class Other(DeclarativeBase):
    pass


class Thing(Other):
    __tablename__ = "thing"
    id: Mapped[UUID] = mapped_column(primary_key=True)
    made: Mapped[datetime]
    day: Mapped[date]
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    weight: Mapped[float]
    data: Mapped[dict] = mapped_column(JSON)
    blob: Mapped[bytes]
    none: Mapped[str | None]


class Word(Other):
    __tablename__ = "a word"
    id = mapped_column(Integer, primary_key=True)
    plain = mapped_column(String)


class Counting:
    """The statements that reach the database."""

    def __init__(self, engine):
        self.seen = []
        event.listen(getattr(engine, "sync_engine", engine), "before_cursor_execute", self.executed)

    def executed(self, connection, cursor, statement, *more):
        if statement != "BEGIN":
            self.seen.append(statement)

    def new(self):
        seen = len(self.seen)
        self.seen.clear()
        return seen


@pytest.fixture
def count(engine):
    return Counting(engine)


def cached(statement, life=60):
    return statement.execution_options(zoocache=life)


USERS = cached(select(User).order_by(User.id))


def names(session):
    return [user.name for user in session.scalars(USERS)]


# ---- hits --------------------------------------------------------------------------------------------


def test_a_hit_asks_nobody(make, count):
    with make() as session:
        assert names(session) == ["Ada", "Grace", "Root"]
    assert count.new() == 1
    with make() as session:
        assert names(session) == names(session) == ["Ada", "Grace", "Root"]
        assert not session.in_transaction()
    assert count.new() == 0
    with make.begin() as session:
        session.get(User, 1).name = "Ada L."
    count.new()
    with make() as session:
        assert names(session)[0] == "Ada L."
    assert count.new() == 1


def test_objects_are_of_the_session_that_asked(make, count):
    with make() as one, make() as two:
        (mine, *_), (others, *_) = one.scalars(USERS).all(), two.scalars(USERS).all()
        assert mine is not others and mine in one and others in two
        assert one.scalars(USERS).first() is mine is one.get(User, 1)
        assert inspect(mine).persistent and not inspect(mine).modified
        mine.name = "changed"
        with one.no_autoflush:
            assert one.scalars(USERS).first().name == "changed"
        assert others.name == "Ada"
        one.rollback()
        count.new()
        assert one.scalars(USERS).first() is mine and "name" in inspect(mine).dict, "what had expired is loaded"
        assert mine.name == "Ada" and count.new() == 0
        mine.name = "written"
        one.commit()
        assert mine.name == "written"
        assert isinstance(two.scalars(USERS).all()[2], Admin)


LATER = {
    "scalars": lambda s, st: s.scalars(st).all(),
    "rows": lambda s, st: s.execute(st).all(),
    "first": lambda s, st: s.execute(st).first(),
    "scalar": lambda s, st: s.scalar(st),
    "mappings": lambda s, st: s.execute(st).mappings().all(),
    "unique": lambda s, st: s.execute(st).unique().all(),
    "partitions": lambda s, st: [list(part) for part in s.execute(st).partitions(2)],
    "query": lambda s, st: s.query(User).order_by(User.id).execution_options(zoocache=60).all(),
}


@pytest.mark.parametrize("name", LATER)
def test_however_it_is_taken(make, count, name):
    take = LATER[name]
    with make() as session:
        wanted = take(session, select(User).order_by(User.id))
        assert take(session, USERS) == wanted
        count.new()
        assert take(session, USERS) == wanted
        assert count.new() == 0


A = aliased(User)
users, posts = User.__table__, Post.__table__
recent = select(Post.author_id, func.count().label("n")).group_by(Post.author_id).subquery()
STATEMENTS = {
    "columns": (select(User.id, User.name), {User}),
    "an entity and a column": (select(User, Post.title).join(Post), {User, Post}),
    "two entities": (select(User, A).where(User.id == A.id), {User}),
    "an aggregate": (select(func.count(User.id)), {User}),
    "exists": (select(User.name).where(select(Post).where(Post.author_id == User.id).exists()), {User, Post}),
    "by a relationship": (select(User.name).where(User.posts.any(Post.title == "one")), {User, Post}),
    "by a secondary table": (
        select(Post.title).where(Post.id.in_(select(User.id).join(User.liked))),
        {User, likes, Post},
    ),
    "a subquery": (select(User.name, recent.c.n).join(recent, recent.c.author_id == User.id), {User, Post}),
    "a with": (select(select(User.id).cte("w").c.id), {User}),
    "a union": (union_all(select(User.id), select(Comment.id)), {User, Comment}),
    "core": (select(users.c.name, posts.c.title).join(posts), {User, Post}),
    "core, one row": (select(posts).where(posts.c.id == 1), {Post}),
    "those that inherit": (select(Admin.level), {Admin, User}),
    "one row": (select(Post).where(Post.id == 1), {Post}),
    "one row, and another": (select(Post.id).where((Post.id == 1) | (Post.id == 2)), {Post}),
    "a row and all": (select(Post, select(func.count(Post.id)).scalar_subquery()).where(Post.id == 1), {Post}),
    "a limit": (select(User.name).order_by(User.name).limit(1), {User}),
    "text within": (select(User.name).where(text("id IN (SELECT author_id FROM post)")), {User, Post}),
}

EDITS = {
    User: [lambda s: s.add(User(name="new")), lambda s: s.execute(update(User).values(name="u"))],
    Admin: [
        lambda s: setattr(s.get(Admin, 3), "level", 1),
        lambda s: s.execute(update(Admin.__table__).values(level=2)),
    ],
    Post: [lambda s: s.add(Post(title="new")), lambda s: s.execute(text("UPDATE post SET title = 't'"))],
    Comment: [lambda s: s.execute(delete(Comment)), lambda s: s.add(Comment(text="new"))],
    likes: [lambda s: s.execute(likes.insert().values(user_id=1, post_id=1)), lambda s: s.execute(likes.delete())],
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements(make, count, name):
    """Each depends on the tables that it reads, and on no others."""
    statement, tables = STATEMENTS[name]

    def both():
        with make() as session:
            return session.execute(cached(statement)).all() == session.execute(statement).all()

    assert both()
    for kind, edits in EDITS.items():
        for edit in edits:
            with make.begin() as session:
                edit(session)
            assert both()
        count.new()
        assert both()
        assert count.new() == 1, "one of the two is a hit"
        with make.begin() as session:
            edits[0](session)
        with make() as session:
            count.new()
            session.execute(cached(statement)).all()
            if "row" not in name:
                assert bool(count.new()) is (kind in tables or (kind is Admin and User in tables)), kind


EAGER = {
    "joinedload": joinedload(User.posts),
    "selectinload": selectinload(User.posts),
    "subqueryload": subqueryload(User.posts),
    "both": selectinload(User.liked).joinedload(Post.author),
}


@pytest.mark.parametrize("name", EAGER)
def test_what_is_loaded_with_it(make, count, name):
    statement = cached(select(User).order_by(User.id).options(EAGER[name]))
    plain = cached(select(User).order_by(User.id))

    def told():
        with make() as session:
            session.scalars(plain).all()
        with make() as session:
            found = session.scalars(statement).unique().all()
            relation = "liked" if name == "both" else "posts"
            assert relation in inspect(found[0]).dict
            return [
                (user.name, [(p.title, p.author and p.author.name) for p in getattr(user, relation)]) for user in found
            ]

    first = told()
    count.new()
    assert told() == first and count.new() == 0
    with make.begin() as session:
        session.get(Post, 1).title = "new"
        grace = session.get(User, 2)
        grace.liked.append(session.get(Post, 1))
    second = told()
    assert second != first and ("new" in str(second))
    count.new()
    assert told() == second and count.new() == 0


def test_what_is_loaded_later_is_not_cached(make, count):
    for _ in range(2):
        with make() as session:
            count.new()
            assert [p.title for p in session.scalars(cached(select(User).where(User.id == 1))).one().posts]
            lazy = count.new()
    assert lazy == 1


def test_it_is_of_what_is_computed_from_it(make):
    @cacheable
    def everybody():
        with make() as session:
            return names(session)

    with make() as session:
        names(session)
    assert everybody() == everybody() == ["Ada", "Grace", "Root"]
    with make.begin() as session:
        session.delete(session.get(User, 2))
    assert everybody() == ["Ada", "Root"]


# ---- rows --------------------------------------------------------------------------------------------

ROWS = {
    "equal": lambda s, *keys: [s.scalars(cached(select(User).where(User.id == key))).one_or_none() for key in keys],
    "in": lambda s, *keys: s.scalars(cached(select(User).where(User.name != "-", User.id.in_(keys)))).all(),
    "get": lambda s, *keys: [s.get(User, key, execution_options={"zoocache": True}) for key in keys],
    "core": lambda s, *keys: [s.execute(cached(select(users.c.name).where(users.c.id == key))).all() for key in keys],
    "a parameter": lambda s, *keys: [
        s.scalars(cached(select(User).where(User.id == bindparam("k"))), {"k": key}).all() for key in keys
    ],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_by_their_key(make, count, name):
    def asked(*keys):
        with make() as session:
            session.autoflush = False
            count.new()
            ROWS[name](session, *keys)
            return count.new()

    assert asked(1, 3) and asked(7)
    assert not asked(1, 3) and not asked(7)
    with make.begin() as session:
        session.get(User, 2).name = "of another"
    assert not asked(1, 3) and not asked(7)
    with make.begin() as session:
        session.get(User, 3).name = "of this"
        session.add(User(id=7, name="new"))
    assert asked(1, 3) and asked(7)
    with make.begin() as session:
        session.execute(update(User).values(name="all"))
    assert asked(1, 3) and asked(7)
    asked(*range(200))
    assert not asked(*range(200))
    with make.begin() as session:
        session.get(User, 2).name = "again"
    assert asked(*range(200))


def test_rows_of_a_table_that_another_program_has_a_model_of(make, count):
    """Two models of one table: their rows are the same."""

    class Base(DeclarativeBase):
        pass

    class Twin(Base):
        __tablename__ = User.__tablename__
        id: Mapped[int] = mapped_column(primary_key=True)

    table(Twin)  # from now on it is known
    by_key = cached(select(User).where(User.id == 1))
    with make() as session:
        session.scalars(by_key).one()
    with make.begin() as session:
        session.get(User, 2).name = "of another"
    count.new()
    with make() as session:
        session.scalars(by_key).one()
    assert not count.new()


def test_keys_that_are_text_or_of_two_columns(make, count):
    pair = cached(select(Pair).where(Pair.a == "x", Pair.b == 1))
    with make.begin() as session:
        session.add_all([Pair(a="x", b=1), Pair(a="x", b=2)])
    with make() as session:
        assert session.scalars(pair).one()
    with make.begin() as session:
        session.get(Pair, ("x", 2)).b = 3
    with make() as session:
        count.new()
        assert session.scalars(pair).one() and count.new() == 1, "of the table"
    assert list(zoocache.Cache.keys(zoocache._default.cache(), table(Pair)))


# ---- transactions ------------------------------------------------------------------------------------


def test_its_own_writes_and_those_of_others(make, count):
    with make() as mine, make() as other:
        assert names(other) == ["Ada", "Grace", "Root"]
        other.rollback()
        mine.add(User(id=9, name="mine"))
        assert names(mine)[-1] == "mine", "flushed, and seen"
        assert names(mine)[-1] == "mine"
        assert contextvars.Context().run(names, other)[-1] == "Root"
        assert contextvars.Context().run(names, mine)[-1] == "mine", "whatever the context knows"
        count.new()
        posts = cached(select(Post.title))
        assert mine.execute(posts).all() == mine.execute(posts).all() and count.new() == 1, "what it has not touched"
        mine.rollback()
        assert names(mine) == ["Ada", "Grace", "Root"]
        mine.add(User(id=9, name="mine"))
        with mine.begin_nested() as savepoint:
            mine.execute(update(User).values(name="x"))
            assert set(names(mine)) == {"x"}
            savepoint.rollback()
        mine.expire_all()
        assert names(mine)[-1] == "mine"
        mine.commit()
        other.rollback()
        assert names(other)[-1] == "mine"


def test_a_savepoint_in_another_context(make):
    """It has written what its transaction has, and is as old, whatever the context knows."""
    apart = contextvars.Context
    with make() as mine:
        names(mine)
        apart().run(mine.execute, update(User).values(name="mine"))
        apart().run(mine.begin_nested)
        assert {*apart().run(names, mine)} == {"mine"}
    with make() as old, make() as new:
        apart().run(old.execute, select(Post)).all()
        new.execute(update(User).values(name="new"))
        new.commit()
        apart().run(old.begin_nested)
        assert apart().run(names, old)[0] == "Ada", "as its snapshot has it"
    with make() as session:
        assert names(session)[0] == "new"


def test_a_snapshot_is_not_stored(make):
    with make() as old, make() as new:
        old.execute(select(Post)).all()  # its snapshot
        new.add(User(id=9, name="new"))
        new.commit()
        assert len(names(old)) == 3
        assert len(names(new)) == 4


def test_one_of_many_threads_asks(make, engine):
    arrived, go_on = [], threading.Event()

    @event.listens_for(engine, "before_cursor_execute")
    def slowly(connection, cursor, statement, *more):
        if "FROM user" in statement:
            arrived.append(statement)
            assert go_on.wait(30)

    def ask():
        with make() as session:
            results.append(names(session))

    results = []
    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    cache = zoocache._default.cache()
    while not (arrived and cache.stats().waits == 4):
        assert any(thread.is_alive() for thread in threads)
    go_on.set()
    for thread in threads:
        thread.join()
    assert results == [["Ada", "Grace", "Root"]] * 5 and len(arrived) == 1


# ---- what is not cached --------------------------------------------------------------------------------

COMPUTED = {
    "for update": lambda s: s.scalars(USERS.with_for_update()).all(),
    "for update within": lambda s: s.scalars(
        cached(select(User).where(User.id.in_(select(User.id).with_for_update())))
    ),
    "yield_per": lambda s: s.scalars(USERS.execution_options(yield_per=1)).all(),
    "streamed": lambda s: s.scalars(USERS.execution_options(stream_results=True)).all(),
    "populate_existing": lambda s: s.scalars(USERS.execution_options(populate_existing=True)).all(),
    "text": lambda s: s.execute(text("SELECT * FROM user").execution_options(zoocache=60)).all(),
    "entities of text": lambda s: s.scalars(cached(select(User).from_statement(text("SELECT * FROM user")))).all(),
    "a table that nobody knows": lambda s: s.execute(
        cached(select(text("*")).select_from(lightweight("strange")))
    ).all(),
    "text that nobody knows": lambda s: s.execute(cached(select(text("* FROM strange")))).all(),
    "a write": lambda s: s.execute(cached(insert(Comment).values(text="x").returning(Comment.id))).all(),
    "switched off": lambda s: s.scalars(USERS.execution_options(zoocache=False)).all(),
    "no life": lambda s: s.scalars(USERS.execution_options(zoocache=0)).all(),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_what_is_computed(make, count, engine, name):
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE strange (a)")
    for _ in range(2):
        with make() as session:
            names(session)
            count.new()
            COMPUTED[name](session)
            assert count.new() == 1


def test_a_session_of_a_connection_computes(make, engine, count):
    """As test cases have it: what is committed is rolled back at the end."""
    make.configure(bind=None)
    with engine.connect() as connection:
        around = connection.begin()
        with make(bind=connection, join_transaction_mode="create_savepoint") as session:
            session.add(User(id=9, name="of a test"))
            session.commit()
            assert len(names(session)) == 4
        around.rollback()
    with make(bind=engine) as session:
        assert len(names(session)) == 3


def test_disabled_and_a_life_that_is_none(make, count):
    with make() as session:
        names(session)
        count.new()
        with disabled():
            names(session)
        assert count.new() == 1
        for bad, error in [(-1, ValueError), ("60", TypeError), (float("nan"), ValueError)]:
            with pytest.raises(error, match="zoocache must be"):
                session.scalars(cached(select(User), bad))


def test_lives(engine, count):
    clock = FakeClock()
    with Cache(clock=clock, default_ttl=100, read_extend_ttl=False) as cache:
        make = track(sessionmaker(engine), cache=cache)

        def asked(life):
            with make() as session:
                session.execute(cached(select(User.id), life)).all()
            return count.new()

        count.new()
        assert asked(10) == 1 and asked(10) == 0
        clock.advance(11)
        assert asked(True) == 1
        clock.advance(90)
        assert asked(True) == 0
        clock.advance(11)
        assert asked(True) == 1


def test_other_listeners_are_heeded(make, count):
    """Whenever they were added: what they make of a statement is what is cached."""
    hidden = {"Grace"}

    @event.listens_for(make, "do_orm_execute")
    def hide(state):
        state.statement = state.statement.options(with_loader_criteria(User, User.name.not_in(hidden)))

    for wanted in (["Ada", "Root"], ["Ada", "Root"], ["Grace", "Root"]):
        if wanted[0] == "Grace":
            hidden.symmetric_difference_update({"Ada", "Grace"})
        with make() as session:
            assert names(session) == wanted

    @event.listens_for(make, "do_orm_execute")
    def twice(state):
        return state.invoke_statement()

    with make() as session:
        count.new()
        names(session)
        assert count.new() == 1


# ---- parameters, types, databases -----------------------------------------------------------------------


def test_the_same_text_with_other_types(make):
    plain, lower = (
        cached(select(literal("X", type_).label("x"), User.id).where(User.id == 1)) for type_ in (String, Lower)
    )
    with make() as session:
        for _ in range(2):
            assert session.scalar(plain) == "X" and session.scalar(lower) == "x"
        for value in (1, 1.0, True, "1", Decimal(1), None, b"1", date(2020, 1, 1)):
            statement = select(func.typeof(bindparam("v", value)), User.id).where(User.id == 1)
            assert session.execute(cached(statement)).all() == session.execute(statement).all(), value


def test_a_parameter_that_cannot_be_a_key(make, count):
    class Odd:
        def __conform__(self, protocol):
            return 1

    with make() as session:
        for _ in range(2):
            count.new()
            assert session.scalars(cached(select(User).where(User.id == Odd()))).one().name == "Ada"
            assert count.new() == 1


def thing(number):
    return Thing(
        id=UUID(int=number), made=datetime(2020, 1, 1, 12), day=date(2020, 1, 1), price=Decimal("1.20"), weight=0.5,
        data={"a": [1]}, blob=b"\0", none=None,
    )  # fmt: skip


def same(found, number):
    wanted = thing(number)
    for name in Thing.__table__.columns.keys():
        value = getattr(found, name)
        assert value == getattr(wanted, name) and type(value) is type(getattr(wanted, name)), name


@pytest.mark.parametrize("stored", [False, True])
def test_values_of_every_type(tmp_path, stored):
    """In memory, and by bytes in a storage, for a process that has never asked the database."""
    options = {"storage_url": f"lmdb://{tmp_path / 'cache'}"} if stored else {}
    engine = engine_of(tmp_path / "db")
    Other.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all([thing(number) for number in range(3)])
    statements = [cached(select(Thing).order_by(Thing.id)), cached(select(Thing).where(Thing.id == UUID(int=1)))]
    with Cache(**options) as cache:
        make = track(sessionmaker(engine), cache=cache)
        for _ in range(2):
            with make() as session:
                for number, found in enumerate(session.scalars(statements[0])):
                    same(found, number)
                    found.data["a"].append(2)
                    found.data = {}
            with make() as session:
                same(session.scalars(statements[1]).one(), 1)
    engine.dispose()
    if stored:
        engine = engine_of(tmp_path / "db")
        count = Counting(engine)
        with Cache(**options) as cache:
            make = track(sessionmaker(engine), cache=cache)
            with make() as session:
                for number, found in enumerate(session.scalars(statements[0])):
                    same(found, number)
            with make() as session:
                same(session.scalars(statements[1]).one(), 1)
            assert count.new() == 0 and cache.stats().hits_storage == 2
        engine.dispose()


def test_databases_are_kept_apart(tmp_path):
    for urls in (["sqlite://"] * 2, [f"sqlite:///{tmp_path / n}" for n in "ab"], ["sqlite:///:memory:"] * 2):
        engines = [create_engine(url) for url in urls]
        for n, each in enumerate(engines):
            Base.metadata.create_all(each)
            with Session(each) as session, session.begin():
                session.add(User(name=f"of {n}"))
        makers = [track(sessionmaker(each)) for each in engines]
        for _ in range(2):
            for n, maker in enumerate(makers):
                with maker() as session:
                    assert names(session) == [f"of {n}"]
        for each in engines:
            each.dispose()
    gc.collect()
    cache = zoocache._default.cache()
    cache.sweep()
    assert len(cache) == 0 or len(cache.keys(table(User))) == 2, "what was of memory is gone with it"


def test_schemas_are_kept_apart(tmp_path):
    engine = create_engine("sqlite://")
    things = Table("thing", MetaData(), Column("a", Integer), schema="tenant")
    make = track(sessionmaker(engine))
    with make() as session:
        for n in (1, 2):
            session.execute(text("ATTACH ':memory:' AS t" + str(n)))
            session.execute(text(f"CREATE TABLE t{n}.thing (a)"))
            session.execute(text(f"INSERT INTO t{n}.thing VALUES ({n})"))
        session.commit()
        for _ in range(2):
            for n in (1, 2):
                options = {"schema_translate_map": {"tenant": f"t{n}"}}
                assert session.scalar(cached(select(things.c.a)), execution_options=options) == n
        assert zoocache.stats().hits == 2
    engine.dispose()


def test_a_name_that_is_no_word(tmp_path):
    engine = create_engine("sqlite://")
    Other.metadata.create_all(engine)
    make = track(sessionmaker(engine))
    words = cached(select(Word.plain))
    with make() as session:
        session.add(Word(id=1, plain="x"))
        session.commit()
        assert session.scalars(words).all() == ["x"]
        session.execute(text("UPDATE \"a word\" SET plain = 'y'"))
        session.commit()
        assert session.scalars(words).all() == ["y"]
    engine.dispose()


# ---- async -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
def test_async(tmp_path, engine, stored):
    """Tasks wait for the one that asks, and the event loop does not."""
    if stored:
        zoocache.configure(storage_url=f"lmdb://{tmp_path / 'cache'}")

    async def main():
        other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'db'}")
        count = Counting(other)
        make = track(async_sessionmaker(other))
        statement = cached(select(User).order_by(User.id).options(selectinload(User.posts)))

        async def ask():
            async with make() as session:
                return [(user.name, len(user.posts)) for user in (await session.scalars(statement))]

        first = [("Ada", 2), ("Grace", 0), ("Root", 0)]
        assert await asyncio.gather(*[ask() for _ in range(5)]) == [first] * 5
        assert sum("FROM user ORDER BY" in each for each in count.seen) == 1
        async with make() as session:
            (await session.get(User, 1)).name = "mine"
            assert (await session.scalars(statement)).first().name == "mine"
            assert await asyncio.create_task(ask(), **apart()) == first
            await session.rollback()
            assert (await session.scalars(statement)).first().name == "Ada"
            (await session.get(User, 1)).name = "new"
            await session.commit()
        assert (await ask())[0] == ("new", 2)
        count.new()
        assert (await ask())[0] == ("new", 2) and count.new() == 0
        async with make() as session:
            assert len([user async for user in await session.stream_scalars(USERS)]) == 3
        assert count.new() == 1
        await other.dispose()

    def apart():
        import sys

        return {"context": contextvars.Context()} if sys.version_info >= (3, 11) else {}

    asyncio.run(main())
