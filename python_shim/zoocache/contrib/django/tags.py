"""The tags of models, and what a statement changes or reads."""

from __future__ import annotations

import re
from uuid import UUID

from django.apps import apps

from zoocache.contrib import _sql

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Changes = tuple[frozenset[str], frozenset[str]]

__all__ = ["changed", "instance_tag", "model_tag", "models_in", "reads", "row", "row_tag", "whole"]

_MANY = 100  # rows that a statement names; of more it changes the whole table

_READ = re.compile(r"\s*\(?\s*(SELECT|SAVEPOINT|RELEASE|ROLLBACK|BEGIN|COMMIT|START|SET|SHOW|PRAGMA|DECLARE)\b", re.I)
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE|REPLACE|TRUNCATE|COPY|CALL|EXEC|EXECUTE|DO|ALTER|DROP)\b", re.I)
_TARGET = re.compile(
    r"\s*(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+([\"`])([^\"`]+)\1\s*(\(|SET\b|WHERE\b|SELECT\b|$)", re.I
)
_ROWS = re.compile(r"WHERE ([\"`])([^\"`]+)\1\.\1([^\"`]+)\1 (?:= %s|IN \(%s(?:, %s)*\))$")
_WORD = re.compile(r"\w+")


# ---- tags --------------------------------------------------------------------------------------------


def model_tag(of: Any) -> str:
    """The tag "app.model" of a model, or of its object's: each change of any of its rows, on any database, kills it."""
    label: str = of._meta.concrete_model._meta.label_lower
    return label


def instance_tag(instance: Any) -> str:
    """The tag "app.model:pk" of an object; as it is below the model's, each change of the model kills it."""
    pk = instance.pk
    return f"{model_tag(instance)}:{_sql.text(pk if isinstance(pk, (str, int, UUID)) else str(pk))}"


def row(of: Any, pk: Any = None) -> str:
    """The tag of one row, by its model and primary key, or its object: what is changed in other rows leaves it be.

    Raises TypeError for a key that is neither integer nor UUID: depend on model_tag() then.
    """
    tag = row_tag(of._meta.concrete_model, of.pk if pk is None else pk)
    if tag is None:
        raise TypeError(f"a row of {model_tag(of)} cannot be named by {pk!r}: depend on model_tag()")
    return tag


def whole(of: Any) -> tuple[str, str]:
    """The tags to invalidate() by hand if all of a table may have changed: that of the model, and that of its rows."""
    return model_tag(of), _sql.whole(of._meta.db_table)


def reads(model: Any) -> set[str]:
    """What depends on any row of a model depends on."""
    return {model_tag(model), _sql.table(model._meta.db_table)}


def row_tag(model: Any, pk: Any) -> str | None:
    """The tag of a row, the same for what a reader gives as key and for what the driver is given. None: unknown.

    Only integers and UUIDs are told apart: text may equal other text, by a collation.
    """
    field = model._meta.pk
    if getattr(field, "column", None) is None or pk is None:
        return None  # of several columns
    try:
        pk = field.to_python(pk)
    except Exception:  # it is no such key
        return None
    return _sql.row(model._meta.db_table, [pk]) if type(pk) in (int, UUID) else None


# ---- tables and models -------------------------------------------------------------------------------

_known: tuple[Any, dict[str, list[Any]], re.Pattern[str] | None] = (None, {}, None)


def _tables() -> tuple[dict[str, list[Any]], re.Pattern[str] | None]:
    """The models of each table, by its name in small letters; and what finds names that are no words."""
    global _known
    models = apps.get_models()
    if _known[0] is not models:  # the registry has a new list if there is a new model
        found: dict[str, list[Any]] = {}
        for each in [model for named in apps.all_models.values() for model in named.values()]:
            if not each._meta.proxy:
                found.setdefault(each._meta.db_table.lower(), []).append(each)
        odd = [re.escape(name) for name in found if not _WORD.fullmatch(name)]
        _known = (models, found, re.compile("|".join(odd)) if odd else None)
    return _known[1], _known[2]


def models_in(sql: str) -> list[Any]:
    """The models whose tables are named anywhere in a statement."""
    tables, odd = _tables()
    text = sql.lower()
    names = {*_WORD.findall(text), *(odd.findall(text) if odd else ())}
    return [model for name in names & tables.keys() for model in tables[name]]


def changed(sql: str, params: Any, many: bool) -> set[str]:
    """The tags of what a statement changes: rows if it names them by primary key, else the whole of its table.

    One that is not as the ORM writes it is taken to change all tables that it names; all, if it names none.
    """
    if _READ.match(sql) and ";" not in sql:
        return set()
    target = None if ";" in sql else _TARGET.match(sql)
    if target is None:
        if not _WRITES.search(sql):
            return set()
        models = models_in(sql) or [each for models in _tables()[0].values() for each in models]
        return {tag for each in models for tag in whole(each)}
    tags: set[str] = set()
    for model in _tables()[0].get(target[2].lower(), ()):
        tags |= reads(model)
        if target[3] != "(" or "CONFLICT" in sql or "DUPLICATE" in sql:
            tags |= _named_rows(model, sql, params, many) or {_sql.whole(model._meta.db_table)}
    return tags


def _named_rows(model: Any, sql: str, params: Any, many: bool) -> set[Any]:
    """The tags of the rows that the end of a statement names; none, if it does not, or may change their keys."""
    column: Any = getattr(model._meta.pk, "column", None)
    end = _ROWS.search(sql)
    if (
        end is None
        or end.group(2, 3) != (model._meta.db_table, column)
        or many
        or not isinstance(params, (tuple, list))
    ):
        return set()
    count = end[0].count("%s")
    if not count <= min(_MANY, len(params)) or re.search(rf"\b{re.escape(column)}\b", sql[: end.start()], re.I):
        return set()
    rows = {row_tag(model, value) for value in params[-count:]}
    return set() if None in rows else rows
