#!/usr/bin/env python3
"""Times Django's querysets from the cache beside the same from SQLite.

    python bench/bench_django.py [--rounds 40]

Each figure is the least of batches that take turns, so that a busy machine is no part of it.
"""

import argparse

from bench_python import batch
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["zoocache.contrib.django"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
import django  # noqa: E402

django.setup()

from django.db import connection, models  # noqa: E402

from zoocache.contrib.django import ZooCacheManager  # noqa: E402


class Product(models.Model):
    name = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=1)
    made = models.DateTimeField(auto_now_add=True)
    stock = models.IntegerField(default=0)
    objects = models.Manager()
    cached = ZooCacheManager()

    class Meta:
        app_label = "shop"


def reads(of):
    return {
        "get(pk=)": lambda x: of.get(pk=42),
        "filter(), 100 objects": lambda x: list(of.filter(stock=1)),
        "count()": lambda x: of.filter(stock__gt=0).count(),
    }


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=40)
    rounds = options.parse_args().rounds
    with connection.schema_editor() as editor:
        editor.create_model(Product)
    Product.objects.bulk_create([Product(name=f"p{n}", stock=n % 10) for n in range(1000)])
    plain, cached = reads(Product.objects), reads(Product.cached)
    least = {}
    for _ in range(rounds):
        for name in plain:
            for kind, f in ("query", plain[name]), ("hit", cached[name]):
                least[name, kind] = min(least.get((name, kind), float("inf")), batch(f, 200))
    for name in plain:
        query, hit = least[name, "query"] / 1000, least[name, "hit"] / 1000
        print(f"{name:24} query {query:8.1f} us   hit {hit:8.1f} us   {query / hit:5.1f} x")


if __name__ == "__main__":
    main()
