"""Types of what is public. Imported only by who checks types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypedDict, TypeVar, overload

from typing_extensions import Unpack

if TYPE_CHECKING:
    from zoocache._cache import Cache
    from zoocache._explain import Explanation
    from zoocache.serializers import Serializer

__all__ = ["CacheInfo", "CacheStats", "Cacheable", "Cached", "Decorator", "Options", "P", "R"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class CacheInfo(NamedTuple):
    """As functools gives it: the statistics of one function."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


class CacheStats(NamedTuple):
    """The statistics of a cache: counters since it was made, and what it holds now."""

    hits: int
    hits_stale: int  # of them: past their soft deadline, or instead of an error
    misses: int  # the sum of absent, expired and invalidated
    absent: int
    expired: int
    invalidated: int
    fills: int  # computations that gave a value
    errors: int  # computations that raised
    refused: int  # values that were not stored: invalidated meanwhile, cleared, too late, or not wanted
    waits: int  # calls that waited for another's computation
    refreshes: int
    evictions: int
    entries: int
    bytes: int  # what they weigh, where that is limited; else 0
    flights: int  # computations that run now
    invalidations: int
    tags: int
    tag_bytes: int
    holds: int  # of transactions, of whichever process, that have not ended
    # With a storage or a bus; else 0.
    hits_storage: int  # misses that the storage has answered
    storage_errors: int  # failed calls; the value was computed
    storage_forged: int  # values that were not sealed for their key, or changed; and what the log has of that kind
    storage_unkeyed: int  # values sealed with a key that is not here; likewise
    storage_skipped: int  # calls that were spared while the storage is down
    unserializable: int  # values that were returned, not stored
    bus_heard: int  # invalidations heard, one's own included
    bus_breaks: int  # times that everything was dropped, as something may have been missed
    bus_errors: int
    bus_pending: int  # tags of invalidations that the log has not taken yet
    storage_down: int  # 1: it could not be opened, or does not answer and is not asked
    breaker_openings: int  # times that it was left alone, as it did not answer


class Cached(Protocol[P, R_co]):
    """A function that cacheable() has decorated: it is called as the original is."""

    __wrapped__: Callable[..., Any]
    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The value: cached, or computed."""
        raise NotImplementedError

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Cached[P, R_co]: ...
    @overload
    def __get__(
        self: Cached[Concatenate[Any, Q], R], instance: object, owner: type | None = None
    ) -> Callable[Q, R]: ...

    def cache_info(self) -> CacheInfo:
        """Hits, misses, the limit of the cache, and how many entries there are."""
        raise NotImplementedError

    def cache_clear(self) -> None:
        """Removes every entry of this function; no computation that runs will be stored."""
        raise NotImplementedError

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Removes the entry of this call. Returns whether there was one."""
        raise NotImplementedError

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The text of this call's key; get() takes it."""
        raise NotImplementedError

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """What this process has for this call, and why it would not be served. Changes and counts nothing."""
        raise NotImplementedError

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Computes the value of this call anew, stores and returns it."""
        raise NotImplementedError


class CachedMany(Cached[P, R_co], Protocol[P, R_co]):
    """A function of a list of keys that cacheable.many() has decorated."""

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The text of the key of one of its keys, given in place of the list; get() takes it."""
        raise NotImplementedError

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """What this process has for one of its keys, given in place of the list."""
        raise NotImplementedError


Tags = Iterable[str]


class Options(TypedDict, total=False):
    """What cacheable() may be told."""

    namespace: str | None
    deps: Tags | Callable[..., Tags] | Callable[..., Awaitable[Tags]] | None
    ttl: float | None
    tti: float | None
    jitter: float
    soft_ttl: float | None
    early_refresh: float
    stale_if_error: float | None
    negative_ttl: float | None
    cache_if: Callable[[Any], object] | None
    cache_errors: type[Exception] | tuple[type[Exception], ...]
    error_ttl: float | None
    on_error: str
    copy: str
    fleet: bool
    silence: str | None
    serializer: str | Serializer | None
    compression: bool | None
    lag: float
    key: Callable[..., Any] | None
    scope: str | None
    ignore: str | Iterable[str]
    sealed: bool


class Decorator(Protocol):
    """cacheable() with options, before it has met its function."""

    def __call__(self, func: Callable[P, R], /) -> Cached[P, R]: ...


class ManyDecorator(Protocol):
    """cacheable.many() with options, before it has met its function."""

    def __call__(self, func: Callable[P, R], /) -> CachedMany[P, R]: ...


class Cacheable(Protocol):
    """cacheable(), of one cache or of the default one."""

    @overload
    def __call__(self, func: Callable[P, R], /) -> Cached[P, R]: ...
    @overload
    def __call__(self, func: None = None, *, cache: Cache | None = None, **options: Unpack[Options]) -> Decorator: ...
    @overload
    def many(self, func: Callable[P, R], /) -> CachedMany[P, R]: ...
    @overload
    def many(self, func: None = None, *, cache: Cache | None = None, **options: Unpack[Options]) -> ManyDecorator: ...
