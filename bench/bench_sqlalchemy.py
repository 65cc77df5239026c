#!/usr/bin/env python3
"""Times SQLAlchemy: a cached select beside the query on SQLite in memory, and a flush of tracked sessions beside others.

    python bench/bench_sqlalchemy.py [--rounds 40] [--postgres postgresql+psycopg://user@host/database]

Each figure is the least of rounds that take turns, so that a busy machine is no part of it.
"""

import argparse
import gc
from datetime import datetime
from time import perf_counter

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload, sessionmaker
from sqlalchemy.schema import ForeignKey

from zoocache.contrib.sqlalchemy import track


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "bench_user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    age: Mapped[int]
    score: Mapped[float]
    joined: Mapped[datetime]
    posts: Mapped[list["Post"]] = relationship()


class Post(Base):
    __tablename__ = "bench_post"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey(User.id))
    title: Mapped[str]


def user(n):
    return User(
        id=n, name=f"user {n}", email=f"{n}@example.org", age=n % 90, score=n / 3, joined=datetime(2026, 1, 1, n % 24)
    )


def least(works, rounds):
    """Of each work, given by its name, the least time of a call, in microseconds."""
    found = dict.fromkeys(works, float("inf"))
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for name, work in works.items():
            start = perf_counter()
            work()
            found[name] = min(found[name], (perf_counter() - start) * 1e6)
    gc.enable()
    return found


def show(title, found):
    base = next(iter(found.values()))
    for name, us in found.items():
        print(f"{title:42} {name:10} {us:9.0f} us  {us / base:5.2f} x")


def selects(engine, rounds):
    plain, tracked = sessionmaker(engine), track(sessionmaker(engine))
    columns = select(User.id, User.name, User.email, User.age, User.score, User.joined)
    statements = {
        "one object, by its key": select(User).where(User.id == 7),
        "50 objects": select(User).where(User.id < 50),
        "500 objects": select(User).where(User.id < 500),
        "500 objects, selectinload of 1,000": select(User).where(User.id < 500).options(selectinload(User.posts)),
        "500 rows of six columns": columns.where(User.id < 500),
        "500 numbers": select(User.id).where(User.id < 500),
        "a count": select(func.count(User.id)),
    }

    def ask(make, statement):
        def work():
            with make() as session:
                session.execute(statement).all()

        return work

    for name, statement in statements.items():
        works = {"query": ask(plain, statement), "hit": ask(tracked, statement.execution_options(zoocache=600))}
        show(f"select, {name}", least(works, rounds))


def flushes(engine, rounds, name):
    makers = {"plain": sessionmaker(engine), "tracked": track(sessionmaker(engine))}

    def inserts(make):
        with make() as session:
            session.add_all([user(n) for n in range(2000, 3000)])
            start = perf_counter()
            session.flush()
            took = perf_counter() - start
            session.rollback()
        return took

    def updates(make, many):
        with make() as session:
            found = session.scalars(select(User).where(User.id < many)).all()
            for each in found:
                each.age += 1
            start = perf_counter()
            session.flush()
            took = perf_counter() - start
            session.rollback()
        return took

    works = {
        "flush, 1,000 inserts": inserts,
        "flush, 1,000 updates": lambda make: updates(make, 1000),
        "flush, 50 updates": lambda make: updates(make, 50),
        "flush, 1 update": lambda make: updates(make, 1),
    }
    for title, work in works.items():
        found = dict.fromkeys(makers, float("inf"))
        for _ in range(rounds):
            for kind, make in makers.items():
                gc.collect()
                gc.disable()
                found[kind] = min(found[kind], work(make) * 1e6)
                gc.enable()
        show(f"{name}: {title}", found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--postgres")
    options = parser.parse_args()
    engines = {"SQLite": create_engine("sqlite://")}
    if options.postgres:
        engines["PostgreSQL"] = create_engine(options.postgres)
    for name, engine in engines.items():
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        with sessionmaker(engine).begin() as session:
            session.add_all(user(n) for n in range(1000))
            session.flush()
            session.add_all(Post(id=n, user_id=n // 2, title=f"title {n}") for n in range(2000))
        if name == "SQLite":
            selects(engine, options.rounds)
        flushes(engine, options.rounds, name)
        Base.metadata.drop_all(engine)
        engine.dispose()


main()
