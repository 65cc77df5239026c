"""What the dashboard is made of: a card for each node, and curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.widgets import Static

from zoocache._terminal import amount, percent, plain, seconds
from zoocache.monitor import GONE, Node, ratio

try:
    from textual_plotext import PlotextPlot
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ImportError("the dashboard needs textual-plotext: pip install 'zoocache[cli]'") from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoocache.tui.history import Moment

__all__ = ["Card", "Curves", "totals_line"]

WIDTH = 28  # of a card
_STYLES = {"ok": "green", "degraded": "yellow", "down": "bold red", GONE: "bold red"}


class Card(Static):
    """A node: who it is, how it does, what it does."""

    def show(self, node: Node, rates: dict[str, float]) -> None:
        """What is known of it now."""
        self.set_class(node.status != "ok", "amiss")
        self.update(_card(node, rates), layout=False)


def _card(node: Node, rates: dict[str, float]) -> Text:
    stats, checks = node.stats, node.checks
    room = WIDTH - 4
    mark = f" {node.id[:4]} "  # as names are not unique: a process may have several caches
    name = plain(node.name, room - len(mark) - len(node.status))
    gap = " " * (room - len(name) - len(mark) - len(node.status))
    head = Text.assemble((name, "bold"), mark, gap, (node.status, _STYLES.get(node.status, "")), "\n")
    if node.status == GONE:
        return Text.assemble(head, f"heard {seconds(node.age)} ago")
    calls = rates.get("hits", 0) + rates.get("misses", 0)
    lately = percent(ratio(rates if calls else stats))
    away = checks.get("storage", {}).get("breaker") == "open" or stats.get("storage_down")
    bus = "no storage" if away else f"bus {seconds(checks.get('bus', {}).get('age'))}"
    return Text.assemble(
        head, f"{lately:>6} hits     {amount(calls)}/s\n", f"{amount(stats.get('entries', 0)):>6} entries  {bus}"
    )


def totals_line(nodes: Sequence[Node], total: dict[str, float], moment: Moment) -> Text:
    """The whole fleet, in a line."""
    rates = moment.rates
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.status] = counts.get(node.status, 0) + 1
    text = Text(f"{len(nodes)} nodes")
    for status in sorted(counts):
        text.append(f"  {counts[status]} ")
        text.append(status, _STYLES.get(status, ""))
    calls = rates.get("hits", 0) + rates.get("misses", 0)
    text.append(f"   hits {percent(ratio(total))}  calls {amount(calls)}/s  computed {amount(rates.get('fills', 0))}/s")
    text.append(f"  invalidations {amount(moment.said)}/s  bus {seconds(moment.bus)}")
    text.append(f"  entries {amount(total.get('entries', 0))}  errors {amount(total.get('errors', 0))}")
    return text


class Curves(PlotextPlot):
    """Some curves over the last minutes."""

    def __init__(self, title: str, top: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.title = title
        self.top = top

    def show(self, curves: dict[str, list[float | None]]) -> None:
        """Draws these; a value that is None is no point."""
        plt = self.plt
        plt.clear_data()
        plt.title(self.title)
        drawn = [value for values in curves.values() for value in values if value is not None]
        plt.ylim(0, self.top or max(drawn, default=0) * 1.2 or 1)
        longest = max(map(len, curves.values()), default=0)
        plt.xlim(-max(longest, 60), 0)
        for name, values in curves.items():
            points = [(at - len(values) + 1, value) for at, value in enumerate(values) if value is not None]
            if points:
                plt.plot(*zip(*points), label=f"{name} {_short(points[-1][1])}", marker="braille")
        self.refresh()


def _short(value: float) -> str:
    return f"{value:.3g}"
