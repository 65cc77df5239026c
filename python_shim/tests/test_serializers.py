import collections
import datetime as dt
import decimal
import enum
import fractions
import sys
import types
import uuid
import zoneinfo
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoocache import Unserializable
from zoocache.serializers import MessagePack, Pickle, serializer


class Colour(enum.Enum):
    RED = 1
    BLUE = ("b", 2)


class Level(enum.IntEnum):
    LOW = 1


class Switch(enum.Flag):
    A = 1
    B = 2


Point = collections.namedtuple("Point", "x y")


@dataclass(frozen=True)
class Row:
    id: int
    tags: tuple = ()
    extra: dict = field(default_factory=dict)


@dataclass
class Slotted:
    __slots__ = ("a",)
    a: int


def same(a, b):
    """Equal, of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(map(type, a)) == list(map(type, b)) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, dt.datetime):
        return (a, a.fold, a.utcoffset(), a.tzname()) == (b, b.fold, b.utcoffset(), b.tzname())
    return a == b or (a != a and b != b)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 2**63, 2**64, -(2**63) - 1, 10**400, -(10**400), 1.5, float("nan"), float("inf"), -0.0, "é\0", b"\0\xff", (), (1,),
        (1, [2, (3,)]), [(), []], {1: (2,), (1, 2): "x", None: 0, b"k": 1, 1.5: 2}, {1, "a", (1, 2)}, frozenset({(1,), 2}), 1 + 2j,
        dt.date(1, 1, 1), dt.datetime(2026, 11, 21, 1, 2, 3, 4, fold=1), dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
        dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, microseconds=5))),
        dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(0), "Here")),
        dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        dt.time(1, 2, 3, 4), dt.time(1, tzinfo=dt.timezone.utc), dt.timedelta(-1, 2, 3), decimal.Decimal("1.10"), decimal.Decimal("NaN"),
        uuid.UUID(int=5), fractions.Fraction(1, 3), range(1, 9, 2), Colour.RED, Colour.BLUE, Level.LOW, Switch.A | Switch.B, Point(1, (2,)),
        Row(1, (2,), {"a": Colour.RED}), Slotted(4), [{"deep": [{"er": (Row(2), Point(0, 0))}]}], "\xc4\xc5", ["\u0104"],
    ],
    ids=repr,
)  # fmt: skip
def test_comes_back_as_it_was(value):
    one = MessagePack()
    data = one.dumps(value)
    assert type(data) is bytes
    back = one.loads(data)
    assert type(back) is type(value)
    assert same(back, value) or (value != value and back != back), back
    assert same(one.loads(memoryview(data)), back) or back != back


class Other:
    pass


@dataclass
class Grown:
    a: int


class Sub(dict):
    pass


def endless():
    x = []
    x.append(x)
    return x


def grown():
    x = Grown(1)
    x.more = 2
    return x


def deep():
    x = []
    for _ in range(5000):
        x = [x]
    return x


class Odd(dt.tzinfo):
    def utcoffset(self, when):
        return dt.timedelta(0)


@pytest.mark.parametrize(
    "make",
    [Other, Sub, endless, grown, deep, lambda: lambda: 1, lambda: bytearray(b"x"), lambda: [{"a": [memoryview(b"x")]}], lambda: {b"k": bytearray()},
     lambda: "\ud800", lambda: collections.OrderedDict(a=1), lambda: dt.datetime(2026, 1, 1, tzinfo=Odd()), lambda: type("L", (int,), {})(5),
     lambda: (1, Other()), lambda: object],
)  # fmt: skip
def test_is_refused(make):
    with pytest.raises(Unserializable):
        MessagePack().dumps(make())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.datetimes() | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)  # fmt: skip


@given(values)
def test_any_value(value):
    assert same(MessagePack().loads(MessagePack().dumps(value)), value)


@given(st.binary())
def test_any_bytes(data):
    try:
        MessagePack().loads(data)
    except Exception as error:
        assert not isinstance(error, SystemError)


def test_classes_are_not_imported(monkeypatch):
    import sys

    data = MessagePack().dumps(Row(1))
    assert MessagePack().loads(data) == Row(1)
    monkeypatch.delitem(sys.modules, __name__)
    with pytest.raises(KeyError):
        MessagePack().loads(data)


def test_a_class_that_has_changed():
    data = MessagePack().dumps(Row(1)).replace(b"\xa3Row", b"\xa5Grown")
    with pytest.raises(Exception):  # noqa: B017
        MessagePack().loads(data)
    data = MessagePack()._wrap(Row(1))
    with pytest.raises(TypeError, match="other fields"):
        MessagePack()._unwrap(data.code, MessagePack().dumps([__name__, "Grown", [["b", 1]]]))
    with pytest.raises(TypeError, match="not a class"):
        MessagePack()._unwrap(data.code, MessagePack().dumps([__name__, "same", []]))
    with pytest.raises(ValueError, match="unknown"):
        MessagePack()._unwrap(99, b"\xc0")


def test_pickle_by_name():
    one = serializer("pickle")
    assert isinstance(one, Pickle)
    assert one.loads(one.dumps({Other})) == {Other}
    with pytest.raises(Unserializable):
        one.dumps(lambda: 1)


def test_which():
    assert isinstance(serializer("msgpack"), MessagePack)
    mine = Pickle()
    assert serializer(mine) is mine
    for bad in ("yaml", "", "JSON", 5, None, object(), b"json"):
        with pytest.raises(ValueError, match="serializer must be"):
            serializer(bad)


def test_classes_of_modules_that_were_moved(monkeypatch):
    """They are stored by the name that every Python knows."""
    public = types.ModuleType("moved")
    monkeypatch.setitem(sys.modules, "moved", public)
    public.Kind = enum.Enum("Kind", {"A": 1}, module="moved._local")
    data = MessagePack().dumps(public.Kind.A)
    assert b"moved" in data
    assert b"_local" not in data
    assert MessagePack().loads(data) is public.Kind.A
