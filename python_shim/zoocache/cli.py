"""The command ``zoocache``: what the caches of a fleet do, for terminals and scripts.

    zoocache nodes --redis redis://cache.internal --prefix shop
    zoocache stats --json
    zoocache invalidate user:42
    zoocache explain profile:9f86d081884c7d65
    zoocache doctor
    zoocache dashboard

The URL is also that of the variable REDIS_URL, where no list of processes shows its password. Ends with 0 if all is
well, 1 if something is amiss, 2 if it was called wrongly, 3 if the server does not answer or refuses.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from zoocache import _ffi
from zoocache._errors import BuiltWithout, InvalidTag
from zoocache._terminal import percent, plain, seconds
from zoocache.monitor import GONE, Board, Node, labels, ratio, totals
from zoocache.place_monitor import board

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["main", "run_cli"]

FINE, AMISS, WRONG, AWAY = range(4)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command. Raises SystemExit."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        sys.exit(AMISS)
    if args.command in ("cli", "dashboard"):
        run_cli(args)
        return
    if args.command == "seal":
        from zoocache.seal import new_key

        print(new_key())
        sys.exit(FINE)
    if not args.redis:
        parser.error("say where the caches' Redis or place is: --redis redis://host (or another URL), or REDIS_URL")
    try:
        with board(args.redis, args.prefix, **{name: getattr(args, name) for name in _OPTIONS}) as there:
            code = _COMMANDS[args.command](there, args)
    except (ValueError, InvalidTag, BuiltWithout) as error:
        print(f"zoocache: {error}", file=sys.stderr)
        code = WRONG
    except OSError as error:
        print(f"zoocache: {_where(args)}: {error}", file=sys.stderr)
        code = AWAY
    sys.exit(code)


def run_cli(args: argparse.Namespace) -> None:
    """The dashboard, until it is left."""
    if not args.redis:
        print("Redis URL is required: --redis redis://host, or the variable REDIS_URL", file=sys.stderr)
        sys.exit(AMISS)
    try:
        from zoocache.tui.app import ZooCacheCLI
    except ImportError as error:
        print(f"zoocache: {error}", file=sys.stderr)
        sys.exit(WRONG)
    options = {name: value for name in _OPTIONS if (value := getattr(args, name, None))}
    try:
        app = ZooCacheCLI(redis_url=args.redis, prefix=args.prefix, **options)
    except (ValueError, BuiltWithout) as error:
        print(f"zoocache: {error}", file=sys.stderr)
        sys.exit(WRONG)
    app.run()


_TLS = ("tls_ca", "tls_cert", "tls_key")
_OPTIONS = (*_TLS, "seal_key")


def _parser() -> argparse.ArgumentParser:
    place = argparse.ArgumentParser(add_help=False)
    url_text = "or storage_url of the caches, if they share a place; or the variable REDIS_URL"
    place.add_argument("--redis", "--storage-url", metavar="URL", default=os.environ.get("REDIS_URL"), help=url_text)
    place.add_argument("--prefix", default="zoocache", help="that of the caches (default: zoocache)")
    for name in _TLS:
        place.add_argument("--" + name.replace("_", "-"), metavar="FILE", help="of rediss://, as in configure()")
    key_text = "of caches that are sealed, needed to invalidate: file:PATH; or the variable ZOOCACHE_SEAL_KEY"
    place.add_argument("--seal-key", metavar="KEY", default=os.environ.get("ZOOCACHE_SEAL_KEY"), help=key_text)
    script = argparse.ArgumentParser(add_help=False, parents=[place])
    script.add_argument("--json", action="store_true", help="for programs")
    parser = argparse.ArgumentParser(
        prog="zoocache",
        description="ZooCache: what the caches of a fleet do.",
        epilog="Ends with 0: all is well; 1: something is amiss; 2: called wrongly; 3: the server does not answer.",
    )
    parser.add_argument("--version", action="version", version=_ffi.library_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("cli", aliases=["dashboard"], parents=[place], help="watch the processes in this terminal")
    commands.add_parser("nodes", parents=[script], help="list the processes that have a cache on this Redis")
    commands.add_parser("stats", parents=[script], help="their statistics, summed")
    tags = commands.add_parser("invalidate", parents=[script], help="invalidate tags, in every process")
    tags.add_argument("tag", nargs="+")
    key = commands.add_parser("explain", parents=[script], help="whether a key would be served, by which process")
    key.add_argument("key", help="as f.key(...) or `keys` of a cache gives it")
    commands.add_parser("doctor", parents=[script], help="what in the server's settings breaks the promise")
    seal = commands.add_parser("seal", help="keys that seal what a storage gets (zoocache.seal)")
    seal.add_argument("what", choices=["new-key"], help="print a new one")
    return parser


def _where(args: argparse.Namespace) -> str:
    from zoocache._shared import shown

    return shown(args.redis)[1:-1]


# ---- commands ----------------------------------------------------------------------------------------


def _nodes(board: Board, args: argparse.Namespace) -> int:
    nodes = board.nodes()
    if args.json:
        _print_json([{"id": n.id, "status": n.status, "age": n.age, **n.facts} for n in nodes])
    else:
        head = (
            "NODE",
            "ID",
            "STATUS",
            "HEARD",
            "UP",
            "HITS",
            "MISSES",
            "RATIO",
            "ENTRIES",
            "BUS",
            "BREAKER",
            "PROGRAM",
        )
        _print_table(head, map(_row, nodes))
    return FINE if nodes and all(node.status == "ok" for node in nodes) else AMISS


def _row(node: Node) -> tuple[str, ...]:
    stats, checks = node.stats, node.checks

    def count(name: str) -> str:
        return f"{stats[name]:.0f}" if name in stats else "-"

    return (
        node.name, node.id, node.status, seconds(node.age), seconds(node.facts.get("uptime")), count("hits"),
        count("misses"), percent(ratio(stats)), count("entries"), seconds(checks.get("bus", {}).get("age")),
        checks.get("storage", {}).get("breaker", "-"), str(node.facts.get("program", "-")),
    )  # fmt: skip


def _stats(board: Board, args: argparse.Namespace) -> int:
    nodes = [node for node in board.nodes() if node.status != GONE]
    found = {"nodes": len(nodes), "hit_ratio": ratio(totals(nodes)), **totals(nodes)}
    if args.json:
        _print_json(found)
    else:
        for name, value in found.items():
            print(f"{name:18} {percent(value) if name == 'hit_ratio' else f'{value:.0f}'}")
    return FINE if nodes else AMISS


def _invalidate(board: Board, args: argparse.Namespace) -> int:
    board.invalidate(*args.tag)
    if args.json:
        _print_json({"invalidated": args.tag})
    return FINE


def _explain(board: Board, args: argparse.Namespace) -> int:
    names = labels(node for node in board.nodes() if node.status != GONE)
    answers = board.ask("inspect", args.key, nodes=names)
    if args.json:
        _print_json({name: answers.get(id, {"error": "no answer"}) for id, name in names.items()})
    else:
        head = ("NODE", "SERVED", "WHY NOT", "KILLED BY", "AGE", "LEFT", "TYPE", "TAGS")
        _print_table(head, [_explained(name, answers.get(id)) for id, name in names.items()])
    served = any((answer.get("result") or {}).get("fresh") for answer in answers.values())
    return FINE if served else AMISS


def _explained(name: str, answer: dict[str, Any] | None) -> tuple[str, ...]:
    found = (answer or {}).get("result")
    if not found:
        why = "no answer" if answer is None else answer.get("error", "absent")
        return (name, "no", why, "-", "-", "-", "-", "-")
    return (
        name, "yes" if found["fresh"] else "no", found["reason"] or "-", found["killer"] or "-",
        seconds(found["age"]), seconds(found["expires_in"]), found["type"], " ".join(found["deps"]),
    )  # fmt: skip


def _doctor(board: Board, args: argparse.Namespace) -> int:
    from zoocache.doctor import BAD, diagnose

    found = diagnose(board)
    if args.json:
        _print_json([finding._asdict() for finding in found])
    else:
        for level, about, text, advice in found:
            print(plain(f"{level:4}  {about}: {text}" + (f"; {advice}." if advice else "."), 500))
    return AMISS if any(finding.level == BAD for finding in found) else FINE


_COMMANDS: dict[str, Callable[[Board, argparse.Namespace], int]] = {
    "nodes": _nodes,
    "stats": _stats,
    "invalidate": _invalidate,
    "explain": _explain,
    "doctor": _doctor,
}


# ---- printing ----------------------------------------------------------------------------------------


def _print_json(found: Any) -> None:
    print(json.dumps(found, indent=2))


def _print_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    lines = [head, *[tuple(map(plain, row)) for row in rows]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip())
