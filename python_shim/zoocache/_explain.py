"""What there is in this process, and why it would be served or not: for people, who have time. Changes nothing."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from zoocache import _tags
from zoocache._ffi import OK, STALE
from zoocache.context import OFF, is_off, tags_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from zoocache._cache import Cache
    from zoocache._table import Entry

__all__ = ["Explanation", "below", "explain"]


class Explanation(NamedTuple):
    """What f.explain() says of a call: what this process has for it, and why that would not be served."""

    key: str  # as f.key() gives it
    there: bool  # there is an entry
    fresh: bool  # and it would be served
    reason: str | None  # why not: "absent", "expired", "invalidated", "silent" (the bus), "disabled"
    killer: str | None  # the tag that was invalidated; "" if it was none of the entry's own
    deps: tuple[str, ...]  # its tags
    age: float | None  # seconds since it was stored here, within 50 ms
    expires_in: float | None  # seconds; None: it has no end
    filling: bool  # its value is being computed


def explain(function: Any, key: Any) -> Explanation:
    """What there is under a key of a function's table."""
    cache: Cache = function.bind()
    cache.check_open()
    text = function.key_text(key)
    filling = key in function.flights
    entry: Entry | None = function.entries.get(key)
    if entry is None:
        absent = "disabled" if OFF and is_off(cache) else "absent"
        return Explanation(text, False, False, absent, None, (), None, None, filling)
    return explained(function, cache, entry)


def explained(table: Any, cache: Cache, entry: Entry) -> Explanation:
    """What there is of an entry of a table."""
    text, filling = table.key_text(entry.key), entry.key in table.flights
    killer = killed_by(cache, entry)
    now = cache.clock()
    reason = _reason(table, cache, entry, killer, now)
    left = None if entry.deadline == inf else max(0.0, entry.deadline - now)
    deps = own(tags_of(entry.deps))
    return Explanation(text, True, reason is None, reason, killer, deps, now - entry.born, left, filling)


def _reason(function: Any, cache: Cache, entry: Entry, killer: str | None, now: float) -> str | None:
    """Why an entry would not be served."""
    if OFF and is_off(cache):
        return "disabled"
    if killer is not None:
        return "invalidated"
    if now >= entry.deadline:
        return "expired"
    shared = function.gated
    if shared is not None and shared.core.gate(function.silence) not in (OK, STALE):
        return "silent"
    return None


def killed_by(cache: Cache, entry: Entry) -> str | None:
    """The highest tag on the paths of an entry's dependencies that was invalidated after it began; None: none was."""
    core = cache.core
    if entry.held(core).newest() <= entry.begin:
        return None
    for tag in own(tags_of(entry.deps)):
        parts = tag.split(":")
        for n in range(1, len(parts) + 1):
            above = ":".join(parts[:n])
            if core.version(above.encode()) > entry.begin:
                return above
    return ""  # its function or key, a scope, or everything


def own(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The tags that a user has given."""
    return tuple([tag for tag in tags if tag[0] != "|"])


def below(cache: Cache, tag: str) -> Iterator[Entry]:
    """The entries that would be served, and not any more if the tag were invalidated."""
    cache.check_open()
    tag = _tags.widened((tag,))[0]
    _tags.check(tag)
    now = cache.clock()
    for table in cache.tables():
        for entry in list(table.entries.values()):
            hangs = any(name == tag or name.startswith(tag + ":") for name in tags_of(entry.deps))
            if hangs and now < entry.deadline and entry.held(cache.core).newest() <= entry.begin:
                yield entry
