"""What f.explain(), cache.keys() and cache.count() say; and that they change nothing."""

import threading

import pytest

import zoocache
from zoocache import Cache, Scope, cacheable, disabled, invalidate
from zoocache.testing import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def cache(clock):
    with Cache(clock=clock, scopes=Scope("org", "org_id")) as cache:
        yield cache


def test_absent(cache):
    f = cache.cacheable(lambda x: x)
    found = f.explain(1)
    assert found.key == f.key(1)
    assert (found.there, found.fresh, found.reason, found.age, found.deps) == (False, False, "absent", None, ())
    assert f.cache_info()[:2] == (0, 0)


def test_fresh(cache, clock):
    f = cache.cacheable(ttl=10, tti=4, deps=lambda x: [f"user:{x}", "all"])(lambda x: x)
    f(1)
    clock.advance(3)
    found = f.explain(x=1)
    assert (found.there, found.fresh, found.reason, found.killer) == (True, True, None, None)
    assert found.deps == ("user:1", "all")
    assert found.age == pytest.approx(3, abs=0.06)
    assert found.expires_in == pytest.approx(1)
    assert not found.filling
    clock.advance(1)
    assert f.explain(1).reason == "expired", "looking at it does not keep it alive"
    assert f.explain(1).expires_in == 0


def test_expired_and_kept(cache, clock):
    f = cache.cacheable(ttl=10, stale_if_error=50)(lambda: 1)
    f()
    assert f.explain().expires_in == 10
    clock.advance(11)
    found = f.explain()
    assert (found.there, found.fresh, found.reason) == (True, False, "expired")
    assert len(cache) == 1


def test_no_end(cache):
    f = cache.cacheable(lambda: 1)
    f()
    assert f.explain().expires_in is None


@pytest.mark.parametrize(
    ("deps", "tag", "killer"),
    [
        (["user:42"], "user:42", "user:42"),
        (["user:42:posts"], "user", "user"),
        (["user:42:posts"], "user:42", "user:42"),
        (["a", "b:1", "c"], "b", "b"),
        (["user:42"], "user:*", "user"),
        (["user:42"], "user:4", None),
        (["user:42"], "user:42:posts", None),
        ([], "user", None),
    ],
)
@pytest.mark.parametrize("made", [list, lambda deps: lambda: deps])
def test_the_tag_that_killed_it(cache, deps, tag, killer, made):
    f = cache.cacheable(deps=made(deps))(lambda: 1)
    cache.invalidate(tag)  # before: it does not count
    f()
    doomed = cache.count(tag)
    for _ in range(2):
        assert f.explain().fresh
    cache.invalidate(tag)
    for _ in range(2):
        found = f.explain()
        assert found.killer == killer
        assert (found.there, found.fresh) == (True, killer is None)
        assert found.reason == (None if killer is None else "invalidated")
    assert doomed == (killer is not None)
    assert cache.count(tag) == 0 or killer is None
    assert cache.stats()[:6] == (0, 0, 1, 1, 0, 0)
    f()
    assert f.explain().fresh, "a hit and a fill as always"


def test_several_tags(cache):
    f = cache.cacheable(deps=["user:1", "org:1:x"])(lambda: 1)
    f()
    cache.invalidate("org:1", "user:2")
    assert f.explain().killer == "org:1"


def test_a_scope(cache):
    f = cache.cacheable(scope="org", deps=["a"])(lambda org_id: 1)
    f("x")
    assert f.explain("x").deps == ("a",)
    cache.evict_scope("org", org_id="x")
    found = f.explain("x")
    assert (found.reason, found.killer) == ("invalidated", "")


def test_what_is_being_computed(cache):
    inside, go = threading.Event(), threading.Event()

    @cache.cacheable
    def f():
        inside.set()
        assert go.wait(30)

    thread = threading.Thread(target=f)
    thread.start()
    assert inside.wait(30)
    assert f.explain().filling and f.explain().reason == "absent"
    go.set()
    thread.join(30)
    assert not f.explain().filling and f.explain().fresh


def test_disabled():
    f = cacheable(lambda: 1)
    f()
    with disabled():
        assert (f.explain().there, f.explain().reason) == (True, "disabled")
    assert f.explain().fresh


def test_methods_and_the_default_cache():
    class Shop:
        @cacheable(deps=lambda self, x: [f"x:{x}"])
        def price(self, x):
            return x

    shop = Shop()
    shop.price(1)
    assert Shop.price.explain(shop, 1).deps == ("x:1",)
    invalidate("x")
    assert Shop.price.explain(shop, 1).killer == "x"


def test_what_an_invalidation_would_kill(cache, clock):
    f = cache.cacheable(deps=lambda x: [f"user:{x}"], namespace="n")(lambda x: x)
    g = cache.cacheable(deps=["user"], ttl=5)(lambda: 0)
    for x in range(3):
        f(x)
    g()
    cache.set("raw", 7, deps=["user:1:x", "other"])
    cache.set("theme", 8, deps=["user:1"], scope="org", org_id="acme")
    cache.set("no", 9, deps=["users:1"])

    assert sorted(cache.keys("user:1")) == sorted([f.key(1), "raw", "@org:acme|theme"])
    assert [cache.count(tag) for tag in ("user", "user:1", "user:1:x", "user:*", "us", "other")] == [6, 3, 1, 6, 0, 1]
    assert sorted(map(str, [cache.get(key) for key in cache.keys("user:1")])) == ["1", "7", "8"]
    with pytest.raises(zoocache.InvalidTag):
        cache.keys("a::b")

    before = len(cache)
    clock.advance(6)
    assert cache.count("user") == 5, "g has expired"
    cache.invalidate("user:1")
    assert cache.count("user") == 2
    assert len(cache) == before, "nothing was removed by looking"


def test_a_closed_cache():
    cache = Cache()
    f = cache.cacheable(lambda: 1)
    cache.close()
    for ask in (lambda: cache.keys("a"), lambda: cache.count("a"), f.explain):
        with pytest.raises(RuntimeError, match="closed"):
            ask()
