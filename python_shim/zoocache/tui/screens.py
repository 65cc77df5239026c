"""What comes in front of the dashboard: help, and the inspection of a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Label, Static

from zoocache._terminal import plain, seconds
from zoocache.tui import commands

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

__all__ = ["Help", "Inspect"]

_KEYS = """\
:    the command line (Escape leaves it)      i    inspect a key
t    tags, by how many entries depend on them; Enter goes below one, Backspace up
c    clear the list of invalidations          h    this help
q    quit, as ctrl+c twice
"""


class Help(ModalScreen[None]):
    """Keys and commands."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,h,q,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="window"):
            yield Static(_KEYS + "\n" + (commands.__doc__ or ""), markup=False)


class Inspect(ModalScreen[None]):
    """A key, and what each node has under it."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="window"):
            yield Label("A key, as f.key(...) or the command keys gives it; Escape closes")
            yield Input(placeholder="key", id="key")
            yield DataTable(id="found", cursor_type="row")

    def on_mount(self) -> None:
        self.query_one(DataTable).add_columns("node", "served", "why not", "killed by", "age", "left", "type", "tags")
        self.query_one(Input).focus()

    def show(self, answers: dict[str, dict[str, Any]]) -> None:
        """What the nodes have answered."""
        table = self.query_one(DataTable)
        table.clear()
        for name, answer in answers.items():
            table.add_row(plain(name, 30), *_cells(answer))


def _cells(answer: dict[str, Any]) -> list[str]:
    found = answer.get("result")
    if not found:
        return ["no", plain(str(answer.get("error", "absent"))), "", "", "", "", ""]
    return [
        "yes" if found["fresh"] else "no", found["reason"] or "", plain(found["killer"] or ""), seconds(found["age"]),
        seconds(found["expires_in"]), plain(found["type"], 20), plain(" ".join(found["deps"]), 200),
    ]  # fmt: skip
