"""What there is of a fleet: its nodes, what is invalidated, and a way to ask them.

    with Board("redis://cache.internal", prefix="shop") as board:
        for node in board.nodes():
            print(node.name, node.stats.get("hits"))
        board.invalidate("user:42")
        board.ask("inspect", key, nodes=[node.id])

A node on a Redis bus tells about itself every second, whether anybody reads it or not: what is read here is that, by
the nodes' list, and costs the nodes nothing. A question waits for the next beat of the node that it is for. Nothing is
scanned. It needs of Redis what a node does, and +zrange.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from zoocache._cache import Cache
from zoocache._ffi_shared import Refused, Server
from zoocache._shared import check_url, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

__all__ = ["Board", "Node", "Said", "labels", "ratio", "totals"]

BEAT = 1.0  # seconds between two of a node
GONE = "gone"  # the status of a node that has told nothing for five seconds
_BATCH = 1000  # entries of the log that are read at once
_SHARDS = 16
_SEALED = f"{2:016x}"  # beside the log, among the holds: it is sealed


class Node(NamedTuple):
    """What a node has told about itself."""

    id: str
    status: str  # of health(): "ok", "degraded", "down"; "gone": it is silent, and is forgotten after a minute
    age: float | None  # seconds since it was heard of, as the clocks of node and server have it
    facts: dict[str, Any]  # as the beat has them; of a program in C what its statistics are

    @property
    def name(self) -> str:
        """Who it is, for people."""
        host, pid = self.facts.get("host"), self.facts.get("pid")
        return f"{host}:{pid}" if host else self.id

    @property
    def stats(self) -> dict[str, float]:
        """The statistics of its cache."""
        found: dict[str, float] = self.facts.get("stats", {})
        return found

    @property
    def checks(self) -> dict[str, dict[str, Any]]:
        """What health().checks of its cache has."""
        found: dict[str, dict[str, Any]] = self.facts.get("health", {}).get("checks", {})
        return found


class Said(NamedTuple):
    """An invalidation of the log."""

    at: float  # when, by the wall clock of who said it
    node: str
    # None: everything; "|fn:", "|key:" and "|scope:" begin those of the package itself. "(sealed)": see zoocache.seal
    tags: tuple[str, ...]


class Board:
    """The nodes that share a log in Redis under a prefix. For any thread; connects when it is asked something.

    url: as that of configure(); tls_ca, tls_cert, tls_key, too. seal_key: of caches that are sealed, one that all of
    them have; needed to invalidate. timeout: of a call, in seconds. Raises ValueError for a URL that is none; later
    OSError, while the server does not answer or refuses something.
    """

    def __init__(
        self,
        url: str,
        prefix: str = "zoocache",
        *,
        timeout: float = 2.0,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        seal_key: Any = None,
    ) -> None:
        check_url("redis", url, ("redis", "rediss", "unix", "redis+sentinel"))
        self.url = url
        self.prefix = prefix
        self._tls: dict[str, Any] = {"tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
        self._timeout = timeout
        self._seal_key = seal_key
        self._servers: dict[int, Server] = {}
        self._cache: Cache | None = None
        self._server(0)

    def __str__(self) -> str:
        """Where it is, without a password."""
        return f"{shown(self.url)[1:-1]} {self.prefix}"

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of its connections. Nobody may be asking."""
        cache, self._cache = self._cache, None
        if cache is not None:
            cache.close()
        while self._servers:
            self._servers.popitem()[1].close()

    # ---- the server --------------------------------------------------------------------------------

    def _server(self, shard: int) -> Server:
        found = self._servers.get(shard)
        if found is None:
            prefix = f"{self.prefix}:{shard}" if shard else self.prefix
            try:
                found = Server(self.url, self._timeout, prefix=prefix, **self._tls)
            except OSError as error:
                raise ValueError(f"zoocache cannot use {shown(self.url)}: {error}") from None
            self._servers[shard] = found
        return found

    def call(self, *commands: Sequence[str | bytes | int], shard: int = 0) -> list[Any]:
        """The replies to commands, in one round trip; what is refused is among them. Raises OSError."""
        words = [[w if isinstance(w, bytes) else str(w).encode() for w in command] for command in commands]
        return self._server(shard).ask(*words)

    def _get(self, *commands: Sequence[str | bytes | int], shard: int = 0) -> list[Any]:
        """The same, where none may be refused."""
        replies = self.call(*commands, shard=shard)
        for reply in replies:
            if isinstance(reply, Refused):
                raise OSError(f"Redis refuses it: {reply}")
        return replies

    def key(self, name: str, shard: int = 0) -> str:
        """The name of a key of the caches."""
        return f"{{{self.prefix}:{shard}}}:{name}" if shard else f"{{{self.prefix}}}:{name}"

    # ---- nodes -------------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """Those that were heard of within the last minute, by name."""
        listed, now = self.call(["ZRANGE", self.key("nodes"), 0, -1, "WITHSCORES"], ["TIME"])
        if isinstance(listed, Refused):
            raise OSError(f"Redis refuses it: {listed}")
        seconds = time.time() if isinstance(now, Refused) else int(now[0]) + int(now[1]) / 1e6
        pairs = list(_pairs(listed))
        if not pairs:
            return []
        (texts,) = self._get(["MGET", *[self.key(f"node:{id.decode()}") for id, _ in pairs]])
        found = []
        for (id, beat), text in zip(pairs, texts):
            age = seconds - float(beat) / 1e3
            facts = {} if text is None else _facts(text)
            status = GONE if text is None else facts.get("health", {}).get("status", "ok")
            if text is not None or age < 60:
                found.append(Node(id.decode(), status, age, facts))
        return sorted(found, key=lambda node: (node.name, node.id))

    def ask(
        self, do: str, *args: str | float, nodes: Iterable[str], timeout: float = 4 * BEAT
    ) -> dict[str, dict[str, Any]]:
        """What nodes answer, each a dict with "result" or "error": those that have answered in time.

        do: "inspect" a key; "tags" below one (or the highest); "keys" that depend on a tag; "clear" the node's memory;
        "prune" tags that were idle for so many seconds; "invalidate" tags, which is for all, whoever says it.
        """
        wanted = list(nodes)
        token = secrets.token_hex(16)
        reply = self.key(f"reply:{token}")
        question = json.dumps({"token": token, "do": do, "args": args})
        for id in wanted:
            box = self.key(f"ask:{id}")
            self._get(["RPUSH", box, question], ["PEXPIRE", box, 10_000])
        answers: dict[str, dict[str, Any]] = {}
        end = time.monotonic() + timeout
        while len(answers) < len(wanted) and time.monotonic() < end:
            time.sleep(BEAT / 10)
            (texts,) = self._get(["LRANGE", reply, len(answers), -1])
            for text in texts:
                answer = json.loads(text)
                answers[answer.pop("node")] = answer
        return answers

    def examined(self) -> list[Any] | None:
        """What the doctor has to say; None: he looks at the server himself."""
        return None

    # ---- invalidations -----------------------------------------------------------------------------

    @property
    def cache(self) -> Cache:
        """A cache of this process on the same log, which tells nothing about itself; made when it is needed."""
        if self._cache is None:
            shards = self._log_shards()
            made = Cache(
                bus_url=self.url,
                prefix=self.prefix,
                log_shards=shards,
                timeout=self._timeout,
                seal_key=self._seal_key,
                **self._tls,
            )
            assert made.shared is not None
            made.shared.beat = None
            self._cache = made
        return self._cache

    def invalidate(self, *tags: str) -> None:
        """Invalidates tags, everywhere; without tags, everything. Raises OSError if the log does not take it, and
        ValueError if the log is sealed and no key was given.
        """
        if self._seal_key is None and self._get(["HEXISTS", self.key("holds"), _SEALED])[0]:
            raise ValueError("the log is sealed: give the key of the caches, seal_key or ZOOCACHE_SEAL_KEY")
        cache = self.cache
        if tags:
            cache.invalidate(*tags)
        else:
            cache.clear()
        if cache.stats().bus_pending:
            raise OSError("the log has not taken it")

    def _log_shards(self) -> int:
        (newest,) = self._get(["XREVRANGE", self.key("log"), "+", "-", "COUNT", 1])
        return int(newest[0][0].split(b"-")[0]) % _SHARDS + 1 if newest else 1

    def said(self, after: dict[int, str] | None = None) -> tuple[list[Said], dict[int, str]]:
        """What was invalidated since the last call, whose second value is given to the next; else the last hundred."""
        found: list[Said] = []
        seen: dict[int, str] = {}
        for shard in range(self._log_shards()):
            key, last = self.key("log", shard), (after or {}).get(shard)
            if last is None:
                (entries,) = self._get(["XREVRANGE", key, "+", "-", "COUNT", 100], shard=shard)
                entries.reverse()
            else:
                (entries,) = self._get(["XRANGE", key, _next(last), "+", "COUNT", _BATCH], shard=shard)
            seen[shard] = entries[-1][0].decode() if entries else last or "0-0"
            found += [each for id, fields in entries if (each := _said(id, dict(_pairs(fields)))) is not None]
        return sorted(found, key=lambda each: each.at), seen


def labels(nodes: Iterable[Node]) -> dict[str, str]:
    """What to call each node, by its id: its name, and the beginning of its id if the name is not its own."""
    there = list(nodes)
    names = [node.name for node in there]
    return {n.id: n.name if names.count(n.name) == 1 else f"{n.name} {n.id[:6]}" for n in there}


def totals(nodes: Iterable[Node]) -> dict[str, float]:
    """The statistics of all nodes that are there, summed."""
    found: dict[str, float] = {}
    for node in nodes:
        for name, value in node.stats.items():
            found[name] = found.get(name, 0) + value
    return found


def ratio(stats: dict[str, float]) -> float | None:
    """The share of calls that were answered by what there was; None: there were none."""
    calls = stats.get("hits", 0) + stats.get("misses", 0)
    return stats.get("hits", 0) / calls if calls else None


def _pairs(flat: list[Any]) -> Iterable[tuple[Any, Any]]:
    """RESP3 has pairs where RESP2 has one after the other."""
    if flat and isinstance(flat[0], list):
        return [(first, second) for first, second in flat]
    return zip(flat[::2], flat[1::2])


def _facts(text: bytes) -> dict[str, Any]:
    """What a node has told: JSON, or of a program in C the text of its metrics."""
    if text[:1] == b"{":
        try:
            found: dict[str, Any] = json.loads(text)
            return found
        except ValueError:
            return {}
    stats: dict[str, float] = {}
    for name, labels, value in re.findall(r"^zoocache_(\w+)\{(.*)\} (\S+)$", text.decode(errors="replace"), re.M):
        if name == "misses_total":
            reason = re.search(r'reason="(\w+)"', labels)
            stats["misses"] = stats.get("misses", 0) + float(value)
            name = reason[1] if reason else name
        elif "," in labels or "_bucket" in name:
            continue
        stats[_IN_C.get(name, name.removesuffix("_total"))] = float(value)
    return {"stats": stats, "program": "(C)"}


# What statistics are called there, and here.
_IN_C = {
    "fill_errors_total": "errors",
    "hits_store_total": "hits_storage",
    "store_errors_total": "storage_errors",
    "store_skipped_total": "storage_skipped",
    "store_open": "storage_down",
    "bus_entries_total": "bus_heard",
}


def _next(id: str) -> str:
    gen, position = id.split("-")
    return f"{gen}-{int(position) + 1}"


def _said(id: bytes, fields: dict[bytes, bytes]) -> Said | None:
    """An entry of the log; None: it is the first, which says nothing."""
    if id.endswith(b"-0"):
        return None
    packed, tags, at = fields.get(b"t", b""), [], 0
    while at + 2 <= len(packed):
        size = int.from_bytes(packed[at : at + 2], "little")
        tag = packed[at + 2 : at + 2 + size]
        tags.append("(sealed)" if tag[:1] == b":" else tag.decode(errors="replace"))
        at += 2 + size
    return Said(int(fields.get(b"h", 0)) / 1e3, fields.get(b"n", b"").decode().partition(".")[0], tuple(tags))
