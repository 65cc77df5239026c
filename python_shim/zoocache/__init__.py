"""A cache that knows what its values depend on.

from zoocache import cacheable, invalidate

@cacheable(deps=lambda uid: [f"user:{uid}"])
def profile(uid: int) -> dict: ...

invalidate("user:42")  # profile(42) is computed anew, and whatever was computed from it

Of the package's modules, each imports only from lines above its own (tests/test_layers.py checks it):

    _errors  _durations  _ffi  _policy  _copies  _log  _fill_times  storage
    _tags  _keys  _ffi_shared  telemetry
    context  _callables  serializers  keys
    _names  _codec  events  seal  storages  _lanes
    _shared  _options  scopes  transactions
    _table  _health
    _fills  _scoped  _explain  _place_beat  _kept
    _functions  _limits  _beat
    _many
    _cache  presets  _types
    _default
    _zoocache  testing  monitor
    core  _pytest  compat  contrib  _terminal  doctor
    place_monitor
    tui
    cli
    __main__
"""

from zoocache._cache import Cache, CacheStats
from zoocache._default import (
    catch_up,
    catch_up_async,
    clear,
    clear_async,
    configure,
    delete,
    delete_async,
    evict_scope,
    evict_scope_async,
    get,
    get_async,
    get_many,
    get_many_async,
    get_tag_version,
    health,
    invalidate,
    invalidate_async,
    no_store,
    prune,
    reset,
    scope,
    set,
    set_async,
    set_ttl,
    stats,
    token,
    transaction,
    version,
)
from zoocache._errors import (
    BuiltWithout,
    BusSilent,
    FlightTimeout,
    InvalidTag,
    Overloaded,
    RecursiveFill,
    ScopeMissing,
    StorageIsFull,
    UnkeyableArgument,
    Unserializable,
)
from zoocache._functions import Cached, CacheInfo, cacheable
from zoocache.context import add_deps, disabled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zoocache._health import Health
    from zoocache.events import Event, correlation
    from zoocache.scopes import Scope
    from zoocache.seal import SealError

__all__ = [
    "BuiltWithout",
    "BusSilent",
    "Cache",
    "CacheInfo",
    "CacheStats",
    "Cached",
    "Event",
    "FlightTimeout",
    "Health",
    "InvalidTag",
    "Overloaded",
    "RecursiveFill",
    "Scope",
    "ScopeMissing",
    "SealError",
    "StorageIsFull",
    "UnkeyableArgument",
    "Unserializable",
    "add_deps",
    "cacheable",
    "catch_up",
    "catch_up_async",
    "clear",
    "clear_async",
    "configure",
    "correlation",
    "delete",
    "delete_async",
    "evict_scope",
    "evict_scope_async",
    "disabled",
    "get",
    "get_async",
    "get_many",
    "get_many_async",
    "get_tag_version",
    "health",
    "invalidate",
    "invalidate_async",
    "no_store",
    "prune",
    "reset",
    "scope",
    "set",
    "set_async",
    "set_ttl",
    "stats",
    "token",
    "transaction",
    "version",
]

_LATER = {
    "Event": "zoocache.events",
    "SealError": "zoocache.seal",
    "Health": "zoocache._health",
    "Scope": "zoocache.scopes",
    "correlation": "zoocache.events",
}


def __getattr__(name: str) -> object:
    home = _LATER.get(name)  # imported when it is asked for
    if home is not None:
        from importlib import import_module

        return getattr(import_module(home), name)
    raise AttributeError(f"module 'zoocache' has no attribute {name!r}")
