"""Tables whose keys have a scope, and how the calls of a function find theirs (see scopes)."""

from __future__ import annotations

from zoocache import _tags
from zoocache._keys import Key, Path
from zoocache._table import Entry, Rules, Table
from zoocache.scopes import segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from zoocache._cache import Cache
    from zoocache._ffi import Deps
    from zoocache.scopes import Node, Scopes

__all__ = ["Entries", "ScopedValues", "Scoping"]


class Entries(dict):  # type: ignore[type-arg]
    """The entries of a table whose keys have a scope: it counts them.

    Of a function that finds its ids in the context, each scope has a room besides, in which an entry is by the
    arguments alone: a hit looks for the path, and in its room, which takes less than to make one key of both. Hits of
    other functions look in a plain dict of the same entries: to look in what is derived from dict takes a call.
    """

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table
        self.nodes: dict[Any, Node] = {}
        self.rooms: dict[str, dict[Any, Entry]] | None = None
        self.plain: dict[Any, Entry] | None = None

    def _left(self, key: Any) -> None:
        node = self.nodes.pop(key, None)
        if node is None:
            return
        node.add(-1)
        if self.plain is not None:
            del self.plain[key]
        if self.rooms is not None:
            room = self.rooms[key[-1]]
            del room[rest(key)]
            if not room:
                del self.rooms[key[-1]]

    def __setitem__(self, key: Any, entry: Entry) -> None:
        self._left(key)
        super().__setitem__(key, entry)
        node = self.nodes[key] = self.table.node_of(key)
        node.add(1)
        if self.plain is not None:
            self.plain[key] = entry
        if self.rooms is not None:
            self.rooms.setdefault(key[-1], {})[rest(key)] = entry

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        self._left(key)

    def pop(self, key: Any, *default: Any) -> Any:
        """As dict.pop()."""
        found = super().pop(key, *default)
        self._left(key)
        return found

    def clear(self) -> None:
        """As dict.clear()."""
        super().clear()
        for key in list(self.nodes):
            self._left(key)


def rest(key: Any) -> Any:
    """What a key is besides its path, as the look of a hit has it."""
    return key[0] if len(key) == 2 else key[:-1]


class ScopedValues(Table):
    """What set() has stored in scopes. Its keys are pairs: the path, and the key."""

    def __init__(self, cache: Cache, scopes: Scopes) -> None:
        super().__init__(cache, Rules())
        self.scopes = scopes
        self.entries = Entries(self)

    def node_of(self, key: tuple[str, str]) -> Node:
        """The counter of an entry."""
        return self.scopes.node(key[0])

    def text(self, key: tuple[str, str]) -> str:
        """A path has no '|' in it, and keys of set() without a scope begin with '='."""
        return f"@{key[0]}|{key[1]}"

    def key_text(self, key: tuple[str, str]) -> str:
        """A key as get() takes it, of which it knows the scope."""
        found = Key(self.text(key))
        found.table, found.frozen = self, key
        return found

    def shared_name(self, key: Any) -> bytes | None:
        """The key in a storage."""
        from zoocache._names import named

        return named(self.text(key), key[0]) if isinstance(key[1], str) else None

    def mark(self, key: Any) -> str:
        """The tag of this key alone."""
        return super().mark(self.text(key))

    def held(self, cache: Cache, key: Any, tags: tuple[str, ...]) -> Deps:
        """Its tags, and that of its scope."""
        return within(cache, super().held(cache, key, tags).tags(), key[0])


def within(cache: Cache, tags: Iterable[str], path: str) -> Deps:
    """Tags that were checked, and that of a scope."""
    return cache.core.marked(_tags.join([*tags], f"|scope:{path}"))


class Scoping:
    """How the calls of one function find their scope, by its signature.

    Where every id is an argument, a str or an int, the key is that of a function without a scope: it implies the
    path. Otherwise it ends with a path, which says what the arguments do not: ``here`` is its variable, if the ids
    that are missing from the signature are all that it says.
    """

    def __init__(self, function: Any, scopes: Scopes, name: str) -> None:
        self.scopes = scopes
        self.level = scopes.level(name)
        signature = function.signature
        self.names: list[str] = signature.names + signature.only
        self.keyed: list[str] = signature.keyed
        self.named = [param for level in self.level.chain if (param := level.param) in self.names]
        apart = function.own_key is not None or signature.open or not set(self.named) <= set(self.keyed)
        self.placed = not apart  # its keys have the arguments in their places
        missing = [level for level in self.level.chain if level.param not in self.names]
        self.here = missing[-1].here if missing and self.placed else None
        self.rooms = self.here is not None and bool(self.keyed)

    def looked_in(self, entries: Any) -> Any:
        """Where a hit looks, of a table that has no entries yet: rooms, or a dict."""
        if self.rooms:
            entries.rooms = {}
            return entries.rooms
        entries.plain = {}
        return entries.plain

    def key(self, frozen: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The key of a call, of what it would be without a scope. Raises ScopeMissing."""
        given = {**dict(zip(self.names, args)), **kwargs}
        path = self.level.plain(given) or self.level.path(given, self.scopes.inherited)
        if self.placed and all(type(given.get(param)) in (str, int) for param in self.named):
            if len(self.named) == len(self.level.chain):
                return frozen
            path = (self.here and self.here.get()) or path
        if self.placed and len(self.keyed) != 1:
            return (*frozen, Path(path)) if self.keyed else Path(path)
        return frozen, Path(path)

    def path_of(self, key: Any) -> str:
        """The path of a key."""
        if type(key) is Path:
            return key
        ends = type(key) is tuple and key and type(key[-1]) is Path
        if not self.placed:
            return str(key[-1])
        words = key[-1].split(":") if ends else ()
        said = dict(zip(words[::2], words[1::2]))
        parts = key if len(self.keyed) > 1 else key[:1] if ends else (key,)
        path = []
        for level in self.level.chain:
            value = parts[self.keyed.index(level.param)] if level.param in self.named else None
            known = type(value) in (str, int)
            path.append(f"{level.name}:{segment(level.name, value) if known else said[level.name]}")
        return ":".join(path)

    def within(self, cache: Cache, tags: Iterable[str], key: Any) -> Deps:
        """Tags that were checked, and that of the scope of a key."""
        return within(cache, tags, self.path_of(key))
