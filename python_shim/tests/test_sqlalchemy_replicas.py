"""contrib.sqlalchemy: sessions of a replica that is behind, a real one: no old value outlives the lag.

Time is the test's own, and goes on only when the replica has what was committed a lag ago; how far it is ahead of
that is left to chance.
"""

import random

import pytest
from servers import Standby, until
from sqlalchemy import create_engine, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from zoocache import Cache
from zoocache.contrib.sqlalchemy import row, track
from zoocache.testing import FakeClock

pytestmark = [pytest.mark.slow, pytest.mark.plain]

LAG = 10.0
KEYS = 1, 2


class Base(DeclarativeBase):
    pass


class Price(Base):
    __tablename__ = "price"
    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


@pytest.fixture(scope="module")
def engines(postgres):
    primary = create_engine(postgres.dsn.replace("://", "+psycopg://"))
    Base.metadata.create_all(primary)
    with sessionmaker(primary).begin() as session:
        session.add_all([Price(id=key) for key in KEYS])
    standby = Standby(postgres)
    replica = create_engine(standby.dsn.replace("://", "+psycopg://"))
    yield primary, replica
    replica.dispose()
    standby.close()
    Base.metadata.drop_all(primary)
    primary.dispose()


@pytest.mark.parametrize("of", ["the function", "the sessions"])
def test_no_value_outlives_the_lag(engines, of):
    primary, replica = engines
    chance = random.Random(of)
    clock = FakeClock()
    with Cache(clock=clock) as cache, replica.connect() as control:
        with sessionmaker(primary).begin() as session:
            session.execute(update(Price).values(value=0))
        control = control.execution_options(isolation_level="AUTOCOMMIT")
        writing = track(sessionmaker(primary), cache=cache)
        reading = track(sessionmaker(replica), cache=cache, lag=LAG if of == "the sessions" else 0)
        wanted = select(Price.value).execution_options(zoocache=True)

        @cache.cacheable(deps=lambda key: [row(Price, key)], lag=LAG if of == "the function" else 0)
        def price(key):
            with reading() as session:
                return session.get(Price, key).value

        def reads(key):
            yield price(key)
            if of == "the sessions":
                with reading() as session:
                    yield session.scalar(wanted.where(Price.id == key))
                with reading() as session:
                    yield session.scalars(wanted.order_by(Price.id)).all()[key - 1]

        def commit(key, value):
            with writing.begin() as session:
                session.get(Price, key).value = value
            with primary.connect() as connection:
                return clock(), key, value, connection.scalar(text("SELECT cast(pg_current_wal_lsn() AS text)"))

        def catch_up(lsn):
            """The replica goes on until it has what was committed there."""
            control.execute(text("SELECT pg_wal_replay_resume()"))
            until(lambda: control.scalar(text("SELECT pg_last_wal_replay_lsn() >= cast(:lsn AS pg_lsn)"), {"lsn": lsn}))
            if chance.random() < 0.8:
                control.execute(text("SELECT pg_wal_replay_pause()"))

        catch_up(commit(KEYS[0], 0)[3])
        history = [(0.0, key, 0, None) for key in KEYS]
        behind = 0
        for step in range(1, 150):
            clock.advance(chance.choice([0, LAG / 50, LAG / 7, LAG / 3]))
            due = [lsn for when, _, _, lsn in history if lsn and when <= clock() - LAG]
            if due:
                catch_up(due[-1])
            key = chance.choice(KEYS)
            if chance.random() < 0.2:
                history.append(commit(key, step))
            least = max(value for when, k, value, _ in history if k == key and when <= clock() - LAG)
            newest = max(value for _, k, value, _ in history if k == key)
            for value in reads(key):
                assert least <= value <= newest
                behind += value < newest
        assert behind > 5 and cache.stats().hits > 20
        control.execute(text("SELECT pg_wal_replay_resume()"))
