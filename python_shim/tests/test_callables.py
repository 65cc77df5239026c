"""What can be decorated, and how it is recognized: methods by how they are bound, coroutines by their type."""

import asyncio
import enum
import functools
import gc
import io
import itertools
import types
import weakref
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

import zoocache
from zoocache import UnkeyableArgument, cacheable
from zoocache._names import identity


def wrapped(function):
    """A decorator as they should be."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def opaque(function):
    """A decorator that says nothing of what is in it."""

    def wrapper(*args):
        return function(*args)

    return wrapper


class Descriptor:
    """A decorator that is a class."""

    def __init__(self, function):
        functools.update_wrapper(self, function)

    def __get__(self, instance, owner=None):
        return self if instance is None else types.MethodType(self.__wrapped__, instance)


class Meta(type):
    @cacheable
    def of_class(cls, x):
        return [cls.__name__, x]


class Shop(metaclass=Meta):
    def __init__(self, rate):
        self.rate = rate

    @cacheable
    def named(this, x):
        return [this.rate * x]

    @cacheable
    @wrapped
    def inside(self, x):
        return [self.rate * x]

    @wrapped
    @cacheable
    def outside(self, x):
        return [self.rate * x]

    @wrapped
    @cacheable
    @wrapped
    def between(self, x):
        return [self.rate * x]

    @opaque
    @cacheable
    def hidden(self, x):
        return [self.rate * x]

    @Descriptor
    @cacheable
    def described(self, x):
        return [self.rate * x]

    @cacheable
    def any(*args):
        return [args[0].rate * args[1]]

    @cacheable
    def __call__(self, x):
        return [self.rate * x]

    @property
    @cacheable
    def whole(self):
        return [self.rate]

    @functools.cached_property
    @cacheable
    def once(self):
        return [self.rate]

    @cacheable
    def two(self, x, y):
        return [self.rate * x * y]

    doubled = functools.partialmethod(two, 2)
    other_name = named

    @staticmethod
    @cacheable
    def compare(self, x):
        return [self, x]

    @staticmethod
    @cacheable
    def make(x):
        return [x]

    @classmethod
    @cacheable
    def named_class(klass, x):
        return [klass.__name__, x]

    def plain(self, x):
        return [self.rate * x]


class Outlet(Shop):
    pass


@cacheable
def added(thing, x):
    return [thing.rate * x]


Shop.added = added
WAYS = [
    "named",
    "inside",
    "outside",
    "between",
    "hidden",
    "described",
    "any",
    "__call__",
    "doubled",
    "other_name",
    "added",
]


@pytest.mark.parametrize("kind", [Shop, Outlet])
@pytest.mark.parametrize("way", WAYS)
def test_methods_by_how_they_are_bound(kind, way):
    one, other = kind(1), kind(10)
    call, others = getattr(one, way), getattr(other, way)
    assert call(3) is call(3)
    assert others(3) == [call(3)[0] * 10]
    assert call(3) is getattr(one, way)(3)
    assert call(True) is call(True) is not call(1)
    gone = weakref.ref(one)
    del one, call
    gc.collect()
    assert gone() is None


def test_methods_that_are_bound_in_the_object():
    class Thing:
        def __init__(self, n):
            self.n = n
            self.get = types.MethodType(cacheable(lambda thing, x: [thing.n, x]), self)

    one, other = Thing(1), Thing(2)
    assert one.get(3) is one.get(3)
    assert other.get(3) == [2, 3]


def test_an_object_is_the_object_only_in_its_place():
    class Pair:
        @cacheable
        def same(self, other):
            return [self is other]

        @cacheable(key=lambda self, x: self)
        def keyed(self, x):
            return [x]

    pair = Pair()
    assert pair.same(1) == pair.same(2) == [False]
    with pytest.raises(UnkeyableArgument):
        pair.same(pair)
    with pytest.raises(UnkeyableArgument):
        pair.keyed(1)


def test_properties():
    one, other = Shop(1), Shop(2)
    assert one.whole is one.whole
    assert other.whole == [2]
    assert one.once is one.once
    assert other.once == [2]


def test_what_is_not_bound_is_no_method():
    """A function whose first parameter is called self, or that stands in a class, is an ordinary one."""
    shop = Shop(1)
    for call in (Shop.compare, shop.compare, Shop.make):
        with pytest.raises(UnkeyableArgument):
            call(*[shop, 1][: 1 if call is Shop.make else 2])
    assert Shop.compare(1, 2) is shop.compare(1, 2)
    assert Shop.make(1) is Shop(1).make(1)

    @cacheable
    def plain(self, x):
        return [x]

    assert plain(1, 2) is plain(1, 2)
    with pytest.raises(UnkeyableArgument):
        plain(shop, 2)

    class Body:
        @cacheable
        def helper(self):
            return [self]

        first, second = helper(1), helper(1)
        function = staticmethod(helper)
        del helper

    assert Body.first is Body.second
    with pytest.raises(UnkeyableArgument):
        Body.function(Body())


def test_classes_are_told_apart_in_their_methods():
    assert Shop.named_class(1) is Shop.named_class(1)
    assert Outlet.named_class(1) == ["Outlet", 1]
    assert Shop.of_class(1) is Shop.of_class(1)
    assert Outlet.of_class(1) == ["Outlet", 1]


def test_bound_methods():
    one, other = Shop(1), Shop(10)
    mine, others = cacheable(one.plain), cacheable(other.plain)
    assert mine(3) is mine(x=3)
    assert (mine(3), others(3)) == ([3], [30])
    assert mine.__name__ == "plain"

    class Many:
        def keywords(self, a, /, b=2, *rest, c=3, **more):
            return [a, b, rest, c, more]

        def rest(*args):
            return list(args[1:])

        def own(self=None):
            return [self]

        async def later(self, x):
            return [x]

        def numbers(self):
            yield 1

    many = Many()
    keywords = cacheable(many.keywords)
    assert keywords(1) is keywords(1, b=2) is keywords(1, c=3)
    assert keywords(1, 5, 6, c=7, d=8) == [1, 5, (6,), 7, {"d": 8}]
    assert cacheable(many.rest)(1, 2) == [1, 2]
    own = cacheable(many.own)
    assert own() is own()
    assert own()[0] is many
    with pytest.raises(TypeError, match="argument"):
        keywords()
    with pytest.raises(TypeError, match="generator"):
        cacheable(many.numbers)
    assert cacheable(Shop.named_class)(1) == ["Shop", 1]
    assert cacheable("a-b".split)("-") == ["a", "b"]


async def test_bound_coroutine_methods():
    class Service:
        async def later(self, x):
            return [x]

        async def __call__(self, x):
            return [x]

    class Derived(Service):
        pass

    for call in (cacheable(Service().later), cacheable(Derived()), cacheable(functools.partial(Derived().later))):
        assert await call(3) is await call(3)


# ---- what only one caller can have -------------------------------------------------------------------


async def _coroutine():
    return 1


async def _agenerator():
    yield 1


class Once:
    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


class AsyncOnce:
    def __aiter__(self):
        return self

    async def __anext__(self):
        raise StopAsyncIteration


class Promise:
    def __await__(self):
        yield


PASSING = [
    (_coroutine, "coroutine.*`async def`"),
    (Promise, "Promise.*`async def`"),
    (lambda: (x for x in [1]), "generator.* an iterator: return a list"),
    (lambda: map(str, [1]), "map.* an iterator"),
    (lambda: filter(None, [1]), "an iterator"),
    (lambda: zip([1]), "an iterator"),
    (lambda: iter([1]), "an iterator"),
    (lambda: enumerate([1]), "an iterator"),
    (lambda: itertools.chain([1]), "an iterator"),
    (lambda: io.StringIO("a\n"), "an iterator"),
    (lambda: open(__file__), "TextIOWrapper.* an iterator"),
    (Once, "an iterator"),
    (AsyncOnce, "an async iterator"),
    (_agenerator, "an async iterator"),
]


@pytest.mark.parametrize("make, text", PASSING)
def test_results_that_only_one_caller_can_have(make, text):
    made = []

    @cacheable
    def load(x):
        made.append(make())
        return made[-1]

    for n in (1, 2):
        with pytest.raises(TypeError, match=f"cannot cache `load`: the first caller uses up its value .*{text}"):
            load(1)
        assert len(made) == n
    assert load.cache_info().currsize == 0
    made.append(make())
    with pytest.raises(TypeError, match=f"cannot cache `k`: the first caller uses up its value .*{text}"):
        zoocache.set("k", made[-1])
    assert zoocache.get("k") is None
    if isinstance(made[0], io.TextIOWrapper):
        for file in made:
            file.close()


async def test_results_of_coroutines_too():
    @cacheable
    async def load(make):
        return make()

    for make, text in PASSING[:4]:
        with pytest.raises(TypeError, match=text):
            await load(make)

    @cacheable
    def task():
        return asyncio.get_running_loop().create_future()

    with pytest.raises(TypeError, match="Future"):
        task()


def test_results_that_last():
    class Stub:
        def __getattr__(self, name):
            return Stub()

        def __call__(self, *args):
            return Stub()

    class Container:
        def __iter__(self):
            return iter([1])

        def __next__(self):
            return 1

    for value in (MagicMock(), Mock(), AsyncMock(), Stub(), Container(), range(3), {}.keys(), memoryview(b""), Stub):
        load = cacheable(lambda x: value)
        assert load(1) is load(1) is value
        if isinstance(value, Mock):
            assert value.mock_calls == []


# ---- mocks, stubs: whatever answers to every name ----------------------------------------------------


class Remote:
    """A stub of a remote service: every name is one of its functions."""

    asked = []

    def __getattr__(self, name):
        self.asked.append(name)
        return Remote()

    def __call__(self, *args, **kwargs):
        return [args]


class Nosy(Remote):
    def __getattribute__(self, name):
        type(self).asked.append(name)
        return Remote()


@pytest.mark.parametrize("kind", [Remote, Nosy])
def test_stubs_are_not_asked(kind):
    Remote.asked.clear()
    call = cacheable(kind())
    assert call(1) is call(1)
    assert call(2) == [(2,)]
    assert call.__name__ == kind.__name__
    assert identity(call, None) is None
    assert cacheable(lambda x: 1, deps=kind())
    with pytest.raises(UnkeyableArgument):
        call(kind())
    with pytest.raises(UnkeyableArgument):
        cacheable(Shop(1).plain)(Shop(2))
    assert Remote.asked == []


def test_mocks():
    mock = MagicMock(return_value=[1])
    call = cacheable(mock)
    assert call(1) is call(1)
    mock.assert_called_once_with(1)
    for other in (Mock(return_value=[1]), MagicMock(spec=len, return_value=[1])):
        assert cacheable(other)(2) == [1]
    load = cacheable(lambda x: [x])
    mock = MagicMock()
    assert load(mock) is load(mock)
    assert load(mock) is not load(MagicMock())


async def test_mocks_of_coroutines():
    mock = AsyncMock(return_value=[1])
    call = cacheable(mock)
    assert await call(1) is await call(1)
    mock.assert_awaited_once_with(1)

    @cacheable(deps=MagicMock(return_value=["mocked"]))
    async def load(x):
        return [x]

    assert await load(1) is await load(1)
    zoocache.invalidate("mocked")
    assert await load(1) == [1]
    assert load.cache_info().misses == 2


def test_metaclasses_that_answer_to_everything():
    class Answers(type):
        def __getattr__(cls, name):
            if name.startswith("__") and name not in (
                "__zoocache_key__", "__dataclass_fields__", "__attrs_attrs__", "__await__", "__next__", "__wrapped__"
            ):  # fmt: skip
                raise AttributeError(name)
            return lambda *args: 1

    class Thing(metaclass=Answers):
        @cacheable
        def get(self, x):
            return [x]

    thing, other = Thing(), Thing()
    assert thing.get(1) is thing.get(1) is not other.get(1)
    load = cacheable(lambda x: thing)
    assert load(1) is thing
    with pytest.raises(UnkeyableArgument):
        load(thing)


# ---- what tells them apart in other processes --------------------------------------------------------


def module_level(x, y=0):
    return [x, y]


class ByValue:
    def __init__(self, n):
        self.n = n

    def __zoocache_key__(self):
        return self.n

    def method(self, x):
        return [self.n, x]

    def __call__(self, x):
        return [self.n, x]


class Tool(enum.Enum):
    SAW = 1
    AXE = 2

    def use(self):
        return [self]


def _scaled(function, n):
    @functools.wraps(function)
    def wrapper(x):
        return function(x) * n

    return wrapper


def _local(n):
    def local(x):
        return x + n

    return local


def _with_default(n):
    def helper(x, m=n):
        return x + m

    return lambda x: helper(x)


def test_identities_of_what_is_bound():
    """Two functions that compute different things must not find each other's values in a storage."""
    texts = [
        identity(cacheable(called), None)
        for called in (
            module_level,
            functools.partial(module_level, 1),
            functools.partial(module_level, 2),
            functools.partial(module_level, y=2),
            ByValue(1),
            ByValue(2),
            ByValue(1).method,
            ByValue(2).method,
            Tool.SAW.use,
            Tool.AXE.use,
            Shop.named_class.__func__.__wrapped__,
            "ab".count,
            "xy".count,
            len,
            _local(1),
            _local(2),
            _scaled(_local(1), 2),
            _scaled(_local(1), 3),
            _scaled(_local(2), 3),
            _with_default(1),
            _with_default(2),
        )
    ]
    assert None not in texts
    assert len(set(texts)) == len(texts)
    assert identity(functools.partial(module_level, 1), None) == texts[1]
    assert identity(ByValue(2).method, None) == texts[7]
    assert identity(cacheable(cacheable(module_level)), None) == texts[0]


def test_identities_of_what_has_none():
    for called in (Shop(1).plain, Mock(), functools.partial(module_level, object()), _local(object())):
        assert identity(called, None) is None
        assert identity(called, "named") is not None
    assert identity([1].append, None) != identity([2].append, None)

    def ping(x):
        return pong(x)

    def pong(x):
        return ping(x)

    assert identity(ping, None) is None


@pytest.mark.parametrize(
    "name", ["count", "bind", "func", "table", "begin", "commit", "entries", "serve", "make", "now"]
)
def test_a_function_may_have_any_name(name):
    scope = {}
    exec(f"def {name}(of=0):\n    return of + 7", scope)
    f = cacheable(deps=["x"])(scope[name])
    assert [f(), f(1), f(), f(1)] == [7, 8, 7, 8]
    assert f.cache_info()[:2] == (2, 2)
