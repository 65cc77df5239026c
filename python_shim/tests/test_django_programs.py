"""Random programs of transactions in two threads, against the database itself.

Outside of a transaction, a cached read is what was committed last. Inside, it is what the transaction itself reads, or
what was committed last; and what it itself reads, if it has written to that table.
"""

import os
import queue
import random
import threading
from contextlib import closing, suppress

import djangoshop as shop
import pytest
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.db.models import F, Value
from django.db.models.functions import Concat, Substr
from djangoshop import Author, Book, Tag

from zoocache import cacheable, context
from zoocache.contrib.django import model_tag, row

pytestmark = [pytest.mark.plain, pytest.mark.slow]

KEYS = range(1, 4)


@pytest.fixture(scope="module", params=["sqlite", "read committed", "repeatable read"])
def alias(request):
    if request.param == "sqlite":
        alias = "programs"
        settings = {**connections.settings["default"], "OPTIONS": {"timeout": 0}}
        settings["NAME"] += ".programs"
    else:
        server = request.getfixturevalue("postgres")
        alias = request.param.replace(" ", "_")
        level = request.param.replace(" ", r"\ ")
        options = f"-c lock_timeout=1 -c search_path={alias} -c default_transaction_isolation={level}"
        settings = {**connections.settings["pg"], "PORT": server.port, "OPTIONS": {"options": options}}
    connections.settings[alias] = settings
    if request.param != "sqlite":
        connections[alias].cursor().execute(f"CREATE SCHEMA {alias}")
    shop.create(alias)
    yield alias
    connections[alias].close()
    del connections.settings[alias], connections[alias]


class Worker(threading.Thread):
    """A thread with a connection of its own, which does as it is told."""

    def __init__(self, alias, readers):
        super().__init__()
        self.alias, self.readers = alias, readers
        self.todo, self.done = queue.SimpleQueue(), queue.SimpleQueue()
        self.blocks = []  # atomics that are open
        self.written = []  # the models that each has written to
        self.start()

    def run(self):
        while (work := self.todo.get()) is not None:
            try:
                self.done.put((work(), None))
            except BaseException as error:
                self.done.put((None, error))
        connections[self.alias].close()

    def do(self, work):
        self.todo.put(work)
        result, error = self.done.get()
        if error is not None:
            raise error
        return result

    def close(self):
        self.todo.put(None)
        self.join()

    # ---- what it does ------------------------------------------------------------------------------------

    def begin(self):
        block = transaction.atomic(self.alias)
        block.__enter__()
        self.blocks.append(block)
        self.written.append(set())

    def end(self, well):
        block, written = self.blocks.pop(), self.written.pop()
        if well and not connections[self.alias].needs_rollback:
            with suppress(IntegrityError):  # of what is checked at the end: then it was rolled back
                block.__exit__(None, None, None)
            if self.blocks:
                self.written[-1] |= written
        else:
            block.__exit__(KeyError, KeyError(), None)

    def write(self, model, change):
        """As a statement of one's own, or in what is open; what fails of a lock is rolled back as a whole."""
        try:
            change(self.alias)
            if self.written:
                self.written[-1].add(model)
        except DatabaseError:
            while self.blocks:
                self.end(False)

    def read(self, read):
        """Cached, and as it is."""
        try:
            return read(True, self.alias), read(False, self.alias)
        except DatabaseError:
            while self.blocks:
                self.end(False)
            return None


def objects(model, cached, alias):
    return (model.cached if cached else model._base_manager).using(alias)


def make_readers():
    @cacheable(deps=lambda alias, pk: [row(Author, pk)])
    def by_row(alias, pk):
        return Author._base_manager.using(alias).filter(pk=pk).values_list("name", "age").first()

    @cacheable(deps=[model_tag(Author), model_tag(Book)])
    def by_table(alias):
        books = Book._base_manager.using(alias).filter(author__age__gt=2).values_list("pk", "author__name")
        return sorted(books)

    def get(cached, alias, pk):
        found = objects(Author, cached, alias)
        try:
            each = found.get(pk=pk)
        except Author.DoesNotExist:
            return None
        return each.name, each.age

    def unwrapped(function):
        return lambda cached, *args: (function if cached else function.__wrapped__)(*args)

    return [
        *[({Author}, lambda c, a, pk=pk: get(c, a, pk)) for pk in KEYS],
        *[({Author}, lambda c, a, pk=pk: unwrapped(by_row)(c, a, pk)) for pk in KEYS],
        ({Author, Book}, unwrapped(by_table)),
        ({Author}, lambda c, a: objects(Author, c, a).filter(age__gt=3).count()),
        ({Author}, lambda c, a: objects(Author, c, a).filter(name__endswith="x").exists()),
        ({Author}, lambda c, a: list(objects(Author, c, a).order_by("pk").values_list("pk", "name", "age"))),
        (
            {Author, Book},
            lambda c, a: [
                (b.pk, b.title, b.author and b.author.name)
                for b in objects(Book, c, a).select_related("author").order_by("pk")
            ],
        ),  # fmt: skip
        ({Book, Author}, lambda c, a: objects(Author, c, a).filter(books__title__startswith="B").distinct().count()),
        ({Book, Book.tags.through, Tag}, lambda c, a: sorted(t.name for t in objects(Tag, c, a).filter(books__gt=0))),
    ]


def a_write(rng):
    """A model, and what changes it."""
    pk, n = rng.choice(KEYS), rng.randrange(6)
    name = rng.choice("abx")

    def raw(sql, *params):
        def run(alias):
            with connections[alias].cursor() as cursor:
                cursor.execute(sql, params)

        return run

    def tag(alias):
        book = Book._base_manager.using(alias).order_by("pk").first()
        label, _ = Tag._base_manager.using(alias).get_or_create(name=name)
        if book is not None:
            book.tags.add(label) if n % 2 else label.books.clear()

    authors = Author._base_manager
    return rng.choice([
        (Author, lambda a: Author(pk=pk, name=name, age=n).save(using=a)),
        (Author, lambda a: authors.using(a).filter(pk=pk).update(age=F("age") + 1)),
        (Author, lambda a: authors.using(a).filter(age__lt=n).update(name=Concat(Substr("name", 1, 1), Value(name)), age=n)),
        (Author, lambda a: authors.using(a).bulk_update([Author(pk=k, age=n) for k in KEYS], ["age"])),
        (Author, lambda a: authors.using(a).bulk_create([Author(pk=pk, name=name)], ignore_conflicts=True)),
        (Author, raw("UPDATE shop_author SET name = %s WHERE id = %s", name, pk)),
        (Author, raw("update shop_author set age = age + 1 where age < %s", n)),
        (Book, lambda a: Book._base_manager.using(a).create(title=name.upper(), author=authors.using(a).filter(pk=pk).first())),
        (Book, lambda a: Book._base_manager.using(a).filter(author=pk).update(title=name.upper())),
        (Book, lambda a: [b.delete() for b in Book._base_manager.using(a).filter(author__age__lt=n)[:2]]),
        (None, lambda a: [x.delete() for x in authors.using(a).filter(pk=pk)]),
        (None, tag),
    ])  # fmt: skip


def a_program(rng, workers, committed):
    """Steps of both, one after the other."""
    for _ in range(rng.randrange(8, 24)):
        worker = rng.choice(workers)
        step = rng.random()
        if step < 0.12 and len(worker.blocks) < 3:
            worker.do(worker.begin)
        elif step < 0.24 and worker.blocks:
            well = rng.random() < 0.6
            worker.do(lambda: worker.end(well))
        elif step < 0.5:
            model, change = a_write(rng)
            models = {model} if model else {Author, Book, Tag, Book.tags.through}
            worker.do(lambda: worker.write(model, change))
            if worker.written:
                worker.written[-1] |= models - {None}
        else:
            reads, read = rng.choice(worker.readers)
            found = worker.do(lambda: worker.read(read))
            if found is None:
                continue
            cached, direct = found
            written = set().union(*worker.written)
            if worker.blocks and not reads & written:
                assert cached in (direct, committed(read))
            elif not worker.blocks or reads <= written:  # nothing of it can be another's
                assert cached == direct
    for worker in workers:
        while worker.blocks:
            well = rng.random() < 0.6
            worker.do(lambda: worker.end(well))
    for reads, read in workers[0].readers:
        cached, direct = workers[rng.randrange(2)].do(lambda: workers[0].read(read))
        assert cached == direct


PROGRAMS = 100


def test_programs(alias):
    count = int(os.environ.get("DJANGO_PROGRAMS", PROGRAMS))
    readers = make_readers()
    with closing(Worker(alias, readers)) as one, closing(Worker(alias, readers)) as two:
        committed = lambda read: read(False, alias)
        for seed in range(count):
            if Book._base_manager.using(alias).count() > 6:
                Book._base_manager.using(alias).all().delete()
            try:
                a_program(random.Random(seed), [one, two], committed)
            except AssertionError as error:
                raise AssertionError(f"program {seed}") from error
    assert not context.OPEN
