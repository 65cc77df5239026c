"""What tables and rows are called as tags, whoever reads or writes them; and fills that read in a transaction.

sql:user             all that depends on the table
sql:user:table       what depends on rows that cannot be named: any change of the table changes it
sql:user:rows:42     a row, by its primary key; sql:member:rows:7,42 if that has several columns
"""

from __future__ import annotations

from datetime import date, datetime, time
from decimal import Decimal
from uuid import UUID

from zoocache._table import Fill
from zoocache.context import transaction_of
from zoocache.scopes import segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from zoocache._cache import Cache
    from zoocache.transactions import Transaction

__all__ = ["ROOT", "belongs", "row", "table", "text", "whole"]

ROOT = "sql"


def whole(name: str) -> str:
    """The tag of a table, by its name, with its schema if that is given."""
    return f"{ROOT}:{segment('table', name)}"


def table(name: str) -> str:
    """The tag that each change of a row changes, too."""
    return f"{whole(name)}:table"


def row(name: str, key: Iterable[Any]) -> str:
    """The tag of a row, by the values of its primary key. Raises TypeError for one that has no text."""
    return f"{whole(name)}:rows:{','.join(map(text, key))}"


def text(value: Any) -> str:
    """A value of a primary key as a segment of a tag. Raises TypeError."""
    if isinstance(value, (date, datetime, time, Decimal)):
        value = str(value)
    elif isinstance(value, bytes):
        value = value.hex()
    elif not isinstance(value, (str, int, UUID)) or isinstance(value, bool):
        raise TypeError(f"a value of a primary key cannot be {type(value).__name__}")
    return "%" if value == "" else segment("row", value)


def belongs(fill: Any, cache: Cache, block: Transaction) -> None:
    """What is being computed reads in this transaction, be it in a context of its own or not."""
    if not isinstance(fill, Fill) or fill.cache is not cache:
        return
    for each in fill.lineage():
        if block.begin is not None:
            each.begin = min(each.begin, block.begin)
        if transaction_of(cache) is not block and block.holding():
            each.store = False
            each.private = True
