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

    def __init__(self, alias):
        super().__init__()
        self.alias = alias
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
            return read.cached(self.alias), read.directly(self.alias)
        except DatabaseError:
            while self.blocks:
                self.end(False)
            return None


class Read:
    """Something to be read of some models: cached, and as SQL says it is, which costs a tenth of a queryset."""

    def __init__(self, models, cached, sql, shape):
        self.models, self.cached, self.sql, self.shape = models, cached, sql, shape

    def directly(self, alias):
        with connections[alias].cursor() as cursor:
            cursor.execute(self.sql)
            return self.shape(cursor.fetchall())


def first(rows):
    return rows[0] if rows else None


def single(rows):
    return rows[0][0]


def make_reads():
    @cacheable(deps=lambda alias, pk: [row(Author, pk)])
    def by_row(alias, pk):
        return Author._base_manager.using(alias).filter(pk=pk).values_list("name", "age").first()

    @cacheable(deps=[model_tag(Author), model_tag(Book)])
    def by_table(alias):
        books = Book._base_manager.using(alias).filter(author__age__gt=2).values_list("pk", "author__name")
        return sorted(books)

    def get(alias, pk):
        try:
            each = Author.cached.using(alias).get(pk=pk)
        except Author.DoesNotExist:
            return None
        return each.name, each.age

    def books(alias):
        found = Book.cached.using(alias).select_related("author").order_by("pk")
        return [(each.pk, each.title, each.author and each.author.name) for each in found]

    author, joined = (
        "SELECT name, age FROM shop_author WHERE id = ",
        "shop_book b JOIN shop_author a ON a.id = author_id",
    )
    return [
        *[Read({Author}, lambda a, pk=pk: get(a, pk), f"{author}{pk}", first) for pk in KEYS],
        *[Read({Author}, lambda a, pk=pk: by_row(a, pk), f"{author}{pk}", first) for pk in KEYS],
        Read({Author, Book}, by_table, f"SELECT b.id, name FROM {joined} WHERE age > 2", sorted),
        Read(
            {Author},
            lambda a: Author.cached.using(a).filter(age__gt=3).count(),
            "SELECT count(*) FROM shop_author WHERE age > 3",
            single,
        ),
        Read(
            {Author},
            lambda a: Author.cached.using(a).filter(name__endswith="x").exists(),
            "SELECT count(*) > 0 FROM shop_author WHERE name LIKE '%x'",
            single,
        ),
        Read(
            {Author},
            lambda a: list(Author.cached.using(a).order_by("pk").values_list("pk", "name", "age")),
            "SELECT id, name, age FROM shop_author ORDER BY id",
            list,
        ),
        Read({Author, Book}, books, f"SELECT b.id, title, name FROM {joined.replace('JOIN', 'LEFT JOIN')}", sorted),
        Read(
            {Book, Author},
            lambda a: Author.cached.using(a).filter(books__title__startswith="B").distinct().count(),
            f"SELECT count(DISTINCT a.id) FROM {joined} WHERE title LIKE 'B%'",
            single,
        ),
        Read(
            {Book, Book.tags.through, Tag},
            lambda a: sorted(each.name for each in Tag.cached.using(a).filter(books__gt=0)),
            "SELECT tag_id FROM shop_book_tags",
            lambda rows: sorted(name for (name,) in rows),
        ),
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


def a_program(rng, workers, reads):
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
            read = rng.choice(reads)
            found = worker.do(lambda: worker.read(read))
            if found is None:
                continue
            cached, direct = found
            written = set().union(*worker.written)
            if worker.blocks and not read.models & written:
                assert cached in (direct, read.directly(worker.alias))
            elif not worker.blocks or read.models <= written:  # nothing of it can be another's
                assert cached == direct
    for worker in workers:
        while worker.blocks:
            well = rng.random() < 0.6
            worker.do(lambda: worker.end(well))
    worker = rng.choice(workers)
    for cached, direct in worker.do(lambda: [worker.read(read) for read in reads]):
        assert cached == direct


PROGRAMS = {"sqlite": 740, "postgresql": 80}


def test_programs(alias):
    count = int(os.environ.get("DJANGO_PROGRAMS", PROGRAMS[connections[alias].vendor]))
    reads = make_reads()
    with closing(Worker(alias)) as one, closing(Worker(alias)) as two:
        for seed in range(count):
            if Book._base_manager.using(alias).count() > 6:
                Book._base_manager.using(alias).all().delete()
            try:
                a_program(random.Random(seed), [one, two], reads)
            except AssertionError as error:
                raise AssertionError(f"program {seed}") from error
    assert not context.OPEN
