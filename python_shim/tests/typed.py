"""What a type checker sees of the decorators. It is checked, never run: each `type: ignore` stands at a mistake
that must be reported, and one that is not needed is an error, too."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from zoocache import Cache, Event, add_deps, cacheable, correlation, delete_async, disabled, health, presets
from zoocache.compat import cacheado, cachekit
from zoocache.telemetry import EventLog

if TYPE_CHECKING:
    from typing_extensions import assert_type


@cacheable
def bare(uid: int, name: str = "") -> list[str]:
    add_deps(f"user:{uid}" for uid in (1, 2))
    return [name] * uid


@cacheable(namespace="users", deps=lambda uid: [f"user:{uid}"], ttl=60)
def called(uid: int, *, upper: bool = False) -> str:
    return str(uid)


@cacheable(deps=["all"])
async def coroutine(uid: int) -> bytes:
    return bytes(uid)


async def tags(uid: int) -> list[str]:
    return [f"user:{uid}"]


@cacheable(deps=tags, cache_errors=(KeyError, ValueError), error_ttl=1.0, copy="copy")
async def with_async_deps(uid: int) -> dict[str, int]:
    return {"uid": uid}


class Users:
    @cacheable
    def method(self, uid: int) -> float:
        return float(uid)

    @cacheable(ttl=1)
    async def amethod(self, uid: int) -> str:
        return str(uid)

    @staticmethod
    @cacheable
    def static(uid: int) -> str:
        return str(uid)

    @classmethod
    @cacheable
    def klass(cls, uid: int) -> int:
        return uid


@cacheable.many(ttl=60)
def several(uids: list[int], *, upper: bool = False) -> dict[int, str]:
    return {uid: str(uid) for uid in uids}


@cacheable.many
async def aseveral(uids: list[int]) -> list[str]:
    return [str(uid) for uid in uids]


cache = Cache()


@cache.cacheable.many(deps=lambda uid: [f"user:{uid}"])
def own_several(uids: list[int]) -> dict[int, str]:
    return {}


@cache.cacheable(deps=["all"], tti=5)
def own(uid: int) -> str:
    return str(uid)


@cache.cacheable
def own_bare(uid: int) -> str:
    return str(uid)


@presets.minimal
def by_preset(uid: int, *, upper: bool = False) -> list[str]:
    return [str(uid)]


@presets.production(ttl=60, deps=lambda uid: [f"user:{uid}"], cache=cache)
async def by_preset_too(uid: int) -> bytes:
    return bytes(uid)


house = presets.dev.but(ttl=30, namespace="api", cache=cache)


class Shop:
    @house
    def price(self, uid: int) -> float:
        return float(uid)

    @house(ttl=5)
    async def stock(self, uid: int) -> int:
        return uid


def right() -> None:
    assert_type(by_preset(1, upper=True), list[str])
    assert_type(by_preset.refresh(1), list[str])
    assert_type(by_preset.key(uid=1), str)
    assert_type(Shop().price(1), float)
    assert_type(house, presets.Preset)
    assert_type(bare(1), list[str])
    assert_type(bare(uid=1, name="x"), list[str])
    assert_type(called(1, upper=True), str)
    assert_type(own(1), str)
    assert_type(own_bare(1), str)
    assert_type(Users().method(1), float)
    assert_type(Users.static(1), str)
    assert_type(Users().klass(1), int)
    assert_type(bare.refresh(1), list[str])
    assert_type(bare.key(1, "x"), str)
    assert_type(bare.invalidate(uid=1), bool)
    assert_type(bare.cache_info().hits, int)
    bare.cache_clear()
    plain: Callable[[int], str] = own
    plain(1)


def uncached(uid: int) -> str:
    with disabled():
        return own(uid)


@cacheado.Cache().cache(ttl_seconds=60, scope="global")
def by_cacheado(uid: int, *, upper: bool = False) -> str:
    return str(uid)


def listener(event: Event) -> None:
    assert_type(event.kind, str)
    assert_type(event.key, str | None)
    assert_type(event.tags, tuple[str, ...])
    assert_type(event.elapsed, float | None)


def watched() -> None:
    one = Cache(on_event=listener)
    Cache(on_event=[EventLog(), listener]).listen(print)
    assert_type(one.health().status, str)
    assert_type(health().as_dict(), dict[str, Any])
    assert_type(correlation.get(), str | None)


@cachekit.cache
def by_cachekit(uid: int, *, upper: bool = False) -> str:
    return str(uid)


@cachekit.cache.production(ttl=60)
async def by_cachekit_too(uid: int) -> bytes:
    return bytes(uid)


@cachekit.cache.local(ttl=60, max_entries=10)
def by_cachekit_local(uid: int) -> list[int]:
    return [uid]


def through_cachekit() -> None:
    assert_type(by_cachekit(1, upper=True), str)
    assert_type(by_cachekit_local(uid=1), list[int])
    assert_type(by_cachekit.cache_info(), cachekit.CacheInfo)
    by_cachekit("1")  # type: ignore[arg-type]
    by_cachekit_local(1, 2)  # type: ignore[call-arg]


async def awaited() -> None:
    assert_type(await by_cachekit_too(1), bytes)
    assert_type(by_cacheado(1, upper=True), str)
    assert_type(await delete_async("k"), bool)
    assert_type(await coroutine(1), bytes)
    assert_type(await with_async_deps(uid=1), dict[str, int])
    assert_type(await Users().amethod(1), str)
    assert_type(await by_preset_too(1), bytes)
    assert_type(await Shop().stock(1), int)
    started: Coroutine[Any, Any, bytes] = coroutine(1)
    await started


def wrong() -> None:
    by_cacheado("1")  # type: ignore[arg-type]
    bare("1")  # type: ignore[arg-type]
    bare()  # type: ignore[call-arg]
    called(1, True)  # type: ignore[call-arg]
    bare.key("1")  # type: ignore[arg-type]
    bare.refresh(1, nme="x")  # type: ignore[call-arg]
    by_preset("1")  # type: ignore[arg-type]
    by_preset(1, True)  # type: ignore[call-arg]
    Shop().price("1")  # type: ignore[arg-type]
    presets.minimal(ttl="soon")  # type: ignore[call-overload]
    presets.minimal(lifetime=1)  # type: ignore[call-overload]
    presets.minimal.but(lifetime=1)  # type: ignore[call-arg]
    presets.minimal.but(ttl="soon")  # type: ignore[arg-type]
    own("1")  # type: ignore[arg-type]
    Cache(on_event=1)  # type: ignore[arg-type]
    Users().method("1")  # type: ignore[arg-type]
    cacheable(ttl="soon")  # type: ignore[call-overload]
    cacheable(lifetime=1)  # type: ignore[call-overload]
    cacheable(deps=1)  # type: ignore[call-overload]
