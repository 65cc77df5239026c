"""What cachekit's decorator is told, and what it answers: configurations, backends, serializers, health."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from enum import Enum
from math import ceil, isfinite
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar

from zoocache._cache import Cache as Engine
from zoocache._table import Rules
from zoocache.seal import parsed
from zoocache.serializers import serializer
from zoocache.storage import Storage

MB = 2**20
MASTER_KEY = "CACHEKIT_MASTER_KEY"


class ConfigurationError(ValueError):
    """A setting makes no sense, or there is no such thing here."""


class BackendError(Exception):
    """What a backend of one's own may raise: it is counted, and the value is computed."""


class InvalidationOutcome(Enum):
    """Whether the entry is gone from the backend, too."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NO_L2 = "no_l2"


class CacheInfo(NamedTuple):
    """The statistics of one function. Nobody notes when it was called last, and there are no sessions: None."""

    hits: int
    misses: int
    l1_hits: int
    l2_hits: int
    maxsize: int | None
    currsize: int
    l2_avg_latency_ms: float = 0.0
    last_operation_at: float | None = None
    session_id: str | None = None


P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


def need(good: object, text: str) -> None:
    """Raises ConfigurationError if it is not."""
    if not good:
        raise ConfigurationError(text)


# ---- configurations ----------------------------------------------------------------------------------


class _Unset(Enum):
    UNSET = "UNSET"


UNSET = _Unset.UNSET


@dataclass(frozen=True)
class L1CacheConfig:
    """soft_ttl and max_bytes. A memory in front of a backend stays on: it is coherent, not just short-lived."""

    enabled: bool = True
    max_size_mb: int | None = None
    swr_enabled: bool = True
    swr_threshold_ratio: float = 0.5
    swr_retry_interval: float = 10.0

    def validate(self) -> None:
        need(self.max_size_mb is None or self.max_size_mb >= 1, f"L1 max_size_mb must be >= 1, got {self.max_size_mb}")
        need(
            0 < self.swr_threshold_ratio <= 1,
            f"L1 swr_threshold_ratio must be in (0.0, 1.0], got {self.swr_threshold_ratio}",
        )
        need(self.swr_retry_interval >= 0, f"L1 swr_retry_interval must be >= 0, got {self.swr_retry_interval}")


@dataclass(frozen=True)
class CircuitBreakerConfig:
    """breaker_failures and breaker_pause. The breaker is always on, and lets one probe at a time through."""

    enabled: bool = True
    failure_threshold: int = 5
    success_threshold: int = 3
    recovery_timeout: float = 30.0
    half_open_requests: int = 3

    def validate(self) -> None:
        for name in ("failure_threshold", "success_threshold", "half_open_requests"):
            need(getattr(self, name) >= 1, f"{name} must be >= 1, got {getattr(self, name)}")
        need(self.half_open_requests >= self.success_threshold, "half_open_requests is less than success_threshold")
        need(self.recovery_timeout > 0 and isfinite(self.recovery_timeout), "recovery_timeout must be above 0, finite")


@dataclass(frozen=True)
class BackpressureConfig:
    """The pool of a storage is its limit; here nothing more is limited."""

    enabled: bool = True
    max_concurrent_requests: int = 100
    queue_size: int = 1000
    timeout: float = 0.1

    def validate(self) -> None:
        need(
            self.max_concurrent_requests >= 1,
            f"max_concurrent_requests must be >= 1, got {self.max_concurrent_requests}",
        )
        need(self.queue_size >= 0, f"queue_size must be >= 0, got {self.queue_size}")
        need(self.timeout > 0, f"timeout must be > 0, got {self.timeout}")


@dataclass(frozen=True)
class MonitoringConfig:
    """Statistics are always kept; logs and metrics come from zoocache's adapters, once they are installed."""

    collect_stats: bool = True
    enable_structured_logging: bool = True
    enable_prometheus_metrics: bool = True

    def validate(self) -> None:
        """Nothing can be wrong."""


@dataclass(frozen=True)
class EncryptionConfig:
    """seal_key, previous_seal_keys and seal_strict. Without ``enabled``, what has a key and a backend is sealed."""

    enabled: bool | None = None
    master_key: str | None = field(default=None, repr=False)
    tenant_extractor: Any = None
    single_tenant_mode: bool = False
    deployment_uuid: str | None = None
    fail_closed: bool | None = None

    def validate(self) -> None:
        need(self.tenant_extractor is None, "tenant_extractor: zoocache's scopes do that: Cache(scopes=Scope(...))")
        if self.enabled:
            need(self.key(), f"encryption.enabled=True requires encryption.master_key, or {MASTER_KEY}")
        if self.key():
            try:
                parsed(self.key())
            except ValueError as error:
                raise ConfigurationError(f"master_key, or {MASTER_KEY}: {error}") from None

    def key(self) -> str | None:
        """That of the function, or of the environment; None: nothing is to be sealed."""
        return None if self.enabled is False else self.master_key or os.environ.get(MASTER_KEY)

    def options(self, backend: Any) -> tuple[tuple[str, Any], ...]:
        """What the Cache is told: one of its own for each key, as a log that is sealed has nothing plain on it."""
        need(backend is not None or not self.enabled, "encryption: there is nothing to seal in memory")
        if backend is None or not self.key():
            return ()
        older = os.environ.get("CACHEKIT_PREVIOUS_MASTER_KEYS", "").split(",")
        strict = _flag("CACHEKIT_ENCRYPTION_FAIL_CLOSED") if self.fail_closed is None else self.fail_closed
        previous = tuple(key.strip() for key in older if key.strip())
        return ("seal_key", self.key()), ("previous_seal_keys", previous), ("seal_strict", bool(strict))


ENCRYPTION = frozenset(each.name for each in fields(EncryptionConfig)) - {"enabled"}


@dataclass(frozen=True)
class DecoratorConfig:
    """What a decorator does; of ``ttl`` the values of zoocache."""

    ttl: float | None = None
    stale_ttl: float | None = None
    swr_by_default: bool = False
    namespace: str | None = None
    serializer: Any = "default"
    integrity_checking: bool = True
    key: Callable[..., str] | None = None
    interop: str | None = None
    refresh_ttl_on_get: bool = False
    ttl_refresh_threshold: float = 0.5
    backend: Any = UNSET
    l1: L1CacheConfig = field(default_factory=L1CacheConfig)
    circuit_breaker: CircuitBreakerConfig = field(default_factory=CircuitBreakerConfig)
    backpressure: BackpressureConfig = field(default_factory=BackpressureConfig)
    monitoring: MonitoringConfig = field(default_factory=MonitoringConfig)
    encryption: EncryptionConfig = field(default_factory=EncryptionConfig)

    def __post_init__(self) -> None:
        if self.ttl is not None and not (isfinite(self.ttl) and self.ttl >= 0):
            raise ValueError(f"ttl must be finite, and 0 or more seconds, not {self.ttl!r}")
        need(
            0 <= self.ttl_refresh_threshold <= 1,
            f"ttl_refresh_threshold must be 0.0-1.0, got {self.ttl_refresh_threshold}",
        )
        stale = self.stale_ttl
        good = stale is None or (isinstance(stale, int) and not isinstance(stale, bool) and stale >= 0)
        need(good, f"stale_ttl must be a non-negative integer, got {stale!r}")
        need(not stale or self.ttl, "stale_ttl requires a positive ttl: it begins where that ends")
        need(isinstance(self.integrity_checking, bool), "integrity_checking must be a bool")
        need(
            self.interop is None, "interop: zoocache has no keys in common with other languages; share a Redis by name"
        )
        if isinstance(self.encryption, bool):
            object.__setattr__(self, "encryption", EncryptionConfig(enabled=self.encryption))
        if not isinstance(self.circuit_breaker, CircuitBreakerConfig):
            raise TypeError(
                f"circuit_breaker must be a CircuitBreakerConfig, not {type(self.circuit_breaker).__name__}"
            )
        for part in (self.l1, self.circuit_breaker, self.backpressure, self.monitoring, self.encryption):
            part.validate()

    def to_dict(self) -> dict[str, object]:
        """All of it, without the objects that it is made of."""
        rest = {name: getattr(self, name) for name in FIELDS if name not in PARTS}
        rest["backend"] = None if self.backend is UNSET else self.backend
        l1, breaker, pressure = self.l1, asdict(self.circuit_breaker), self.backpressure
        return {
            **rest,
            "l1_enabled": l1.enabled,
            "l1_max_size_mb": l1.max_size_mb,
            "circuit_breaker": breaker.pop("enabled"),
            **breaker,
            "backpressure": pressure.enabled,
            "max_concurrent_requests": pressure.max_concurrent_requests,
            "queue_size": pressure.queue_size,
            "backpressure_timeout": pressure.timeout,
            **asdict(self.monitoring),
            "encryption": self.encryption.enabled,
            "master_key": "[REDACTED]" if self.encryption.master_key else None,
            "tenant_extractor": self.encryption.tenant_extractor,
        }

    def rules(self) -> Rules:
        """What cacheable() would be told. Refuses what zoocache does not do."""
        if self.backend is None:
            self.encryption.options(None)
        ttl, l1 = self.ttl, self.l1
        more: dict[str, Any] = {"ttl": ttl, "fleet": True}
        stale = ttl if self.swr_by_default and self.stale_ttl is None else self.stale_ttl
        if ttl and stale:
            more.update(ttl=ttl + stale, soft_ttl=ttl)
        elif ttl and self.refresh_ttl_on_get:
            more.update(ttl=None, tti=ttl)
        elif ttl and l1.enabled and l1.swr_enabled:
            more.update(soft_ttl=ttl * l1.swr_threshold_ratio)
        if not l1.enabled and self.backend is None:
            more.update(ttl=0, soft_ttl=None)
        serializer = serializer_of(self.serializer)
        if serializer is not None:
            more.update(serializer=serializer)
        return Rules(**more)

    @classmethod
    def plain(cls, **given: Any) -> DecoratorConfig:
        """As it is."""
        return cls(**known(given))

    @classmethod
    def _preset(
        cls, ttl: float, on: bool, given: dict[str, Any], monitored: bool = True, **more: Any
    ) -> DecoratorConfig:
        given = known(given)
        usual = {
            "ttl": ttl,
            "integrity_checking": on,
            "l1": L1CacheConfig(swr_enabled=on),
            "circuit_breaker": CircuitBreakerConfig(enabled=on),
            "monitoring": MonitoringConfig(on, on, on and monitored),
        }
        return cls(**{**usual, **more, **given})

    @classmethod
    def minimal(cls, **given: Any) -> DecoratorConfig:
        """As little as possible."""
        return cls._preset(300, False, given)

    @classmethod
    def production(cls, **given: Any) -> DecoratorConfig:
        """All there is."""
        return cls._preset(600, True, given)

    @classmethod
    def secure(cls, master_key: str | None = None, tenant_extractor: Any = None, **given: Any) -> DecoratorConfig:
        """All there is, sealed."""
        need(master_key or os.environ.get(MASTER_KEY), f"the secure preset requires a master_key, or {MASTER_KEY}")
        need(given.get("integrity_checking", True), "the secure preset has integrity_checking on")
        sealed = {"master_key": master_key, "tenant_extractor": tenant_extractor}
        return cls._preset(600, True, {**given, "encryption": True, **sealed})

    @classmethod
    def dev(cls, **given: Any) -> DecoratorConfig:
        """For development."""
        return cls._preset(300, True, given, monitored=False)

    @classmethod
    def test(cls, **given: Any) -> DecoratorConfig:
        """Nothing by chance."""
        return cls._preset(300, False, given, backpressure=BackpressureConfig(enabled=False))

    @classmethod
    def io(cls, **given: Any) -> NoReturn:
        """Refused."""
        raise NotImplementedError("cachekit.io is a service of its own: use RedisBackend(...), or cache.production")


FIELDS = tuple(each.name for each in fields(DecoratorConfig))
PARTS = ("l1", "circuit_breaker", "backpressure", "monitoring", "encryption")


def known(given: dict[str, Any]) -> dict[str, Any]:
    """With what is told of encryption in one place. Refuses what no configuration has, without a word of its value: it
    may be a key under a wrong name.
    """
    unknown = sorted(given.keys() - FIELDS - ENCRYPTION)
    need(not unknown, f"there is no option {', '.join(unknown)}; there are: {', '.join(FIELDS)}")
    about = {name: given[name] for name in ENCRYPTION & given.keys()}
    if not about:
        return given
    encryption = given.get("encryption")
    if not isinstance(encryption, EncryptionConfig):
        encryption = EncryptionConfig(bool(about.get("master_key")) or None if encryption is None else encryption)
    rest = {name: value for name, value in given.items() if name in FIELDS}
    return {**rest, "encryption": replace(encryption, **about)}


# ---- the environment ---------------------------------------------------------------------------------


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    need(text.strip().isdecimal() and int(text) >= 1, f"{name} must be a whole number from 1 on")
    return int(text)


def _flag(name: str) -> bool | None:
    text = os.environ.get(name)
    if text is None:
        return None
    need(text.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"), f"{name} must be true or false")
    return text.lower() in ("1", "true", "yes", "on")


def _servers(text: str) -> list[str]:
    """Of a list in JSON, or of names between commas."""
    try:
        found = json.loads(text)
    except ValueError:
        found = [name.strip() for name in text.split(",")]
    good = isinstance(found, list) and all(isinstance(name, str) and name for name in found)
    need(good, "CACHEKIT_MEMCACHED_SERVERS must be a list of host:port in JSON")
    return list(found)


@dataclass(frozen=True)
class CachekitConfig:
    """What the environment says. It is read when a function is called for the first time."""

    redis_url: str | None = field(default=None, repr=False)
    file_cache_dir: str | None = None
    memcached_servers: tuple[str, ...] | None = None
    default_ttl: int | None = None
    max_chunk_size_mb: int | None = None
    enable_compression: bool | None = None
    l1_max_size_mb: int | None = None

    @classmethod
    def from_env(cls) -> CachekitConfig:
        need("CACHEKIT_API_KEY" not in os.environ, "CACHEKIT_API_KEY: there is no such backend; set CACHEKIT_REDIS_URL")
        names = [f"CACHEKIT_{name}" for name in ("REDIS_URL", "FILE_CACHE_DIR", "MEMCACHED_SERVERS")]
        redis, files, servers = (os.environ.get(name) for name in names)
        named = [name for name in names if os.environ.get(name)]
        need(len(named) < 2, f"{' and '.join(named)}: which of both? Set one")
        return cls(
            redis or (None if files or servers else os.environ.get("REDIS_URL")) or None,
            files or None,
            tuple(_servers(servers)) if servers else None,
            _number("CACHEKIT_DEFAULT_TTL"),
            _number("CACHEKIT_MAX_CHUNK_SIZE_MB"),
            _flag("CACHEKIT_ENABLE_COMPRESSION"),
            _number("CACHEKIT_L1_MAX_SIZE_MB"),
        )

    def backend(self) -> Any:
        """The backend that it names; None: memory."""
        if self.redis_url:
            return RedisBackend(self.redis_url)
        if self.memcached_servers:
            return MemcachedBackend(MemcachedBackendConfig(self.memcached_servers))
        return FileBackend(FileBackendConfig(self.file_cache_dir)) if self.file_cache_dir else None

    def options(
        self, backend: Any, size: int | None, breaker: CircuitBreakerConfig, sealing: dict[str, Any]
    ) -> dict[str, Any]:
        """What the Cache behind a backend is told."""
        options: dict[str, Any] = {"read_extend_ttl": False, "default_ttl": self.default_ttl}
        if size:
            options["max_bytes"] = size * MB
        if self.max_chunk_size_mb:
            options["max_entry_bytes"] = self.max_chunk_size_mb * MB
        if backend is None:
            return options
        options.update(backend.options if isinstance(backend, Place) else {"storage": Foreign(backend)})
        if sealing:
            options.update(sealing, prefix=options.get("prefix", "zoocache") + "-sealed")
            if isinstance(backend, FileBackend):  # one file is opened by one cache
                options["storage_url"] += "-sealed"
        if self.enable_compression is not None:
            options["compression"] = self.enable_compression
        if breaker.enabled and breaker != CircuitBreakerConfig():
            options.update(breaker_failures=breaker.failure_threshold, breaker_pause=breaker.recovery_timeout)
        return options


# ---- backends ----------------------------------------------------------------------------------------


class BaseBackend(Protocol):
    """A place for bytes of one's own."""

    def get(self, key: str) -> bytes | None: ...
    def set(self, key: str, value: bytes, ttl: int | None = None) -> None: ...
    def delete(self, key: str) -> bool: ...
    def exists(self, key: str) -> bool: ...
    def health_check(self) -> tuple[bool, dict[str, Any]]: ...


class Place:
    """A backend that is a storage_url. Two of the same are one."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self.options == other.options

    def __hash__(self) -> int:
        return hash(tuple(self.options.items()))

    def delete(self, key: str) -> NoReturn:
        raise NotImplementedError("a backend here has no calls of its own: zoocache.Cache(storage_url=...) has them")

    get = set = exists = health_check = delete


class RedisBackend(Place):
    """zoocache.Cache(storage_url="redis://...")"""

    def __init__(self, redis_url: str | None = None, client_provider: Any = None) -> None:
        if client_provider is not None:
            raise NotImplementedError("RedisBackend takes a redis_url: the connections are zoocache's own")
        url = redis_url or os.environ.get("CACHEKIT_REDIS_URL") or os.environ.get("REDIS_URL")
        super().__init__(storage_url=url or "redis://localhost:6379")


@dataclass(frozen=True)
class FileBackendConfig:
    """lmdb_map_size and max_entries; LMDB has neither a lock's time-out nor a limit for one value."""

    cache_dir: str | Path
    max_size_mb: int = 1024
    max_value_mb: int = 100
    max_entry_count: int = 10_000
    lock_timeout_seconds: float = 5.0
    permissions: int = 0o600
    dir_permissions: int = 0o700


class FileBackend(Place):
    """zoocache.Cache(storage_url="lmdb://...")"""

    def __init__(self, config: FileBackendConfig | None = None) -> None:
        if config is None:
            config = FileBackendConfig(os.environ.get("CACHEKIT_FILE_CACHE_DIR") or Path("/tmp/cachekit"))
        path = os.path.abspath(config.cache_dir)
        os.makedirs(path, config.dir_permissions, exist_ok=True)
        size = config.max_size_mb * MB
        super().__init__(storage_url=f"lmdb://{path}", lmdb_map_size=size, max_entries=config.max_entry_count)


@dataclass(frozen=True)
class MemcachedBackendConfig:
    """storage_url, timeout, connections and prefix. There are no retries: what fails is computed."""

    servers: Sequence[str] = ("127.0.0.1:11211",)
    connect_timeout: float = 2.0
    timeout: float = 1.0
    max_pool_size: int = 10
    retry_attempts: int = 2
    key_prefix: str = ""
    max_item_size_bytes: int = MB


class MemcachedBackend(Place):
    """zoocache.Cache(storage_url="memcached://...")"""

    def __init__(self, config: MemcachedBackendConfig | None = None) -> None:
        if config is None:
            servers = os.environ.get("CACHEKIT_MEMCACHED_SERVERS")
            config = MemcachedBackendConfig(_servers(servers)) if servers else MemcachedBackendConfig()
        need(len(config.servers) == 1, "servers: one alone, as its log of invalidations cannot be on several")
        options = {"prefix": config.key_prefix} if config.key_prefix else {}
        super().__init__(
            storage_url=f"memcached://{config.servers[0]}",
            timeout=config.timeout,
            connections=config.max_pool_size,
            **options,
        )


class Missing:
    """What has no counterpart."""

    instead = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__}: {self.instead}")


class CachekitIOBackend(Missing):
    instead = "cachekit.io is a service of its own; use RedisBackend(...)"


class Foreign(Storage):
    """A backend of one's own, as a storage of this process: who else writes there is not heard of."""

    def __init__(self, backend: BaseBackend) -> None:
        self.backend = backend
        self.clear()

    def clear(self) -> None:
        self.prefix = os.urandom(8).hex()  # what was there is under other names from now on

    def _name(self, key: bytes) -> str:
        return f"zoocache:{self.prefix}:{key.hex()}"

    def get(self, key: bytes) -> bytes | None:
        return self.backend.get(self._name(key))

    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        self.backend.set(self._name(key), record, None if expires is None else max(1, ceil(expires - time.time())))

    def delete(self, key: bytes) -> None:
        self.backend.delete(self._name(key))


# ---- serializers -------------------------------------------------------------------------------------


class DefaultSerializer:
    """zoocache.cacheable(serializer="msgpack")"""

    name = "msgpack"

    def __init__(self, enable_integrity_checking: bool = True) -> None:
        """Records have a checksum in any case."""

    def serialize(self, obj: Any) -> tuple[bytes, dict[str, str]]:
        data = serializer(self.name).dumps(obj)
        return b"".join(data) if isinstance(data, list) else data, {"format": self.name}

    def deserialize(self, data: Any, metadata: object = None) -> Any:
        return serializer(self.name).loads(data)


class StandardSerializer(DefaultSerializer):
    """zoocache.cacheable(serializer="msgpack")"""


class AutoSerializer(DefaultSerializer):
    """zoocache.cacheable(serializer="msgpack")"""


class OrjsonSerializer(DefaultSerializer):
    """zoocache.cacheable(serializer="json")"""

    name = "json"


class ArrowSerializer(DefaultSerializer):
    """zoocache.cacheable(serializer="arrow")"""

    name = "arrow"


class EncryptionWrapper(Missing):
    instead = "what is stored is sealed as a whole: use @cache.secure, and give the serializer itself"


SERIALIZERS: dict[str, Callable[..., Any]] = {
    "default": DefaultSerializer,
    "std": StandardSerializer,
    "auto": AutoSerializer,
    "pythonic": AutoSerializer,
    "orjson": OrjsonSerializer,
    "arrow": ArrowSerializer,
    "encrypted": EncryptionWrapper,
}


class Serialized:
    """A serializer of one's own."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self.name = f"{type(given).__module__}.{type(given).__qualname__}"

    def dumps(self, value: Any) -> bytes:
        return bytes(self.given.serialize(value)[0])

    def loads(self, data: Any) -> Any:
        return self.given.deserialize(bytes(data))


def get_serializer(name: str, enable_integrity_checking: bool = True) -> Any:
    """A serializer, by its name."""
    if name not in SERIALIZERS:
        raise ValueError(f"Unknown serializer: {name!r}; there are: {', '.join(SERIALIZERS)}")
    return SERIALIZERS[name](enable_integrity_checking=enable_integrity_checking)


def serializer_of(given: Any) -> Any:
    """What cacheable(serializer=...) is told. None: nothing."""
    found = get_serializer(given) if isinstance(given, str) else given
    if not isinstance(found, DefaultSerializer):
        return Serialized(found)
    return None if found.name == "msgpack" else found.name


# ---- functions ---------------------------------------------------------------------------------------


class Cached(Protocol[P, R_co]):
    """A decorated function: called as the original is, and with _bypass_cache=True as if it were not decorated."""

    __wrapped__: Callable[..., Any]
    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def invalidate_cache(self, *args: Any, **kwargs: Any) -> Any: ...
    async def ainvalidate_cache(self, *args: Any, **kwargs: Any) -> InvalidationOutcome | None: ...
    def cache_clear(self) -> None: ...
    def cache_info(self) -> CacheInfo: ...
    def check_health(self) -> dict[str, Any]: ...
    def get_health_status(self) -> dict[str, Any]: ...


class Decorator(Protocol):
    """A decorator that was given options."""

    def __call__(self, func: Callable[P, R], /) -> Cached[P, R]: ...


# ---- health ------------------------------------------------------------------------------------------


class HealthStatus(Enum):
    """ok, degraded, down."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class HealthLevel(Enum):
    """Each is the same here: nothing is waited for."""

    PING = "ping"
    BASIC = "basic"
    FULL = "full"


STATUS = {"ok": HealthStatus.HEALTHY, "degraded": HealthStatus.DEGRADED, "down": HealthStatus.UNHEALTHY}


@dataclass
class HealthCheckResult:
    """zoocache's Health."""

    status: HealthStatus
    components: list[dict[str, Any]]
    duration_ms: float
    timestamp: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    @property
    def is_healthy(self) -> bool:
        return self.status is not HealthStatus.UNHEALTHY

    def to_dict(self) -> dict[str, Any]:
        plain = {"status": self.status.value, "timestamp": self.timestamp.isoformat(), "healthy": self.is_healthy}
        return {**plain, "duration_ms": self.duration_ms, "components": self.components}


class HealthChecker:
    """Cache.health()"""

    def __init__(self, engine: Callable[[], Engine]) -> None:
        self._engine = engine

    def check_health(self, force: bool = False, level: HealthLevel = HealthLevel.FULL) -> HealthCheckResult:
        begun = time.perf_counter()
        found = self._engine().health()
        parts = [
            {**each._asdict(), "name": name, "status": STATUS[each.status].value} for name, each in found.checks.items()
        ]
        return HealthCheckResult(STATUS[found.status], parts, (time.perf_counter() - begun) * 1000)

    async def check_health_async(self, force: bool = False, level: HealthLevel = HealthLevel.FULL) -> HealthCheckResult:
        return self.check_health()
