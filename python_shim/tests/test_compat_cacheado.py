"""The face of cacheado: its names, and what they promise."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import MagicMock

import pytest
from servers import Redis

from zoocache import _ffi
from zoocache.compat import _cacheado
from zoocache.compat.cacheado import (
    Cache,
    CacheKey,
    InMemory,
    IStorageProvider,
    IStorageRule,
    LifeTimeEvict,
    LRUEvict,
    MaxItemsEvict,
    MongoDBStorage,
    RedisStorage,
    RuleAwareStorage,
    RuleSideEffect,
    ScopeConfig,
    ScopeLevel,
    StorageRuleAction,
)
from zoocache.testing import FakeClock

TREE = [
    ScopeLevel("organization", "org_id", [ScopeLevel("user", "user_id", [ScopeLevel("session", "session_id")])]),
    ScopeLevel("project", "project_id"),
]


class Shelf(IStorageProvider):
    """A storage of one's own: it keeps what it is told, and does not look at times."""

    def __init__(self):
        self.values = {}
        self.calls = []

    def get(self, key):
        return self.values.get(key)

    def set(self, key, value, ttl_seconds):
        self.calls.append((key, value, ttl_seconds))
        self.values[key] = (value, time.monotonic() + ttl_seconds)

    def evict(self, key):
        self.values.pop(key, None)

    def get_all_keys(self):
        return list(self.values)

    def clear(self):
        self.values.clear()

    def get_stats(self):
        return {"storage_type": "shelf"}


KINDS = {
    "view": Cache,
    "rules": lambda **more: Cache(storage_rules=[LRUEvict(max_items=100), LifeTimeEvict()], **more),
    "own": lambda **more: Cache(storage_provider=Shelf(), **more),
    "own with rules": lambda **more: Cache(storage_provider=Shelf(), storage_rules=[MaxItemsEvict(100)], **more),
}


@pytest.fixture(params=KINDS)
def make(request):
    return KINDS[request.param]


def counted(cache, **options):
    calls = []

    @cache.cache(**{"ttl_seconds": 300, **options})
    def load(user_id=None, org_id=None):
        calls.append((user_id, org_id))
        return [user_id, org_id]

    return load, calls


# ---- in every kind -----------------------------------------------------------------------------------


def test_a_call_is_computed_once(make):
    load, calls = counted(make())
    assert [load(1, 2), load(1, 2), load(user_id=1, org_id=2), load(1, org_id=2)] == [[1, 2]] * 4
    assert calls == [(1, 2)]
    assert load.__name__ == "load"
    load({"a": [1]})
    load({"a": [1]})
    assert len(calls) == 2


def test_functions_of_one_name_are_told_apart(make):
    cache = make()

    class One:
        @staticmethod
        @cache.cache(ttl_seconds=60)
        def load(x):
            return "one"

    class Two:
        @staticmethod
        @cache.cache(ttl_seconds=60)
        def load(x):
            return "two"

    assert [One.load(1), Two.load(1), One.load(1)] == ["one", "two", "one"]


def test_arguments_are_told_apart(make):
    cache = make()
    identity = cache.cache(ttl_seconds=60)(_identity)
    for value in (-1, -2, 1, True, 1.0, "1", b"1", None, (1,), [1]):
        assert identity(value) == [value, type(value).__name__]
        assert identity(value) == [value, type(value).__name__]
    cache.set(-1, "a", 60)
    cache.set(-2, "b", 60)
    assert [cache.get(-1), cache.get(-2)] == ["a", "b"]


def _identity(x):
    return [x, type(x).__name__]


def test_what_has_no_key_is_computed_each_time(make, caplog):
    load, calls = counted(make())
    lock = threading.Lock()
    assert [load(lock), load(lock)] == [[lock, None]] * 2
    assert len(calls) == 2
    assert "load is not cached" in caplog.text


def test_none_is_not_cached_and_errors_are_raised(make):
    cache = make()
    calls = []

    @cache.cache(ttl_seconds=60)
    def find(x):
        calls.append(x)
        return 1 / x if x < 2 else None

    assert [find(2), find(2)] == [None, None]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            find(0)
    assert calls == [2, 2, 0, 0]
    with pytest.raises(TypeError):
        find()


@pytest.mark.parametrize("ttl", [0, -1])
def test_no_time_to_live(make, ttl):
    cache = make()
    load, calls = counted(cache, ttl_seconds=ttl)
    load(1)
    load(1)
    assert len(calls) == 2
    cache.set("k", 1, 60)
    cache.set("k", 2, ttl)
    assert cache.get("k") is None  # what was there is not what it is to be


def test_a_stampede_computes_once(make):
    cache = make()
    started, go, calls = threading.Event(), threading.Event(), []

    @cache.cache(ttl_seconds=60)
    def slow(x):
        calls.append(x)
        started.set()
        go.wait()
        return x * 2

    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(slow, 4) for _ in range(8)]
        started.wait()
        go.set()
        assert [result.result() for result in results] == [8] * 8
    assert calls == [4]


async def test_coroutines(make):
    cache = make()
    calls = []

    @cache.cache(ttl_seconds=180, scope="global")
    async def fetch(endpoint):
        calls.append(endpoint)
        await asyncio.sleep(0)
        return {"at": endpoint}

    assert await asyncio.gather(*[fetch("/a") for _ in range(5)]) == [{"at": "/a"}] * 5
    assert await fetch("/a") == {"at": "/a"}
    lock = threading.Lock()
    assert await fetch(lock) == {"at": lock}
    assert calls == ["/a", lock]
    await cache.aset("k", "v", ttl_seconds=300)
    assert await cache.aget("k") == cache.get("k") == "v"
    await cache.aevict("k")
    assert await cache.aget("k") is None
    await cache.aset("k", "v", 300)
    await cache.aclear()
    assert cache.get("k") is None


def test_scopes_keep_apart(make):
    cache = make(scope_config=ScopeConfig(TREE))
    load, calls = counted(cache, scope="user")
    for _ in range(2):
        load("123", org_id="org1")
        load("123", "org2")  # a parameter by position is one, too
    assert calls == [("123", "org1"), ("123", "org2")]
    at = {"scope": "user", "org_id": "org1", "user_id": "123"}
    cache.set("settings", {"theme": "dark"}, ttl_seconds=3600, **at)
    cache.set("settings", "of the other", 3600, "user", {"org_id": "org2", "user_id": 123})
    assert cache.get("settings", **at) == {"theme": "dark"}
    assert cache.get("settings", ("organization", "user"), {"org_id": "org2", "user_id": "123"}) == "of the other"
    assert cache.get("settings") is None
    assert cache.get("settings", scope="organization", org_id="org1", user_id="123") is None
    cache.evict("settings", **at)
    assert cache.get("settings", **at) is None
    assert cache.evict_by_scope("organization", org_id="org1") == 1
    load("123", org_id="org1")
    load("123", org_id="org2")
    assert len(calls) == 3
    cache.set("global", 1, 60)
    assert cache.evict_by_scope("user", org_id="org2", user_id="123") == 2
    assert cache.evict_by_scope("global") == 2
    assert cache.get("global") is None
    assert cache.stats()["evictions"] == 6


def test_every_level_of_a_deep_tree(make):
    cache = make(scope_config=ScopeConfig(TREE))
    calls = []

    @cache.cache(ttl_seconds=600, scope="session")
    def session(session_id, org_id=None, user_id=None, **more):
        calls.append(session_id)
        return 1

    @cache.cache(ttl_seconds=600, scope="project")
    def project(*args, **params):
        calls.append(args)
        return 1

    for _ in range(2):
        session("s", org_id="a", user_id="u")
        session("s", org_id="b", user_id="u", more=1)
        project(1, project_id=7)
    assert len(calls) == 3
    assert cache.evict_by_scope("organization", org_id="a") == 1
    assert cache.evict_by_scope("project", project_id=7) == 1


def test_two_trees_may_share_a_parameter(make):
    cache = make(scope_config=ScopeConfig([*TREE, ScopeLevel("guest", "user_id")]))
    cache.set("k", 1, 60, scope="guest", user_id="7")
    cache.set("k", 2, 60, scope="user", user_id="7", org_id="a")
    assert cache.evict_by_scope("organization", org_id="a") == 1
    assert cache.get("k", scope="guest", user_id="7") == 1


HOSTILE = ["a", "a/user:b", "a:b", "a::b", "a%2fb", "*", "global", "..", "a\0b", "ä", "\ud800", "x" * 300, "a b"]


def test_no_crafted_id_crosses(make):
    cache = make(scope_config=ScopeConfig(TREE))
    for org in HOSTILE:
        cache.set("k", org, 60, scope="organization", org_id=org)
        cache.set("k", ("b", org), 60, scope="user", org_id=org, user_id="b")
    for n, org in enumerate(HOSTILE):
        assert cache.get("k", scope="organization", org_id=org) == org
        assert cache.get("k", scope="user", org_id=org, user_id="b") == ("b", org)
        assert cache.evict_by_scope("organization", org_id=org) == 2
        for other in HOSTILE[n + 1 :]:
            assert cache.get("k", scope="organization", org_id=other) == other


def test_a_missing_parameter(make, caplog):
    cache = make(scope_config=ScopeConfig(TREE))
    for call in (
        lambda: cache.set("k", 1, 60, "user", user_id="1"),
        lambda: cache.get("k", "user", {"org_id": None, "user_id": "1"}),
        lambda: cache.evict("k", scope="user"),
        lambda: cache.get("k", scope="team"),
        lambda: cache.cache(ttl_seconds=1, scope="team"),
    ):
        with pytest.raises(ValueError, match=r"needs 'org_id'|no scope level 'team'; there are: global, organization"):
            call()
    assert cache.evict_by_scope("user", user_id="1") == 0
    assert "nothing is evicted" in caplog.text
    load, calls = counted(cache, scope="user")
    assert [load("1"), load("1")] == [["1", None]] * 2  # shared with nobody
    assert len(calls) == 2


def test_statistics(make):
    cache = make()
    load, _ = counted(cache)
    load(1)
    load(1)
    cache.set("k", 1, 60)
    cache.get("k")
    cache.get("missing")
    cache.evict("k")
    stats = cache.stats()
    assert (stats["hits"], stats["misses"], stats["evictions"]) == (2, 2, 1)
    assert stats["storage_type"] in ("in_memory", "shelf")
    assert stats.get("total_keys", 1) == 1
    cache.clear()
    stats = cache.stats()
    assert (stats["hits"], stats["misses"], stats["evictions"]) == (0, 0, 0)
    assert stats.get("total_keys", 0) == 0


@pytest.mark.parametrize("how", ["clear", "global"])
def test_what_is_removed_during_a_computation_is_not_stored(make, how):
    cache = make()
    calls = []

    @cache.cache(ttl_seconds=60)
    def load(x):
        calls.append(x)
        if len(calls) == 1:
            cache.clear() if how == "clear" else cache.evict_by_scope("global")
        return len(calls)

    assert [load(1), load(1), load(1)] == [1, 2, 2]


def test_a_scope_evicted_during_a_computation(make):
    cache = make(scope_config=ScopeConfig(TREE))
    calls = []

    @cache.cache(ttl_seconds=60, scope="user")
    def load(user_id, org_id):
        calls.append(org_id)
        if len(calls) == 1:
            cache.evict_by_scope("organization", org_id="a")
        return len(calls)

    assert [load("1", "a"), load("1", "a"), load("1", "a")] == [1, 2, 2]
    assert [load("1", "b"), load("1", "b")] == [3, 3]


# ---- storages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [InMemory, lambda: RuleAwareStorage(InMemory(), [LifeTimeEvict()])])
async def test_a_storage_by_itself(storage):
    storage = storage()
    storage.set("k", "v", 10)
    value, end = storage.get("k")
    assert value == "v"
    assert end > time.monotonic()
    assert await storage.aget("k") == (value, end)
    storage.set("k", "w", 10)
    await storage.aset("other", 1, 10)
    assert storage.get("k")[0] == "w"
    assert sorted(await storage.aget_all_keys()) == sorted(storage.get_all_keys()) == ["k", "other"]
    assert storage.get_stats() == {"storage_type": "in_memory", "total_keys": 2}
    await storage.aevict("k")
    storage.evict("never there")
    assert storage.get("k") is None
    await storage.aclear()
    assert storage.get_all_keys() == []
    assert storage.get("other") is None


def test_a_view_is_the_storage():
    storage = InMemory()
    one, two = Cache(storage_provider=storage), Cache(storage_provider=storage)
    one.set("k", 1, 60)
    assert two.get("k") == 1
    assert storage.get("k")[0] == 1
    load, calls = counted(one)
    load(1)
    one.engine.invalidate("nothing")
    load(1)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="a storage of its own"):
        Cache(scope_config=ScopeConfig(TREE), storage_provider=storage)
    scoped = InMemory()
    for _ in range(2):
        Cache(scope_config=ScopeConfig(TREE), storage_provider=scoped)


def test_tags_work_through_a_view():
    from zoocache import add_deps

    cache = Cache()
    calls = []

    @cache.cache(ttl_seconds=60)
    def profile(uid):
        calls.append(uid)
        add_deps([f"user:{uid}"])
        return uid

    profile(1)
    profile(1)
    cache.engine.invalidate("user")
    profile(1)
    assert calls == [1, 1]
    assert profile.cache_info().hits == 1


def test_a_life_has_a_fixed_end():
    storage, clock = InMemory(), FakeClock()
    storage._options["clock"] = clock
    cache = Cache(storage_provider=storage, storage_rules=[LifeTimeEvict()])
    load, calls = counted(cache, ttl_seconds=60)
    cache.set("k", 1, ttl_seconds=60)
    for _ in range(2):
        load(1)
        assert cache.get("k") == 1
        clock.advance(35)
    load(1)
    assert len(calls) == 2
    assert cache.get("k") is None
    assert cache.stats()["total_keys"] == 1


def test_a_storage_of_ones_own_is_run():
    storage = Shelf()
    cache = Cache(ScopeConfig(TREE), storage)
    cache.set("k", [1], 60, scope="organization", org_id="a b")
    (key, value, ttl) = storage.calls[0]
    assert CacheKey.extract_scope_prefix(key) == "organization:a%20b"
    assert CacheKey.extract_namespace(key) == "__programmatic__"
    assert (value, ttl) == ([1], 60)
    load, calls = counted(cache, ttl_seconds=7)
    load(1)
    assert CacheKey.from_string(storage.calls[1][0]).namespace == "load"
    assert storage.calls[1][1:] == ([1, None], 7)
    again, others = counted(Cache(ScopeConfig(TREE), storage))
    again(1)  # the same function, of another cache over the same storage
    assert (len(calls), others) == (1, [])
    assert cache.stats()["storage_type"] == "shelf"


def test_a_storage_that_is_only_like_ours_is_run():
    storage = MagicMock(spec=InMemory)
    storage.get.return_value = ("value", 100.0)
    storage.get_stats.return_value = None
    cache = Cache(storage_provider=storage)
    assert cache.get("k") == asyncio.run(cache.aget("k")) == "value"
    cache.set("k", 1, 10)
    cache.evict("k")
    cache.clear()
    for method, times in [("get", 2), ("set", 1), ("evict", 1), ("clear", 1)]:
        assert getattr(storage, method).call_count == times
    assert cache.stats()["hits"] == 0


def test_parts_of_the_protocols_will_do():
    class Half(IStorageProvider):
        def get(self, key):
            return None

        def set(self, key, value, ttl_seconds):
            pass

    class Quiet(IStorageRule):
        def on_get(self, key):
            return None

    cache = Cache(storage_provider=Half(), storage_rules=[Quiet()])
    cache.set("k", 1, 60)
    assert cache.get("k") is None
    cache.evict("k")
    cache.clear()
    assert cache.stats()["misses"] == 0


@pytest.mark.skipif(not _ffi.parts()["redis"] or not Redis.there(), reason="without Redis")
def test_redis_is_a_storage_url(tmp_path):
    server = Redis(tmp_path)
    try:
        one, two = (
            Cache(ScopeConfig(TREE), RedisStorage(connection_string=server.url, db=1, socket_timeout=2))
            for _ in range(2)
        )
        one.set("k", {"a": 1}, 60, scope="user", org_id="a", user_id="u")
        assert two.get("k", scope="user", org_id="a", user_id="u") == {"a": 1}
        asyncio.run(two.aset("plain", [1], 60))
        assert asyncio.run(one.aget("plain")) == [1]
        assert one.evict_by_scope("organization", org_id="a") == 1
        two.engine.catch_up(one.engine.token())
        assert two.get("k", scope="user", org_id="a", user_id="u") is None
        assert one.stats()["storage_type"] == "redis"
        with pytest.raises(NotImplementedError, match="lists no keys"):
            RedisStorage(server.url).get_all_keys()
        for cache in (one, two):
            cache.engine.close()
    finally:
        server.stop()


def test_how_redis_is_named():
    def url(*args, **options):
        return RedisStorage(*args, **options)._options["storage_url"]

    assert url("redis://localhost:6379") == "redis://localhost:6379/0"
    assert url("rediss://u:p@h/", db=3) == "rediss://u:p@h/3"
    assert url("redis://h/5", db=3) == "redis://h/5"
    with pytest.raises(TypeError, match="no 'decode_responses': see the options"):
        RedisStorage("redis://h", decode_responses=True)


def test_what_has_no_counterpart_says_what_to_use():
    with pytest.raises(NotImplementedError, match="use RedisStorage"):
        MongoDBStorage("mongodb://h", db_name="cache_db", collection_name="c")


# ---- rules -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "most"), [(MaxItemsEvict, 2), (LRUEvict, 100), (MaxItemsEvict, 0), (LRUEvict, 1)])
@pytest.mark.parametrize("kind", [InMemory, Shelf])
def test_a_limit_holds_with_eight_threads(rule, most, kind):
    storage = kind()
    cache = Cache(storage_provider=storage, storage_rules=[rule(most)])
    load = cache.cache(ttl_seconds=60)(_identity)
    together, seen = threading.Barrier(8), []

    def work(number):
        together.wait()
        for n in range(60):
            cache.set((number, n), n, 60)
            load((number, n))
            if n % 3 == 0:
                cache.evict((number, n))
            seen.append(len(storage.get_all_keys()))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(seen) <= most
    for n in range(most):
        cache.set(("last", n), n, 60)
    assert len(storage.get_all_keys()) == most


def test_the_least_recently_used_goes():
    cache = Cache(storage_provider=InMemory(), storage_rules=[LRUEvict(max_items=2)])
    cache.set("a", 1, 60)
    cache.set("b", 2, 60)
    assert cache.get("a") == 1
    cache.set("c", 3, 60)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    cache.set("a", 4, 60)
    cache.set("d", 5, 60)
    assert [cache.get(key) for key in "acd"] == [4, None, 5]
    assert cache.stats()["evictions"] == 2


def test_a_hard_limit_refuses_what_is_new(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(_cacheado.time, "monotonic", lambda: now[0])
    storage = Shelf()
    cache = Cache(storage_provider=storage, storage_rules=[MaxItemsEvict(max_items=2), LifeTimeEvict()])
    cache.set("a", 1, 60)
    cache.set("b", 2, 600)
    cache.set("c", 3, 60)
    cache.set("a", 4, 60)
    assert [cache.get(key) for key in "abc"] == [4, 2, None]
    cache.evict("a")
    cache.set("c", 3, 60)
    assert cache.get("c") == 3
    now[0] += 100
    assert cache.get("c") is None  # a storage that does not look at times: the rule does
    assert len(storage.values) == 1
    cache.set("d", 5, 60)
    assert cache.get("d") == 5
    cache.clear()
    cache.set("e", 6, 60)
    assert cache.get("e") == 6


def test_the_dead_do_not_fill_a_hard_limit(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(_cacheado.time, "monotonic", lambda: now[0])
    rule = MaxItemsEvict(max_items=2)
    assert rule.on_set("a", 1, 10) is None
    assert rule.on_set("b", 1, 60) is None
    assert rule.on_set("c", 1, 60) == RuleSideEffect("c", StorageRuleAction.EVICT)
    now[0] += 20
    assert rule.on_set("c", 1, 60) is None


def test_rules_by_themselves():
    evict = StorageRuleAction.EVICT
    lru, most = LRUEvict(max_items=2), MaxItemsEvict(max_items=2)
    for rule in (lru, most, LifeTimeEvict()):
        assert rule.on_get("never") is rule.on_evict("never") is rule.on_get_all_keys() is rule.on_clear() is None
        assert rule.on_set("a", 1, 10) is rule.on_set("a", 2, 10) is rule.on_set("b", 1, 10) is rule.on_get("a") is None
    assert lru.on_set("c", 1, 10) == RuleSideEffect(cache_key="b", action=evict)
    assert most.on_set("c", 1, 10) == RuleSideEffect(cache_key="c", action=evict)
    assert evict == "evict"
    over = LifeTimeEvict()
    over.on_set("a", 1, 0)
    assert over.on_get("a") == RuleSideEffect("a", evict)


def test_a_rule_of_ones_own():
    told = []

    class Rule(IStorageRule):
        def on_get(self, key):
            told.append("get")
            return RuleSideEffect(key, StorageRuleAction.EVICT) if len(told) > 3 else None

        def on_set(self, key, value, ttl_seconds):
            told.append((value, ttl_seconds))
            if value == "wipe":
                return RuleSideEffect(key, StorageRuleAction.CLEAR)
            return RuleSideEffect(key, StorageRuleAction.SET) if value == "set" else None

        def on_evict(self, key):
            told.append("evict")
            return RuleSideEffect(key, StorageRuleAction.AEVICT)  # of the same key: nothing more to do

        def on_clear(self):
            told.append("clear")

        def on_get_all_keys(self):
            told.append("keys")
            return RuleSideEffect("", StorageRuleAction.AGET)

    cache = Cache(storage_rules=[Rule()])
    cache.set("k", 1, 60)
    assert cache.get("k") == 1
    cache.evict_by_scope("global")
    assert told == [(1, 60), "get", "keys", "evict"]
    cache.set("k", 2, 60)
    assert cache.get("k") is None
    assert told[4:] == [(2, 60), "get", "evict"]
    cache.set("k", "wipe", 60)
    assert told[7:] == [("wipe", 60), "clear"]
    with pytest.raises(ValueError, match="cannot set a value"):
        cache.set("k", "set", 60)


# ---- scopes and keys by themselves -------------------------------------------------------------------


def test_the_tree_of_scopes():
    config = ScopeConfig(TREE)
    assert config.level_names == ["global", "organization", "user", "session", "project"]
    assert [level.name for level in config.all_levels] == config.level_names
    assert config.root_levels[0].children == TREE
    assert config.get_param_name("user") == "user_id"
    assert config.build_scope_path({}) == "global"
    assert config.build_scope_path({"org_id": "a", "user_id": 7}) == "organization:a/user:7"
    assert config.build_scope_path({"user_id": 7, "project_id": "p"}) == "project:p"
    assert config.get_parent_scope_path("organization:a/user:7") == "organization:a"
    assert config.get_parent_scope_path("organization:a") == "global"
    assert config.get_parent_scope_path("global") is None
    assert config.is_descendant_of("user:1/x:2", "user:1")
    assert config.is_descendant_of("user:1", "user:1")
    assert config.is_descendant_of("user:1", "global")
    assert not config.is_descendant_of("user:12", "user:1")
    assert not config.is_descendant_of("global", "user:1")
    assert config.get_scope_tree_for_level("session") is config.root_levels[0]
    assert config.get_scope_tree_for_level("team") is None
    config.validate_scope_params("global", {})
    config.validate_scope_params("user", {"org_id": "a", "user_id": 7})
    for call in (
        lambda: config.validate_scope_params("user", {"user_id": 7}),
        lambda: config.validate_scope_params("team", {}),
        lambda: config.get_param_name("team"),
        lambda: ScopeLevel("", "x"),
        lambda: ScopeConfig([ScopeLevel("user", "a"), ScopeLevel("user", "b")]),
        lambda: ScopeConfig([ScopeLevel("global", "a")]),
    ):
        with pytest.raises(ValueError, match="scope"):
            call()


def test_keys():
    key = CacheKey("user:1", "load", (b"args", 1))
    assert CacheKey.from_string(key.as_string()) == key
    assert str(key) == key.as_string() == f"user:1::load::{key.args_hash}"
    assert len({key, CacheKey("user:1", "load", (b"args", 1)), CacheKey("user:1", "load", (b"args", True))}) == 2
    assert key != str(key)
    assert "CacheKey" in repr(key)
    text = "global::load::123"
    assert CacheKey.extract_scope_prefix(text) == "global"
    assert CacheKey.extract_namespace(text) == "load"
    assert CacheKey.extract_args_hash(text) == 123
    assert (CacheKey.extract_namespace("x"), CacheKey.extract_scope_prefix(""), CacheKey.extract_args_hash("")) == (
        "",
        "",
        0,
    )
    for bad in ("x", "a::b", "a::b::1::2", "a::b::c"):
        with pytest.raises(ValueError):
            CacheKey.from_string(bad)
    with pytest.raises(TypeError, match="load: an argument"):
        CacheKey("global", "load", (threading.Lock(),))
