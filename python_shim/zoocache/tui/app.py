"""The dashboard of a fleet, in a terminal.

Once a second a thread reads what the nodes have told and what was invalidated (see zoocache.monitor); what is shown is
that. A node is asked only by a command. If the server does not answer, the dashboard says so, and goes on when it does.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any, ClassVar

try:
    from textual import work
    from textual.app import App
    from textual.binding import Binding
    from textual.containers import Horizontal
    from textual.widgets import DataTable, Footer, Input, RichLog, Static, TabbedContent, TabPane
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise ImportError("the dashboard needs textual: pip install 'zoocache[cli]'") from error

from zoocache._errors import InvalidTag
from zoocache._terminal import plain
from zoocache.monitor import Node, Said, labels, totals
from zoocache.place_monitor import board
from zoocache.tui.commands import Command, parse, run, summed
from zoocache.tui.history import History
from zoocache.tui.screens import Help, Inspect
from zoocache.tui.widgets import Cards, Curves, totals_line

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["ZooCacheCLI"]

EVERY = 1.0  # seconds
_LINES = 50  # of invalidations, shown of what came within that time


class ZooCacheCLI(App[None]):
    """``ZooCacheCLI(redis_url="redis://cache.internal", prefix="shop").run()``.

    redis_url: or that of a place. tls_ca, tls_cert, tls_key, seal_key: as of Board. Raises ValueError for a URL that
    is none.
    """

    TITLE = "zoocache"
    AUTO_FOCUS = None
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, #fleet { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    #head { background: $panel; }
    #head.away { background: $error; color: $text; text-style: bold; }
    #curves { height: 10; }
    .-low #curves { display: none; }
    Cards { height: 2fr; overflow-x: hidden; scrollbar-gutter: stable; }
    .cards--well { color: $primary; }
    .cards--amiss { color: $error; }
    #lists { height: 1fr; min-height: 6; }
    #lists TabPane { padding: 0; }
    #command { height: 1; border: none; padding: 0 1; }
    ModalScreen { align: center middle; }
    .window { width: 90%; max-width: 110; height: auto; max-height: 90%; border: thick $primary; padding: 1 2;
        background: $surface; }
    #found { height: auto; max-height: 16; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "double_quit", "Quit", priority=True, show=False),
        Binding("colon,slash", "command", "Command", key_display=":"),
        Binding("t", "tags", "Tags"),
        Binding("i", "inspect_key", "Inspect"),
        Binding("c", "clear_log", "Clear"),
        Binding("h,question_mark", "help", "Help", key_display="h"),
        Binding("backspace", "up", "Up", show=False),
        Binding("escape", "leave", "Leave", show=False),
    ]

    def __init__(self, redis_url: str, prefix: str = "zoocache", **options: Any) -> None:
        super().__init__()
        self.VERTICAL_BREAKPOINTS = [(0, "-low"), (30, "-high")]
        self.board = board(redis_url, prefix, **options)
        self.nodes: list[Node] = []
        self.history = History()
        self.above = ""  # the tag whose tags are listed
        self._seen: dict[int, str] | None = None  # of the log
        self._reading = False
        self._turn = False  # of the curves
        self._since: float | None = None  # when the server was last heard, if it does not answer
        self._asked_to_quit = -10.0

    def compose(self) -> ComposeResult:
        yield Static(f"{self.board}   connecting", id="head", markup=False)
        yield Static("", id="fleet", markup=False)
        with Horizontal(id="curves"):
            yield Curves("hits, % of calls", 100.0, id="ratio")
            yield Curves("storage and computations, ms", id="latency")
        yield Cards()
        with TabbedContent(id="lists"):
            with TabPane("Invalidations", id="said"):
                yield RichLog(id="log", max_lines=2000, markup=False, wrap=False)
            with TabPane("Tags", id="tags"):
                yield DataTable(id="by-size", cursor_type="row")
        yield Input(placeholder="[target] command, such as: all invalidate user:42", id="command")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#by-size", DataTable).add_columns("tag", "entries")
        self.set_interval(EVERY, self.read)
        self.read()
        self.call_after_refresh(lambda: gc.freeze())  # else looking through what stays takes as long as drawing

    def on_unmount(self) -> None:
        gc.unfreeze()
        self.workers.cancel_all()

    # ---- reading -----------------------------------------------------------------------------------

    def read(self) -> None:
        """Has what there is read, unless that is being done."""
        if not self._reading:
            self._reading = True
            self._read()

    @work(thread=True, group="read")
    def _read(self) -> None:
        try:
            nodes, (said, seen) = self.board.nodes(), self.board.said(self._seen)
        except OSError as error:
            self.tell(self.away, str(error))
        else:
            self._seen = seen
            self.tell(self.show, nodes, said)

    def tell(self, work: Any, *args: Any) -> None:
        """From a thread: has this done by the application, if it still runs."""
        if self.is_running:
            self.call_from_thread(work, *args)

    def away(self, why: str) -> None:
        """The server does not answer."""
        self._reading = False
        if self._since is None:
            self._since = time.monotonic()
        gone = time.monotonic() - self._since
        head = self.query_one("#head", Static)
        head.add_class("away")
        head.update(f"{self.board}   does not answer since {gone:.0f} s: {plain(why, 120)}")

    def show(self, nodes: list[Node], said: list[Said]) -> None:
        """What was read."""
        self._reading = False
        self._since = None
        self.nodes = nodes
        moment = self.history.add(time.monotonic(), nodes)
        head = self.query_one("#head", Static)
        head.remove_class("away")
        head.update(f"{self.board}   {time.strftime('%H:%M:%S')}", layout=False)
        self.query_one("#fleet", Static).update(totals_line(nodes, totals(nodes), moment), layout=False)
        self.query_one(Cards).show(nodes, self.history.rates)
        self._show_curves()
        self._show_said(said)

    def _show_curves(self) -> None:
        """One of them, by turns: to draw both is half of a refresh, and a second moves them by less than a column."""
        self._turn = not self._turn
        if not self.query_one("#curves").display:
            return
        moments = self.history.moments
        if self._turn:
            self.query_one("#ratio", Curves).show({"": [_times(each.ratio, 100) for each in moments]})
        else:
            curves = {name: [_times(getattr(each, name), 1e3) for each in moments] for name in ("storage", "fills")}
            self.query_one("#latency", Curves).show(curves)

    def _show_said(self, said: list[Said]) -> None:
        names = labels(self.nodes)
        lines = [f"          {len(said) - _LINES} more"] if len(said) > _LINES else []
        for each in said[-_LINES:]:
            tags = [plain(tag) for tag in each.tags[:5]] or ["everything"]
            more = f" and {len(each.tags) - 5} more" if len(each.tags) > 5 else ""
            at = time.strftime("%H:%M:%S", time.localtime(each.at))
            lines.append(f"{at}  {', '.join(tags)}{more}   by {plain(names.get(each.node, each.node), 30)}")
        if lines:
            self.query_one("#log", RichLog).write("\n".join(lines))

    # ---- commands ----------------------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """A command, or a key to inspect."""
        line = event.value.strip()
        if event.input.id == "key" and line:
            self._run(Command("all", "inspect", (line,)))
        elif event.input.id == "command" and line:
            event.input.value = ""
            try:
                self._run(parse(line, self.nodes))
            except ValueError as error:
                self._say(f"{plain(line)}: {error}")

    @work(thread=True, group="ask")
    def _run(self, command: Command) -> None:
        try:
            answers = run(self.board, command, self.nodes)
        except (OSError, ValueError, InvalidTag) as error:  # nodes that share a place cannot be asked
            self.tell(self._say, f"{command}: {error}")
        else:
            self.tell(self._answered, command, answers)

    def _answered(self, command: Command, answers: dict[str, dict[str, Any]]) -> None:
        screen = self.screen
        if command.do == "tags":
            self._show_tags(command.args[0] if command.args else "", summed(answers))
        elif command.do == "inspect" and isinstance(screen, Inspect):
            screen.show(answers)
        elif not answers:
            self._say(f"{command}: done")
        for name, answer in answers.items() if command.do != "tags" and not isinstance(screen, Inspect) else ():
            result = answer.get("error") or _told(answer.get("result"))
            self._say(f"{command}: {plain(name, 30)}: {plain(result, 300)}")

    def _say(self, line: str) -> None:
        self.query_one("#log", RichLog).write(f"> {line}")

    def _show_tags(self, above: str, tags: list[tuple[str, int]]) -> None:
        self.above = above
        table = self.query_one("#by-size", DataTable)
        table.clear()
        for tag, count in tags:
            table.add_row(plain(tag, 120), str(count), key=tag)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Goes below a tag."""
        if event.data_table.id == "by-size" and event.row_key.value is not None:
            self._run(Command("all", "tags", (event.row_key.value,)))

    # ---- keys --------------------------------------------------------------------------------------

    def action_double_quit(self) -> None:
        """Quits, if it is asked for twice within two seconds."""
        now = time.monotonic()
        if now - self._asked_to_quit < 2:
            self.exit()
        self._asked_to_quit = now
        self.notify("ctrl+c once more quits")

    def action_command(self) -> None:
        """To the command line."""
        self.query_one("#command").focus()

    def action_leave(self) -> None:
        """From wherever the focus is."""
        self.screen.set_focus(None)

    def action_tags(self) -> None:
        """Lists the highest tags."""
        self.query_one("#lists", TabbedContent).active = "tags"
        self.query_one("#by-size").focus()
        self._run(Command("all", "tags", ()))

    def action_up(self) -> None:
        """Lists the tags above those that are listed."""
        if self.above:
            self._run(Command("all", "tags", tuple(filter(None, [self.above.rpartition(":")[0]]))))

    def action_inspect_key(self) -> None:
        """Asks for a key."""
        self.push_screen(Inspect())

    def action_clear_log(self) -> None:
        """Clears the list of invalidations."""
        self.query_one("#log", RichLog).clear()

    def action_help(self) -> None:
        """Shows the help."""
        self.push_screen(Help())


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _told(result: Any) -> str:
    """What a node has answered, in a line."""
    if isinstance(result, list):
        return " ".join(map(str, result)) or "none"
    if isinstance(result, dict):
        return " ".join(f"{name}={value}" for name, value in result.items() if value not in (None, False))
    return "done" if result is None else str(result)
