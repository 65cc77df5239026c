import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zoocache
from zoocache import BuiltWithout, Cache, InvalidTag, cacheable, configure, invalidate, reset
from zoocache._ffi import tag_ok
from zoocache._tags import check
from zoocache._zoocache import Core, hash_key
from zoocache.context import DepsTracker, add_deps, get_current_deps
from zoocache.core import _generate_key, _manager

PEER = {
    "configure": "(storage_url=None, bus_url=None, prefix=None, prune_after=None, default_ttl=None, read_extend_ttl=True,"
    " max_entries=None, lmdb_map_size=None, flight_timeout=60, tti_flush_secs=30, auto_prune_secs=None,"
    " auto_prune_interval=3600, lru_update_interval=30, channel_capacity=1000000, batch_size=1000,"
    " lru_cache_size=10000, telemetry=None",
    "cacheable": "(func=None, *, namespace=None, deps=None, ttl=None",
    "invalidate": "(tag",
    "invalidate_async": "(tag",
    "add_deps": "(deps)",
    "get": "(key, scope=None, **params)",
    "get_async": "(key, scope=None, **params)",
    "set": "(key, value, deps=(), ttl=None, scope=None, **params)",
    "set_async": "(key, value, deps=(), ttl=None, scope=None, **params)",
    "clear": "()",
    "clear_async": "()",
    "prune": "(max_age_secs=3600)",
    "get_tag_version": "(tag)",
    "version": "()",
    "reset": "()",
}


@pytest.mark.parametrize("name", PEER)
def test_signatures(name):
    signature = inspect.signature(getattr(zoocache, name))
    bare = signature.replace(
        parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
        return_annotation=signature.empty,
    )
    assert str(bare).startswith(PEER[name])
    assert name in zoocache.__all__


def test_tags_that_are_refused():
    cases = {
        "a|b": "Invalid character '|'", "a b": "Invalid character ' '", "a\nb": "Invalid character", "": "empty",
        "a\0b": "Invalid character", ":a": "cannot start or end with", "a:": "cannot start or end with",
        ".a": "cannot start or end with", "a.": "cannot start or end with", "/a": "cannot start or end with",
        "a/": "cannot start or end with", "a" * 257: "Tag length exceeded", "é" * 129: "Tag length exceeded",
        "a::b": "consecutive separators", "a..b": "consecutive separators", "a.:b": "consecutive separators",
        "a:.b": "consecutive separators", ":".join("a" * 33): "depth", "\ud800": "Invalid character",
    }  # fmt: skip
    for tag, message in cases.items():
        for use in (invalidate, zoocache.get_tag_version, lambda t: invalidate("fine", t)):
            with pytest.raises(InvalidTag) as caught:
                use(tag)
            assert message in str(caught.value), tag
        with pytest.raises(InvalidTag):
            zoocache.set("k", 1, deps=["fine", tag])
    for bad in (None, 5, b"x", ["a"]):
        with pytest.raises(InvalidTag, match="A tag is a str"):
            invalidate(bad)
        with pytest.raises(InvalidTag):
            zoocache.get_tag_version(bad)
    with pytest.raises(InvalidTag, match="deps must be tags"):
        zoocache.set("k", 1, deps=5)
    with pytest.raises(InvalidTag, match="A tag is a str"):
        zoocache.set("k", 1, deps=[5])


def test_tags_that_are_taken():
    for tag in (
        "a",
        "user:550e8400-e29b-41d4-a716-446655440000",
        "a.b:c_d",
        "a/b",
        "ü:ß",
        "x" * 256,
        ":".join("a" * 32),
    ):
        assert zoocache.get_tag_version(tag) == 0
        invalidate(tag)
        assert zoocache.get_tag_version(tag) > 0


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8") | st.sampled_from(":./| a"), max_size=12) | st.text(":a", max_size=80))
def test_both_judges_of_tags_agree(tag):
    try:
        check(tag)
        fine = True
    except InvalidTag:
        fine = False
    assert tag_ok(tag.encode()) == fine


def test_versions_grow():
    assert zoocache.get_tag_version("v") == 0
    invalidate("v")
    first = zoocache.get_tag_version("v")
    invalidate("v:below")
    assert zoocache.get_tag_version("v") == first
    invalidate("v")
    assert zoocache.get_tag_version("v") > first > 0


def test_get_set():
    assert zoocache.get("k") is None
    zoocache.set("k", [1], deps=["t:1"], ttl=10)
    assert zoocache.get("k") == [1]
    invalidate("t")
    assert zoocache.get("k") is None
    zoocache.set("k", (1, 2**80), deps="single:tag")
    assert zoocache.get("k") == (1, 2**80)
    invalidate("single:tag")
    assert zoocache.get("k") is None
    zoocache.set("k", 1, deps=None)
    zoocache.set("k", 1, ttl=0)
    assert zoocache.get("k") is None
    zoocache.set("k", 2)
    assert zoocache.delete("k")
    assert not zoocache.delete("k")


async def test_async_functions():
    await zoocache.set_async("k", 1, deps=["t"])
    assert await zoocache.get_async("k") == 1
    await zoocache.invalidate_async("t")
    assert await zoocache.get_async("k") is None
    await zoocache.set_async("k", 2)
    await zoocache.clear_async()
    assert await zoocache.get_async("k") is None
    cache = Cache()
    await cache.set_async("k", 3, ["a"])
    assert await cache.get_async("k") == 3
    await cache.invalidate_async("a", "b")
    assert await cache.get_async("k") is None
    await cache.clear_async()


def test_configure_rules():
    configure(prefix="audit", default_ttl=10)
    configure(prefix="audit")
    configure(default_ttl=10)
    with pytest.raises(RuntimeError, match="zoocache already initialized"):
        configure(default_ttl=20)
    with pytest.raises(RuntimeError, match="zoocache already initialized"):
        configure(max_entries=5)
    reset()
    zoocache.get("x")  # used
    with pytest.raises(RuntimeError, match="zoocache already initialized"):
        configure(default_ttl=20)
    configure()
    reset()
    configure(default_ttl=20)
    assert zoocache._default.cache().default_ttl == 20


def test_urls_are_looked_at_when_first_used(monkeypatch):
    monkeypatch.setattr(
        "zoocache._ffi.parts", lambda: {"lmdb": False, "redis": False, "tls": False, "openssl": False, "seal": False}
    )
    for url in ("lmdb:///tmp/x", "redis://localhost", "rediss://localhost"):
        configure(storage_url=url)
        with pytest.raises(BuiltWithout, match="built without"):
            zoocache.get("k")
        reset()
    configure(bus_url="redis://localhost")
    with pytest.raises(BuiltWithout, match="built without Redis"):
        invalidate("t")
    reset()
    for bad in ("mongo://x", "/tmp/x", "lmdb:x"):
        configure(storage_url=bad)
        with pytest.raises(ValueError, match="Unsupported storage_url"):
            zoocache.get("k")
        reset()
    configure(bus_url="lmdb://x")
    with pytest.raises(ValueError, match="Unsupported bus_url"):
        zoocache.get("k")
    reset()
    configure(lru_cache_size=0)
    with pytest.raises(ValueError, match="lru_cache_size must be >= 1"):
        zoocache.get("k")


def test_wrong_options():
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match="ttl must be"):
            cacheable(ttl=bad)
        with pytest.raises(ValueError, match="ttl must be"):
            zoocache.set("k", 1, ttl=bad)
    for bad in ("5", True, [1]):
        with pytest.raises(TypeError, match="number of seconds"):
            cacheable(ttl=bad)
    for options in ({"on_error": "x"}, {"copy": "x"}, {"jitter": 2}):
        with pytest.raises(ValueError, match=next(iter(options))):
            cacheable(**options)
    with pytest.raises(TypeError):
        cacheable(nonsense=1)
    with pytest.raises(ValueError, match="max_entries"):
        Cache(max_entries=0)
    with pytest.raises(TypeError, match="unknown option: foo"):
        Cache(foo=1)

    async def deps(x):
        return []

    with pytest.raises(TypeError, match="coroutine function"):
        cacheable(deps=deps)(lambda x: x)


def test_decorated_before_configured():
    @cacheable
    def f(x):
        return x

    configure(max_entries=7)
    assert f(1) == 1
    assert f.cache_info().maxsize == 7
    reset()
    assert f(1) == 1
    assert f.cache_info().maxsize is None
    assert f.cache_info().misses == 1, "those of the cache before are over"


def test_cache_info_and_clear():
    @cacheable
    def f(x):
        return x

    f(1), f(1), f(2), f(True), f(True)
    assert f.cache_info() == (2, 3, None, 3)
    f.cache_clear()
    assert f.cache_info() == (0, 0, None, 0)
    f(1)
    assert f.invalidate(1)
    assert not f.invalidate(1)
    assert f.cache_info().currsize == 0


def test_stats():
    @cacheable(deps=["s"])
    def f(x):
        return x

    f(1), f(1), f(1.5), f(1.5)
    invalidate("s")
    f(1)
    zoocache.set("k", 1)
    zoocache.get("k"), zoocache.get("absent")
    stats = zoocache.stats()
    assert (stats.hits, stats.misses, stats.absent, stats.invalidated) == (3, 4, 3, 1)
    assert (stats.fills, stats.entries, stats.flights, stats.invalidations, stats.tags) == (3, 3, 0, 1, 1)


def test_cache_object():
    with Cache(default_ttl=5, max_entries=3) as cache:

        @cache.cacheable(deps=["a"])
        def f(x):
            return [x]

        @cache.cacheable
        def g():
            return 1

        assert f(1) is f(1)
        assert g() == 1
        zoocache.invalidate("a")
        assert cache.stats().entries == 2
        cache.invalidate("a")
        assert cache.tag_version("a") > 0
        cache.invalidate()
        cache.set("k", 1)
        assert len(cache) == 3
        assert bool(cache)
        assert cache.delete("k")
        cache.clear()
        assert len(cache) == 0
        assert bool(cache)
        assert cache.prune() == 0
    for use in (lambda: f(1), lambda: cache.get("k"), lambda: cache.set("k", 1), cache.clear, lambda: cache.invalidate("a"),
                lambda: cache.invalidate_one(":"), lambda: cache.__enter__()):  # fmt: skip
        with pytest.raises(RuntimeError, match="closed"):
            use()
    cache.close()


def test_clear_keeps_other_caches():
    one, two = Cache(), Cache()
    one.set("k", 1)
    two.set("k", 2)
    one.clear()
    assert (one.get("k"), two.get("k")) == (None, 2)


def test_prune_keeps_what_it_knows():
    cache = Cache()
    begin = cache.core.seen.value
    for n in range(100):
        cache.invalidate(f"p:{n}")
    assert cache.stats().tags == 101
    assert cache.prune(0) == 101
    deps = cache.deps(("p:5",))
    assert deps.newest() > begin, "a pruned tag must not come back as never invalidated"
    zoocache.set("k", 1, ["x"])
    zoocache.prune(0)
    assert zoocache.get("k") == 1
    invalidate("x")
    zoocache.prune(0)
    assert zoocache.get("k") is None


def test_automatic_prune():
    cache = Cache(auto_prune_interval=1e-9, auto_prune_secs=1e-9)
    cache.invalidate("gone")
    for n in range(100):
        cache.set(str(n), n)
    assert cache.stats().tags == 0


@pytest.mark.parametrize("options", [{"prune_after": 0}, {"auto_prune_secs": 0, "auto_prune_interval": 0}])
def test_configured_prune(options):
    configure(**options)
    invalidate("gone")
    for n in range(100):
        zoocache.set(str(n), n)
    assert zoocache.stats().tags == 0


def test_prune_after_is_short_for_both():
    for options, both in (
        ({}, (3600, 3600)),
        ({"prune_after": 60}, (60, 60)),
        ({"prune_after": 7200}, (7200, 3600)),
        ({"prune_after": 60, "auto_prune_secs": 90}, (90, 60)),
        ({"prune_after": 60, "auto_prune_interval": 10}, (60, 10)),
    ):
        cache = Cache(**options)
        assert (cache.auto_prune_secs, cache.auto_prune_interval) == both
    with pytest.raises(ValueError, match="prune_after"):
        Cache(prune_after=-1)


def test_semi_public_names():
    assert _manager.is_configured() is False
    assert _manager.core is None
    _manager.configure(default_ttl=9)
    assert _manager.config["default_ttl"] == 9
    core = _manager.get_core()
    assert _manager.core is not None
    core.set("k", "v", ["t"], ttl=2**64)
    assert (core.get("k"), core.len()) == ("v", 1)
    core.invalidate("t")
    assert core.tag_version("t") == core.get_tag_version("t") == zoocache.get_tag_version("t") > 0
    assert Core().tag_version("t") == core.tag_version("t")
    other = Core(max_entries=5)
    assert other.tag_version("t") == 0
    core.prune(3600)
    core.clear()
    assert core.version() == zoocache.version()
    assert zoocache.version()[0].isdigit()
    _manager.reset()
    assert _manager.config == {}
    assert hash_key((1, "a")) == hash_key((1, "a")) != hash_key((1.0, "a"))
    assert hash_key(1, "p").startswith("p:")
    with pytest.raises(TypeError):
        hash_key(object())

    def f(x):
        return x

    assert _generate_key(f, "ns", (1,), {"a": 2, "b": 3}) == _generate_key(f, "ns", (1,), {"b": 3, "a": 2})
    assert _generate_key(f, None, (1,), {}) != _generate_key(f, None, (2,), {})
    with pytest.raises(ValueError, match="zoocache failed to serialize"):
        _generate_key(f, None, (object(),), {})


def test_address_is_a_cache_of_the_library():
    import ctypes

    from zoocache import _ffi

    cache = Cache()
    cache.set("k", 1, ["from:c"])

    @cache.cacheable(deps=["from:c"])
    def f(x):
        return [x]

    first = f(1)
    assert f(1) is first

    class Slice(ctypes.Structure):
        _fields_ = [("ptr", ctypes.c_char_p), ("len", ctypes.c_size_t)]

    native = _ffi._lib.zc_invalidate
    native.argtypes = (ctypes.c_void_p, Slice)
    assert native(cache.core.address(), Slice(b"from", 4)) == 0
    assert f(1) is not first
    assert cache.get("k") is None


def test_deps_tracker():
    assert get_current_deps() is None
    add_deps(["nobody"])
    with DepsTracker() as outer:
        add_deps(["a"])
        with DepsTracker() as inner:
            add_deps({"b"})
        assert get_current_deps() is outer.deps
        with outer:
            add_deps("one:tag")
        with pytest.raises(InvalidTag):
            add_deps(["no good"])
        with pytest.raises(InvalidTag):
            add_deps([5])

        @cacheable(deps=["t:1"])
        def f():
            add_deps(t for t in ["t:2"])
            return 1

        f()
        assert outer.deps == {"a", "one:tag", "t:1", "t:2"}
    assert inner.deps == {"b"}
    with DepsTracker() as again:
        f()
    assert again.deps == {"t:1", "t:2"}
    assert get_current_deps() is None


def test_missing_library():
    import subprocess
    import sys

    code = "import zoocache"
    done = subprocess.run([sys.executable, "-c", code], env={"ZOOCACHE_LIB": "/nonexistent.so", "PYTHONPATH": ":".join(sys.path)},
                          capture_output=True, text=True)  # fmt: skip
    assert "the shared library cannot be loaded from /nonexistent.so" in done.stderr


def test_annotations():
    assert zoocache.Cached[[int], str] is zoocache.Cached


def test_statistics_begin_with_the_cache():
    """Functions go on from one default cache to the next; what they have counted does not."""

    @cacheable(deps=["t"])
    def f(x):
        if x < 0:
            raise ValueError
        return x

    def use():
        f(1), f(1), f(1), f(2)
        with pytest.raises(ValueError):
            f(-1)
        invalidate("t")
        f(1)
        return zoocache.stats()

    first = use()
    assert (first.hits, first.absent, first.invalidated, first.fills, first.errors) == (2, 3, 1, 3, 1)
    reset()
    assert f.cache_info()[:2] == (0, 0)
    assert zoocache.stats() == zoocache.Cache().stats()
    assert use() == first
