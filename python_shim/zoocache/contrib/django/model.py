"""Querysets whose results are cached, and their manager.

What is kept of a query is what the driver gave, row by row; a hit makes objects, dicts or tuples of it as a query does,
so that nobody shares them, and whatever a queryset can do (annotations, only(), select_related(), values()) it can do
from the cache. The key has the SQL in it, which names each column: after a change of the fields it is another one.

    get(pk=...)    of a manager's own queryset: the SQL is made once for each model, and is not made for a hit
    depends on     the tables that the SQL names; on the row alone if it gives the primary key
    not cached     iterator(), select_for_update(), raw(), aggregate(), and what has parameters that have no plain text
"""

from __future__ import annotations

from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from uuid import UUID
from weakref import WeakKeyDictionary

from django.core.exceptions import EmptyResultSet, FieldError
from django.db import connections, models
from django.db.models.lookups import Exact
from django.db.models.sql.constants import MULTI

from zoocache import _default
from zoocache._functions import cacheable
from zoocache.context import add_deps
from zoocache.contrib.django.connection import cache, watch
from zoocache.contrib.django.tags import model_tag, models_in, reads, row_tag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

__all__ = ["ZooCacheManager", "ZooCacheQuerySet"]

INTERNAL_CACHE_KEY_RELATED = "_zoo_related"

_PLAIN = (str, int, float, bool, bytes, type(None), Decimal, date, datetime, time, timedelta, UUID)


# ---- what is kept ------------------------------------------------------------------------------------


@cacheable(namespace="django", ignore=("read", "tags", "ttl"))
def _kept(key: str, read: Callable[[], Any], tags: Callable[[Any], Iterable[str]], ttl: float | None) -> Any:
    """What a query gives."""
    value = read()
    add_deps(tags(value))
    if ttl is not None:
        _default.set_ttl(ttl)
    return value


def _text_of(params: Any) -> str | None:
    """Parameters as a text that tells them apart; None: there is none."""
    for each in params:
        if isinstance(each, (list, tuple)):
            if _text_of(each) is None:
                return None
        elif not isinstance(each, _PLAIN):
            return None
    return repr(params)


def _place(connection: Any) -> str:
    """Which database it is, and which of its schemas, as django-tenants says it."""
    return f"{connection.alias}:{connection.settings_dict['NAME']}:{getattr(connection, 'schema_name', '')}"


class _Query:
    """A compiled query."""

    def __init__(self, queryset: ZooCacheQuerySet) -> None:
        """Raises EmptyResultSet."""
        self.queryset = queryset
        self.connection = connections[queryset.db]
        self.compiler = queryset.query.get_compiler(connection=self.connection)
        self.sql, self.params = compiled = self.compiler.as_sql()
        self.compiler.as_sql = lambda *args, **kwargs: compiled  # once is enough

    def digest(self) -> str | None:
        """A hash of all that it says; None: it cannot be told apart from others."""
        text = _text_of(tuple(self.params))
        if text is None:
            return None
        text = f"{_place(self.connection)}\0{self.sql}\0{text}"
        return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def rows(self) -> list[Any]:
        """What the driver gives."""
        return [row for chunk in type(self.compiler).execute_sql(self.compiler, MULTI) or () for row in chunk]

    def objects(self, rows: list[Any]) -> list[Any]:
        """What a query makes of that."""
        queryset = self.queryset
        if not all(isinstance(value, _PLAIN) for row in rows for value in row):
            rows = deepcopy(rows)
        self.compiler.execute_sql = lambda *args, **kwargs: [rows]
        queryset.query.get_compiler = lambda *args, **kwargs: self.compiler
        try:
            return list(queryset._iterable_class(queryset))
        finally:
            del queryset.query.get_compiler

    def tags(self, found: Any) -> set[str]:
        """What the result depends on."""
        models = models_in(self.sql)
        rows = self._rows() if found else {}
        return {tag for each in models if each not in rows for tag in reads(each)} | {*rows.values()}

    def _rows(self) -> dict[Any, Any]:
        """The tags of the only row that it can give, by its models, if it is given the primary key."""
        query = self.queryset.query
        meta = self.queryset.model._meta.concrete_model._meta
        if query.combinator or self.sql.upper().count("SELECT") != 1 or query.where.connector != "AND":
            return {}
        names = [each.table_name for each in query.alias_map.values()]
        line = [meta, *(each._meta for each in meta.get_parent_list())]  # their primary keys are the same
        mine, keys = {each.db_table for each in line}, [each.pk for each in line]
        if query.where.negated or query.extra_tables or any(names.count(name) > 1 for name in mine):
            return {}
        for each in query.where.children:
            target = getattr(getattr(each, "lhs", None), "target", None)
            if isinstance(each, Exact) and target in keys and isinstance(each.rhs, _PLAIN):
                table = query.alias_map.get(each.lhs.alias)
                if table is not None and table.table_name in mine:
                    tags = {one.model: row_tag(one.model, each.rhs) for one in line}
                    return {} if None in tags.values() else tags
        return {}


class _ByKey:
    """How get(pk=...) of a model is read from one database: its SQL is made once."""

    def __init__(self, queryset: ZooCacheQuerySet, pk: Any) -> None:
        query = _Query(queryset.filter(pk=pk))
        compiler = query.compiler
        first, last = compiler.klass_info["select_fields"][0], compiler.klass_info["select_fields"][-1] + 1
        self.fields = queryset.model._meta.concrete_fields
        self.names = [each[0].target.attname for each in compiler.select[first:last]]
        self.converters = compiler.get_converters([each[0] for each in compiler.select])
        self.digest = blake2b(query.sql.encode(), digest_size=16).hexdigest()
        self.plain = first == 0 and last == len(compiler.select)

    def object(self, model: Any, connection: Any, row: Any) -> Any:
        """An object of a row."""
        values = list(row)
        for at, (converters, expression) in self.converters.items():
            value = values[at]
            for convert in converters:
                value = convert(value, expression, connection)
            values[at] = value
        return model.from_db(connection.alias, self.names, values)


_by_key: WeakKeyDictionary[Any, dict[str, _ByKey]] = WeakKeyDictionary()


# ---- querysets ---------------------------------------------------------------------------------------


class ZooCacheQuerySet(models.QuerySet):  # type: ignore[misc]
    """A queryset whose results, count() and exists() are cached until what they were read from is changed."""

    _zoo_ttl: float | None = None
    _zoo_prefix: str | None = None
    _zoo_new = False  # as its manager has made it

    def _clone(self) -> ZooCacheQuerySet:
        clone: ZooCacheQuerySet = super()._clone()
        clone._zoo_ttl = self._zoo_ttl
        clone._zoo_prefix = self._zoo_prefix
        return clone

    def _zoo_key(self, digest: str, what: str = "") -> str:
        prefix = f"{self._zoo_prefix}:" if self._zoo_prefix else ""
        return f"{prefix}django.model:{self.model._meta.label_lower}:{what}{digest}"

    def _get_cache_key(self) -> str:
        """The text of its key. Raises TypeError if it cannot have one."""
        digest = _Query(self).digest()
        if digest is None:
            raise TypeError("a parameter of this query has no plain text: it is not cached")
        return self._zoo_key(digest)

    def _zoo_query(self) -> _Query | None:
        """Its query, if what it gives can be cached, and it has not been evaluated."""
        if self._result_cache is not None or self.query.select_for_update or self.query.is_empty():
            return None
        try:
            query = _Query(self)
        except (EmptyResultSet, FieldError):
            return None
        return query if models_in(query.sql) else None

    def _zoo_serve(self, query: _Query, what: str, read: Callable[[], Any]) -> Any:
        """What is kept of it, or what is read now."""
        digest = query.digest()
        if digest is None:
            return read()
        tags = query.tags if not what else lambda found: query.tags(False)
        return _serve(query.connection, self._zoo_key(digest, what), read, tags, self._zoo_ttl)

    def _fetch_all(self) -> None:
        query = self._zoo_query()
        if query is not None:
            self._result_cache = query.objects(self._zoo_serve(query, "", query.rows))
        super()._fetch_all()

    def count(self) -> int:
        query = self._zoo_query()
        found: int = super().count() if query is None else self._zoo_serve(query, "count:", super().count)
        return found

    def exists(self) -> bool:
        query = self._zoo_query()
        found: bool = super().exists() if query is None else self._zoo_serve(query, "exists:", super().exists)
        return found

    def get(self, *args: Any, **kwargs: Any) -> Any:
        if self._zoo_new and not args and len(kwargs) == 1:
            ((name, value),) = kwargs.items()
            field = self.model._meta.pk
            if name in ("pk", field.name, field.attname) and isinstance(value, (int, str, UUID)):
                found = self._zoo_by_key(field, value)
                if found is not None:
                    return found
        return super().get(*args, **kwargs)

    def _zoo_by_key(self, field: Any, pk: Any) -> Any:
        """The object of a primary key; None: the long way."""
        connection = connections[self.db]
        known = _by_key.setdefault(self.model, {})
        plan = known.get(connection.alias)
        if plan is None or plan.fields is not self.model._meta.concrete_fields:
            try:
                plan = known[connection.alias] = _ByKey(self, pk)
            except (EmptyResultSet, ValueError, TypeError):
                return None
        if not plan.plain:
            return None
        try:
            pk = field.to_python(pk)
        except Exception:  # get() says it better
            return None
        query: Any = None

        def rows() -> Any:
            nonlocal query
            query = _Query(self.filter(pk=pk))
            return query.rows()

        key = self._zoo_key(f"{_place(connection)}:{plan.digest}:{pk!r}")
        try:
            found = _serve(connection, key, rows, lambda found: query.tags(found), self._zoo_ttl)
        except EmptyResultSet:
            return None
        return plan.object(self.model, connection, found[0]) if len(found) == 1 else None


def _serve(connection: Any, key: str, read: Any, tags: Any, ttl: float | None) -> Any:
    """What is kept under a key, in the transaction of its connection."""
    cache()
    return watch(connection).inside(_kept, key, read, tags, ttl)


class ZooCacheManager(models.Manager.from_queryset(ZooCacheQuerySet)):  # type: ignore[misc]
    """A manager of cached querysets.

    ttl: the life of what they give, in seconds; None: as the cache says. prefix: goes in front of their keys.
    ensure_objects_manager: the model gets an uncached manager `objects`, too, if it has none.
    """

    def __init__(
        self, *, ttl: float | None = None, prefix: str | None = None, ensure_objects_manager: bool = True
    ) -> None:
        super().__init__()
        self._zoo_ttl = ttl
        self._zoo_prefix = prefix
        self._ensure = ensure_objects_manager

    def get_queryset(self) -> Any:
        found = super().get_queryset()
        found._zoo_ttl = self._zoo_ttl
        found._zoo_prefix = self._zoo_prefix
        found._zoo_new = True
        return found

    def contribute_to_class(self, cls: Any, name: str) -> None:
        if self._ensure and name != "objects" and not any("objects" in each.__dict__ for each in cls.__mro__):
            objects = models.Manager()
            objects.auto_created = True
            cls.add_to_class("objects", objects)
        super().contribute_to_class(cls, name)


# ---- by the names of before --------------------------------------------------------------------------


def _get_query_deps(queryset: Any) -> set[str]:
    """The tags of the models that a queryset reads."""
    return {model_tag(each) for each in models_in(str(queryset.query))}


def _model_to_raw(instance: Any, seen: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The values of an object's fields, and of the objects that it has been given by select_related()."""
    raw = {name: value for name, value in instance.__dict__.items() if name != "_state"}
    raw[INTERNAL_CACHE_KEY_RELATED] = {
        name: _related(each, (*seen, instance)) for name, each in instance._state.fields_cache.items()
    }
    return raw


def _related(value: Any, seen: tuple[Any, ...]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_related(each, seen) for each in value]
    if not isinstance(value, models.Model) or any(value is each for each in seen):
        return None
    return (value._meta.label_lower, _model_to_raw(value, seen))


def _raw_to_instance(model: Any, raw: dict[str, Any], db: str = "default") -> Any:
    """An object of what _model_to_raw() has given."""
    from django.apps import apps

    def back(value: Any) -> Any:
        if isinstance(value, list):
            return [back(each) for each in value]
        return None if value is None else _raw_to_instance(apps.get_model(value[0]), value[1], db)

    fields = [each.attname for each in model._meta.concrete_fields if each.attname in raw]
    instance = model.from_db(db, fields, [raw[name] for name in fields])
    related = raw.get(INTERNAL_CACHE_KEY_RELATED, {})
    instance.__dict__.update({k: v for k, v in raw.items() if k not in fields and k != INTERNAL_CACHE_KEY_RELATED})
    instance._state.fields_cache.update({name: back(value) for name, value in related.items()})
    return instance
