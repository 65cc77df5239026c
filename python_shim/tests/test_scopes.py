"""Scopes: values of different tenants are kept apart, and evicted together."""

import asyncio
import threading
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoocache import Cache, Scope, ScopeMissing, UnkeyableArgument
from zoocache.scopes import segment

TREE = Scope("org", "org_id", Scope("user", "user_id", Scope("session", "session_id")), Scope("team", "team_id"))


@pytest.fixture
def cache():
    with Cache(scopes=TREE) as cache:
        yield cache


def counting(cache, **options):
    calls = []

    @cache.cacheable(**options)
    def profile(user_id=None, org_id=None):
        calls.append((user_id, org_id))
        return [user_id, org_id]

    return profile, calls


def test_arguments_say_the_scope(cache):
    profile, calls = counting(cache, scope="user")
    for _ in range(2):
        profile("7", org_id="a")
        profile("7", org_id="b")
        profile(org_id="a", user_id="7")
    assert calls == [("7", "a"), ("7", "b")]


def test_the_context_says_the_rest(cache):
    profile, calls = counting(cache, scope="user")
    with cache.scope(org_id="a"):
        assert profile("7") == ["7", None]
        with cache.scope(org_id="b", user_id="9"):
            profile("7")
            profile()
            profile()
        profile("7")
    assert calls == [("7", None), ("7", None), (None, None)]


@pytest.mark.parametrize("parameters", ["", "x", "x, y=0", "x, *args", "x, **kw", "*, k=1", "x, user_id=None"])
def test_every_signature_in_a_context(cache, parameters):
    calls = []
    scope = {"calls": calls}
    exec(f"def f({parameters}): calls.append(1); return len(calls)", scope)
    f = cache.cacheable(scope="user")(scope["f"])
    args = (5,) if parameters.startswith("x") else ()
    seen = {}
    for _ in range(2):
        for org in "ab":
            for user in (1, 2):
                with cache.scope(org_id=org, user_id=user):
                    assert seen.setdefault((org, user), f(*args)) == f(*args)
    assert len(calls) == 4
    with cache.scope(org_id="a", user_id=1):
        assert f.invalidate(*args)
        f(*args)
    assert len(calls) == 5
    assert cache.evict_scope("user", org_id="a", user_id=2) == 1
    assert cache.evict_scope("org", org_id="a") == 1
    assert cache.evict_scope("org", org_id="b") == 2


def test_a_missing_id_raises_before_the_function_runs(cache):
    profile, calls = counting(cache, scope="user")
    for args in [{}, {"user_id": "7"}, {"org_id": "a"}, {"user_id": "7", "org_id": ""}]:
        with pytest.raises(ScopeMissing, match=r"scope"):
            profile(**args)
    with cache.scope(user_id="7"), pytest.raises(ScopeMissing, match="org_id"):
        profile()
    assert calls == []
    assert cache.stats().flights == 0
    with pytest.raises(ScopeMissing):
        cache.get("k", scope="user", user_id=7)
    with pytest.raises(ScopeMissing):
        cache.set("k", 1, scope="user", user_id=7)
    with pytest.raises(ScopeMissing):
        cache.evict_scope("user", user_id=7)


def test_ids_by_their_text(cache):
    profile, calls = counting(cache, scope="user")
    one = uuid.UUID(int=1)
    profile(one, org_id="a")
    assert cache.evict_scope("user", user_id=str(one), org_id="a") == 1
    profile(one, org_id="a")
    assert len(calls) == 2
    for bad in (True, 1.5, b"7", ("7",), object()):
        with pytest.raises((TypeError, UnkeyableArgument)):
            profile(bad, org_id="a")
    assert len(calls) == 2


def test_what_is_said_wrong(cache):
    with pytest.raises(ValueError, match="no scope 'orgs'; there are: org, user"):
        cache.cacheable(scope="orgs")(len)
    with pytest.raises(TypeError, match="no scope has a parameter orgid"):
        cache.scope(orgid=1)
    with pytest.raises(TypeError, match="no scope has a parameter orgid"):
        cache.evict_scope("org", orgid=1)
    with pytest.raises(TypeError, match="together with scope="):
        cache.get("k", org_id=1)
    with pytest.raises(ValueError, match="has no scopes"), Cache() as other:
        other.evict_scope("org", org_id=1)
    with pytest.raises(ValueError, match="there already"):
        Cache(scopes=Scope("org", "org_id", Scope("org", "x")))
    with pytest.raises(ValueError, match="there already"):
        Cache(scopes=Scope("org", "x", Scope("user", "x")))
    with pytest.raises(ValueError, match="there is none"):
        Cache(scopes=[])
    for args in [("o:g", "x"), ("", "x"), ("org", "a b"), ("org", 3)]:
        with pytest.raises(ValueError, match="scope"):
            Scope(*args)
    with pytest.raises(TypeError, match="are scopes"):
        Scope("org", "org_id", "user")
    deep = Scope("s0", "p0")
    for i in range(1, 14):
        deep = Scope(f"s{i}", f"p{i}", deep)
    with pytest.raises(ValueError, match="deeper"):
        Cache(scopes=deep)
    assert repr(Scope("org", "o", Scope("user", "u"))) == "Scope('org', 'o', Scope('user', 'u'))"


def test_two_trees_may_share_a_parameter():
    with Cache(scopes=[Scope("org", "org_id", Scope("user", "user_id")), Scope("guest", "user_id")]) as cache:
        user, users = counting(cache, scope="user")
        guest, guests = counting(cache, scope="guest")
        for _ in range(2):
            user("7", org_id="a")
            guest("7", org_id="a")
            with cache.scope(user_id="8", org_id="a"):
                guest()
                user()
        assert (len(users), len(guests)) == (2, 2)
        assert cache.evict_scope("guest", user_id="7") == 1
        assert cache.evict_scope("org", org_id="a") == 2


def test_values_by_key(cache):
    at = {"scope": "user", "org_id": "a", "user_id": 7}
    cache.set("theme", "dark", **at)
    cache.set("theme", "plain")
    cache.set("theme", "light", scope="org", org_id="a")
    assert cache.get("theme", **at) == "dark"
    assert cache.get("theme", scope="user", org_id="b", user_id=7) is None
    assert cache.get("theme") == "plain"
    with cache.scope(org_id="a", user_id="7"):
        assert cache.get("theme", scope="user") == "dark"
        assert cache.get("theme", scope="org") == "light"
    cache.set("other", 1, deps=["tag"], **at)
    cache.invalidate("tag")
    assert cache.get("other", **at) is None
    assert cache.delete("theme", **at)
    assert not cache.delete("theme", **at)
    assert cache.get("theme") == "plain"
    assert cache.evict_scope("org", org_id="a") == 1
    assert cache.get("theme", scope="org", org_id="a") is None
    assert cache.get("theme") == "plain"


async def test_async_twins(cache):
    calls = []

    @cache.cacheable(scope="user", deps=lambda user_id: [f"u:{user_id}"])
    async def load(user_id):
        calls.append(user_id)
        await asyncio.sleep(0)
        return user_id

    async def one(org):
        with cache.scope(org_id=org):
            await load(1)
            await cache.set_async("k", org, scope="org")
            assert await cache.get_async("k", scope="org") == org

    await asyncio.gather(*[one(org) for org in "abab"])
    assert calls == [1, 1]
    assert await cache.evict_scope_async("org", org_id="a") == 2
    assert await cache.get_async("k", scope="org", org_id="a") is None
    assert await cache.delete_async("k", scope="org", org_id="b")
    cache.invalidate("u:1")
    await one("a")
    assert calls == [1, 1, 1]


def test_nested_calls_depend_on_the_scope_of_what_they_call(cache):
    calls = []

    @cache.cacheable(scope="user")
    def inner(user_id, org_id):
        return user_id

    @cache.cacheable(deps=["page"])
    def page():
        calls.append(1)
        return inner(1, "a")

    page()
    cache.evict_scope("org", org_id="b")
    page()
    assert calls == [1]
    cache.evict_scope("org", org_id="a")
    page()
    assert calls == [1, 1]


def test_an_eviction_during_a_computation(cache):
    @cache.cacheable(scope="org")
    def load(org_id):
        cache.evict_scope("org", org_id="a")
        return 1

    load("a")
    assert cache.stats().refused == 1
    assert cache.evict_scope("org", org_id="a") == 0


def test_methods_keys_and_refresh(cache):
    class Shop:
        @cache.cacheable(scope="org")
        def price(self, item, org_id):
            return [item, org_id]

        @cache.cacheable(scope="org", key=lambda self, item: item)
        def by_key(self, item):
            return [item]

    shop = Shop()
    assert shop.price(1, "a") is shop.price(1, org_id="a")
    assert shop.price(1, "a") is not shop.price(1, "b")
    assert cache.get(Shop.price.key(shop, 1, "a")) == [1, "a"]
    assert Shop.price.key(shop, 1, "a") != Shop.price.key(shop, 1, "b")
    assert Shop.price.refresh(shop, 1, "a") == [1, "a"]
    cache.set(Shop.price.key(shop, 1, "a"), "set")
    assert (shop.price(1, "a"), shop.price(1, "b")) == ("set", [1, "b"])
    with cache.scope(org_id="a"):
        mine = shop.by_key(1)
        assert shop.by_key(1) is mine
    with cache.scope(org_id="b"):
        assert shop.by_key(1) is not mine
    assert cache.evict_scope("org", org_id="a") == 2


def test_a_refresh_beside_knows_its_scope():
    from zoocache.testing import FakeClock

    clock = FakeClock()
    ran = threading.Event()
    with Cache(scopes=TREE, clock=clock) as cache:
        seen = []

        @cache.cacheable(scope="org", soft_ttl=10, ttl=100)
        def load():
            seen.append(cache.scopes.inherited["org_id"])
            if len(seen) == 2:
                ran.set()
            return len(seen)

        with cache.scope(org_id="a"):
            load()
            clock.advance(20)
            assert load() == 1
        assert ran.wait(30)
        assert seen == ["a", "a"]


def test_counts_follow_evictions_and_limits():
    with Cache(scopes=TREE, max_entries=10) as cache:
        for i in range(100):
            cache.set(f"k{i}", i, scope="user", org_id="a", user_id=i % 7)
        assert cache.evict_scope("org", org_id="a") == len(cache) == 10
        assert cache.evict_scope("org", org_id="a") == 0
        cache.sweep()
        assert len(cache) == 0
        cache.set("k", 1, scope="org", org_id="a")
        cache.set("k", 2, scope="org", org_id="a")
        cache.clear()
        assert cache.evict_scope("org", org_id="a") == 0
        assert cache.scopes.root.count == 0


def test_scopes_without_entries_are_not_kept(cache):
    """The index has a node for each scope that has entries, or had them when it was evicted, until those are swept."""
    nodes = cache.scopes.nodes
    for i in range(50):
        cache.set("k", 1, scope="user", org_id="a", user_id=i)
    assert len(nodes) == 51
    for i in range(20):
        assert cache.delete("k", scope="user", org_id="a", user_id=i)
    assert len(nodes) == 31 and nodes["org:a"].count == 30
    assert cache.evict_scope("org", org_id="a") == 30
    cache.set("k", 1, scope="user", org_id="a", user_id=20)  # where there is one that counts no more
    assert cache.evict_scope("user", org_id="a", user_id=21) == 0  # it went with its org
    cache.sweep()
    assert len(cache) == 1 and set(nodes) == {"org:a", "org:a:user:20"}
    assert cache.evict_scope("user", org_id="a", user_id=20) == 1
    cache.sweep()
    assert not nodes and not len(cache)


hostile = st.one_of(
    st.integers(),
    st.sampled_from(
        ["a", "a:user:b", ":", "%3a", "%", "a|b", "|", "\0", "a\0", " ", "*", "ä", "\ud800", "1", "-1", "%%"]
    ),
    st.text(min_size=1),
    st.text(min_size=40, max_size=120),
)


def test_an_escaped_id_is_no_hash():
    long = "x" * 100
    assert segment("s", long) not in [segment("s", segment("s", long)[i:]) for i in range(3)]
    assert segment("s", 1 << 200) == segment("s", str(1 << 200))
    with pytest.raises(TypeError, match="int"):
        segment("s", 1 << 256)


@given(hostile, hostile)
def test_segments_tell_ids_apart(a, b):
    assert (segment("s", a) == segment("s", b)) == (str(a) == str(b))
    assert not set(segment("s", a)) & set(":|\0 ")


@settings(deadline=None)
@given(st.lists(st.tuples(hostile, hostile, st.booleans()), min_size=1, max_size=12), st.integers(0, 11), st.booleans())
def test_an_eviction_touches_no_other_scope(places, which, whole):
    """Random scopes with hostile ids: what is evicted is what has this path, and all else stays."""
    with Cache(scopes=TREE) as cache:

        @cache.cacheable(scope="user")
        def load(user_id, org_id):
            return object()

        live = {}
        for org, user, by_call in places:
            if by_call:
                live["call", type(org), org, type(user), user] = str(org), str(user), load(user, org)
            else:
                value = object()
                cache.set("k", value, scope="user", org_id=org, user_id=user)
                live["k", str(org), str(user)] = str(org), str(user), value
        org, user, _ = places[which % len(places)]
        if whole:
            count = cache.evict_scope("org", org_id=org)
            gone = [key for key, value in live.items() if value[0] == str(org)]
        else:
            count = cache.evict_scope("user", org_id=org, user_id=user)
            gone = [key for key, value in live.items() if value[:2] == (str(org), str(user))]
        assert count == len(gone)
        for key, (org, user, value) in live.items():
            found = load(key[4], key[2]) if key[0] == "call" else cache.get("k", scope="user", org_id=org, user_id=user)
            assert (found is value) == (key not in gone)


def test_shared_through_a_storage(tmp_path):
    url = f"lmdb://{tmp_path}/shared"
    calls = []

    def load(user_id, org_id=None):
        calls.append(org_id)
        return [user_id, org_id]

    for run in range(2):
        with Cache(scopes=TREE, storage_url=url) as cache:
            f = cache.cacheable(scope="user", namespace="n")(load)
            assert f(1, "a") == [1, "a"]
            assert f(1, "b") == [1, "b"]
            with cache.scope(org_id="a"):
                f(1)
            assert len(calls) == 3  # the second cache finds all that the first has stored
            if run == 0:
                cache.set("k", "v", scope="org", org_id="a")
            assert cache.get("k", scope="org", org_id="a") == "v"
            assert cache.get("k", scope="org", org_id="b") is None
    with Cache(scopes=TREE, storage_url=url) as cache:
        f = cache.cacheable(scope="user", namespace="n")(load)
        cache.evict_scope("org", org_id="a")
        assert cache.get("k", scope="org", org_id="a") is None
        f(1, "b")
        assert len(calls) == 3
        f(1, "a")
        assert len(calls) == 4


def test_of_the_default_cache():
    import zoocache

    zoocache.reset()
    zoocache.configure(scopes=TREE)
    calls = []

    @zoocache.cacheable(scope="user")
    def load(user_id):
        calls.append(user_id)
        return user_id

    try:
        with zoocache.scope(org_id="a"):
            load(1)
            load(1)
        zoocache.set("k", 1, scope="org", org_id="a")
        assert zoocache.get("k", scope="org", org_id="a") == 1
        assert zoocache.get("k") is None
        assert zoocache.evict_scope("org", org_id="a") == 2
        with zoocache.scope(org_id="a"):
            load(1)
        assert calls == [1, 1]
        zoocache.reset()
        with pytest.raises(ValueError, match="has no scopes"):
            load(1)
    finally:
        zoocache.reset()


async def test_of_the_default_cache_async():
    import zoocache

    zoocache.reset()
    zoocache.configure(scopes=TREE)
    try:
        await zoocache.set_async("k", 1, scope="org", org_id="a")
        assert await zoocache.get_async("k", scope="org", org_id="a") == 1
        assert await zoocache.delete_async("k", scope="org", org_id="a")
        assert await zoocache.evict_scope_async("org", org_id="a") == 0
    finally:
        zoocache.reset()


@pytest.mark.parametrize("parameters", ["x", "x, y=0", "*, x", "user_id, x", ""])
def test_a_scope_of_the_context_has_a_room(cache, parameters):
    """A hit looks there; what has left is not there either."""
    scope = {}
    exec(f"def f({parameters}): return [1]", scope)
    f = cache.cacheable(scope="user")(scope["f"])
    table = f.cache_info.__self__
    named = [name.strip() for name in parameters.replace("*,", "").replace("=0", "").split(",") if name.strip()]

    def call(n):
        return f(**dict.fromkeys(named, n))

    def rooms():
        return {path: len(room) for path, room in (table.entries.rooms or {}).items()}

    for org in ("a", "b"):
        with cache.scope(org_id=org, user_id="7"):
            for n in (1, "1", b"1", 1):
                if not (n == b"1" and "user_id" in named):
                    call(n)
    found = rooms()
    assert sum(found.values()) == (len(table.entries) if named else 0)
    with cache.scope(org_id="a", user_id="7"):
        before = call(1)
        assert call(1) is before
        assert f.invalidate(**dict.fromkeys(named, 1)) and not f.explain(**dict.fromkeys(named, 1)).there
        assert call(1) is not before
    assert rooms() == found
    cache.evict_scope("org", org_id="a")
    cache.sweep()
    assert sum(rooms().values()) == (len(table.entries) if named else 0)
    assert all("org:a" not in path for path in rooms())
    f.cache_clear()
    assert rooms() == {}


def test_a_context_that_changes_in_the_middle_of_nothing(cache):
    """Many scopes, in threads: none sees what another has stored."""
    f = cache.cacheable(scope="org")(lambda x: cache.scopes.inherited["org_id"])
    wrong = []

    def work(start):
        for n in range(300):
            org = f"o{(start + n) % 5}"
            with cache.scope(org_id=org):
                if f(n % 7) != org:
                    wrong.append(n)
                if n % 50 == 0:
                    cache.evict_scope("org", org_id=org)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_hits_of_ids_that_are_arguments_look_in_a_plain_dict(cache):
    profile, calls = counting(cache, scope="user")
    entries = profile.cache_info.__self__.entries
    for _ in range(2):
        profile("7", "a"), profile("8", "a"), profile("7", "b")
    assert len(calls) == 3 and entries.plain == dict(entries)
    profile.invalidate("7", "a")
    assert len(entries.plain) == 2
    cache.evict_scope("org", org_id="a")
    cache.sweep()
    assert entries.plain == dict(entries) and len(entries.plain) == 1
    profile("7", "b"), profile.refresh("7", "b")
    assert len(calls) == 4 and entries.plain == dict(entries)
    cache.clear()
    assert entries.plain == {}
