import asyncio
import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import importlib
import io
import ipaddress
import pathlib
import re
import struct
import sys
import types
import typing
import uuid
import zoneinfo
from collections import Counter, OrderedDict, deque, namedtuple
from fractions import Fraction

import hypothesis
import pytest
from hypothesis import strategies

import zoocache
from zoocache import UnkeyableArgument, _keys, cacheable
from zoocache._errors import Unserializable
from zoocache._keys import Unkeyable, Unportable, freeze, portable
from zoocache.serializers import MessagePack

Point = namedtuple("Point", "x y")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Query:
    name: str
    limit: int = 10


class Name(str):
    def __str__(self):
        return "?"


class Count(int):
    pass


class Ratio(float):
    pass


class Own:
    def __init__(self, n):
        self.n = n

    def __zoocache_key__(self):
        return self.n


class Valued:
    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return self.n == other.n

    def __hash__(self):
        return hash(self.n)


DISTINCT = [
    1,
    1.0,
    True,
    None,
    "1",
    b"1",
    0,
    False,
    0.0,
    -0.0,
    "",
    -1,
    -2,
    1j,
    float("nan"),
    float("inf"),
    (1, 2),
    [1, 2],
    {1, 2},
    frozenset({1, 2}),
    {1: 2},
    {1: 2.0},
    {"1": 2},
    (1, (2,)),
    ((1,), 2),
    (1,),
    [],
    (),
    {},
    set(),
    Point(1, 2),
    Color.RED,
    Color.BLUE,
    Level.LOW,
    Query("a"),
    Query("b"),
    Query("a", 11),
    Name("1"),
    Name("?"),
    Count(1),
    Ratio(1.0),
    bytearray(b"1"),
    range(3),
    range(0, 3, 2),
    slice(1, 2),
    int,
    str,
    ...,
    datetime.date(2026, 1, 1),
    datetime.datetime(2026, 1, 1),
    datetime.datetime(2026, 1, 1, fold=1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    datetime.timedelta(1),
    decimal.Decimal("1.0"),
    decimal.Decimal("1.00"),
    uuid.UUID(int=1),
    uuid.UUID(int=2),
    pathlib.PurePosixPath("/a"),
    Own(1),
    Own(2),
    Valued(1),
    len,
    datetime,
    lambda: 1,
    Color,
    Level,
]


def test_different_arguments_are_different_calls():
    @cacheable
    def which(x):
        return [x]

    for value in DISTINCT:
        assert which(value)[0] is value
    assert which.cache_info().currsize == len(DISTINCT)
    for value in DISTINCT:
        assert which(value)[0] is value, value
    assert which.cache_info().hits == len(DISTINCT)


def test_equal_arguments_are_one_call():
    @cacheable
    def f(x):
        return object()

    pairs = [
        (lambda: {"a": 1, "b": [2]}, lambda: {"b": [2], "a": 1}),
        (lambda: {3, 1}, lambda: {1, 3}),
        (lambda: Own(1), lambda: Own(1)),
        (lambda: Valued(7), lambda: Valued(7)),
        (lambda: Query("q"), lambda: Query("q")),
        (lambda: Name("n"), lambda: Name("n")),
        (lambda: decimal.Decimal("2.50"), lambda: decimal.Decimal("2.50")),
        (lambda: datetime.datetime(2026, 5, 4, 3), lambda: datetime.datetime(2026, 5, 4, 3)),
        (lambda: float("nan"), lambda: float("nan")),
        (lambda: 10**30, lambda: 10**30),
        (lambda: Ratio(2.5), lambda: Ratio(2.5)),
    ]
    for one, other in pairs:
        assert f(one()) is f(other())
        assert f.key(one()) == f.key(other())


def test_spellings_of_one_call():
    runs = []

    @cacheable
    def f(a, b=2, *, c=3):
        runs.append((a, b, c))
        return a + b + c

    assert f(1) == f(a=1) == f(1, 2) == f(1, b=2, c=3) == f(c=3, a=1) == 6
    assert runs == [(1, 2, 3)]
    assert f(1, c=4) == 7
    assert f(1, 2.0) == 6.0
    assert len(runs) == 3
    assert f.key(1) == f.key(a=1, c=3) != f.key(2)
    with pytest.raises(TypeError, match="argument"):
        f()
    with pytest.raises(TypeError, match="argument"):
        f(1, d=3)


def test_every_kind_of_parameter():
    @cacheable
    def none():
        return object()

    @cacheable
    def only(*, a, b=1):
        return (a, b)

    @cacheable
    def positional(a, /, b):
        return (a, b)

    @cacheable
    def rest(a, *more, b=0, **others):
        return (a, more, b, others)

    assert none() is none()
    assert only(a=1) is only(b=1, a=1)
    assert only(a=True) == (True, 1)
    assert positional(1, b=2) is positional(1, 2)
    assert rest(1, 2, 3, x=4) is rest(1, 2, 3, x=4)
    assert rest(1, 2, 3, x=4) == (1, (2, 3), 0, {"x": 4})
    assert rest(a=1) is rest(1)
    assert rest(1, b=0) is rest(1)
    assert rest(1, x=1, y=2) is rest(1, y=2, x=1)
    assert rest(1, (2,)) == (1, ((2,),), 0, {})
    assert rest(1, 2) == (1, (2,), 0, {})
    assert rest.key(1, 2) != rest.key(1, (2,))


def test_parameters_with_awkward_names():
    @cacheable
    def f(e, t, entries, hits, type=5, int=6):
        return (e, t, entries, hits, type, int)

    assert f(1, 2, 3, 4) == (1, 2, 3, 4, 5, 6)
    assert f(1, 2, 3, 4) is f(1, 2, 3, hits=4)


def test_same_name_other_function():
    def make(n):
        @cacheable
        def f():
            return n

        return f

    one, two = make(1), make(2)
    assert (one(), two(), one(), two()) == (1, 2, 1, 2)
    three, four = cacheable(lambda x: x), cacheable(lambda x: -x)
    assert (three(1), four(1)) == (1, -1)


def test_unkeyable_arguments():
    @cacheable
    def f(x, y=0):
        raise AssertionError("must not run")

    class NoHash:
        def __eq__(self, other):
            return True

        __hash__ = None

    class BadHash:
        def __eq__(self, other):
            return True

        def __hash__(self):
            raise TypeError

    loop = []
    loop.append(loop)
    for bad in (object(), [object()], NoHash(), BadHash(), loop, {"k": object()}):
        with pytest.raises(UnkeyableArgument, match="zoocache failed to serialize arguments for `f`"):
            f(bad)
        with pytest.raises(ValueError, match="__zoocache_key__"):
            f(1, y=bad)


def test_key_option():
    runs = []

    @cacheable(key=lambda request, uid: uid)
    def f(request, uid):
        runs.append(uid)
        return uid

    assert f(object(), 7) == f(object(), 7) == 7
    assert runs == [7]


def test_key_text_finds_the_value():
    @cacheable(namespace="shop")
    def price(item):
        return item * 2

    key = price.key(4)
    assert key.startswith("shop:price:")
    assert len(key.rpartition(":")[2]) == 16
    assert zoocache.get(key) is None
    assert price(4) == 8
    assert zoocache.get(key) == 8
    zoocache.set(key, 9, ["a"])
    assert zoocache.get(key) == price(4) == 9
    asyncio.run(zoocache.set_async(key, 10, ["a"]))
    assert zoocache.get(key) == price(4) == 10
    zoocache.invalidate("a")
    assert price(4) == 8
    assert zoocache.delete(key)
    assert zoocache.get(key) is None
    assert price.key(Valued(1)) == price.key(Valued(1))
    assert price.key({"a": {1, 2}}) == price.key({"a": {2, 1}})
    assert price.key(True) != price.key(1)


class Shop:
    made = 0

    def __init__(self, rate):
        self.rate = rate

    @cacheable
    def price(self, item):
        return [self.rate * item]

    @cacheable
    def all(self):
        return [self.rate]

    @staticmethod
    @cacheable
    def plain(x):
        return [x]

    @cacheable
    @staticmethod
    def plain_too(x):
        return [x]

    @classmethod
    @cacheable
    def of_class(cls, x):
        return [cls.__name__, x]

    @cacheable
    async def later(self, x):
        return [self.rate + x]


class Outlet(Shop):
    pass


def test_methods():
    one, two = Shop(1), Shop(2)
    assert one.price(5) is one.price(item=5)
    assert one.price(5) == [5]
    assert two.price(5) == [10]
    assert one.price(5) is one.price(5)
    assert one.price(True) == [True]
    assert one.all() is one.all() is not two.all()
    assert Shop.plain(1) is one.plain(1)
    assert Shop.plain_too(1) is one.plain_too(1)
    assert Shop.of_class(1) is one.of_class(1)
    assert Outlet.of_class(1) == ["Outlet", 1]
    assert Shop.price.invalidate(one, 5)
    assert not Shop.price.invalidate(one, 5)
    assert Shop.price.key(one, 1) != Shop.price.key(two, 1)


async def test_async_method():
    one, two = Shop(1), Shop(2)
    assert await one.later(1) is await one.later(1)
    assert await two.later(1) == [3]


def test_methods_do_not_keep_their_object():
    import weakref

    Shop.price.cache_clear()
    for n in range(200):
        shop = Shop(n)
        assert shop.price(1) == [n]
        assert shop.price(1) == [n]
    gone = weakref.ref(shop)
    del shop
    gc.collect()
    assert gone() is None
    zoocache._default.cache().sweep()
    assert Shop.price.cache_info().currsize == 0


def test_methods_of_unusual_objects():
    class Slots:
        __slots__ = ()

        @cacheable
        def f(self):
            return 1

    class ByValue(Valued):
        @cacheable
        def f(self, x):
            return [self.n, x]

    class Kind(enum.Enum):
        A = "a"

        @cacheable
        def f(self):
            return [self.value]

    with pytest.raises(UnkeyableArgument, match="Slots"):
        Slots().f()
    assert ByValue(1).f(2) is ByValue(1).f(2)
    assert ByValue(2).f(2) == [2, 2]
    assert Kind.A.f() is Kind.A.f()
    with pytest.raises(TypeError):
        Slots.f()


def test_other_callables():
    class Callable:
        def __call__(self, x):
            return [x]

    part = cacheable(functools.partial(lambda a, b: [a, b], 1))
    thing = cacheable(Callable())
    builtin = cacheable(sorted)
    assert part(2) is part(2)
    assert part(2) == [1, 2]
    assert thing(3) is thing(3)
    assert builtin([2, 1]) is builtin([2, 1])
    with pytest.raises(TypeError, match="decorates functions"):
        cacheable(3)


async def test_async_callables():
    class Callable:
        async def __call__(self, x):
            return [x]

    async def two(a, b):
        return [a, b]

    thing, part = cacheable(Callable()), cacheable(functools.partial(two, 1))
    assert await thing(3) is await thing(3)
    assert await part(2) is await part(2)


def test_generators_are_refused():
    def numbers():
        yield 1

    async def anumbers():
        yield 1

    for function in (numbers, anumbers):
        with pytest.raises(TypeError, match="generator"):
            cacheable(function)


def test_looks_like_the_original():
    import inspect

    @cacheable(ttl=5)
    def documented(a: int, b: str = "x") -> str:
        """What it does."""
        return b * a

    @cacheable
    async def later():
        return 1

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."
    assert str(inspect.signature(documented)) in (
        "(a: int, b: str = 'x') -> str",
        "(a: 'int', b: 'str' = 'x') -> 'str'",
    )
    assert documented.__wrapped__(2) == "xx"
    assert inspect.iscoroutinefunction(later)
    assert not inspect.iscoroutinefunction(documented)


def test_open_functions_tell_calls_apart():
    """Plain positional arguments are their own key; with others and with keywords, it is the frozen one."""
    calls = []

    @cacheable
    def f(a, *rest, **named):
        calls.append((a, rest, named))
        return len(calls)

    ways = [((1,), {}), ((True,), {}), ((1.0,), {}), ((1, 2), {}), ((1,), {"b": 2}), (((1, 2),), {}), ((1, [2]), {})]
    first = [f(*args, **named) for args, named in ways]
    assert first == [f(*args, **named) for args, named in ways] == list(range(1, len(ways) + 1))
    assert f.cache_info()[:2] == (len(ways), len(ways))
    assert f.invalidate(1, 2)
    assert f(1, 2) == len(ways) + 1
    assert f(1) == 1


# ---- values: by the type's own notion of what is the same, and exactly -------------------------------


def same(one, other):
    """Whether two values have the same key."""
    return freeze(one) == freeze(other) and hash(freeze(one)) == hash(freeze(other))


def is_shared(value):
    try:
        portable(freeze(value))
    except Unportable:
        return False
    return True


class Zone(datetime.tzinfo):
    def __init__(self, hours):
        self.hours = hours

    def utcoffset(self, when):
        return datetime.timedelta(hours=self.hours)

    def dst(self, when):
        return None

    def tzname(self, when):
        return None

    def __repr__(self):
        return "a zone"


class EqualZone(Zone):
    def __eq__(self, other):
        return self.hours == other.hours

    def __hash__(self):
        return hash(self.hours)


class Moment(datetime.datetime):
    def __repr__(self):
        return "now"


class Precise(datetime.datetime):
    """As pandas has it: more than its base, and == looks at that."""

    nano = 0

    def __eq__(self, other):
        return super().__eq__(other) and self.nano == other.nano

    def __hash__(self):
        return super().__hash__()


UTC = datetime.timezone.utc
EAST = datetime.timezone(datetime.timedelta(hours=1))


@pytest.mark.parametrize("kind", [datetime.datetime, Moment, Precise])
def test_times_are_told_apart_by_clock_zone_and_fold(kind):
    noon = kind(2026, 5, 1, 12, tzinfo=UTC)
    later = kind(2026, 5, 1, 13, tzinfo=EAST)
    assert noon == later
    assert not same(noon, later)
    assert same(noon, kind(2026, 5, 1, 12, tzinfo=UTC))
    assert not same(noon, noon.replace(fold=1))
    assert not same(noon, kind(2026, 5, 1, 12))
    named = datetime.timezone(datetime.timedelta(hours=1), "CET")
    assert not same(later, later.replace(tzinfo=named))
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    assert same(noon.replace(tzinfo=berlin), noon.replace(tzinfo=zoneinfo.ZoneInfo.no_cache("Europe/Berlin")))
    assert not same(noon.replace(tzinfo=berlin), noon.replace(tzinfo=zoneinfo.ZoneInfo("Europe/Paris")))
    assert is_shared(noon) is (kind is not Precise)
    assert not same(kind(2026, 5, 1), datetime.date(2026, 5, 1))


def test_a_subclass_is_compared_by_its_own_equality_as_well():
    one, other = Precise(2026, 1, 1), Precise(2026, 1, 1)
    assert same(one, other)
    other.nano = 7
    assert not same(one, other)

    class Money(decimal.Decimal):
        currency = "EUR"

        def __eq__(self, other):
            return super().__eq__(other) and self.currency == other.currency

        def __hash__(self):
            return super().__hash__()

    dollars = Money(1)
    dollars.currency = "USD"
    assert not same(dollars, Money(1))
    assert not same(Money("1.0"), Money("1.00"))
    assert same(Money("NaN"), Money("NaN"))
    assert not same(Money("NaN"), Money("-NaN"))
    with pytest.raises(Unkeyable):
        freeze(Money("sNaN"))  # it cannot be hashed, and more than its content may count


@pytest.mark.parametrize(
    "make",
    [lambda zone: datetime.datetime(2026, 5, 1, 12, tzinfo=zone), lambda z: datetime.time(1, tzinfo=z), lambda z: z],
)
def test_zones_without_a_name_are_told_apart_by_themselves(make):
    """Zones that live for one call only: an address comes back, and a repr says nothing."""
    runs = []

    @cacheable
    def hours(when):
        zone = when if isinstance(when, Zone) else when.tzinfo
        runs.append(zone.hours)
        return zone.hours

    for n in range(100):
        assert hours(make(Zone(n))) == n
    zone = Zone(5)
    before = len(runs)
    assert hours(make(zone)) == hours(make(zone)) == 5
    assert len(runs) == before + 1
    assert hours(make(EqualZone(7))) == hours(make(EqualZone(7))) == 7
    assert len(runs) == before + 2
    assert not is_shared(make(zone))
    assert not is_shared(make(EqualZone(7)))


def test_a_zone_read_from_a_file_is_not_the_one_of_its_name():
    parts = struct.pack(">4s16x6l", b"TZif", 0, 0, 0, 0, 1, 4), struct.pack(">lbb", 3600, 0, 0), b"ONE\0"
    liar = zoneinfo.ZoneInfo.from_file(io.BytesIO(b"".join(parts)), key="Europe/Berlin")
    assert not same(liar, zoneinfo.ZoneInfo("Europe/Berlin"))
    assert same(liar, liar)
    assert not is_shared(liar)
    with pytest.raises(Unserializable):
        MessagePack().dumps(datetime.datetime(2026, 1, 1, tzinfo=liar))


def test_no_repr_of_others_is_a_part_of_a_key():
    class Liar(uuid.UUID):
        def __repr__(self):
            return "UUID"

        __str__ = __repr__

    class Path(pathlib.PurePosixPath):
        def __repr__(self):
            return "Path"

        __str__ = __fspath__ = __repr__

    class Number(decimal.Decimal):
        def __repr__(self):
            return "Number"

        __str__ = __repr__

    class Part(Fraction):
        def __repr__(self):
            return "Part"

        __str__ = __repr__

    for kind, one, other in (
        (Liar, {"int": 1}, {"int": 2}),
        (Path, "/a", "/b"),
        (Number, "1", "1.0"),
        (Part, "1/3", "1/2"),
    ):
        make = (lambda x: kind(**x)) if isinstance(one, dict) else kind
        assert same(make(one), make(one))
        assert not same(make(one), make(other))


def test_decimals_do_not_depend_on_their_context():
    number = decimal.Decimal("1e30")
    before = freeze(number)
    with decimal.localcontext() as context:
        context.capitals = 0
        assert freeze(number) == before
    for one, other in (("0", "-0"), ("1", "1.0"), ("NaN", "sNaN"), ("NaN", "NaN1"), ("1e1", "10"), ("NaN", "Infinity")):
        assert not same(decimal.Decimal(one), decimal.Decimal(other))
        assert same(decimal.Decimal(one), decimal.Decimal(one))


def test_the_types_that_are_written_in_python():
    slow = importlib.import_module("_pydecimal")
    assert same(slow.Decimal("1.0"), slow.Decimal("1.0"))
    assert not same(slow.Decimal("1.0"), slow.Decimal("1.00"))
    slow = pytest.importorskip("_pydatetime")
    noon = slow.datetime(2026, 5, 1, 12, tzinfo=slow.timezone.utc)
    later = slow.datetime(2026, 5, 1, 13, tzinfo=slow.timezone(slow.timedelta(hours=1)))
    assert noon == later
    assert not same(noon, later)
    assert same(noon, noon.replace())


class Angle:
    """A scalar of others: NaN is not equal to itself."""

    def __init__(self, degrees):
        self.degrees = degrees

    def __eq__(self, other):
        return self.degrees == other.degrees

    def __hash__(self):
        return hash(self.degrees)


def test_what_is_not_equal_to_itself_does_not_fill_the_table():
    runs = []

    @cacheable
    def f(x):
        runs.append(x)

    class Real(float):
        def __eq__(self, other):
            return float(self) == float(other)

        __hash__ = float.__hash__

    for _ in range(3):
        f(float("nan"))
        f((1, float("nan")))
        f(complex("nan"))
        f({float("nan"): 1})
        f(decimal.Decimal("NaN"))
        f(Ratio("nan"))
        f(Real("nan"))
    assert len(runs) == f.cache_info().currsize == 7
    with pytest.raises(UnkeyableArgument, match="Angle"):
        f(Angle(float("nan")))
    f(Angle(1))
    assert not same(Real(0.0), Real(-0.0))
    assert not same({float("nan"): 1, float("nan"): 1}, {float("nan"): 1})
    assert not same({float("nan"), float("nan")}, {float("nan")})


def test_what_gives_no_answer_is_told_apart_by_itself():
    class Missing:
        """As pandas.NA."""

        def __eq__(self, other):
            return self

        def __bool__(self):
            raise TypeError("ambiguous")

        def __hash__(self):
            return 7

    missing = Missing()
    assert same(missing, missing)
    assert not is_shared(missing)


class Wave(complex):
    pass


class Bytes(bytearray):
    pass


class Same(list):
    def __eq__(self, other):
        return True


class Label(str):
    def __new__(cls, text, language):
        label = super().__new__(cls, text)
        label.language = language
        return label

    def __eq__(self, other):
        return str.__eq__(self, other) and self.language == other.language

    def __hash__(self):
        return hash(self.language)


def test_pairs_that_are_two():
    for one, other in (
        (0.0, -0.0),
        (0j, -0j),
        (complex(0.0, -0.0), complex(0.0, 0.0)),
        (Wave(0j), Wave(complex(-0.0, 0.0))),
        (Wave(1), 1 + 0j),
        (Ratio(0.0), Ratio(-0.0)),
        (1, True),
        (Fraction(1), 1),
        (Fraction(1), decimal.Decimal(1)),
        (b"a", bytearray(b"a")),
        (b"a", memoryview(b"a")),
        (memoryview(b"abcd"), memoryview(b"abcd").cast("h")),
        (Bytes(b"a"), bytearray(b"a")),
        (Label("a", "de"), Label("a", "en")),
        (Label("a", "de"), Label("b", "de")),
        ((1, 2.0), (1, 2)),
        ((), frozenset()),
        (Point(1, 2), (1, 2)),
        (Point(1, 2.0), Point(1, 2)),
        ({1: {2: True}}, {1: {2: 1}}),
        (OrderedDict([(1, 2), (3, 4)]), OrderedDict([(3, 4), (1, 2)])),
        (OrderedDict(a=1), {"a": 1}),
        (deque([1, 2]), deque([2, 1])),
        (Counter("ab"), Counter("aab")),
        (Level.LOW, 1),
        (range(0), range(1, 1)),
        (re.compile("a"), re.compile("a", re.IGNORECASE)),
        (re.compile("a"), re.compile(b"a")),
        (functools.partial(len, "a"), functools.partial(len, "b")),
        (functools.partial(int, base=2), functools.partial(int, base=3)),
        (ipaddress.ip_address("10.0.0.1"), ipaddress.ip_interface("10.0.0.1")),
        (ipaddress.ip_interface("10.0.0.1/8"), ipaddress.ip_interface("10.0.0.1/9")),
        (ipaddress.ip_address("::1%a"), ipaddress.ip_address("::1%b")),
        (pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a")),
        (pathlib.PureWindowsPath("a"), pathlib.PureWindowsPath("A")),
        (int, str),
        (list[int], list[str]),
        ("a".upper, "b".upper),
    ):
        assert not same(one, other), (one, other)
        assert same(one, one)
        assert same(other, other)


def test_pairs_that_are_one():
    for one, other in (
        (Wave(1j), Wave(1j)),
        (Bytes(b"a"), Bytes(b"a")),
        (memoryview(b"xax")[1:2], memoryview(b"a")),
        (Label("a", "de"), Label("a", "de")),
        (Counter(a=1, b=2), Counter(b=2, a=1)),
        (deque([1], 3), deque([1])),
        (re.compile("b+"), re.compile("b+")),
        (functools.partial(len, [1]), functools.partial(len, [1])),
        (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("10.0.0.0/8")),
        (list[int], list[int]),
        (NotImplemented, NotImplemented),
        ([1].append.__self__, [1]),
    ):
        assert same(one, other), (one, other)


def test_refused():
    shown = memoryview(bytearray(b"a"))
    for value in (Same([1]), object(), Zoo(1), Tolerant(1), iter([]), [shown, object()]):
        with pytest.raises(Unkeyable):
            freeze(value)


class Fruit(enum.Flag):
    APPLE = 1
    PEAR = 2


class Odd(enum.Enum):
    ONE = object()
    TWO = iter(())


def test_members_are_themselves_whatever_their_value():
    assert not same(Odd.ONE, Odd.TWO)
    assert same(Fruit.APPLE | Fruit.PEAR, Fruit.PEAR | Fruit.APPLE)
    assert not same(Fruit.APPLE | Fruit.PEAR, Fruit.PEAR)
    assert portable(freeze((Odd.ONE, Fruit.APPLE | Fruit.PEAR))).endswith(",3)))")


# ---- classes whose == compares fields ----------------------------------------------------------------


@dataclasses.dataclass
class Asked:
    name: str
    connection: dataclasses.InitVar[object] = None
    limit: typing.ClassVar[int] = 3
    trace: object = dataclasses.field(default=None, compare=False)
    size: int = dataclasses.field(init=False, default=0)

    def __post_init__(self, connection):
        self.size = len(self.name)


@dataclasses.dataclass
class AskedMore(Asked):
    more: int = 0


class AskedElse(Asked):
    """No dataclass itself: its == is that of its base."""

    def __init__(self, name, other):
        super().__init__(name)
        self.other = other


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Strict:
    a: float
    b: tuple = ()


@dataclasses.dataclass(eq=False)
class Zoo:
    a: int


@dataclasses.dataclass
class Tolerant:
    a: int

    def __eq__(self, other):
        return abs(self.a - other.a) < 2


@dataclasses.dataclass(frozen=True)
class Caseless:
    name: str

    def __eq__(self, other):
        return self.name.lower() == other.name.lower()

    def __hash__(self):
        return hash(self.name.lower())


@dataclasses.dataclass
class Empty:
    pass


@dataclasses.dataclass
class Late:
    a: int = dataclasses.field(init=False)


@dataclasses.dataclass
class Titled(str):
    title: str


def test_dataclasses_by_the_fields_that_are_compared():
    assert same(Asked("a", object(), object()), Asked("a", object(), object()))
    assert not same(Asked("a"), Asked("b"))
    one, other = Asked("a"), Asked("a")
    other.size = 9
    assert not same(one, other)
    assert same(AskedMore("a", more=1), AskedMore("a", more=1))
    assert not same(AskedMore("a", more=1), AskedMore("a", more=2))
    assert not same(Asked("a"), AskedMore("a"))
    assert same(AskedElse("a", 1), AskedElse("a", 2))
    assert same(Strict(a=1.0), Strict(a=1.0))
    assert not same(Strict(a=0.0), Strict(a=-0.0))
    assert not same(Strict(a=1), Strict(a=True))
    assert same(Strict(a=float("nan")), Strict(a=float("nan")))
    assert same(Caseless("A"), Caseless("a"))
    assert same(Empty(), Empty())
    assert is_shared(Asked("a"))
    assert not is_shared(Caseless("a"))
    with pytest.raises(Unkeyable):
        freeze(Late())
    with pytest.raises(Unkeyable):
        freeze(Strict(a=object()))


def test_attrs_by_the_fields_that_are_compared():
    attrs = importlib.import_module("attrs")

    @attrs.define
    class Mutable:
        a: int
        trace: object = attrs.field(default=None, eq=False)
        name: str = attrs.field(default="", eq=str.lower)

    @attrs.define(eq=False)
    class Single:
        a: int

    @attrs.frozen
    class Own:
        a: int

        def __eq__(self, other):
            return self.a % 2 == other.a % 2

        def __hash__(self):
            return self.a % 2

    assert same(Mutable(1, object(), "A"), Mutable(1, object(), "a"))
    assert not same(Mutable(1), Mutable(True))
    assert not same(Mutable(1), Mutable(2))
    assert same(Own(1), Own(3))
    with pytest.raises(Unkeyable):
        freeze(Single(1))


def test_structs_and_models():
    msgspec = importlib.import_module("msgspec")
    pydantic = importlib.import_module("pydantic")

    class Struct(msgspec.Struct):
        a: float

    class Single(msgspec.Struct, eq=False):
        a: int

    class Model(pydantic.BaseModel):
        a: int | bool
        many: list[int] = []
        _seen: int = pydantic.PrivateAttr(0)

    for kind in (Struct, Model):
        assert same(kind(a=1), kind(a=1))
        assert not same(kind(a=1), kind(a=True))
        assert not same(kind(a=1), kind(a=2))
    with pytest.raises(Unkeyable):
        freeze(Single(a=1))
    one = Model(a=1)
    one._seen = 2
    assert not same(one, Model(a=1))


# ---- the same, of other libraries --------------------------------------------------------------------


def test_scalars_of_numpy():
    numpy = importlib.import_module("numpy")
    distinct = [
        numpy.float32(0.0), numpy.float32(-0.0), numpy.float64(0.0), numpy.float64(-0.0), numpy.float16(0.0), 0.0,
        numpy.float32("nan"), numpy.float64("nan"), numpy.float32("inf"), numpy.complex64(0), numpy.complex64(-0.0j),
        numpy.complex128(0), numpy.int8(1), numpy.int64(1), numpy.uint8(1), 1, True, numpy.bool_(True),
        numpy.longdouble(0.0), numpy.longdouble(-0.0), numpy.longdouble("nan"), numpy.longdouble("-inf"),
        numpy.longdouble(1) / 3, numpy.longdouble(1 / 3), numpy.clongdouble(1j),
        numpy.datetime64("2026-01-01"), numpy.datetime64("2026-01-01", "ns"), numpy.datetime64("NaT", "s"),
        numpy.timedelta64(1, "s"), numpy.timedelta64(1000, "ms"), numpy.timedelta64("NaT", "s"),
        numpy.str_("a"), "a", numpy.bytes_(b"a"), b"a",
        numpy.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])[0],
        numpy.array([(1, 2.5)], dtype=[("a", "i8"), ("b", "f8")])[0],
    ]  # fmt: skip
    for n, one in enumerate(distinct):
        for m, other in enumerate(distinct):
            assert same(one, other) is (n == m), (one, other)
        assert is_shared(one)
    for nan in (numpy.float32("nan"), numpy.longdouble("nan")):
        assert same((nan, 1), (type(nan)(nan), 1))
    assert same(numpy.datetime64("NaT", "s"), numpy.datetime64("NaT", "s"))
    with pytest.raises(Unkeyable):
        freeze(numpy.array([1]))


@pytest.mark.filterwarnings("ignore")
def test_times_of_pendulum_and_pandas():
    pendulum = importlib.import_module("pendulum")
    noon = pendulum.datetime(2026, 5, 1, 12)
    assert noon == noon.in_timezone("Europe/Berlin")
    assert not same(noon, noon.in_timezone("Europe/Berlin"))
    assert same(noon, pendulum.datetime(2026, 5, 1, 12))
    pandas = importlib.import_module("pandas")
    noon = pandas.Timestamp("2026-05-01 12:00", tz="UTC")
    assert not same(noon, noon.tz_convert("Europe/Berlin"))
    assert same(noon, pandas.Timestamp("2026-05-01 12:00", tz="UTC"))
    assert not same(pandas.Timestamp(1), pandas.Timestamp(2))
    assert not same(pandas.Timedelta(1), pandas.Timedelta(2))
    for nothing in (pandas.NaT, pandas.NA):
        assert same(nothing, nothing)


# ---- what all processes call the same ----------------------------------------------------------------


def test_texts_are_the_same_on_every_python():
    """Written down: a Python that had another text would not find what the others have stored."""
    for value, text in (
        (pathlib.PurePosixPath("/a"), "(<pathlib.PurePosixPath>,'/a')"),
        (pathlib.PosixPath("a/b"), "(<pathlib.PosixPath>,'a/b')"),
        (datetime.datetime(2026, 5, 1, tzinfo=UTC), r"(<datetime.datetime>,(b'\x07\xea\x05\x01\x00\x00\x00\x00\x00\x00',(<datetime.timezone>,((<datetime.timedelta>,(0,0,0))))))"),
        (decimal.Decimal("1.50"), "(<decimal.Decimal>,'1.50')"),
        (uuid.UUID(int=5), "(<uuid.UUID>,5)"),
        (OrderedDict, "(<builtins.type>,<collections.OrderedDict>)"),
        (re.compile("a"), "(<re.Pattern>,('a',32))"),
        (1.5, "(<builtins.float>,'0x1.8000000000000p+0')"),
        ("\xe9\U0001fae8", r"'\xe9\U0001fae8'"),
        (-(1 << 256), "-0x1" + "0" * 64),
        (Fruit.APPLE, f"(<{__name__}.Fruit>,1)"),
    ):  # fmt: skip
        assert portable(freeze(value)) == text


def test_integers_of_any_size():
    @cacheable
    def f(x):
        return x

    assert f(10**6000) == f(10**6000) == 10**6000
    assert f.key(10**6000) == f.key(10**6000) != f.key(10**6000 + 1)
    portable(freeze([-(10**6000)]))


@pytest.mark.parametrize("inner", ["moved._local", "moved._deep._deeper", "moved.sub._local", "_moved"])
def test_names_of_modules_that_were_moved(inner, monkeypatch):
    public = {"_moved": "moved", "moved.sub._local": "moved.sub"}.get(inner, "moved")
    thing = type("Thing", (), {"__module__": inner})
    assert _keys.home(thing) == inner  # nowhere else
    module = types.ModuleType(public)
    monkeypatch.setitem(sys.modules, public, module)
    module.Thing = type("Thing", (), {})
    assert _keys.home(thing) == inner  # another one
    module.Thing = thing
    assert _keys.home(thing) == public
    assert portable(freeze(thing)) == f"(<builtins.type>,<{public}.Thing>)"


def test_classes_are_not_kept_alive():
    import weakref

    def use():
        @dataclasses.dataclass
        class Local:
            a: int

        class Better(Local):
            def __zoocache_key__(self):
                return super().__eq__(self)

        class Kind(enum.Enum):
            A = 1

        values = [Local(1), Better(2), Kind.A, type("N", (str,), {})("a"), type("V", (Angle,), {})(1)]
        for value in values:
            freeze(value)
        with pytest.raises(Unkeyable):
            freeze(type("O", (), {})())
        return [weakref.ref(type(value)) for value in values]

    gc.collect()
    known = len(_keys._learned)
    kinds = use()
    gc.collect()
    assert [kind() for kind in kinds] == [None] * len(kinds)
    assert len(_keys._learned) == known


# ---- any values --------------------------------------------------------------------------------------


def _model(x):
    """A reference for what is the same: the type, and what the value shows; NaN is as NaN."""
    kind = type(x)
    if kind is float:
        return kind, "nan" if x != x else (x, str(x)[0] == "-")
    if kind in (tuple, list, Point):
        return kind, tuple(map(_model, x))
    if kind in (set, frozenset, Counter):
        return kind, frozenset(map(_model, x)), len(x)
    if kind is dict:
        return kind, frozenset((_model(k), _model(v)) for k, v in x.items())
    if kind is decimal.Decimal:
        return kind, x.as_tuple()
    if kind is datetime.datetime:
        return kind, x.replace(tzinfo=None), x.fold, repr(x.tzinfo)
    if kind is Query:
        return kind, _model(x.name), _model(x.limit)
    return kind, x


_few = strategies.sampled_from
_leaves = _few([
    0, 1, -1, True, False, None, "", "1", b"1", 0.0, -0.0, 1.0, float("nan"), "nan", Count(1), Name("1"), Ratio(1.0),
    decimal.Decimal("1"), decimal.Decimal("1.0"), decimal.Decimal("-0"), Fraction(1), Color.RED, Level.LOW, int, Point,
    datetime.datetime(2026, 1, 1, 12, tzinfo=UTC), datetime.datetime(2026, 1, 1, 13, tzinfo=EAST),
    datetime.datetime(2026, 1, 1, 12, fold=1), datetime.date(2026, 1, 1), uuid.UUID(int=1),
])  # fmt: skip
_values = strategies.recursive(
    _leaves,
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.lists(inner, max_size=3).map(tuple)
        | strategies.frozensets(_leaves, max_size=3)
        | strategies.sets(_leaves, max_size=3)
        | strategies.dictionaries(_leaves, inner, max_size=3)
        | strategies.builds(Point, inner, inner)
        | strategies.builds(Query, inner, inner)
    ),
    max_leaves=6,
)


@hypothesis.settings(max_examples=400, deadline=None, derandomize=True)
@hypothesis.given(_values, _values)
def test_any_two_values_have_one_key_if_they_are_the_same(one, other):
    equal = _model(one) == _model(other)
    assert same(one, other) is equal
    assert (portable(freeze(one)) == portable(freeze(other))) is equal
    assert same((one, other), (other, one)) is equal
    assert same([one], [one])
