"""The decorator.

The function that a user calls is generated for its signature, so that a hit is one dict look-up by the
bare argument or a tuple of the arguments, one comparison, one count, and with a bus one look at the clock:

    def load(uid):
        nonlocal hits
        if (t := type(uid)) is int or t is str or t in raw:
            try:
                e = entries[uid]
            except KeyError:
                pass
            else:
                if e.word == words[0] and (e.until is None or now() < e.until):
                    hits += 1
                    if active:
                        note(e)
                    return e.value
            key = uid
        else:
            key = freeze((uid,), {})
            ...  # as above
        value = serve(key, (uid,), {})
        if value is not absent:
            return value
        fill = Fill(table, key)
        try:
            try:
                if begin(fill, (uid,), {}):
                    commit(fill, func(uid))
            except:
                if not failed(fill):
                    raise
        finally:
            if fill.leading:
                abandon(fill)
        return fill.value

Because it has the parameters and defaults of the original, ``load(1)`` and ``load(uid=1)`` are the same
call. Arguments of other types are frozen first (see _keys). The function is called from here, and from nowhere
deeper, so that recursion costs two frames a call; what is called before and after it is in _fills.
"""

from __future__ import annotations

from collections import namedtuple
from time import monotonic
from weakref import ref

from zoocache import _ffi, _keys, _tags
from zoocache._callables import Signature, binds, function_of, imitate, is_async, is_generator, name_of
from zoocache._ffi import words
from zoocache._fills import ABSENT, Filled
from zoocache._keys import KEYWORDS, RAW, Key, Unkeyable, Unportable, by_identity, freeze, portable
from zoocache._table import KEYLESS, Fill, Rules
from zoocache.context import ACTIVE, OPEN, note, tags_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from zoocache._cache import Cache
    from zoocache._explain import Explanation
    from zoocache._ffi import Deps
    from zoocache._scoped import Scoping
    from zoocache._table import Entry, More
    from zoocache._types import Cacheable, Cached, CacheInfo
else:
    CacheInfo = namedtuple("CacheInfo", "hits misses maxsize currsize")

    class Cached:
        """The type of a decorated function, for annotations: Cached[[int], str]."""

        def __class_getitem__(cls, parameters):
            return cls


__all__ = ["CacheInfo", "Cached", "cacheable"]


def _indent(text: str, depth: int) -> str:
    """The lines of a block that far inside, but for the first."""
    return text.rstrip().replace("\n", "\n" + 4 * depth * " ")


# Arguments that are their own key, of a function that names them all; and of one that takes any.
_NAMED = """\
if {conditions}:
    {hit}
    _zc_key = {key}
else:
    {frozen}
"""

_EACH = """\
for _zc_x in {args}:
    if _zc_type(_zc_x) not in _zc_raw:
        {frozen}
        break
else:
    {hit}
    _zc_key = {key}
"""

_HIT = """\
try:
    _zc_e = {place}[{key}]
except KeyError:
    pass
else:
    if _zc_e.word == _zc_words[0] and (_zc_e.until is None or _zc_now() < _zc_e.until):
        _zc_hits += 1
        if _zc_active:
            _zc_note(_zc_e)
        return _zc_e.value
"""

_FROZEN = """\
_zc_key = _zc_freeze({args}, {kwargs})
_zc_e = _zc_entries.get(_zc_key)
if _zc_e is not None and _zc_e.fresh():
    _zc_hits += 1
    if _zc_active:
        _zc_note(_zc_e)
    return _zc_e.value
"""

_BODY = """\
def _zc_make(_zc_entries, _zc_words, _zc_now, _zc_active, _zc_note):
    _zc_hits = 0
    {define} {name}({parameters}):
        nonlocal _zc_hits
        {look}
        _zc_value = _zc_serve(_zc_key, {args}, {kwargs})
        if _zc_value is not _zc_absent:
            return _zc_value
        _zc_fill = _zc_Fill(_zc_table, _zc_key)
        try:
            try:
                if {wait}_zc_begin(_zc_fill, {args}, {kwargs}):
                    {wait}_zc_commit(_zc_fill, {wait}_zc_func({call}))
            except:
                if not _zc_failed(_zc_fill):
                    raise
        finally:
            if _zc_fill.leading:
                _zc_abandon(_zc_fill)
        return _zc_fill.value
    def _zc_count(reset=False):
        nonlocal _zc_hits
        hits = _zc_hits
        if reset:
            _zc_hits = 0
        return hits
    def _zc_bind({parameters}):
        return {args}, {kwargs}
    return {name}, _zc_count, _zc_bind
"""


def _look(signature: Signature, method: bool, own_key: bool, scoping: Scoping | None) -> str:
    """Statements that make the key, and return what is cached under it: without a call if it is there as it is."""
    frozen = _FROZEN.format(args=signature.args, kwargs=signature.kwargs)
    if own_key or (signature.open and (signature.only or signature.ignored)) or not (scoping is None or scoping.placed):
        return frozen
    if signature.open:
        args = f"(_zc_raw,) if {signature.keyword} else {signature.args}" if signature.keyword else signature.args
        key = signature.args
        return _EACH.format(
            args=args, frozen=_indent(frozen, 2), hit=_indent(_HIT, 1).format(key=key, place="_zc_entries"), key=key
        )
    conditions: list[str] = []
    parts: list[str] = []
    for name in signature.keyed:
        if method and name == "self":
            conditions.append(f"_zc_type({name}) in _zc_identities")
            parts.append(f"_zc_ref({name})")
        else:
            raw = "" if scoping is not None and name in scoping.named else " or _zc_t in _zc_raw"
            conditions.append(f"((_zc_t := _zc_type({name})) is _zc_int or _zc_t is _zc_str{raw})")
            parts.append(name)
    bare = _tuple(parts)
    if scoping is not None and scoping.here is not None:
        conditions.append("(_zc_path := _zc_here()) is not None")
        parts.append("_zc_path")
    key = _tuple(parts)
    rooms = scoping is not None and scoping.rooms
    hit = _indent(_HIT, 1).format(key=bare if rooms else key, place="_zc_rooms[_zc_path]" if rooms else "_zc_entries")
    guard = " and ".join(conditions) or "True"
    return _NAMED.format(conditions=guard, frozen=_indent(frozen, 1), hit=hit, key=key)


def _tuple(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else "(" + ", ".join(parts) + ")"


def _looks_bound(func: Any) -> bool:
    """Whether it is probably a method: the fast path then expects an object. Wrong guesses cost time only."""
    path = name_of(func, "__qualname__").split(".")
    if function_of(func) is not func or len(path) < 2 or path[-2] == "<locals>":
        return False
    return bool(func.__code__.co_varnames[:1] == ("self",))


class Function(Filled):
    """A decorated function's table, and what hangs on the function."""

    opening = ""  # statements in front of a call's; a face has some

    count: Callable[..., int] = int  # hits that its wrapper has counted; True: from now on anew

    def __init__(
        self,
        func: Callable[..., Any],
        namespace: str | None,
        deps: Any,
        key: Callable[..., Any] | None,
        cache: Cache | None,
        rules: Rules,
        scope: str | None = None,
        ignore: tuple[str, ...] = (),
    ) -> None:
        super().__init__(cache, rules)
        if rules.cache_errors:
            from zoocache import _copies as _copies  # see Filled.watch
        self.func = func
        self.name = name_of(func)
        self.namespace = namespace
        self.deps = () if deps is None and scope is not None else deps
        self.own_key = key
        self.is_async = is_async(func)
        if is_generator(func):
            raise TypeError(f"zoocache cannot cache `{self.name}`: it is a generator; return a list instead")
        if callable(deps) and is_async(deps) and not self.is_async:
            raise TypeError(f"zoocache: the deps of `{self.name}` are a coroutine function, but it is not one itself")
        self.signature = Signature(func, ignore)
        if ignore and key is not None:
            raise TypeError(f"zoocache: `{self.name}`: give key or ignore, not both")
        self.code: Any = None  # of the wrapper
        self.identities: set[type] = set()  # classes of which it is a method
        self._identity: tuple[str, str] | None = None
        self.bound_arguments: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]
        self.scope = scope
        self._scoping: Scoping | None = None
        if scope is not None:
            from zoocache._scoped import Entries

            self.entries = Entries(self)

    @property
    def scoping(self) -> Scoping | None:
        """How its calls find their scope. None: it has none."""
        if self.scope is None:
            return None
        scopes = self.bind().scopes
        if self._scoping is None or self._scoping.scopes is not scopes:
            from zoocache._scoped import Scoping

            self._scoping = Scoping(self, scopes, self.scope)
        return self._scoping

    def fast_hits(self) -> int:
        """Hits that were counted by the function itself."""
        return self.count()

    def count_anew(self) -> None:
        """Its statistics begin."""
        super().count_anew()
        self.count(True)

    def wrapper(self) -> Any:
        """The function to call instead."""
        signature = self.signature
        name = self.name if self.name.isidentifier() else "cached"
        scoping = self.scoping if self.given is not None else None
        unplaced = scoping is None and self.scope is not None  # its cache, and so its scopes, are not known yet
        source = _BODY.format(
            define="async def" if self.is_async else "def",
            wait="await " if self.is_async else "",
            name="_zcf_" + name,
            parameters=signature.parameters,
            look=_indent(
                self.opening + _look(signature, _looks_bound(self.func), self.own_key is not None or unplaced, scoping),
                2,
            ),
            args=signature.args,
            kwargs=signature.kwargs,
            call=signature.call,
        )
        scope: dict[str, Any] = {f"_zc_default_{name}": value for name, value in signature.defaults.items()}
        scope.update(_zc_type=type, _zc_int=int, _zc_str=str, _zc_raw=RAW, _zc_ref=ref, _zc_identities=self.identities)
        scope.update(_zc_table=self, _zc_func=self.func, _zc_absent=ABSENT, _zc_Fill=Fill)
        scope.update(_zc_freeze=self.freeze, _zc_serve=self.serve, _zc_failed=self.failed, _zc_abandon=self.abandon)
        scope["_zc_here"] = scoping.here.get if scoping is not None and scoping.here is not None else None
        scope["_zc_rooms"] = entries = self.entries if scoping is None else scoping.looked_in(self.entries)
        if scoping is not None and scoping.rooms:
            entries = self.entries
        scope["_zc_begin"] = self.abegin if self.is_async else self.begin
        scope["_zc_commit"] = self.acommit if self.is_async else self.commit
        exec(compile(source, f"<zoocache {self.name}>", "exec"), scope)
        make = scope.pop("_zc_make")  # each hit pays for what it closes over; what a miss needs is global
        wrapper, self.count, self.bound_arguments = make(entries, words, monotonic, ACTIVE, note)
        self.code = wrapper.__code__
        wrapper.__name__ = self.name
        imitate(wrapper, self.func)
        wrapper.cache_info = self.cache_info
        wrapper.cache_clear = self.cache_clear
        wrapper.invalidate = self.invalidate
        wrapper.key = self.key
        wrapper.explain = self.explain
        wrapper.refresh = self.refresh
        return wrapper

    # ---- calls that are not their own key ----------------------------------------------------------

    def freeze(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The key of a call."""
        frozen = self.frozen(args, kwargs)
        scoping = None if self.scope is None else self.scoping
        return frozen if scoping is None else scoping.key(frozen, args, kwargs)

    def frozen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call's arguments give of its key."""
        try:
            if self.own_key is not None:
                return freeze(self.own_key(*args, **kwargs))
            rest, named = self.signature.kept(args, kwargs) if self.signature.ignored else (args, kwargs)
            parts: list[Any] = []
            if self.method and rest and type(rest[0]) in self.identities:
                parts.append(ref(rest[0]))
                rest = rest[1:]
            parts += [x if type(x) in RAW else freeze(x) for x in rest]
            if self.signature.open:
                if named:
                    parts.append(KEYWORDS)
                    parts += [(name, freeze(named[name])) for name in sorted(named)]
                return tuple(parts)
            parts += [freeze(named[name]) for name in self.signature.only if name in named]
            return parts[0] if len(parts) == 1 else tuple(parts)
        except Unkeyable as error:
            culprit = error.args[0]
            if self.own_key is None and args and culprit is args[0] and self.adopts(culprit):
                return self.frozen(args, kwargs)
            raise _keys.explain(self.name, culprit) from None
        except RecursionError:
            raise _keys.explain(self.name, args) from None

    def adopts(self, value: Any) -> bool:
        """Whether this is a method of the object: then its class is told apart by identity from now on."""
        kind = type(value)
        if kind in self.identities or not by_identity(kind) or not binds(value, self.func, self.code):
            return False
        try:
            ref(value)
        except TypeError:  # it cannot be had without being kept alive
            return False
        self.identities.add(kind)
        self.method = True
        return True

    def refresh_soon(self, cache: Cache, entry: Entry, more: More, args: Any, kwargs: Any, same: Any = None) -> None:
        """As for any; of what the arguments are now, as the key is."""
        if self.own_key is None:
            from zoocache._kept import kept

            args, kwargs, same = kept(self, args, kwargs)
        super().refresh_soon(cache, entry, more, args, kwargs, same)

    # ---- for other processes ------------------------------------------------------------------------

    def identity(self) -> str:
        """What tells it from others in every process, if there is such a thing."""
        if self._identity is None:
            from zoocache._names import identity

            found = identity(self.func, self.namespace)
            if found is None:
                import warnings

                warnings.warn(
                    f"zoocache: `{self.name}` is bound to, or closes over, what has no stable identity:"
                    " its values stay in this process."
                    " Give it a namespace of its own to share them.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            digest = "" if found is None else f"|fn:{_ffi.hash_bytes(found.encode('utf-8', 'surrogatepass')):016x}"
            self._identity = found or "", digest
        return self._identity[0]

    def shared_name(self, key: Any) -> bytes | None:
        """The key in a storage; None: it is not for other processes."""
        from zoocache._names import named

        identity = self.identity()
        scoping = self.scoping
        path = "" if scoping is None or not identity else scoping.path_of(key)
        try:
            return named(f"{identity}|{portable(key)}", path) if identity else None
        except Unportable:
            return None

    def mark(self, key: Any) -> str:
        """The tag of this key alone, below that of the function; or an empty text."""
        name = self.shared_name(key)
        return f"{self._identity[1]}:{_ffi.hash_bytes(name):016x}" if name and self._identity else ""

    def alive(self, key: Any) -> bool:
        """An entry of a method dies with its object."""
        owner = key[0] if type(key) is tuple and key else key
        return not (isinstance(owner, ref) and owner() is None)

    # ---- scopes --------------------------------------------------------------------------------------

    def dependencies(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Deps | str:
        """Its tags, and that of its scope."""
        return self.within(fill.cache, fill.key, super().dependencies(fill, args, kwargs))

    async def adependencies(self, fill: Fill, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Deps | str:
        """The same, for a coroutine function."""
        if not callable(self.deps):
            return self.dependencies(fill, args, kwargs)
        return self.within(fill.cache, fill.key, await super().adependencies(fill, args, kwargs))

    def held(self, cache: Cache, key: Any, tags: tuple[str, ...]) -> Any:
        """The same, of what set() stores."""
        return self.within(cache, key, super().held(cache, key, tags))

    def within(self, cache: Cache, key: Any, deps: Deps | str) -> Deps | str:
        """What a value depends on: on its scope, too."""
        scoping = self.scoping
        return deps if scoping is None else scoping.within(cache, tags_of(deps), key)

    def node_of(self, key: Any) -> Any:
        """The counter of an entry's scope."""
        scoping = self.scoping
        return None if scoping is None else scoping.scopes.node(scoping.path_of(key))

    # ---- what hangs on the function ----------------------------------------------------------------

    def cache_info(self) -> CacheInfo:
        """Hits, misses, the limit of the cache, and how many entries there are."""
        cache = self.bind()
        misses = self.absent + self.expired + self.invalidated
        return CacheInfo(self.hits + self.count(), misses, cache.max_entries, len(self.entries))

    def cache_clear(self) -> None:
        """Removes every entry of this function, and its statistics."""
        self.empty()
        self.count(True)
        self.hits = self.stale = self.absent = self.expired = self.invalidated = 0

    def empty(self) -> None:
        """Removes every entry of this function, in every process."""
        if OPEN:
            self.bind().again(self.empty)
        self.clear()
        shared = None if self.cache is None else self.cache.shared
        if shared is not None and self.identity() and self._identity is not None:
            shared.told(shared.core.invalidate_mark(self._identity[1].encode()))

    def invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Removes the entry of this call."""
        frozen = self.freeze(*self.bound_arguments(*args, **kwargs))
        if OPEN:
            self.bind().again(self.drop, frozen)
        return self.drop(frozen)

    def key(self, *args: Any, **kwargs: Any) -> str:
        """The text of this call's key."""
        return self.key_text(self.freeze(*self.bound_arguments(*args, **kwargs)))

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """What there is for this call, and why it would not be served."""
        from zoocache._explain import explain

        return explain(self, self.freeze(*self.bound_arguments(*args, **kwargs)))

    def key_text(self, frozen: Any) -> str:
        """[namespace:]name:hash"""
        prefix = f"{self.namespace}:{self.name}" if self.namespace else self.name
        path = f"{name_of(self.func, '__module__')}.{name_of(self.func, '__qualname__')}"
        return Key.make(prefix, path, self, frozen)

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        """Computes this call's value anew."""
        positional, keywords = self.bound_arguments(*args, **kwargs)
        key = self.freeze(positional, keywords)
        if self.is_async:
            return self.arefresh_now(key, positional, keywords)
        return self.refresh_now(key, positional, keywords)


def _typed(function: Any) -> Cacheable:
    return function  # type: ignore[no-any-return]


@_typed
def cacheable(
    func: Any = None,
    *,
    namespace: str | None = None,
    deps: Any = None,
    ttl: float | None = None,
    key: Callable[..., Any] | None = None,
    cache: Cache | None = None,
    scope: str | None = None,
    ignore: str | Iterable[str] = (),
    **rules: Any,
) -> Any:
    """Caches what a function returns, by its arguments; bare, or called with options.

    namespace: goes in front of the name in key().
    deps: the tags that a value depends on: a list, or a callable of the same arguments (for a coroutine
        function it may be one, too). Evaluated before the function runs. add_deps() adds more from inside.
    ttl: how long a value lives, in seconds. As long as read_extend_ttl is on (the default), a read begins
        that time anew, unless tti is given.
    tti: a value that is not read for so long dies; with it, ttl is the longest life.
    jitter: shortens each life at random by up to this part of it, 0 to 1.
    soft_ttl: from then on the value is served as it is while one refresh runs beside.
    early_refresh: XFetch's beta, 1 is usual: refreshes at random a little before the end.
    stale_if_error: so many seconds after its end a value may stand in when the function raises.
    negative_ttl: the life of None.
    cache_if: a value for which it is false is returned, not stored.
    cache_errors, error_ttl: exceptions that are cached like values, and how long.
    on_error: "raise" gives a copy of the exception of a function to everyone who waits for it; "retry" lets one of
        them try once more.
    copy: "share" returns the cached object itself; "copy" a deep copy of it.
    fleet: with a storage that can lock (LMDB, Redis), one process in all computes a value; the others wait.
    silence: what a call does when the bus has been silent for longer than max_staleness: "bypass" computes,
        "serve" serves for max_stale longer, "error" raises BusSilent. None: as the cache says.
    serializer, compression: how its values become bytes for a storage; None: as the cache says.
    sealed: for a cache with a seal_key alone (see zoocache.seal).
    key: a callable of the arguments that gives the key.
    lag: the function reads a replica, which may be so many seconds behind: what may have been invalidated since
        then is returned, not stored.
    ignore: names of parameters that are no part of the key: the value does not depend on them. For types that never
        count, see zoocache.keys.
    scope: the name of a scope of the cache (see zoocache.scopes): the values of each are kept apart, and evicted
        together.
    cache: a Cache; else the default one, whichever is in place at the time of the call.
    """
    kind = rules.pop("_kind", Function)
    settings = Rules(ttl=ttl, **rules)
    left_out = _tags.listed(ignore)
    if deps is not None and not callable(deps):
        deps = _tags.listed(deps)

    def decorate(target: Any) -> Any:
        if issubclass(type(target), (staticmethod, classmethod)):
            return type(target)(decorate(target.__func__))
        if not callable(target):
            raise TypeError(f"cacheable() decorates functions, not {type(target).__name__}")
        if settings.sealed and not (kind.sealing() if cache is None else cache.sealed):
            raise RuntimeError(KEYLESS)
        function = kind(target, namespace, deps, key, cache, settings, scope, left_out)
        return function.wrapper()

    return decorate if func is None else decorate(func)
