"""Arguments that are no part of the key: by name, and by type."""

import asyncio
import functools
from collections.abc import Hashable

import pytest

import zoocache
from zoocache import Cache, Scope, UnkeyableArgument, _keys, cacheable
from zoocache.keys import ignore_type


class Session:
    def __init__(self, name=""):
        self.name = name


class Child(Session):
    __slots__ = ()


@pytest.fixture
def ignored(monkeypatch):
    monkeypatch.setattr(_keys, "_ignored", [])
    _keys._learned.clear()
    yield ignore_type
    _keys._learned.clear()


def counted(parameters, **options):
    """A function of these parameters, which counts its calls."""
    space = {"calls": []}
    exec(f"def f({parameters}):\n    calls.append(1)\n    return len(calls)", space)
    return cacheable(**options)(space["f"])


@pytest.mark.parametrize(
    ("parameters", "ignore", "same", "other"),
    [
        ("db, x", "db", [((Session(), 1), {}), ((None, 1), {}), ((), {"x": 1, "db": [object()]})], ((0, 2), {})),
        ("x, db=None", ["db"], [((1,), {}), ((1, Session()), {}), ((1,), {"db": {}})], ((2,), {})),
        ("a, x, b", ("a", "b"), [((1, 2, 3), {}), ((object(), 2, object()), {})], ((1, 3, 3), {})),
        ("x, *, db", "db", [((1,), {"db": 1}), ((1,), {"db": object()})], ((2,), {"db": 1})),
        ("x, *, y=0, db=None", "db", [((1,), {"db": 1}), ((1,), {"y": 0})], ((1,), {"y": 1})),
        ("db, *rest", "db", [((1, 2, 3), {}), ((object(), 2, 3), {})], ((1, 2), {})),
        ("x, **more", "db", [((1,), {"db": object()}), ((1,), {})], ((1,), {"da": 1})),
        ("x, db=0, *rest, y=1, **more", ("db", "z"), [((1, 2, 3), {"z": 1}), ((1, 4, 3), {"y": 1})], ((1, 2, 4), {})),
        ("db", "db", [((1,), {}), ((object(),), {})], None),
    ],
)
def test_by_name(parameters, ignore, same, other):
    f = counted(parameters, ignore=ignore)
    for args, kwargs in same * 2:
        assert f(*args, **kwargs) == 1, (args, kwargs)
        assert f.key(*args, **kwargs) == f.key(*same[0][0], **same[0][1])
    assert f.cache_info()[:2] == (2 * len(same) - 1, 1)
    if other is not None:
        args, kwargs = other
        assert f(*args, **kwargs) == 2
        assert f.invalidate(*same[-1][0], **same[-1][1]) and f(*args, **kwargs) == 2


def test_the_function_and_its_deps_get_what_is_ignored():
    seen = []

    @cacheable(ignore="db", deps=lambda db, x: seen.append(db) or [f"x:{x}"])
    def f(db, x):
        return db

    assert f("one", 1) == f("two", 1) == "one"
    assert seen == ["one"]
    zoocache.invalidate("x:1")
    assert f("three", 1) == "three"


def test_of_a_coroutine_function():
    @cacheable(ignore="db")
    async def f(db, x):
        return x

    async def main():
        return [await f(object(), 1) for _ in range(3)]

    assert asyncio.run(main()) == [1, 1, 1]
    assert f.cache_info()[:2] == (2, 1)


def test_of_methods():
    class Shop:
        @cacheable(ignore="db")
        def of_one(self, db, x):
            return self, x

        @cacheable(ignore="self")
        def of_all(self, x):
            return x

    one, two = Shop(), Shop()
    assert [shop.of_one(object(), 1)[0] is shop for shop in (one, two, one, two)] == [True] * 4
    assert Shop.of_one.cache_info()[:2] == (2, 2)
    assert [shop.of_all(1) for shop in (one, two)] == [1, 1]
    assert Shop.of_all.cache_info()[:2] == (1, 1)


def test_ids_of_scopes_count_in_any_case():
    cache = Cache(scopes=Scope("user", "user_id"))

    @cache.cacheable(scope="user", ignore=("user_id", "db"))
    def f(db, user_id, x):
        return user_id, x

    @cache.cacheable(scope="user", ignore="db")
    def one(user_id, db):
        return user_id

    @cache.cacheable(scope="user", ignore="db")
    def none(db, x):
        return x

    for _ in range(2):
        for user in ("a", "b"):
            assert f(object(), user, 1) == (user, 1)
            assert one(user, object()) == user
            with cache.scope(user_id=user):
                none(object(), 1)
    assert [g.cache_info()[:2] for g in (f, one, none)] == [(2, 2)] * 3
    assert [cache.evict_scope("user", user_id="a"), len(cache)] == [3, 6]


@pytest.mark.parametrize("ignore", ["dB", ["x", "y"], 5, [5]])
def test_what_is_no_parameter(ignore):
    with pytest.raises((TypeError, zoocache.InvalidTag)):
        cacheable(ignore=ignore)(lambda db, x: x)


def test_not_together_with_a_key():
    with pytest.raises(TypeError, match="key or ignore"):
        cacheable(ignore="db", key=lambda db, x: x)(lambda db, x: x)


def test_of_what_has_no_signature():
    with pytest.raises(TypeError, match="no parameter"):
        cacheable(ignore="db")(functools.partial(lambda db, x: x, 1).func.__get__(1))
    f = cacheable(ignore="key")(max)
    assert f([1, 2], key=lambda x: x) == f([1, 2]) == 2


def test_the_error_names_the_way_out():
    with pytest.raises(UnkeyableArgument, match="ignore="):
        cacheable(lambda db: 1)(Session())


# ---- types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", ["db, x", "*args", "db, x, **more", "db, *, x"])
def test_by_type(ignored, parameters):
    f = counted(parameters)
    args, kwargs = ((), {"x": 1}) if "*, x" in parameters else ((1,), {})
    with pytest.raises(UnkeyableArgument):
        f(Session(), *args, **kwargs)
    assert ignored(Session) is Session
    key = f.key(Session("a"), *args, **kwargs)
    for session in (Session("a"), Session("b"), Child()):
        assert f(session, *args, **kwargs) == 1
        assert f.key(session, *args, **kwargs) == key
    assert f("", *args, **kwargs) == 2, "another value in its place counts"
    assert f(None, *args, **kwargs) == 3


def test_inside_of_other_values(ignored):
    ignored(Session)
    f = counted("x")
    assert f([1, Session()]) == f([1, Child()]) == 1
    assert f([2, Session()]) == 2


def test_every_process_gives_it_the_same_text(ignored):
    ignored(Session)
    assert _keys.portable(_keys.freeze((Session(), 1))) == _keys.portable(_keys.freeze((Child(), 1)))


def test_what_was_known_before_is_looked_at_anew(ignored):
    class Named:
        def __init__(self, name):
            self.name = name

        def __eq__(self, other):
            return self.name == other.name

        def __hash__(self):
            return hash(self.name)

    f = counted("x")
    assert [f(Named("a")), f(Named("b"))] == [1, 2]
    ignored(Named)
    assert [f(Named("a")), f(Named("b"))] == [3, 3]


@pytest.mark.parametrize("kind", [str, int, bool, object, Hashable, type(None), list, dict, type])
def test_types_of_values_count(ignored, kind):
    with pytest.raises(TypeError, match="cannot be left out"):
        ignored(kind)
    f = counted("x")
    assert [f("a"), f("b")] == [1, 2]


def test_only_classes(ignored):
    with pytest.raises(TypeError, match="a class"):
        ignored(Session())
