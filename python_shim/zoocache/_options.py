"""The options of a cache, in one table: what configure() takes, the variables of the environment, and the README's
table of both.

An option of the default cache is what configure() was told; else what ``ZOOCACHE_<OPTION>`` says when it is called, or
when the cache is used without it; else its default. Values of variables may be secrets: no message repeats one.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["DEFAULTS", "IGNORED", "blame", "check_more", "resolve", "switched_off", "table"]

_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_TIMES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {
    "": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
}  # fmt: skip


# How a variable is read: a function that raises KeyError or ValueError, and what it takes.
if TYPE_CHECKING:
    Kind = tuple[Callable[[str], object], str]


def _measured(value: str, units: Mapping[str, float]) -> float:
    import re

    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?([a-z]*)", value.lower())
    if match is None:
        raise ValueError
    return float(match[1]) * units[match[2]]


def _seconds(least: float, most: float, limits: str = "") -> Kind:
    def parse(value: str) -> float:
        number = _measured(value, _TIMES)
        if not least <= number <= most:
            raise ValueError
        return number

    return parse, f"seconds, such as 90 or 0.5, or a number with ms, s, m, h or d{limits}"


def _whole(least: int, most: int = 2**31 - 1) -> Kind:
    def parse(value: str) -> int:
        number = int(value)
        if not least <= number <= most:
            raise ValueError
        return number

    return parse, f"a whole number from {least} to {most}"


def _one_of(*names: str) -> Kind:
    return {name: name for name in names}.__getitem__, f"{', '.join(names[:-1])} or {names[-1]}"


def _bytes(value: str) -> int:
    number = _measured(value, _SIZES)
    if number >= 2**63:
        raise ValueError
    return int(number)


def _serializer(value: str) -> str:
    from zoocache.serializers import check

    check(value)
    return value


def _key(value: str) -> bytes:
    from zoocache.seal import parsed

    return parsed(value)


def _keys(value: str) -> tuple[bytes, ...]:
    from zoocache.seal import several

    return several(value)


def _none(value: str) -> object:
    raise ValueError


_TEXT: Kind = (str, "a text")
_FLAG: Kind = (lambda value: _FLAGS[value.lower()], "1, true, yes or on, or 0, false, no or off")
_TIME = _seconds(0, 1e12)
_SIZE: Kind = (_bytes, "bytes, such as 1000000, or a number with KiB, MiB, GiB, TiB, kB, MB, GB or TB")
_SERIALIZER: Kind = (_serializer, "the name of a serializer: msgpack, json, arrow or pickle")
_KEY: Kind = (_key, "32 bytes in hexadecimal or base64, or file:PATH of a file with them")
_KEYS: Kind = (_keys, "keys as that of ZOOCACHE_SEAL_KEY, with commas between them")
_OBJECT: Kind = (_none, "given to configure(): it is an object, which no variable holds")

_NOTHING = "Has no effect; the log says so if it is given."

# Name, how its variable is read, default, what it is.
_TABLE: tuple[tuple[str, Kind, object, str], ...] = (
    (
        "storage_url",
        _TEXT,
        None,
        "Where values are shared: `lmdb:///directory`, `redis://host`, `memcached://host`, ...; none: nowhere.",
    ),
    ("bus_url", _TEXT, None, "Where invalidations are told to the others; by default where the storage is."),
    ("prefix", _TEXT, None, "Of all keys in Redis; `zoocache` if it is not given."),
    ("prune_after", _TIME, None, "Short for both of `auto_prune_secs` and `auto_prune_interval`."),
    ("default_ttl", _TIME, None, "The life of a value, unless its function says otherwise; none: no end."),
    ("read_extend_ttl", _FLAG, True, "Whether a read begins that life anew."),
    ("max_entries", _whole(1), None, "The limit, over all functions; the least useful give way."),
    ("lmdb_map_size", _SIZE, None, "The size of an LMDB file, at most; 1 GiB if it is not given."),
    ("flight_timeout", _TIME, 60, "How long a call waits for another that computes the same."),
    ("tti_flush_secs", _TIME, 30, _NOTHING),
    ("auto_prune_secs", _TIME, None, "How idle a tag must be to be forgotten; an hour if it is not given."),
    ("auto_prune_interval", _TIME, 3600, "How often idle tags are looked for."),
    ("lru_update_interval", _TIME, 30, _NOTHING),
    ("channel_capacity", _whole(0), 1_000_000, _NOTHING),
    ("batch_size", _whole(0), 1000, _NOTHING),
    ("lru_cache_size", _whole(1), 10_000, _NOTHING),
    ("clock", _OBJECT, None, "Instead of `time.monotonic`, for deadlines; for tests."),
    ("storage", _OBJECT, None, "Instead of a URL, a `Storage` of your own."),
    (
        "serializer",
        _SERIALIZER,
        "msgpack",
        "`msgpack`, `json`, `arrow`, `pickle`; `configure()` takes an object, too.",
    ),
    ("compression", _FLAG, None, "Whether values are compressed in the storage; none: if they usually shrink."),
    ("timeout", _TIME, None, "Of a call of Redis, or of a storage of yours; a quarter of a second if it is not given."),
    (
        "connections",
        _whole(0),
        0,
        "To Redis, or calls of your storage at once, at most; 0: 8, or no limit; coroutines' 8.",
    ),
    ("replicas", _whole(0), 0, "How many replicas of Redis must have an invalidation (`ack`)."),
    (
        "log_shards",
        _whole(1, 16),
        1,
        "In how many parts Redis holds log and values, 1 to 16; the same in every process.",
    ),
    ("tls_ca", _TEXT, None, "The file of the authorities that Redis' certificate is checked against."),
    ("tls_cert", _TEXT, None, "The file of this client's certificate."),
    ("tls_key", _TEXT, None, "The file of its key."),
    ("storage_ttl", _TIME, None, "The longest life in the storage; none: that of the memory."),
    ("write_behind", _FLAG, False, "Whether a thread of the library writes to the storage, not who has computed."),
    ("sync", _FLAG, False, "Whether LMDB outlives a crash of the system, not only of the process."),
    (
        "max_staleness",
        _seconds(0.1, 3600, ", from 0.1 to 3600"),
        1.0,
        "How late this process may hear of an invalidation, 0.1 s to an hour.",
    ),
    ("max_stale", _TIME, 0.0, "For how much longer `silence=serve` serves."),
    (
        "silence",
        _one_of("bypass", "serve", "error"),
        "bypass",
        "When the bus was silent for longer: `bypass` computes; `serve`; `error` raises.",
    ),
    (
        "ack",
        _one_of("acked", "async", "durable", "strict"),
        "acked",
        "When `invalidate()` returns: `acked`, `async`, `durable` or `strict`.",
    ),
    ("bus_pause", _TIME, None, "Between two reads of a busy log."),
    (
        "breaker_failures",
        _whole(1),
        3,
        "So many failures in a row, or one call that times out, and the storage is left alone.",
    ),
    (
        "breaker_pause",
        _TIME,
        0.1,
        "For so long, and while it does not answer for longer and longer, up to 50 times that.",
    ),
    ("seal_key", _KEY, None, "Seals what the storage and the log get: see `zoocache.seal`."),
    ("previous_seal_keys", _KEYS, (), "Open what they have sealed."),
    ("seal_strict", _FLAG, False, "Whether what does not open raises `SealError`; else it is a miss."),
    ("scopes", _OBJECT, None, "What keeps tenants, users, sessions apart: `zoocache.scopes`."),
    ("on_event", _OBJECT, None, "Who is told what happens: `zoocache.events`."),
    ("max_bytes", _SIZE, None, "As `max_entries`, in bytes of memory: by an estimate of each value, or by `weigh`."),
    ("max_entry_bytes", _SIZE, None, "A larger value is returned, not stored; `max_bytes` if it is not given."),
    ("weigh", _OBJECT, None, "What a value weighs, in bytes: a callable, instead of the estimate."),
    ("max_loads", _whole(1), None, "How many functions run at once; the rest wait, or get what is stale."),
)

DEFAULTS: dict[str, Any] = {name: default for name, _, default, _ in _TABLE}
IGNORED = frozenset(name for name, _, _, meaning in _TABLE if meaning is _NOTHING)

# What is looked at when a storage is opened, which may fail without a word of which.
_PLACE = ("storage_url", "bus_url", "prefix", "lmdb_map_size", "tls_ca", "tls_cert", "tls_key", "connections")

_OTHERS = {"ZOOCACHE_LIB", "ZOOCACHE_WITHOUT", "ZOOCACHE_DISABLED"}  # variables that are no options
_told: set[str] = set()


def check_more(given: dict[str, Any]) -> dict[str, Any]:
    """The options among these that have an effect; refuses what is none, and says which have no effect."""
    unknown = given.keys() - DEFAULTS.keys()
    if unknown:
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
    idle = [name for name in given if name in IGNORED and given[name] != DEFAULTS[name]]
    if idle:
        _warn("these options have no effect: %s", idle)
    return {name: value for name, value in given.items() if name not in IGNORED}


def resolve(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """All options: as they were given, as the environment says, or by default; and the variables that had a say."""
    settings: dict[str, Any] = {}
    variables: dict[str, str] = {}
    for name, kind, default, _ in _TABLE:
        variable = _variable(name)
        text = os.environ.get(variable, "").strip()
        if name in given:
            settings[name] = given[name]
        elif text:
            settings[name] = _parsed(variable, text, kind, default is None)
            variables[name] = variable
        else:
            settings[name] = default
    _tell_unknown()
    return settings, variables


def blame(error: Exception, variables: Mapping[str, str]) -> None:
    """A cache could not be made: the error names the variables that its options were set by."""
    import re

    text = str(error)
    said = set(re.findall(r"\w+", text))
    named = [variable for option, variable in variables.items() if option in said]
    names = named or [variable for option, variable in variables.items() if option in _PLACE]
    if names and len(error.args) == 1:
        error.args = (f"{text} ({'set by' if named else 'with'} {', '.join(names)})",)


def switched_off() -> bool:
    """Whether ZOOCACHE_DISABLED says that caches compute everything anew."""
    text = os.environ.get("ZOOCACHE_DISABLED", "").strip()
    return bool(text and _parsed("ZOOCACHE_DISABLED", text, _FLAG, False))


def table() -> str:
    """The options as Markdown, for the README."""
    lines = ["| option | variable | default | |", "|---|---|---|---|"]
    for name, kind, default, meaning in _TABLE:
        variable = "" if kind is _OBJECT else f"`{_variable(name)}`"
        usual = str(default).lower() if default is None or isinstance(default, bool) else str(default)
        lines.append(f"| `{name}` | {variable} | {usual} | {meaning} |")
    return "\n".join(lines) + "\n"


def _variable(option: str) -> str:
    return "ZOOCACHE_" + option.upper()


def _parsed(variable: str, text: str, kind: Kind, optional: bool) -> object:
    """What a variable says. The error has no part of it, and not the one that began it either."""
    parse, what = kind
    optional = optional and kind is not _OBJECT
    if optional and text.lower() == "none":
        return None
    try:
        return parse(text)
    except (KeyError, ValueError):
        raise ValueError(f"{variable} must be {what}{', or none' * optional}") from None


def _tell_unknown() -> None:
    """Names, once, variables that look like options and are none."""
    known = {_variable(name) for name in DEFAULTS} | _OTHERS
    unknown = sorted({name for name in os.environ if name.startswith("ZOOCACHE_")} - known - _told)
    if unknown:
        _told.update(unknown)
        _warn("these variables of the environment are no options: %s", unknown)


def _warn(line: str, names: list[str]) -> None:
    import logging

    logging.getLogger("zoocache").warning(f"zoocache: {line}", ", ".join(names))
