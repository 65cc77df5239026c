import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import pathlib
import uuid
from collections import namedtuple

import pytest

import zoocache
from zoocache import UnkeyableArgument, cacheable

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
