"""What stands behind a cache's tables: a storage, a bus, or both.

    L1   the tables of this process: objects, served without a call into the library while the bus is heard
    L2   the storage: bytes, for every process; asked when L1 has nothing, written when a value was computed

A key of L2 is the text of the function and its arguments. What has no such text (an object that is told
apart by identity) is kept in L1 alone. Each entry depends on one tag more, its mark, "|fn:...:..." or
"|key:...": by it, cache_clear(), delete() and set() reach the other processes.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from logging import WARNING
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from zoocache import _ffi
from zoocache._codec import Codec, known
from zoocache._errors import BuiltWithout, BusSilent, StorageIsFull, Unserializable
from zoocache._ffi import E_BUILD, E_BUS, E_FULL, E_INVAL, MISS
from zoocache._ffi_shared import (
    BEATS,
    CAN_LOCK,
    HAS_BUS,
    HAS_STORE,
    NEVER,
    PEEKS,
    UNSEALED,
    Alone,
    Found,
    SharedCore,
    Token,
    nanoseconds,
    open_core,
)
from zoocache._lanes import Lanes
from zoocache._log import LEVELS, Troubles, logger, watch
from zoocache.seal import SealError, ring

if TYPE_CHECKING:
    from concurrent.futures import Future

    from zoocache._beat import Beat
    from zoocache._table import Fill
    from zoocache.events import Event, Events
    from zoocache.storage import SharedStorage, Storage

__all__ = ["NEVER", "SILENCES", "Settings", "Shared", "Tier", "tier"]

ACKS = {"async": 1, "acked": 2, "durable": 3, "strict": 4}  # zc_ack
SILENCES = {None: 0, "bypass": 1, "serve": 2, "error": 3}

_LONGEST = 86_400  # seconds that one call of Redis is waited for, or that it is not asked
_CONNECTIONS = 8  # if nothing else is said, as of Redis
_MAP_LEAST = 8 * 2**20  # of LMDB
_SCHEMES = ("lmdb", "redis", "rediss", "unix", "redis+sentinel")
_PLACES = ("file", "memcached", "mongodb", "mongodb+srv", "dynamodb", "http", "https")  # of zoocache.storages
_DEBIAN = "(Debian and Ubuntu: apt install"
_AGAIN = "and build the package again: pip install --force-reinstall ./python_shim"
_LACKING = {
    "lmdb": f"zoocache was built without LMDB support. Install its headers {_DEBIAN} liblmdb-dev), {_AGAIN}",
    "redis": f"zoocache was built without Redis support. Install hiredis' headers {_DEBIAN} libhiredis-dev), {_AGAIN}",
    "tls": f"zoocache was built without TLS. Install OpenSSL's headers {_DEBIAN} libssl-dev), {_AGAIN}",
    "seal": f"zoocache was built without sealing. Install OpenSSL's headers {_DEBIAN} libssl-dev), {_AGAIN}",
    "openssl": "TLS and sealing need OpenSSL, 3 or 1.1.1; none is here. Install it"
    f" {_DEBIAN} libssl3; Alpine: apk add openssl)",
}


class Settings:
    """The options of a cache that are about storages and buses; refuses what makes no sense."""

    def __init__(
        self,
        *,
        storage_url: str | None,
        bus_url: str | None,
        storage: Storage | None,
        prefix: str | None,
        lmdb_map_size: int | None,
        flight_timeout: float,
        max_entries: int | None = None,
        serializer: Any = "msgpack",
        compression: bool | None = None,
        timeout: float | None = None,
        connections: int = 0,
        replicas: int = 0,
        log_shards: int = 1,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        storage_ttl: float | None = None,
        write_behind: bool = False,
        sync: bool = False,
        max_staleness: float = 1.0,
        max_stale: float = 0.0,
        silence: str = "bypass",
        ack: str = "acked",
        bus_pause: float | None = None,
        breaker_failures: int = 3,
        breaker_pause: float = 0.1,
        seal_key: Any = None,
        previous_seal_keys: Any = (),
        seal_strict: bool = False,
    ) -> None:
        if storage is not None and storage_url is not None:
            raise ValueError("give storage or storage_url, not both")
        check_url("storage_url", storage_url, _SCHEMES + _PLACES)
        check_url("bus_url", bus_url, _SCHEMES[1:])
        if silence not in SILENCES or ack not in ACKS:
            raise ValueError(
                "silence must be 'bypass', 'serve' or 'error'; ack 'acked', 'async', 'durable' or 'strict'"
            )
        if breaker_failures < 1:
            raise ValueError("breaker_failures must be >= 1")
        if storage_url is not None and storage_url.partition("://")[0] in _PLACES:
            from zoocache.storages import open_url

            storage, storage_url = open_url(storage_url), None
        self.storage = storage
        if self.place is not None and prefix is not None and not re.fullmatch(r"[\w-][\w.-]{0,63}", prefix, re.ASCII):
            raise ValueError("prefix: of a place it is 1 to 64 letters, digits, '_', '-', '.', and begins with no '.'")
        self.max_staleness = max_staleness
        self.loud = ack in ("durable", "strict")
        self.serializer = serializer
        self.compression = compression
        self.storage_ttl = storage_ttl
        known(serializer, compression)
        keys = ring(seal_key, previous_seal_keys)
        parts = _ffi.parts()
        if keys and not parts["seal"]:
            raise BuiltWithout(f"seal_key cannot be used: {_LACKING['openssl' if parts['openssl'] else 'seal']}")
        self.options: dict[str, Any] = {
            "storage": storage_url, "bus": bus_url, "prefix": prefix,
            "tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key,
            "max_entries": max_entries or 0,
            "map_size": max(lmdb_map_size, _MAP_LEAST) if lmdb_map_size else 0,
            "timeout": nanoseconds(min(timeout or 0, _LONGEST)),
            "max_staleness": nanoseconds(max_staleness), "max_stale": nanoseconds(max_stale),
            "storage_ttl": nanoseconds(storage_ttl or 0), "flight_timeout": nanoseconds(flight_timeout),
            "bus_pause": 0 if bus_pause is None else max(1, nanoseconds(min(bus_pause, _LONGEST))),
            "connections": connections, "replicas": replicas, "log_shards": log_shards,
            "ack": ACKS[ack], "silence": SILENCES[silence], "write_behind": write_behind, "sync": sync,
            "breaker_failures": breaker_failures, "breaker_pause": max(1, nanoseconds(min(breaker_pause, _LONGEST))),
            "seal_keys": keys or None, "nseal_keys": len(keys) // 32, "seal_strict": seal_strict,
        }  # fmt: skip

    @property
    def stores(self) -> bool:
        """Whether values are to become bytes."""
        return self.storage is not None or self.options["storage"] is not None

    @property
    def place(self) -> SharedStorage | None:
        """The storage, if other processes share it and tell there what they invalidate."""
        from zoocache.storage import SharedStorage

        return self.storage if isinstance(self.storage, SharedStorage) else None

    def open(self, troubles: Troubles) -> SharedCore:
        """The library's cache."""
        try:
            return open_core(self.options, self.storage, troubles)
        except OSError as error:
            raise self.explain(*error.args) from None

    def explain(self, code: int, why: str = "") -> Exception:
        """Why it could not be opened."""
        urls = [url for url in (self.options["storage"], self.options["bus"]) if url]
        where = " and ".join([shown(url) for url in urls]) or "the storage"
        why = why.removeprefix(f"zoocache: lmdb: {(self.options['storage'] or '')[7:]}: ") or _ffi.error_text(code)
        text = f"zoocache cannot open {where}: {why}"
        if code == E_BUILD:
            return BuiltWithout(text)
        if code == E_FULL:
            return StorageIsFull(text)
        return ValueError(text) if code == E_INVAL else OSError(text)


def shown(url: str) -> str:
    """A URL as it may be told: nobody knows where in one that is wrong the password stands."""
    scheme, _, rest = url.partition("://")
    if scheme == "lmdb" and "?" not in rest and (rest.startswith("/") or "@" not in rest):
        return repr(url)
    if rest and re.fullmatch("[A-Za-z][A-Za-z0-9+.-]{0,15}", scheme):
        return repr(scheme + "://...")
    return "a text without one"


def check_url(option: str, url: object, known: tuple[str, ...]) -> None:
    """Raises for a URL that this build cannot use."""
    if url is None:
        return
    if not isinstance(url, str):
        raise TypeError(f"{option} must be a str, not {type(url).__name__}")
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme not in known:
        raise ValueError(f"Unsupported {option} scheme: {shown(url)}; known are {', '.join(known)}")
    if "\0" in url or any("\ud800" <= char <= "\udfff" for char in url):
        raise ValueError(f"{option} has a character that no URL has: {shown(scheme + '://x')}")
    if scheme in _PLACES:
        return
    part = {"lmdb": "lmdb", "rediss": "tls"}.get(scheme, "redis")
    parts = _ffi.parts()
    if part == "tls" and not parts["redis"]:
        part = "redis"
    if not parts[part]:
        lacking = _LACKING["openssl" if part == "tls" and parts["openssl"] else part]
        raise BuiltWithout(f"{option}={shown(url)} cannot be used: {lacking}")


class Shared:
    """The second tier of a cache."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        codec = Codec(settings.serializer, settings.compression) if settings.stores else None
        self.troubles = Troubles()
        try:
            self.core = settings.open(self.troubles)
        except BaseException:
            self.troubles.tell()
            raise
        self.codec = codec
        parts = self.core.parts
        self.stores = bool(parts & HAS_STORE)
        self.bus = bool(parts & HAS_BUS)
        self.peeks = bool(parts & PEEKS)
        self.locks = bool(parts & CAN_LOCK)
        self.strict = bool(settings.options["seal_strict"])
        self.bound = 0.0 if self.peeks else settings.max_staleness
        url = settings.options["storage"] or ""
        self.kind = "LMDB" if url.startswith("lmdb") else "Redis" if url else "The"
        self.hits = self.unserializable = 0
        self._refused: set[type] = set()
        self._lanes = Lanes(settings.options["connections"] or _CONNECTIONS)  # for coroutines
        self._speaking = threading.RLock()
        self._closed = False
        self.events: Events | None = None
        self.beats = bool(parts & BEATS) or self.core.place is not None
        self.beat: Beat | None = None
        self._counted = 0, 0  # faults, and changes of the breaker, that were told of as events
        watch(self)

    # ---- threads -----------------------------------------------------------------------------------

    def later(self, keys: Iterable[Any], work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Runs a call of the storage beside, after those that were given before with one of the keys."""
        return self._lanes.give(keys, partial(work, *args))

    async def run(self, keys: Iterable[Any], work: Callable[..., Any], *args: Any) -> Any:
        """The same, and waits for it in the event loop."""
        import asyncio

        return await asyncio.wrap_future(self.later(keys, work, *args))

    def close(self) -> None:
        """Waits for what is being written, and closes, whatever happens."""
        try:
            self._lanes.close()
        finally:
            try:
                self.core.shut()
            finally:
                self.speak()
                with self._speaking:
                    self._closed = True

    def speak(self) -> bool:
        """Brings what has been said about it to the logger. False: it is closed."""
        with self._speaking:
            if self._closed:
                return False
            core, troubles = self.core, self.troubles
            for level, line in core.news():
                troubles.note(LEVELS.get(level, WARNING), line)
            if troubles.met and core.well():
                troubles.settle()
            events = () if self.events is None else self._happened(core)
            del core
        troubles.tell()
        if self.events is not None:
            self.events.put(*events)
        if self.beat is not None:
            self.beat.tell()
        return True

    def _happened(self, core: SharedCore) -> list[Event]:
        """What the library has counted since the last time, as events."""
        from zoocache.events import Event

        found = core.shared_stats()
        bad = found.errors + found.corrupt + found.forged + found.unkeyed
        before, self._counted = self._counted, (bad, found.epoch)
        happened = []
        if self._counted[0] > before[0]:
            reason = _ffi.error_text(found.fault)
            happened.append(Event("fault", reason, count=self._counted[0] - before[0]))
        for epoch in range(before[1] + 1, found.epoch + 1):
            happened.append(Event("breaker", "open" if epoch & 1 else "closed"))
        return happened

    # ---- reading -----------------------------------------------------------------------------------

    def silence_of(self, name: str | None) -> int:
        """A policy as the library has it."""
        return SILENCES[name]

    def look_up(self, fill: Fill) -> tuple[Found, Any] | None:
        """What the storage has for a fill: it, and the value."""
        table = fill.table
        silence = table.silence
        name = fill.name = table.shared_name(fill.key) if self.stores else None
        if name is None:
            if self.bus and self.core.gate(silence) == E_BUS:
                raise silent()
            return None
        return self.ask(table.codec, name, silence)

    def ask(self, codec: Codec | None, name: bytes, silence: int = 0) -> tuple[Found, Any] | None:
        """What the storage has under a key, and the value."""
        code, found = self.core.find(name, silence)
        if code == E_BUS and self.bus and self.core.gate(silence) == E_BUS:
            raise silent()
        self.heed(code)
        return None if found is None else self.decoded(codec, found)

    def heed(self, code: int) -> None:
        """What does not open may be the caller's error."""
        if code in UNSEALED and self.strict:
            raise SealError(f"zoocache: {_ffi.error_text(code)}")

    def ask_many(self, codec: Codec | None, names: list[tuple[Any, bytes]]) -> Iterator[tuple[Any, tuple[Found, Any]]]:
        """What the storage has under several keys, in one step."""
        for (key, _), (code, found) in zip(names, self.core.find_many([name for _, name in names])):
            self.heed(code)
            both = None if found is None else self.decoded(codec, found)
            if both is not None:
                yield key, both

    def look_up_many(self, fills: list[Fill], ask: bool) -> list[tuple[Fill, tuple[Found, Any]]]:
        """What the storage has for several fills of a table, in one step; if it is to be asked."""
        if fills and self.bus and self.core.gate(fills[0].table.silence) == E_BUS:
            raise silent()
        asked = []
        for fill in fills:
            fill.name = fill.table.shared_name(fill.key) if self.stores else None
            if fill.name is not None:
                asked.append((fill, fill.name))
        return list(self.ask_many(fills[0].table.codec, asked)) if ask and asked else []

    def decoded(self, codec: Codec | None, found: Found) -> tuple[Found, Any] | None:
        """The value of what was found; None if it is not one of this serializer's."""
        if codec is None:
            return None
        try:
            value = codec.value(found.data)
        except Exception:
            return None  # of another version of the program, or hostile: a miss
        self.hits += 1
        return found, value

    def codec_of(self, serializer: Any, compression: bool | None) -> Codec | None:
        """How the values of a table become bytes; None: as those of the cache do."""
        if not self.stores or (serializer is None and compression is None):
            return self.codec
        usual = self.settings
        return Codec(
            usual.serializer if serializer is None else serializer,
            usual.compression if compression is None else compression,
        )

    def lock(self, fill: Fill) -> bool:
        """Tries to become the fleet's only loader of this key. False: another is."""
        if not self.locks or fill.name is None:
            return True
        fill.token = Token()  # before it is asked for: whoever ends the fill gives back what it gets, and be it late
        return self.core.lock(fill.name, min(fill.cache.flight_timeout, 3600.0), fill.token) != MISS

    # ---- writing -----------------------------------------------------------------------------------

    def keep(self, codec: Codec | None, name: bytes, value: Any, deps: Any, begin: int, ttl: float, tti: float) -> bool:
        """Writes a value through. What cannot be written is at least taken away. False: the storage is full."""
        if codec is None:
            return True
        try:
            data = codec.data(value)
        except Exception as error:
            self.refuse(value, error)
            self.core.drop(name)
            return True
        return self.core.keep(name, data, deps, begin, ttl, tti, codec.plain) != E_FULL

    def keep_fill(self, fill: Fill) -> None:
        """The end of a fill: writes its value, if it is to be kept, and ends its lock. Once."""
        name, final = fill.name, fill.final
        lives, fill.lives = fill.lives, None
        if name is None:
            return
        if lives is not None and final is not None and self.leads(fill, name):
            self.keep(fill.table.codec, name, fill.result, final, fill.begin, *lives)
        token = fill.token
        if token:
            self.core.unlock(name, token)
        fill.token = None

    def give_back(self, fill: Fill, beside: bool) -> None:
        """Ends the lock of a fill that has failed, which may be being asked for: beside an event loop, after that."""
        if beside:
            self.later([(fill.table, fill.key)], self.keep_fill, fill)
        else:
            self.keep_fill(fill)

    def leads(self, fill: Fill, name: bytes) -> bool:
        """Whether the fleet's lock, if there is one, is still this fill's."""
        return not fill.token or self.core.lock(name, 1.0, fill.token) != MISS

    def refuse(self, value: Any, error: Exception) -> None:
        """Says once for each type that its values are not stored."""
        self.unserializable += 1
        if type(value) not in self._refused:
            self._refused.add(type(value))
            reason = str(error) if isinstance(error, Unserializable) else f"{type(error).__name__}: {error}"
            logger.error("zoocache: a value is not stored, only returned: %s", reason)

    def forget(self, name: bytes | None, mark: bytes) -> None:
        """A key is written or deleted: no process is to have what was there."""
        if self.bus:
            self.told(self.core.invalidate_mark(mark))
        elif name is not None:
            self.core.drop(name)

    def told(self, code: int) -> None:
        """The result of an invalidation: done here in any case, and sent again until it has been taken."""
        if code == E_BUS and self.settings.loud:
            raise silent("it is invalidated here, and sent again until the log takes it")

    def counters(self) -> dict[str, int]:
        """Its part of the statistics."""
        found = self.core.shared_stats()
        return {
            "hits_storage": self.hits, "storage_errors": found.errors + found.corrupt,
            "storage_forged": found.forged, "storage_unkeyed": found.unkeyed,
            "storage_skipped": found.skipped, "unserializable": self.unserializable, "bus_heard": found.heard,
            "bus_breaks": found.breaks, "bus_errors": found.bus_errors, "bus_pending": found.pending,
            "storage_down": found.epoch & 1, "breaker_openings": (found.epoch + 1) // 2,
        }  # fmt: skip

    # ---- fork --------------------------------------------------------------------------------------

    def forked(self) -> Tier:
        """In the child of a fork: another, with connections of its own. A storage in Python is the parent's, unless
        processes share it.
        """
        self.core.leave_behind()
        settings = self.settings
        if settings.place is not None:
            settings.place.forked()
        if settings.storage is None or settings.place is not None:
            return tier(settings)
        settings.storage = None
        return tier(settings) if settings.options["bus"] else Tier(None, _ffi.Core())


class Tier(NamedTuple):
    """What stands behind a cache's tables, or takes the place of what should."""

    shared: Shared | None
    core: _ffi.Core
    lost: bool = False  # the storage could not be opened
    most: float = inf  # seconds that a value may live, as this process does not hear of invalidations


def tier(settings: Settings) -> Tier:
    """Opens it. A storage that cannot be opened takes nothing down with it: values are kept in memory alone."""
    try:
        shared = Shared(settings)
        return Tier(shared, shared.core)
    except (OSError, StorageIsFull) as error:
        options = settings.options
        reason = str(error)
        hears = bool(options["bus"]) or not (options["storage"] or settings.place)
    bound = "" if hears else f", and for {settings.max_staleness:g} s at most, as what others invalidate is not heard"
    logger.error("%s. Values are kept in memory alone%s", reason, bound)
    if not hears:
        return Tier(None, Alone(), True, settings.max_staleness)
    settings.storage = options["storage"] = None
    if not options["bus"]:
        return Tier(None, _ffi.Core(), True)
    shared = Shared(settings)
    return Tier(shared, shared.core, True)


def silent(more: str = "") -> BusSilent:
    """The error of who chose to have one."""
    return BusSilent("zoocache: the bus has been silent for longer than max_staleness" + (f"; {more}" if more else ""))
