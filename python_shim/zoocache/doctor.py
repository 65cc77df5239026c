"""What in a Redis server's settings breaks what a cache promises, or costs more than it needs to.

    with Board("redis://cache.internal", prefix="shop") as board:
        for finding in diagnose(board):
            print(finding.level, finding.about, finding.text, finding.advice)

    bad    an invalidation can be lost, refused or late, or everything is dropped when memory is full
    note   nothing breaks by it, but know it
    fine   looked at, and as it should be

What may not be looked at is a note. Besides what a monitor needs, it asks INFO and CONFIG GET, and tries each command
that a cache needs once, on a key of its own that ends by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from zoocache._ffi_shared import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoocache.monitor import Board, Node

__all__ = ["Finding", "diagnose"]

BAD, NOTE, FINE = "bad", "note", "fine"

SKEW = 1.0  # seconds between clocks that are worth a word
_SETTINGS = ("maxmemory*", "append*", "save", "stop-writes-*", "min-replicas-*")  # and not the password
_LOCAL = ("localhost", "127.", "[::1]", "::1")


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: str
    about: str
    text: str
    advice: str = ""  # what to do; nothing if it is fine


class Server(NamedTuple):
    """What the server says of itself."""

    info: dict[str, str]
    config: dict[str, str]  # empty: it may not be asked for
    ahead: float  # seconds that its clock is ahead of ours; NaN: it may not be asked for
    error: float  # and by how much that may be wrong

    def number(self, name: str) -> int:
        """A number of INFO or of the settings; 0: it is in neither."""
        text = self.config.get(name, self.info.get(name, "0"))
        return int(text) if text.isdigit() else 0


def diagnose(board: Board) -> list[Finding]:
    """Looks at everything; the worst first. Raises OSError if the server does not answer."""
    found = board.examined()
    if found is None:
        server, nodes = _ask(board), _nodes(board)
        found = [finding for look in _LOOKS for finding in look(board, server, nodes)]
    return sorted(found, key=lambda finding: (BAD, NOTE, FINE).index(finding.level))


def _ask(board: Board) -> Server:
    info, *config = board.call(["INFO", "everything"], *[["CONFIG", "GET", pattern] for pattern in _SETTINGS])
    before = time.time()
    (now,) = board.call(["TIME"])
    took = time.time() - before
    ahead = float("nan") if isinstance(now, Refused) else int(now[0]) + int(now[1]) / 1e6 - before - took / 2
    lines = [] if isinstance(info, Refused) else info.decode(errors="replace").splitlines()
    flat = [text for reply in config if not isinstance(reply, Refused) for text in reply]
    return Server(
        {name: value for name, colon, value in (line.partition(":") for line in lines) if colon},
        {name.decode(): value.decode(errors="replace") for name, value in zip(flat[::2], flat[1::2])},
        ahead,
        took / 2,
    )


def _nodes(board: Board) -> list[Node]:
    try:
        return [node for node in board.nodes() if node.facts]
    except OSError:  # refused: that is for _permissions() to say
        return []


# ---- what is looked at -------------------------------------------------------------------------------


def _access(board: Board, server: Server, nodes: list[Node]) -> Iterator[Finding]:
    if not server.info:
        text, advice = "INFO is refused, so most of this cannot be looked at", "give the user of this command +info"
        yield Finding(NOTE, "access", text, advice)
    if not server.config:
        text, advice = "CONFIG GET is refused", "give the user of this command +config|get, or ask your provider"
        yield Finding(NOTE, "access", text, advice)


def _version(board: Board, server: Server, nodes: list[Node]) -> Iterator[Finding]:
    version = server.info.get("redis_version", "")
    if not version:
        return
    parts = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    if parts < [5]:
        yield Finding(BAD, "version", f"Redis {version} has no streams", "use Redis 7 or later")
    elif parts < [7]:
        text = f"Redis {version} is older than what is tested, and needs +info of each cache's user"
        yield Finding(NOTE, "version", text, "use Redis 7 or later")
    else:
        yield Finding(FINE, "version", f"Redis {version}")


def _eviction(board: Board, server: Server, nodes: list[Node]) -> Iterator[Finding]:
    policy = server.config.get("maxmemory-policy", server.info.get("maxmemory_policy", ""))
    most, used = server.number("maxmemory"), server.number("used_memory")
    if not policy:
        return
    keep = "set maxmemory-policy volatile-lru: what is stored has an expiry and gives way, log and holds have none"
    if most == 0:
        text = "maxmemory is not set: memory grows until the system ends the server"
        yield Finding(NOTE, "eviction", text, f"set maxmemory, and {keep[4:]}")
    if policy.startswith("allkeys"):
        text = (
            f"maxmemory-policy is {policy}: when memory is full the log can be evicted, and every process drops all; "
        )
        text += "and the list of holds, without which a crash of a transaction(hold=) may leave stale what others store"
        yield Finding(BAD, "eviction", text, keep)
    elif policy == "noeviction" and most:
        text = f"maxmemory-policy is noeviction: when memory is full ({100 * used // most} % is used) invalidations"
        yield Finding(BAD, "eviction", f"{text} are refused, and processes compute what they cannot prove", keep)
    elif policy != "noeviction":
        yield Finding(FINE, "eviction", f"{policy}: neither the log nor the list of holds is evicted")


def _persistence(board: Board, server: Server, nodes: list[Node]) -> Iterator[Finding]:
    on = server.config.get("appendonly", "yes" if server.info.get("aof_enabled") == "1" else "no")
    how = server.config.get("appendfsync", "?") if on == "yes" else ""
    durable = [node.name for node in nodes if _option(node, "ack") == "durable" and not _option(node, "replicas")]
    if not server.info and not server.config:
        return
    if durable and (on != "yes" or (how != "always" and not _at_least(server, 7, 2))):
        text = f"ack='durable' of {_some(durable)} cannot be promised: "
        text += f"appendfsync is {how}" if on == "yes" else "nothing is written to a disk"
        yield Finding(BAD, "persistence", text, "set appendonly yes and appendfsync always, or use Redis 7.2 or later")
    if on == "yes":
        yield Finding(FINE, "persistence", f"appendonly, appendfsync {how}")
    else:
        save = server.config.get("save", "?")
        text = "there is no append-only file" + ("" if save else ", and no snapshot")
        text += ": a restart loses the log, so every process drops all that it has (nothing stale is served)"
        yield Finding(NOTE, "persistence", text, "set appendonly yes if restarts should cost less than that")
    if (
        server.info.get("aof_last_write_status", "ok") != "ok"
        or server.info.get("rdb_last_bgsave_status", "ok") != "ok"
    ):
        blocks = server.config.get("stop-writes-on-bgsave-error", "yes") == "yes"
        text = "the server could not write to its disk" + (", and refuses writes until it can" if blocks else "")
        yield Finding(BAD if blocks else NOTE, "persistence", text, "make room, or see the server's log")


def _replicas(board: Board, server: Server, nodes: list[Node]) -> Iterator[Finding]:
    info = server.info
    if info.get("role", "master") != "master":
        yield Finding(BAD, "replicas", "this server is a replica, which takes no invalidation", "name its master")
        return
    there = server.number("connected_slaves")
    least, lag = server.number("min-replicas-to-write"), server.number("min-replicas-max-lag")
    unfenced = [node.name for node in nodes if not _option(node, "replicas")]
    fenced = [node.name for node in nodes if _option(node, "replicas")]
    set_it = "set min-replicas-to-write 1 and min-replicas-max-lag 2 (seconds, by which staleness may exceed its bound)"
    if there and server.config and not least:
        text = f"{there} replicas and min-replicas-to-write 0: a master that is cut off goes on serving what is stale"
        yield Finding(BAD, "replicas", text, set_it)
    if there and unfenced:
        text = f"there are replicas, and {_some(unfenced)} would not notice to be cut off from them"
        yield Finding(BAD, "replicas", text, "give their caches replicas=1")
    if fenced and server.config and not least:
        text = f"{_some(fenced)} count on min-replicas-to-write, which is 0"
        yield Finding(BAD, "replicas", text, set_it)
    if least > server.number("min_slaves_good_slaves"):
        text = f"min-replicas-to-write is {least} and fewer replicas keep up: no invalidation is taken"
        yield Finding(BAD, "replicas", text, "bring the replicas back")
    elif least and there:
        yield Finding(FINE, "replicas", f"{there}, and a master that is cut off stops within {lag} s")
    elif not there and info and not fenced:
        yield Finding(FINE, "replicas", "none")


def _clock(board: Board, server: Server, nodes: list[Node]) -> Iterator[Finding]:
    follow = "let all machines follow one clock (NTP)"
    if server.ahead != server.ahead:
        yield Finding(NOTE, "clock", "TIME is refused", "give the user of this command +time")
        return
    off = abs(server.ahead)
    if off > SKEW + server.error:
        text = (
            f"the server's clock and that of this machine are {off:.0f} s apart: lives in the storage are off by that"
        )
        yield Finding(NOTE, "clock", text, follow)
    else:
        yield Finding(FINE, "clock", f"within {max(off, server.error) * 1e3:.0f} ms of this machine")
    for node in nodes:
        if node.age is not None and node.facts and not -SKEW - server.error < node.age < 5 + SKEW + server.error:
            wrong = f"the clock of {node.name} is about {abs(node.age):.0f} s off: so are lives that it stores"
            yield Finding(NOTE, "clock", wrong, follow)


def _permissions(board: Board, server: Server, nodes: list[Node]) -> Iterator[Finding]:
    scratch = board.key("doctor")
    board.call(["SET", scratch, "", "PX", 10_000])  # what it is to most commands: of the wrong type
    missing: list[str] = []
    for first in range(0, len(_NEEDED), _AT_ONCE):
        some = _NEEDED[first : first + _AT_ONCE]
        replies = board.call(*[[scratch if word == "$" else word for word in words] for _, words in some])
        missing += [name for (name, _), reply in zip(some, replies) if _is_refused(reply)]
    if "+exec" not in missing and _is_refused(board.call(["MULTI"], ["EXEC"])[0]):
        missing.append("+multi")
    if missing:
        text = f"the user may not run, or not on these keys, {' '.join(missing)}"
        advice = "allow them (ACL SETUSER), if caches have this user"
        yield Finding(BAD, "permissions", text, f"{advice}, on the keys ~{{{board.prefix}}}:* ~{{{board.prefix}:*}}:*")
    else:
        yield Finding(FINE, "permissions", "all commands that a cache needs")


def _is_refused(reply: Any) -> bool:
    return isinstance(reply, Refused) and ("NOPERM" in str(reply) or "unknown command" in str(reply))


def _way(board: Board, server: Server, nodes: list[Node]) -> Iterator[Finding]:
    scheme, _, rest = board.url.partition("://")
    host = rest.rpartition("@")[2]
    if scheme == "rediss":
        yield Finding(FINE, "way", "TLS, with the server's name checked")
    elif scheme == "unix" or host.startswith(_LOCAL) or not host:
        yield Finding(FINE, "way", "this machine")
    else:
        text = "values and password are sent in the clear to another machine"
        yield Finding(NOTE, "way", text, "use rediss:// unless the network between is yours alone")


_LOOKS: tuple[Callable[[Board, Server, list[Node]], Iterator[Finding]], ...] = (
    _access,
    _version,
    _eviction,
    _persistence,
    _replicas,
    _clock,
    _permissions,
    _way,
)

_AT_ONCE = 12  # commands

# What a cache needs, each in a form that changes nothing; $ is a key with a text. MULTI is tried with EXEC.
_NEEDED: tuple[tuple[str, list[str]], ...] = (
    ("+get", ["GET", "$"]),
    ("+mget", ["MGET", "$"]),
    ("+set", ["SET", "$", "", "PX", "10000"]),
    ("+pexpire", ["PEXPIRE", "$", "10000"]),
    ("+xadd", ["XADD", "$", "1-1", "n", ""]),
    ("+xread", ["XREAD", "COUNT", "1", "STREAMS", "$", "0"]),
    ("+xrange", ["XRANGE", "$", "-", "+", "COUNT", "1"]),
    ("+xrevrange", ["XREVRANGE", "$", "+", "-", "COUNT", "1"]),
    ("+xinfo|stream", ["XINFO", "STREAM", "$"]),
    ("+hget", ["HGET", "$", "f"]),
    ("+hset", ["HSET", "$", "f", ""]),
    ("+hdel", ["HDEL", "$", "f"]),
    ("+hgetall", ["HGETALL", "$"]),
    ("+hmget", ["HMGET", "$", "f"]),
    ("+hlen", ["HLEN", "$"]),
    ("+zadd", ["ZADD", "$", "1", "m"]),
    ("+zremrangebyscore", ["ZREMRANGEBYSCORE", "$", "0", "1"]),
    ("+zrange", ["ZRANGE", "$", "0", "1"]),
    ("+lrange", ["LRANGE", "$", "0", "1"]),
    ("+ltrim", ["LTRIM", "$", "0", "1"]),
    ("+rpush", ["RPUSH", "$", ""]),
    ("+script|load", ["SCRIPT", "LOAD", "return 0"]),
    ("+script|exists", ["SCRIPT", "EXISTS", "0"]),
    ("+eval", ["EVAL", "return 0", "0"]),
    ("+evalsha", ["EVALSHA", "0000000000000000000000000000000000000000", "0"]),
    ("+rename", ["RENAME", "$", "$"]),
    ("+exec", ["EXEC"]),
    ("+unlink", ["UNLINK", "$"]),
    ("+del", ["DEL", "$"]),
)


def _option(node: Node, name: str) -> Any:
    return node.facts.get("options", {}).get(name)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _at_least(server: Server, *version: int) -> bool:
    parts = server.info.get("redis_version", "0").split(".")[: len(version)]
    return tuple(int(part) for part in parts if part.isdigit()) >= version
