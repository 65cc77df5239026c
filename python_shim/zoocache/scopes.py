"""Scopes keep apart what belongs to different tenants, users, sessions.

    from zoocache import Cache
    from zoocache.scopes import Scope

    cache = Cache(scopes=Scope("org", "org_id", Scope("user", "user_id")))

    @cache.cacheable(scope="user", ttl=600)
    def profile(user_id, org_id=None): ...

    profile("7", org_id="acme")
    with cache.scope(org_id="acme", user_id="7"):  # a middleware, once a request
        profile("7")
    cache.evict_scope("org", org_id="acme")  # all of acme, and nothing else

A scope is a path, ``org:acme:user:7``. It is a part of the key, so that no value crosses; and a tag of the
package's own, ``|scope:org:acme:user:7``, which every value in it depends on, so that evicting a scope is one
invalidation: O(depth), in every process. Ids are escaped: none, however crafted, is read as another path.

The arguments of a function imply its path where they give every id, so a hit costs no more than another one; of
what they do not give (an argument that is missing or None), the ids are those of ``Cache.scope()``.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b

from zoocache._errors import ScopeMissing
from zoocache._keys import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextvars import Token
    from typing import Any

__all__ = ["Level", "Node", "Scope", "ScopeMissing", "Scopes", "segment"]

_DEEPEST = 12  # levels; the library's tags have 32 segments
_LONG = 48  # bytes of an id; what is longer is a hash of it
_BITS = 128  # integers of so many are not longer
_ESCAPED = re.compile(r"[^\w.@+=,-]", re.ASCII)

# The path by parameters each of which is given and is its own segment; else None. Written out for each level, as it is
# most of what a look into a scope takes.
_PLAIN = """\
def plain(given):
    try:
        {ids}, = {given},
    except KeyError:
        return None
    return f"{path}" if {checks} else None
"""
_CHECK = "({0}.isalnum() and {0}.isascii() and len({0}) <= {1} if type({0}) is str else\
 type({0}) is int and {0}.bit_length() <= {2})"


class Scope:
    """A level: its name, the parameter with its id, the levels below. Names are unique, parameters on one path."""

    __slots__ = ("children", "name", "param")

    def __init__(self, name: str, param: str, *children: Scope) -> None:
        if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)):
            raise ValueError(f"a scope's name is a word, not {name!r}")
        if not (isinstance(param, str) and param.isidentifier()):
            raise ValueError(f"the parameter of scope {name!r} is the name of an argument, not {param!r}")
        if not all(isinstance(child, Scope) for child in children):
            raise TypeError(f"below scope {name!r} are scopes: Scope({name!r}, {param!r}, Scope(...), ...)")
        self.name, self.param, self.children = name, param, children

    def __repr__(self) -> str:
        return f"Scope({', '.join([repr(self.name), repr(self.param), *map(repr, self.children)])})"


def segment(name: str, value: object) -> str:
    """An id as a segment of a path: ids of the same text are the same, all others are told apart."""
    if isinstance(value, str):
        text = str.__str__(value)
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 256:
        text = int.__repr__(value)
    elif (type(value).__module__, type(value).__name__) == ("uuid", "UUID"):
        text = str(value)
    else:
        raise TypeError(f"the id of scope {name!r} must be a str, an int or a UUID, not {type(value).__name__}")
    if not text:
        raise ScopeMissing(f"the id of scope {name!r} is empty")
    if text.isalnum() and text.isascii() and len(text) <= _LONG:
        return text
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > _LONG:
        return "%%" + blake2b(data, digest_size=20).hexdigest()
    return _ESCAPED.sub(lambda found: f"%{found[0].encode('utf-8', 'surrogatepass').hex('%')}", text)


class Node:
    """How many entries there are in a scope and below it. Evicted, it is cut off: what still has it counts no more."""

    __slots__ = ("above", "count", "nodes", "path")

    def __init__(self, nodes: dict[str, Node], path: str, above: Node | None) -> None:
        self.nodes, self.path, self.above, self.count = nodes, path, above, 0

    def add(self, n: int) -> bool:
        """There are n more here; and above, as far as that is not cut off, which is told."""
        node = self
        while (above := node.above) is not None:
            node.count += n
            if not node.count and node.nodes.get(node.path) is node:
                del node.nodes[node.path]
            node = above
        return not node.path


def _plain(chain: tuple[Level, ...]) -> Callable[[Mapping[str, Any]], str | None]:
    ids = [f"id{n}" for n in range(len(chain))]
    source = _PLAIN.format(
        ids=", ".join(ids),
        given=", ".join([f"given[{level.param!r}]" for level in chain]),
        path=":".join([f"{level.name}:{{{each}}}" for level, each in zip(chain, ids)]),
        checks=" and ".join([_CHECK.format(each, _LONG, _BITS) for each in ids]),
    )
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope["plain"]  # type: ignore[no-any-return]


class Level:
    """A scope in its place: ``chain`` leads to it from the top."""

    def __init__(self, scope: Scope, above: tuple[Level, ...]) -> None:
        self.name, self.param = scope.name, scope.param
        self.chain: tuple[Level, ...] = (*above, self)
        self.depth = len(self.chain)
        self.plain = _plain(self.chain)
        self.here: ContextVar[str | None] = ContextVar(f"zoocache.{scope.name}", default=None)  # its path, by scope()

    def path(self, given: Mapping[str, Any], inherited: Mapping[str, Any]) -> str:
        """The path by these parameters, else by those of scope(). Raises ScopeMissing."""
        parts = []
        for level in self.chain:
            value = given.get(level.param)
            if value is None:
                value = inherited.get(level.param)
                if value is None:
                    how = f"give it as an argument, or by `with cache.scope({level.param}=...)`"
                    raise ScopeMissing(f"scope {self.name!r} needs {level.param!r}: {how}")
            parts.append(f"{level.name}:{segment(level.name, value)}")
        return ":".join(parts)


class Scopes:
    """The levels of a cache, and how many entries each scope has. The counts change with the cache's lock held."""

    def __init__(self, roots: Scope | Iterable[Scope]) -> None:
        self.levels: dict[str, Level] = {}
        self.params: set[str] = set()
        self.nodes: dict[str, Node] = {}  # of each path that has entries
        self.root = Node(self.nodes, "", None)
        self.given: ContextVar[dict[str, Any] | None] = ContextVar("zoocache.scope", default=None)
        for root in [roots] if isinstance(roots, Scope) else roots:
            self._add(root, ())
        if not self.levels:
            raise ValueError("scopes: there is none")

    def _add(self, scope: Scope, above: tuple[Level, ...]) -> None:
        if scope.name in self.levels or any(scope.param == level.param for level in above):
            raise ValueError(f"scopes: {scope!r}: its name or parameter is there already")
        if len(above) == _DEEPEST:
            raise ValueError(f"scopes: {scope.name!r} is deeper than {_DEEPEST} levels")
        level = self.levels[scope.name] = Level(scope, above)
        self.params.add(scope.param)
        for child in scope.children:
            self._add(child, level.chain)

    def level(self, name: str) -> Level:
        """A level by its name."""
        if name not in self.levels:
            raise ValueError(f"there is no scope {name!r}; there are: {', '.join(self.levels)}")
        return self.levels[name]

    def path(self, name: str, params: dict[str, Any]) -> str:
        """The path of a scope. Raises ScopeMissing."""
        level = self.levels.get(name)
        if level is None:
            level = self.level(name)
        if len(params) == level.depth:
            path = level.plain(params)
            if path is not None:
                return path
        return level.path(self.known(params), self.inherited)

    def known(self, params: dict[str, Any]) -> dict[str, Any]:
        """Raises TypeError for a parameter of no scope."""
        if not self.params.issuperset(params):
            raise TypeError(f"no scope has a parameter {', '.join(sorted(params.keys() - self.params))}")
        return params

    @property
    def inherited(self) -> dict[str, Any]:
        """The ids that Cache.scope() gives here."""
        return self.given.get() or {}

    def node(self, path: str) -> Node:
        """The counter of a path."""
        node = self.nodes.get(path)
        if node is None or not node.add(0):
            above = path.rsplit(":", 2)
            node = Node(self.nodes, path, self.node(above[0]) if len(above) == 3 else self.root)
            self.nodes[path] = node
        return node

    def cut(self, path: str) -> int:
        """Begins to count anew below this path. Returns how many there were."""
        node = self.nodes.pop(path, None)
        if node is None:
            return 0
        above, count = node.above, node.count
        node.above = None
        return count if above is not None and above.add(-count) else 0

    @contextmanager
    def here(self, params: dict[str, Any]) -> Iterator[None]:
        """The block of Cache.scope()."""
        given = {**self.inherited, **{name: value for name, value in self.known(params).items() if value is not None}}
        tokens: list[tuple[ContextVar[Any], Token[Any]]] = [(self.given, self.given.set(given))]
        try:
            for level in self.levels.values():
                if all(above.param in given for above in level.chain):
                    tokens.append((level.here, level.here.set(Path(level.path(given, {})))))
            yield
        finally:
            for variable, token in reversed(tokens):
                variable.reset(token)
