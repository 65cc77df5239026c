"""Django 4.2 to 6: what its connections execute is invalidated, and querysets are cached. Needs zoocache[django].

    INSTALLED_APPS = [..., "zoocache.contrib.django"]
    ZOOCACHE = {"storage_url": "redis://cache", "default_ttl": 300}  # as for configure()

    class Product(models.Model):
        name = models.CharField(max_length=100)
        cached = ZooCacheManager(ttl=60)

    Product.cached.get(pk=42)  # until this row is changed
    Product.cached.filter(name__startswith="A").count()  # until any row is

    @cacheable(deps=lambda pk: [row(Product, pk)])
    def card(pk): ...

    model_tag(Product)    "shop.product": each change of the model kills it, save(), update(), bulk or raw SQL alike
    row(Product, 42)      one row: what is changed in other rows leaves it be
    whole(Product)        for invalidate() by hand, if what Django has not seen has changed the table

An atomic() is a transaction() of the cache: what it writes is held back, said after the commit and before the hooks
of on_commit(), dropped with a rollback; a savepoint likewise. Inside, its own writes are seen, and nothing is stored
that they have changed. In a TestCase, whose transaction is never committed, that is all that the test has changed.

What is written is seen at the connection, in the SQL: statements of the ORM name their rows, if they have them by
primary key, and else change the whole of their table; other SQL changes all tables that it names, or everything, if
it names none. Tags do not say which database, keys do: what is written on one kills what was read from its replicas.
Not seen are triggers, views, what foreign keys have the database change by itself, stored procedures and COPY, and
transactions that are controlled by SQL of one's own.
"""

from __future__ import annotations

try:
    from django.db import models as _models  # noqa: F401
except ImportError as error:
    raise ImportError("zoocache.contrib.django needs Django: pip install 'zoocache[django]'") from error

from zoocache.contrib.django.connection import install
from zoocache.contrib.django.model import (
    ZooCacheManager,
    ZooCacheQuerySet,
)
from zoocache.contrib.django.model import (
    _get_query_deps as _get_query_deps,
)
from zoocache.contrib.django.model import (
    _model_to_raw as _model_to_raw,
)
from zoocache.contrib.django.model import (
    _raw_to_instance as _raw_to_instance,
)
from zoocache.contrib.django.serializer import (
    BaseCacheableSerializerMixin,
    CacheableListSerializerMixin,
    CacheableSerializerMixin,
    cacheable_serializer,
)
from zoocache.contrib.django.tags import instance_tag, model_tag, row, whole

__all__ = [
    "BaseCacheableSerializerMixin",
    "CacheableListSerializerMixin",
    "CacheableSerializerMixin",
    "ZooCacheManager",
    "ZooCacheQuerySet",
    "cacheable_serializer",
    "instance_tag",
    "model_tag",
    "row",
    "whole",
]

install()
