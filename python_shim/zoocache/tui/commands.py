"""The line of commands: ``[target] command [arguments]``.

target     all (if none is named), local (the dashboard's own process), or a node: its name, its id or how that begins
invalidate TAG...      everywhere, whichever node says it
clear                  all: everything, everywhere; a node: what it has in its memory
prune [SECONDS]        forgets tags that nothing has depended on for so long
inspect KEY            what the nodes have under a key
tags [TAG], keys TAG   the tags below one, the keys that depend on one
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from zoocache._terminal import plain
from zoocache.monitor import GONE, labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoocache.monitor import Board, Node

__all__ = ["Command", "parse", "run", "summed"]

# Of each command, how many arguments it takes at least and at most.
_KNOWN = {"invalidate": (1, 1000), "clear": (0, 0), "prune": (0, 1), "inspect": (1, 1), "tags": (0, 1), "keys": (1, 1)}


class Command(NamedTuple):
    """What is to be done, and by whom."""

    target: str  # "all", "local", or the id of a node
    do: str
    args: tuple[str, ...]

    def __str__(self) -> str:
        return plain(" ".join([self.target, self.do, *self.args]), 200)


def parse(line: str, nodes: list[Node]) -> Command:
    """Reads a line. Raises ValueError, with what to do."""
    words = line.split()
    target = "all"
    if words and words[0] not in _KNOWN:
        target = _target(words.pop(0), nodes)
    if not words or words[0] not in _KNOWN:
        raise ValueError(f"[target] and one of {', '.join(_KNOWN)}; h tells more")
    do, args = words[0], tuple(words[1:])
    least, most = _KNOWN[do]
    if not least <= len(args) <= most:
        raise ValueError(f"{do} takes {least if least == most else f'{least} or more'} arguments")
    if do == "prune" and args and not args[0].replace(".", "", 1).isdecimal():
        raise ValueError("prune takes seconds")
    return Command(target, do, args)


def _target(word: str, nodes: list[Node]) -> str:
    if word in ("all", "local"):
        return word
    found = [node.id for node in nodes if word in (node.id, node.name)]
    found = found or [node.id for node in nodes if node.id.startswith(word)]
    if len(found) == 1:
        return found[0]
    many = "several nodes begin" if found else "no command and no node begins"
    raise ValueError(f"{many} with {plain(word, 20)}")


def run(board: Board, command: Command, nodes: list[Node]) -> dict[str, dict[str, Any]]:
    """Does it; may wait for the nodes' beats. Returns what each has answered, by what it is called.

    Raises OSError and InvalidTag, and ValueError if nodes cannot be asked.
    """
    target, do, args = command
    if target == "local":
        return {"local": {"result": _LOCAL[do](board, *args)}}
    if target == "all" and do in ("invalidate", "clear"):
        board.invalidate(*args)
        return {}
    wanted = labels(n for n in nodes if n.status != GONE and target in ("all", n.id))
    answers = board.ask(do, *args, nodes=wanted)
    return {wanted[id]: answers.get(id, {"error": "no answer"}) for id in wanted}


_LOCAL: dict[str, Callable[..., Any]] = {
    "invalidate": lambda board, *tags: board.cache.invalidate(*tags),
    "clear": lambda board: board.cache.clear(),
    "prune": lambda board, age="3600": board.cache.prune(float(age)),
    "inspect": lambda board, key: None,  # it keeps nothing
    "tags": lambda board, above="": [],
    "keys": lambda board, tag: [],
}


def summed(answers: dict[str, dict[str, Any]]) -> list[tuple[str, int]]:
    """The answers of several nodes to "tags", as one: the largest first."""
    total: dict[str, int] = {}
    for answer in answers.values():
        for tag, count in answer.get("result") or ():
            total[tag] = total.get(tag, 0) + count
    return sorted(total.items(), key=lambda item: (-item[1], item[0]))
