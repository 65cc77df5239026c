"""What the dashboard is made of: the nodes' cards, and curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from zoocache._terminal import amount, percent, plain, seconds
from zoocache.monitor import GONE, Node, ratio

try:
    from textual_plotext import PlotextPlot
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ImportError("the dashboard needs textual-plotext: pip install 'zoocache[cli]'") from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoocache.tui.history import Moment

__all__ = ["Cards", "Curves", "totals_line"]

_WIDTH, _HEIGHT = 28, 5  # of a card
# Around one that is well, or amiss: the left, what is between, the right, of its first line, its text, its last line.
_FRAMES = (
    (("╭", "─", "╮"), ("│ ", "", " │"), ("╰", "─", "╯")),
    (("┏", "━", "┓"), ("┃ ", "", " ┃"), ("┗", "━", "┛")),
)
_STYLES = {"ok": "green", "degraded": "yellow", "down": "bold red", GONE: "bold red"}


class Cards(ScrollView):
    """A card for each node: who it is, how it does, what it does.

    Lines are drawn, and again only those of cards that say something else. A widget for each card would have its style,
    its border and its text worked out by itself, which took most of a refresh.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"cards--well", "cards--amiss"}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cards: list[Card] = []
        self._columns = 1

    def show(self, nodes: Sequence[Node], rates: dict[str, dict[str, float]]) -> None:
        """What is known of them now."""
        before, self.cards = self.cards, [_card(node, rates.get(node.id, {})) for node in nodes]
        if len(before) != len(self.cards):
            self._lay_out()
        changed = [at for at, (old, new) in enumerate(zip(before, self.cards)) if old != new]
        for row in {at // self._columns for at in changed}:
            self.refresh_lines(row * _HEIGHT, _HEIGHT)

    def on_resize(self) -> None:
        """There may be room for more of them beside each other, or less."""
        self._lay_out()

    def _lay_out(self) -> None:
        width = self.scrollable_content_region.width
        self._columns = max(1, width // _WIDTH)
        self.virtual_size = Size(width, -(-len(self.cards) // self._columns) * _HEIGHT)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draws one line of what is seen."""
        row, line = divmod(y + self.scroll_offset.y, _HEIGHT)
        width = self.scrollable_content_region.width // self._columns
        segments: list[Segment] = []
        for card in self.cards[row * self._columns : (row + 1) * self._columns]:
            frame = self.get_component_rich_style("cards--amiss" if card.amiss else "cards--well")
            left, middle, right = _FRAMES[card.amiss][min(line, 1) + line // (_HEIGHT - 1)]
            segments.append(Segment(left, frame))
            if middle:
                segments.append(Segment(middle * (width - 2), frame))
            else:
                text = Strip(Segment(part, Style.parse(style)) for part, style in card.lines[line - 1])
                segments += text.adjust_cell_length(width - 4)
            segments.append(Segment(right, frame))
        return Strip(segments).adjust_cell_length(self.size.width).apply_style(self.rich_style)


class Card(NamedTuple):
    """A node, as it is drawn: parts of lines, each with its style."""

    amiss: bool
    lines: tuple[tuple[tuple[str, str], ...], ...]


def _card(node: Node, rates: dict[str, float]) -> Card:
    stats, checks = node.stats, node.checks
    room = _WIDTH - 4
    mark = f" {node.id[:4]} "  # as names are not unique: a process may have several caches
    name = plain(node.name, room - len(mark) - len(node.status))
    gap = " " * (room - len(name) - len(mark) - len(node.status))
    head = ((name, "bold"), (mark + gap, ""), (node.status, _STYLES.get(node.status, "")))
    if node.status == GONE:
        return Card(True, (head, ((f"heard {seconds(node.age)} ago", ""),), ()))
    calls = rates.get("hits", 0) + rates.get("misses", 0)
    lately = percent(ratio(rates if calls else stats))
    away = checks.get("storage", {}).get("breaker") == "open" or stats.get("storage_down")
    bus = "no storage" if away else f"bus {seconds(checks.get('bus', {}).get('age'))}"
    does = f"{lately:>6} hits     {amount(calls)}/s", f"{amount(stats.get('entries', 0)):>6} entries  {bus}"
    return Card(node.status != "ok", (head, *(((line, ""),) for line in does)))


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
        self.plt.title(title)
        self.top = top

    def show(self, curves: dict[str, list[float | None]]) -> None:
        """Draws these; a value that is None is no point."""
        plt = self.plt
        plt.clear_data()
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
