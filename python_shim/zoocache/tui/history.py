"""What a fleet has done over time: differences between what its nodes have told."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from zoocache.monitor import GONE, Node, ratio

__all__ = ["History", "Moment"]

_COUNTED = ("hits", "misses", "fills", "errors", "bus_heard")


class Moment(NamedTuple):
    """What was known at one moment."""

    ratio: float | None  # of the calls of late; None: there were none
    rates: dict[str, float]  # per second, of all nodes
    storage: float | None  # seconds: of look-ups in the storage, the mean of the nodes
    fills: float | None  # of computations, the median; the mean of the nodes that tell it
    bus: float | None  # since all was heard, the worst of the nodes
    said: float  # invalidations per second, as the node that has heard most has it


class History:
    """The last moments, and what each node does."""

    def __init__(self, most: int = 300) -> None:
        self.moments: deque[Moment] = deque(maxlen=most)
        self.rates: dict[str, dict[str, float]] = {}  # of each node, per second
        self._told: dict[str, tuple[float, dict[str, float]]] = {}  # when, by its own clock, and what

    def add(self, now: float, nodes: list[Node]) -> Moment:
        """Another moment: what the nodes have told last."""
        here = [node for node in nodes if node.status != GONE]
        self.rates = {node.id: self._since(now, node) for node in here}
        self._told = {node.id: self._told[node.id] for node in here}
        total = {name: sum(rates.get(name, 0.0) for rates in self.rates.values()) for name in _COUNTED}
        said = max([rates.get("bus_heard", 0.0) for rates in self.rates.values()], default=0.0)
        stored = [node.checks.get("storage", {}).get("latency") for node in here]
        filled = [(node.facts.get("fills") or {}).get("p50") for node in here]
        heard = [node.checks.get("bus", {}).get("age") for node in here]
        worst = max([each for each in heard if each is not None], default=None)
        moment = Moment(ratio(total), total, _mean(stored), _mean(filled), worst, said)
        self.moments.append(moment)
        return moment

    def _since(self, now: float, node: Node) -> dict[str, float]:
        """What a node does per second: between the last two times that it has told something."""
        at, stats = node.facts.get("uptime", now), node.stats
        before = self._told.get(node.id)
        if before is not None and at == before[0]:
            return self.rates.get(node.id, {})
        self._told[node.id] = (at, stats)
        if before is None or at < before[0]:
            return {}
        return {name: max(0.0, stats.get(name, 0) - before[1].get(name, 0)) / (at - before[0]) for name in _COUNTED}


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
