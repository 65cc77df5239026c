"""The names of cachekit 0.24, translated: change the import lines, and go on.

    from zoocache.compat.cachekit import cache

    @cache.production(ttl=60)
    def profile(user_id): ...

Behind each backend is one zoocache.Cache, ``engine(backend)``: tags and dependencies work through it. Which backend a
function has that names none is settled when it is called for the first time, and so is the environment read. The
modules of cachekit are one here: ``zoocache.compat.cachekit.config`` and the others are this one.

What differs: stale values are refreshed in every mode; what was invalidated meanwhile is not stored; the memory of
every process hears of invalidations; closures are told apart; records have checksums in any case. What has no
counterpart (tenant_extractor, interop, cachekit.io) raises, and says what to use. What is sealed has a cache of its own
beside that of its backend, engine(backend, config); memory is not sealed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn, ParamSpec, TypeVar, overload

from zoocache._cache import Cache as Engine
from zoocache._functions import Function
from zoocache._table import Rules
from zoocache.compat._cachekit import (
    UNSET,
    ArrowSerializer,
    AutoSerializer,
    BackendError,
    BackpressureConfig,
    BaseBackend,
    Cached,
    CacheInfo,
    CachekitConfig,
    CachekitIOBackend,
    CircuitBreakerConfig,
    ConfigurationError,
    Decorator,
    DecoratorConfig,
    DefaultSerializer,
    EncryptionConfig,
    EncryptionWrapper,
    FileBackend,
    FileBackendConfig,
    HealthChecker,
    HealthCheckResult,
    HealthLevel,
    HealthStatus,
    InvalidationOutcome,
    L1CacheConfig,
    MemcachedBackend,
    MemcachedBackendConfig,
    MonitoringConfig,
    OrjsonSerializer,
    RedisBackend,
    StandardSerializer,
    get_serializer,
    known,
)

P = ParamSpec("P")
R = TypeVar("R")

__all__ = [
    "UNSET",
    "ArrowSerializer",
    "AutoSerializer",
    "BackendError",
    "BackpressureConfig",
    "BaseBackend",
    "CacheInfo",
    "Cached",
    "CachekitConfig",
    "CachekitIOBackend",
    "CircuitBreakerConfig",
    "ConfigurationError",
    "DecoratorConfig",
    "DefaultSerializer",
    "EncryptionConfig",
    "EncryptionWrapper",
    "FileBackend",
    "FileBackendConfig",
    "HealthCheckResult",
    "HealthChecker",
    "HealthLevel",
    "HealthStatus",
    "InvalidationOutcome",
    "L1CacheConfig",
    "MemcachedBackend",
    "MemcachedBackendConfig",
    "MonitoringConfig",
    "OrjsonSerializer",
    "RedisBackend",
    "StandardSerializer",
    "async_health_check_handler",
    "cache",
    "engine",
    "get_default_backend",
    "get_health_checker",
    "get_serializer",
    "get_settings",
    "health_check_handler",
    "reset_settings",
    "set_default_backend",
]

_lock = threading.RLock()
_engines: dict[object, Engine] = {}
_default: Any = None
_settings: CachekitConfig | None = None

if hasattr(os, "register_at_fork"):  # nobody holds it in the child
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


# ---- what stands behind a backend --------------------------------------------------------------------


def set_default_backend(backend: Any) -> None:
    """That of functions that name none; None: what the environment says."""
    global _default
    _default = backend


def get_default_backend() -> Any:
    """The one that was set."""
    return _default


def get_settings() -> CachekitConfig:
    """What the environment said when it was read."""
    global _settings
    with _lock:
        if _settings is None:
            _settings = CachekitConfig.from_env()
        return _settings


def reset_settings() -> None:
    """The environment is read again, for functions that were not called yet."""
    global _settings
    _settings = None


def engine(backend: Any = UNSET, config: DecoratorConfig | None = None) -> Engine:
    """The zoocache.Cache behind a backend."""
    settings, config = get_settings(), config or DecoratorConfig()
    if backend is UNSET:
        backend = _default if _default is not None else settings.backend()
    sealing = config.encryption.options(backend)
    size, breaker = config.l1.max_size_mb or settings.l1_max_size_mb, config.circuit_breaker
    key = (backend, size, breaker, size and config.namespace, sealing)
    with _lock:
        if key not in _engines:
            _engines[key] = Engine(**settings.options(backend, size, breaker, dict(sealing)))
        return _engines[key]


# ---- functions ---------------------------------------------------------------------------------------


# A parameter by position, where there are no others behind it: one by keyword alone makes each call slower.
_BYPASS = """\
if _bypass_cache is not False:
    if _bypass_cache is not True:
        raise TypeError("too many arguments, or _bypass_cache is neither True nor False")
    return {wait}_zc_func({call})
"""


class Decorated(Function):
    """zoocache's function, with the names of cachekit on it."""

    def __init__(self, func: Callable[..., Any], config: DecoratorConfig, within: Engine | None, rules: Rules) -> None:
        super().__init__(func, config.namespace, None, config.key, within, rules)
        self.default = lambda: engine(config.backend, config)
        self.found = 0  # values that came from the backend
        signature = self.signature
        self.parameterised = bool(signature.parameters)
        parts = [*signature.parameters.split(", ")] if self.parameterised else []
        parts.insert(len(parts) - bool(signature.keyword), "_bypass_cache=False")
        signature.parameters = ", ".join(parts)
        self.opening = _BYPASS.format(wait="await " if self.is_async else "", call=signature.call)

    def joined(self, cache: Engine) -> None:
        if cache.shared is not None and cache.shared.stores:  # there a hit was a new object, made of bytes
            self.rules.copy = self.rules.special = True
        super().joined(cache)

    def take(self, *found: Any) -> Any:
        self.found += 1
        return super().take(*found)

    def wrapper(self) -> Any:
        wrapper = super().wrapper()
        wrapper.invalidate_cache = self.ainvalidate_cache if self.is_async else self.invalidate_cache
        wrapper.ainvalidate_cache = self.ainvalidate_cache
        wrapper.cache_clear = self.clear_all
        wrapper.cache_info = self.info
        wrapper.check_health = wrapper.get_health_status = self.health
        return wrapper

    def invalidate_cache(self, *args: Any, **kwargs: Any) -> InvalidationOutcome | None:
        """f.invalidate(*args); without arguments f.cache_clear(), if it takes some."""
        if self.parameterised and not args and not kwargs:
            self.empty()
            return None
        self.invalidate(*args, **kwargs)
        if self.bind().shared is None:
            return InvalidationOutcome.NO_L2
        good = self.bind().health().status == "ok"
        return InvalidationOutcome.SUCCEEDED if good else InvalidationOutcome.FAILED

    async def ainvalidate_cache(self, *args: Any, **kwargs: Any) -> InvalidationOutcome | None:
        """The same, beside the event loop."""
        outcome: InvalidationOutcome | None = await self.bind()._beside(lambda: self.invalidate_cache(*args, **kwargs))
        return outcome

    def clear_all(self) -> None:
        """f.cache_clear()"""
        if self.is_async and self.bind().shared is not None:
            raise TypeError(
                "cache_clear() cannot clear cache for async functions with a backend: await ainvalidate_cache()"
            )
        self.cache_clear()

    def info(self) -> CacheInfo:
        """f.cache_info()"""
        found = self.found
        hits, misses, maxsize, size = self.cache_info()
        storage = self.bind().health().checks.get("storage")
        latency = 0.0 if storage is None else (storage.latency or 0.0) * 1000
        return CacheInfo(hits + found, misses - found, hits, found, maxsize, size, latency)

    def health(self) -> dict[str, Any]:
        """Cache.health()"""
        return HealthChecker(self.bind).check_health().to_dict()


def _decorate(func: Any, config: DecoratorConfig, within: Engine | None = None) -> Any:
    if isinstance(func, (staticmethod, classmethod)):
        return type(func)(_decorate(func.__func__, config, within))
    if not callable(func):
        raise TypeError(f"cache decorates functions, not {type(func).__name__}")
    return Decorated(func, config, within, config.rules()).wrapper()


class Form:
    """@cache, or one of its presets: bare, or with options."""

    def __init__(self, preset: Callable[..., DecoratorConfig]) -> None:
        self._preset = preset

    @overload
    def __call__(self, func: Callable[P, R], /) -> Cached[P, R]: ...
    @overload
    def __call__(
        self, func: None = None, /, *, config: DecoratorConfig | None = None, **overrides: Any
    ) -> Decorator: ...
    def __call__(self, func: Any = None, /, *, config: Any = None, **overrides: Any) -> Any:
        """zoocache.cacheable(func, ttl=..., ...)"""
        if config is not None and not isinstance(config, DecoratorConfig):
            raise TypeError(f"config must be a DecoratorConfig, not {type(config).__name__}")
        l1 = overrides.pop("l1_enabled", None)
        if config is None:
            config = self._preset(**overrides)
        else:
            config = replace(config, **known({"encryption": config.encryption, **overrides}))
        if l1 is not None:
            config = replace(config, l1=replace(config.l1, enabled=bool(l1)))
        return (lambda func: _decorate(func, config)) if func is None else _decorate(func, config)


class Decorators(Form):
    """@cache and what hangs on it."""

    minimal = Form(DecoratorConfig.minimal)
    production = Form(DecoratorConfig.production)
    secure = Form(DecoratorConfig.secure)
    dev = Form(DecoratorConfig.dev)
    test = Form(DecoratorConfig.test)

    @overload
    def local(self, func: Callable[P, R], /) -> Cached[P, R]: ...
    @overload
    def local(
        self,
        func: None = None,
        /,
        *,
        ttl: int = 300,
        max_entries: int = 256,
        namespace: str | None = None,
        key: Callable[..., str] | None = None,
    ) -> Decorator: ...
    def local(self, func: Any = None, /, *, ttl: Any = 300, max_entries: Any = 256, **given: Any) -> Any:
        """A cache of its own: Cache(max_entries=...).cacheable(ttl=...)"""
        unknown = sorted(given.keys() - {"namespace", "key"})
        if unknown:
            raise TypeError(f"@cache.local() takes ttl, max_entries, namespace and key, not {', '.join(unknown)}")
        for name, number in (("ttl", ttl), ("max_entries", max_entries)):
            if not isinstance(number, int):
                raise TypeError(f"{name} must be an int, not {type(number).__name__}")
            if number < 1:
                raise ValueError(f"{name} must be 1 or more, not {number}")
        config = DecoratorConfig(ttl=ttl, backend=None, l1=L1CacheConfig(swr_enabled=False), **given)

        def decorate(func: Any) -> Any:
            return _decorate(func, config, Engine(read_extend_ttl=False, max_entries=max_entries))

        return decorate if func is None else decorate(func)

    def io(self, *args: Any, **given: Any) -> NoReturn:
        """Has no counterpart."""
        DecoratorConfig.io()


cache = Decorators(DecoratorConfig.plain)


# ---- health ------------------------------------------------------------------------------------------


def get_health_checker(timeout_seconds: float = 5.0) -> HealthChecker:
    """Of functions that name no backend. Nothing is waited for."""
    return HealthChecker(engine)


def health_check_handler(force: bool = False) -> dict[str, Any]:
    """zoocache.health().as_dict()"""
    return get_health_checker().check_health().to_dict()


async def async_health_check_handler(force: bool = False) -> dict[str, Any]:
    """The same."""
    return health_check_handler()


_BACKENDS = ("backends", "backends.file", "backends.memcached", "backends.redis")
for _name in ("config", "config.nested", "decorators", *_BACKENDS, "serializers"):
    sys.modules[f"{__name__}.{_name}"] = sys.modules[__name__]
