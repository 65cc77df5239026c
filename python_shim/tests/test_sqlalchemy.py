"""contrib.sqlalchemy: what a session commits is invalidated; real databases, real sessions."""

import asyncio
import contextvars
import subprocess
import sys

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    Integer,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, relationship, scoped_session, sessionmaker

import zoocache
from zoocache import Cache, cacheable
from zoocache.context import OPEN
from zoocache.contrib.sqlalchemy import _by_statement, row, table, track, whole


class Base(DeclarativeBase):
    pass


likes = Table(
    "likes",
    Base.metadata,
    Column("user_id", ForeignKey("user.id"), primary_key=True),
    Column("post_id", ForeignKey("post.id"), primary_key=True),
)


class User(Base):
    __tablename__ = "user"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String)
    kind = mapped_column(String, default="user")
    posts = relationship("Post", back_populates="author", cascade="all, delete-orphan")
    liked = relationship("Post", secondary=likes)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "user"}


class Admin(User):
    __tablename__ = "admin"
    id = mapped_column(ForeignKey("user.id"), primary_key=True)
    level = mapped_column(Integer, default=0)
    __mapper_args__ = {"polymorphic_identity": "admin"}


class Post(Base):
    __tablename__ = "post"
    id = mapped_column(Integer, primary_key=True)
    author_id = mapped_column(ForeignKey("user.id"))
    title = mapped_column(String)
    author = relationship("User", back_populates="posts")


class Comment(Base):
    __tablename__ = "comment"
    id = mapped_column(Integer, primary_key=True)
    post_id = mapped_column(ForeignKey("post.id", ondelete="CASCADE"))
    text = mapped_column(String)


class Pair(Base):
    __tablename__ = "pair"
    a = mapped_column(String, primary_key=True)
    b = mapped_column(Integer, primary_key=True)


def engine_of(path):
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})

    @event.listens_for(engine, "connect")
    def connected(connection, record):
        connection.isolation_level = None
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON; PRAGMA synchronous=OFF")

    @event.listens_for(engine, "begin")
    def begun(connection):
        connection.exec_driver_sql("BEGIN")

    return engine


@pytest.fixture
def engine(tmp_path):
    engine = engine_of(tmp_path / "db")
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        ada = User(id=1, name="Ada")
        session.add_all([ada, User(id=2, name="Grace"), Admin(id=3, name="Root", level=9)])
        session.add_all([Post(id=1, author=ada, title="one"), Post(id=2, author=ada, title="two")])
        session.flush()
        session.add(Comment(id=1, post_id=1, text="yes"))
    yield engine
    engine.dispose()


@pytest.fixture
def make(engine):
    return track(sessionmaker(engine))


class Watching:
    """Cached values of these tags, and which of them are gone since the last look."""

    def __init__(self, *tags):
        self.tags = tags
        self.calls = []
        self.value = cacheable(deps=lambda tag: [tag])(self.calls.append)
        self.gone()

    def gone(self):
        self.calls.clear()
        for tag in self.tags:
            contextvars.Context().run(self.value, tag)
        return {*self.calls}


def of(*tags):
    return {*tags}


def test_names():
    assert row(User, 42) == row(User, "42") == row(User, (42,)) == row(Admin, 42) == row(User.__table__, 42)
    assert row(User, 42).startswith(whole(User) + ":") and table(User).startswith(whole(User) + ":")
    assert len({row(Pair, "x", 1), row(Pair, "x,1", 1), row(Pair, "x:1", 1), row(Pair, "", 1), table(Pair)}) == 5
    assert whole(Post) != whole(User)
    for bad in ((), (1, 2), (1.5,), (None,), (True,)):
        with pytest.raises(TypeError, match="primary key"):
            row(User, *bad)


def test_a_flush_names_its_rows(make):
    seen = Watching(row(User, 1), row(User, 2), row(User, 7), table(User), table(Post))
    with make() as session:
        session.get(User, 1).name = "Ada L."
        session.flush()
        assert seen.gone() == of(), "not committed"
        session.commit()
        assert seen.gone() == of(row(User, 1), table(User))
        session.add(User(id=7, name="new"))
        session.commit()
        assert seen.gone() == of(row(User, 7), table(User))
        session.delete(session.get(User, 2))
        session.commit()
        assert seen.gone() == of(row(User, 2), table(User))
        session.get(User, 1).name = "nobody"
        session.rollback()
        assert seen.gone() == of()
        assert session.get(User, 1).name == "Ada L."
        session.commit()
        assert seen.gone() == of(), "read alone"
    assert not OPEN


def test_a_key_that_changes(make):
    seen = Watching(row(Pair, "x", 1), row(Pair, "x", 2), row(Pair, "y", 1), table(Pair))
    with make.begin() as session:
        session.add(Pair(a="x", b=1))
    seen.gone()
    with make.begin() as session:
        session.get(Pair, ("x", 1)).b = 2
    assert seen.gone() == of(row(Pair, "x", 1), row(Pair, "x", 2), table(Pair))


def test_rows_that_a_flush_finds_by_itself(make):
    seen = Watching(row(Post, 1), row(Post, 2), table(Post), table(Comment), row(User, 1), table(likes))
    with make.begin() as session:
        ada = session.get(User, 1)
        ada.posts.remove(session.get(Post, 1))  # an orphan: deleted, and its comments by the database
    assert seen.gone() >= of(row(Post, 1), table(Post), table(Comment))
    assert seen.gone() == of()
    with make.begin() as session:
        ada = session.get(User, 1)
        ada.liked.append(session.get(Post, 2))
    assert table(likes) in seen.gone()
    with make.begin() as session:
        session.get(Post, 2).author = session.get(User, 2)
    assert seen.gone() >= of(row(Post, 2), table(Post))


def test_models_that_inherit(make):
    seen = Watching(row(User, 3), row(User, 1), table(Admin))
    with make.begin() as session:
        session.get(Admin, 3).level = 1
    assert seen.gone() == of(row(User, 3), table(User))
    with make.begin() as session:
        session.execute(update(Admin.__table__).values(level=2))
    assert seen.gone() == of(row(User, 3), row(User, 1), table(User))


STATEMENTS = {
    "bulk update": update(User).where(User.name == "Ada").values(name="x"),
    "bulk update, evaluated": update(User).values(name="y").execution_options(synchronize_session="evaluate"),
    "bulk delete": delete(User).where(User.id == 99),
    "bulk insert": insert(User).values(id=50, name="z"),
    "insert from select": insert(User).from_select(["id", "name"], select(User.id + 100, User.name)),
    "core update": update(User.__table__).values(name="c"),
    "text": text("UPDATE user SET name = 't'"),
    "text with a comment": text("/* who */ update \"user\" set name = 'u'"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_change_the_whole_of_their_table(make, name):
    seen = Watching(row(User, 1), table(User), row(Post, 1), table(Post))
    statement = STATEMENTS[name]
    with make() as session:
        session.execute(statement)
        assert seen.gone() == of()
        session.commit()
    assert seen.gone() == of(row(User, 1), table(User))


def test_a_statement_in_a_with_of_another():
    """SQLite has none."""
    changed = update(User).values(name="w").returning(User.id).cte("changed")
    assert _by_statement(select(changed.c.id)) == {whole(User)}


def test_by_a_connection_and_by_the_driver(make):
    seen = Watching(row(User, 1), table(User), row(Post, 1))
    with make.begin() as session:
        session.connection().execute(update(User.__table__).values(name="c"))
    assert seen.gone() == of(row(User, 1), table(User))
    with make.begin() as session:
        session.connection().exec_driver_sql("DELETE FROM user WHERE id = 77")
    assert seen.gone() == of(row(User, 1), table(User))
    with make.begin() as session:
        session.connection().exec_driver_sql("CREATE TABLE IF NOT EXISTS zoo (a)")
        session.connection().exec_driver_sql("INSERT INTO zoo VALUES (1)")
    assert seen.gone() == of(row(User, 1), table(User), row(Post, 1)), "a table that nobody knows"
    with make.begin() as session:
        session.execute(text("SELECT 'updated' FROM user"))
        session.execute(select(User)).all()
    assert seen.gone() == of()


def test_a_deletion_that_the_database_carries_on(make):
    seen = Watching(row(Comment, 1), table(Comment), row(User, 1))
    with make.begin() as session:
        session.execute(delete(Post).where(Post.id == 1))
    assert seen.gone() == of(row(Comment, 1), table(Comment))
    with make.begin() as session:
        assert session.get(Comment, 1) is None


def test_many_rows_of_one_statement(make):
    seen = Watching(row(User, 1), row(User, 2), row(User, 3), table(User))
    with make.begin() as session:
        session.execute(update(User), [{"id": 1, "name": "p"}, {"id": 2, "name": "q"}])
    assert seen.gone() >= of(row(User, 1), row(User, 2), table(User))
    with make.begin() as session:
        statement = update(User.__table__).where(User.__table__.c.id == bindparam("k")).values(name=bindparam("v"))
        session.connection().execute(statement, [{"k": 1, "v": "p"}, {"k": 2, "v": "q"}])
    assert seen.gone() == of(row(User, 1), row(User, 2), row(User, 3), table(User))


def test_after_a_flush_that_failed(make):
    seen = Watching(row(User, 1), row(User, 2), table(User))
    with make() as session:
        with pytest.raises(IntegrityError), session.begin_nested():
            session.add(Post(author_id=99))
            session.flush()
        session.execute(update(User).values(name="after it"))
        session.commit()
    assert seen.gone() == of(row(User, 1), row(User, 2), table(User))


def test_a_statement_of_a_handler_of_a_flush(make):
    seen = Watching(row(Comment, 1), table(Comment), row(User, 2))

    def also(mapper, connection, target):
        connection.execute(update(Comment.__table__).values(text="also"))

    event.listen(User, "after_update", also)
    try:
        with make.begin() as session:
            session.get(User, 1).name = "x"
    finally:
        event.remove(User, "after_update", also)
    assert seen.gone() == of(row(Comment, 1), table(Comment))


def test_savepoints(make):
    seen = Watching(row(User, 1), row(User, 2), table(User))
    with make() as session:
        session.get(User, 1).name = "outer"
        with pytest.raises(KeyError), session.begin_nested():
            session.get(User, 2).name = "inner"
            session.flush()
            raise KeyError
        with session.begin_nested():
            pass
        session.commit()
        assert seen.gone() == of(row(User, 1), table(User))
        with session.begin_nested():
            session.get(User, 2).name = "kept"
        session.rollback()
        assert seen.gone() == of()
        with session.begin_nested():
            session.get(User, 2).name = "kept"
        session.commit()
    assert seen.gone() == of(row(User, 2), table(User))


def test_two_sessions_in_one_context(make):
    """Neither is a savepoint of the other, whichever began first: each commit is told, and each rollback dropped."""
    seen = Watching(row(User, 1), row(User, 2), table(User))
    with make() as one, make() as two:
        one.execute(select(User.id)).all()
        two.get(User, 2).name = "two"
        two.commit()
        assert seen.gone() == of(row(User, 2), table(User)), "the first goes on"
        one.rollback()
        one.get(User, 1).name = "one"
        one.flush()
        two.execute(select(User.id)).all()
        with two.begin_nested():
            pass
        with one.begin_nested():
            one.get(User, 2).name = "inner"
        two.rollback()
        assert seen.gone() == of()
        one.commit()
        assert seen.gone() == of(row(User, 1), row(User, 2), table(User))
    assert not OPEN


def test_a_commit_in_a_block_of_the_cache(make):
    """What is committed is told, whatever becomes of the block around it."""
    seen = Watching(row(User, 1), row(User, 2), table(User))
    with pytest.raises(KeyError), zoocache.transaction():
        zoocache.invalidate(row(User, 2))
        with make.begin() as session:
            session.get(User, 1).name = "told"
        assert seen.gone() == of(row(User, 1), table(User))
        raise KeyError
    assert seen.gone() == of()


def test_it_sees_its_own_writes_and_others_do_not(make):
    @cacheable(deps=lambda session, key: [row(User, key)], key=lambda session, key: str(key))
    def name_of(session, key):
        return session.execute(select(User.name).where(User.id == key)).scalar_one()

    with make() as mine, make() as other:
        assert name_of(mine, 1) == "Ada"
        mine.execute(update(User).where(User.id == 1).values(name="mine"))
        assert name_of(mine, 1) == "mine"
        assert contextvars.Context().run(name_of, other, 1) == "Ada"
        mine.commit()
        other.rollback()
        assert name_of(other, 1) == "mine"


def test_in_a_context_that_knows_nothing_of_the_transaction(make):
    """As a framework that runs each step of a request in a thread of its own."""

    @cacheable(deps=lambda session, key: [row(User, key)], key=lambda session, key: str(key))
    def name_of(session, key):
        return session.execute(select(User.name).where(User.id == key)).scalar_one()

    apart = contextvars.Context
    with make() as old, make() as new:
        apart().run(old.execute, select(User.id)).all()  # its snapshot
        apart().run(new.execute, update(User).where(User.id == 1).values(name="new"))
        assert apart().run(name_of, new, 1) == "new"
        apart().run(new.rollback)
        assert apart().run(name_of, new, 1) == "Ada", "what was not committed was not stored"
        apart().run(new.rollback)
        zoocache.clear()
        apart().run(new.execute, update(User).where(User.id == 1).values(name="new"))
        apart().run(new.commit)
        assert apart().run(name_of, old, 1) == "Ada", "as its snapshot has it"
        assert apart().run(name_of, new, 1) == "new"


def test_kinds_of_sessions(engine):
    seen = Watching(row(User, 1))

    def change(session):
        session.get(User, 1).name += "!"
        session.commit()

    class Mine(Session):
        pass

    track(Mine)
    with Mine(engine) as session:
        change(session)
    assert seen.gone()
    registry = track(scoped_session(sessionmaker(engine)))
    change(registry())
    registry.remove()
    assert seen.gone()
    with Session(engine) as session:
        track(session)
        change(session)
    assert seen.gone()
    with Session(engine) as session:
        change(session)
    assert not seen.gone(), "not tracked"
    for bad in (engine, "Session", AsyncSession, None):
        with pytest.raises(TypeError, match=r"track\(\)|sync_session_class"):
            track(bad)


def test_a_cache_of_its_own(engine):
    with Cache() as cache:
        make = track(sessionmaker(engine), cache=cache)
        with make.begin() as session:
            session.get(User, 1).name = "x"
        assert cache.tag_version(row(User, 1))
        assert not zoocache.get_tag_version(row(User, 1))


@pytest.mark.parametrize("stored", [False, True])
def test_async(tmp_path, engine, stored):
    """With a storage, what a commit says is said beside the event loop."""
    if stored:
        zoocache.configure(storage_url=f"lmdb://{tmp_path / 'cache'}")
    seen = Watching(row(User, 1), table(User))

    async def main():
        aengine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'db'}")
        make = track(async_sessionmaker(aengine))

        @cacheable(deps=[row(User, 1)], namespace="name")
        async def name():
            async with make() as session:
                return (await session.get(User, 1)).name

        assert await name() == "Ada"
        async with make() as session:
            (await session.get(User, 1)).name = "async"
            await session.commit()
        assert await name() == "async"
        async with make() as session:
            await session.execute(update(User).values(name="gone"))
            await session.rollback()
        assert await name() == "async"
        await aengine.dispose()

    asyncio.run(main())
    assert seen.gone() == of(row(User, 1), table(User))


@pytest.mark.parametrize("stored", [False, True])
def test_holds_are_announced_before_the_commit(tmp_path, engine, stored):
    """With a storage, beside the event loop."""
    cache = Cache(storage_url=f"lmdb://{tmp_path / 'cache'}") if stored else Cache()

    async def main():
        aengine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'db'}")
        make = track(async_sessionmaker(aengine), cache=cache, hold=60)
        async with make.begin() as session:
            assert not cache.stats().holds
            (await session.get(User, 1)).name = "async"
            await session.flush()
            assert cache.stats().holds
            cache.set("k", 1, deps=[row(User, 1)])
            assert cache.get("k") is None, "nobody stores what depends on it"
        assert not cache.stats().holds
        await aengine.dispose()

    with cache:
        asyncio.run(main())
        make = track(sessionmaker(engine), cache=cache, hold=60)
        with make() as session:
            session.execute(update(User).values(name="gone"))
            with session.begin_nested():
                session.add(Pair(a="a", b=1))
                session.flush()
            assert cache.stats().holds == 2, "of the bulk statement, and of the savepoint"
            session.rollback()
        assert not cache.stats().holds
        cache.set("k", 1, deps=[row(User, 1)])
        assert cache.get("k") == 1
        with pytest.raises(ValueError, match="hold"):
            track(sessionmaker(engine), hold=-1)


def test_the_extra_is_named():
    code = "import sys; sys.modules['sqlalchemy'] = None; import zoocache.contrib.sqlalchemy"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode and "zoocache[sqlalchemy]" in ended.stderr
