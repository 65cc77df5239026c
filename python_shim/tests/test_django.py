"""Django: what its connections execute is invalidated when it is committed, and querysets are cached."""

import contextvars
import subprocess
import sys
import textwrap
import threading
import unittest
import uuid
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal

import django
import djangoshop as shop
import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, connections, models, transaction
from django.db.models import Count, F, Q, Sum
from django.test import TestCase, TransactionTestCase
from django.test.utils import CaptureQueriesContext
from djangoshop import Audio, Author, Book, Cheap, Note, Tag, Track

import zoocache
from zoocache import cacheable, context, invalidate
from zoocache.contrib.django import connection as watching
from zoocache.contrib.django import instance_tag, model_tag, row, tags, whole

pytestmark = pytest.mark.plain


@pytest.fixture(scope="module", autouse=True)
def tables():
    shop.create("default", "other")
    yield
    connections.close_all()


@pytest.fixture(autouse=True)
def db(tables):
    yield
    assert not context.OPEN
    shop.empty("default", "other")


@contextmanager
def queries(n, using="default"):
    """In its block, so many statements are executed."""
    with CaptureQueriesContext(connections[using]) as found:
        yield
    assert len(found) == n, [each["sql"] for each in found.captured_queries]


def elsewhere(work):
    """What another thread gets, by a connection of its own."""
    found = []

    def run():
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


@pytest.fixture
def ann():
    return Author.objects.create(name="Ann", age=30, likes={"tea": [1]}, born=datetime(1990, 1, 2, tzinfo=timezone.utc))


@pytest.fixture
def bob():
    return Author.objects.create(name="Bob", age=40)


def name_of(pk):
    return Author.cached.get(pk=pk).name


# ---- tags --------------------------------------------------------------------------------------------


def test_tags(ann):
    book = Cheap(pk=7)
    assert model_tag(Author) == model_tag(ann) == "shop.author"
    assert model_tag(Cheap) == "shop.book"
    assert instance_tag(book) == "shop.book:7"
    assert row(Book, 7) == row(book) == row(Book, "7") == "sql:shop_book:rows:7"
    assert whole(Book) == ("shop.book", "sql:shop_book")
    key = uuid.uuid4()
    assert row(Note, key) == row(Note, key.hex)
    for model, pk in (Tag, "big"), (Book, "x"), (Book, None):
        with pytest.raises((TypeError, AttributeError)):
            row(model, pk)


def of(model, *rows, rest=()):
    """The tags of a change of these rows; of the whole of the table, if none is named."""
    name = f"sql:{model._meta.db_table}"
    found = {f"{name}:rows:{each}" for each in rows} if rows else {name}
    return {model_tag(model), f"{name}:table", *found, *rest}


@pytest.mark.parametrize(
    ("sql", "params", "expected"),
    [
        ('SELECT 1 FROM "shop_book" FOR UPDATE', (), set()),
        ('INSERT INTO "shop_book" ("title") VALUES (%s)', ("x",), {"shop.book", "sql:shop_book:table"}),
        ('INSERT INTO "shop_book" ("id") VALUES (%s) ON CONFLICT DO NOTHING', (1,), of(Book)),
        ('INSERT OR REPLACE INTO "shop_book" ("id") VALUES (%s)', (1,), {*whole(Book)}),
        ('UPDATE "shop_book" SET "title" = %s WHERE "shop_book"."id" = %s', ("x", 7), of(Book, 7)),
        ('UPDATE "shop_book" SET "id" = %s WHERE "shop_book"."id" = %s', (8, 7), of(Book)),
        ('UPDATE "shop_book" SET id=%s WHERE "shop_book"."id" = %s', (8, 7), of(Book)),
        ('UPDATE "shop_book" SET "title" = %s', ("x",), of(Book)),
        (
            'DELETE FROM "shop_book" WHERE "shop_book"."id" IN (%s, %s)',
            (7, 8),
            of(Book, 7, 8),
        ),
        (
            'DELETE FROM "shop_book" WHERE "shop_book"."id" IN (%s, %s)',
            [7, None],
            of(Book),
        ),
        ('DELETE FROM "shop_book" WHERE "shop_book"."author_id" = %s', (7,), of(Book)),
        ('DELETE FROM "shop_tag" WHERE "shop_tag"."name" = %s', ("Ab",), of(Tag)),
        ('DELETE FROM "unknown" WHERE id = 1', (), set()),
        ("update shop_tag set name = 'x' where name in (select 1 from shop_track)", None,
         of(Tag) - {"sql:shop_tag:table"} | of(Track) - {"sql:shop_track:table"}),
        ('SELECT 1; DELETE FROM "shop_tag"', None, {"shop.tag", "sql:shop_tag"}),
        ("VACUUM", None, set()),
    ],
)  # fmt: skip
def test_what_a_statement_changes(sql, params, expected):
    assert tags.changed(sql, params, False) == expected


def test_what_names_no_table_changes_everything():
    found = tags.changed("CALL cleanup()", None, False)
    assert {*whole(Book), *whole(Author)} < found


def test_many_statements_in_one():
    sql = 'UPDATE "shop_book" SET "title" = %s WHERE "shop_book"."id" = %s'
    assert "sql:shop_book" in tags.changed(sql, [("x", 7), ("y", 8)], True)


def test_a_new_model_is_known():
    assert "shop.late" not in tags.changed("DELETE FROM shop_late, shop_tag", None, False)
    late = type("Late", (shop.Base,), {"__module__": __name__, "Meta": type("Meta", (), {"app_label": "shop", "db_table": "shop late"})})  # fmt: skip
    try:
        assert tags.changed('DELETE FROM "shop late"', None, False) == {
            "shop.late",
            "sql:shop%20late",
            "sql:shop%20late:table",
        }
        assert "shop.late" in tags.changed('TRUNCATE "shop late"', None, False)
    finally:
        del shop.django.apps.apps.all_models["shop"][late._meta.model_name]
        shop.django.apps.apps.clear_cache()


# ---- what is executed --------------------------------------------------------------------------------


CHANGES = {
    "save": lambda a: Author(pk=a.pk, name="New").save(),
    "save_base_raw": lambda a: Author(pk=a.pk, name="New").save_base(raw=True),
    "update": lambda a: Author.objects.filter(age__gt=1).update(name="New"),
    "update_expression": lambda a: Author.objects.update(name=models.Value("New")),
    "bulk_update": lambda a: Author.objects.bulk_update([Author(pk=a.pk, name="New")], ["name"]),
    "bulk_create": lambda a: Author.objects.bulk_create(
        [Author(pk=a.pk, name="New")], update_conflicts=True, update_fields=["name"], unique_fields=["id"]
    ),
    "cursor": lambda a: connection.cursor().execute("UPDATE shop_author SET name = 'New' WHERE id = %s", [a.pk]),
    "executemany": lambda a: connection.cursor().executemany(
        "UPDATE shop_author SET name = %s WHERE id = %s", [("New", a.pk)]
    ),
    "raw": lambda a: list(Author.objects.raw("UPDATE shop_author SET name = 'New' RETURNING *")),
    "update_or_create": lambda a: Author.objects.update_or_create(pk=a.pk, defaults={"name": "New"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_row_is_seen(ann, change):
    reads = [
        lambda: name_of(ann.pk),
        lambda: Author.cached.filter(pk=ann.pk).first().name,
        lambda: Author.cached.values_list("name", flat=True).get(),
        lambda: "New" if Author.cached.filter(name="New").exists() else "Ann",
        lambda: "New" if Author.cached.filter(name="New").count() else "Ann",
    ]
    assert [read() for read in reads] == ["Ann"] * 5
    CHANGES[change](ann)
    assert [read() for read in reads] == ["New"] * 5
    with queries(0):
        assert [read() for read in reads] == ["New"] * 5


def test_what_deletes_is_seen(ann, bob):
    book = Book.objects.create(title="A", author=ann)
    book.tags.add(Tag.objects.create(name="big"))
    note = Note.objects.create(text="n", of=ann)
    assert Book.cached.get(pk=book.pk) and Tag.cached.filter(books=book).count() == 1
    assert name_of(ann.pk) == "Ann" and Note.cached.get(pk=note.pk)
    ann.delete()  # a cascade, a generic one too, and a table between
    for model, pk in (Book, book.pk), (Author, ann.pk), (Note, note.pk):
        with pytest.raises(model.DoesNotExist):
            model.cached.get(pk=pk)
    assert Tag.cached.filter(books=book).count() == 0
    assert name_of(bob.pk) == "Bob"
    Author.objects.all().delete()
    assert not Author.cached.exists()
    with pytest.raises(Author.DoesNotExist):
        name_of(bob.pk)


def test_a_row_that_comes_is_seen():
    with pytest.raises(Author.DoesNotExist):
        name_of(77)
    with queries(0), pytest.raises(Author.DoesNotExist):
        name_of(77)
    Author.objects.create(pk=77, name="Late")
    assert name_of(77) == "Late"


def test_both_sides_of_many_to_many(ann):
    book, tag = Book.objects.create(title="A", author=ann), Tag.objects.create(name="big")
    reads = [lambda: list(Book.cached.filter(tags="big")), lambda: list(Tag.cached.filter(books__title="A"))]
    for change, there in [
        (lambda: book.tags.add(tag), True),
        (lambda: book.tags.remove(tag), False),
        (lambda: tag.books.add(book), True),
        (lambda: tag.books.clear(), False),
        (lambda: book.tags.set([tag]), True),
        (lambda: Book.tags.through.objects.all().delete(), False),
    ]:
        change()
        assert [bool(read()) for read in reads] == [there, there]


def test_a_row_is_left_be_by_others(ann, bob):
    calls = []

    @cacheable(deps=lambda pk: [row(Author, pk)])
    def card(pk):
        calls.append(pk)
        return Author.objects.get(pk=pk).name

    assert name_of(ann.pk) == card(ann.pk) == "Ann"
    bob.name = "Rob"
    bob.save()
    Author.objects.filter(pk=bob.pk).update(age=F("age") + 1)
    Author.objects.create(name="Cid")
    Author.objects.filter(pk=bob.pk).delete()
    with queries(0):
        assert name_of(ann.pk) == card(ann.pk) == "Ann"
    ann.name = "Anne"
    ann.save()
    assert name_of(ann.pk) == card(ann.pk) == "Anne"
    assert len(calls) == 2


def test_tags_of_the_model_die_with_each_change(ann, bob):
    calls = []

    @cacheable(deps=[model_tag(Author)])
    def names():
        calls.append("names")

    @cacheable(deps=lambda: [instance_tag(ann)])
    def one():
        calls.append("one")

    names(), one()
    bob.save()
    names(), one()
    assert calls == ["names", "one"] * 2


def test_by_hand(ann):
    assert name_of(ann.pk) == "Ann" and Author.cached.count() == 1
    watch = watching.watch(connection)
    connection.execute_wrappers.remove(watch)  # as if another program did it
    Author.objects.update(name="New")
    connection.execute_wrappers.append(watch)
    assert name_of(ann.pk) == "Ann"
    invalidate(*whole(Author))
    assert name_of(ann.pk) == "New"


def test_a_statement_that_fails(ann):
    Tag.objects.create(name="big")
    assert Tag.cached.count() == 1
    with pytest.raises(IntegrityError):
        Tag.objects.bulk_create([Tag(name="big")])
    assert Tag.cached.count() == 1


# ---- transactions ------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def test_inside_its_own_writes_are_seen_and_others_see_what_is_committed(ann, bob):
    assert name_of(ann.pk) == "Ann"
    with transaction.atomic():
        Author.objects.filter(pk=ann.pk).update(name="New")
        assert name_of(ann.pk) == "New"
        assert Author.cached.filter(name="New").count() == 1
        assert elsewhere(lambda: (name_of(ann.pk), Author.cached.filter(name="New").count())) == ("Ann", 0)
    assert name_of(ann.pk) == elsewhere(lambda: name_of(ann.pk)) == "New"


def test_what_is_rolled_back_was_never_there(ann):
    assert name_of(ann.pk) == "Ann"
    with pytest.raises(Stop), transaction.atomic():
        Author.objects.update(name="New")
        assert name_of(ann.pk) == "New"
        raise Stop
    with queries(0):
        assert name_of(ann.pk) == "Ann"
    with transaction.atomic():
        Author.objects.update(name="New")
        transaction.set_rollback(True)
    with queries(0):
        assert name_of(ann.pk) == "Ann"


def test_savepoints(ann, bob):
    name_of(ann.pk), name_of(bob.pk)
    with transaction.atomic():
        with transaction.atomic():
            Author.objects.filter(pk=ann.pk).update(name="A2")
        with pytest.raises(Stop), transaction.atomic():
            Author.objects.filter(pk=bob.pk).update(name="B2")
            with transaction.atomic():
                Author.objects.filter(pk=bob.pk).update(name="B3")
            assert name_of(bob.pk) == "B3"
            raise Stop
        with queries(0):
            assert name_of(bob.pk) == "Bob"
        assert name_of(ann.pk) == "A2"
        with transaction.atomic(savepoint=False):
            sid = transaction.savepoint()
            Author.objects.filter(pk=bob.pk).update(name="B4")
            transaction.savepoint_rollback(sid)
            Author.objects.filter(pk=bob.pk).update(age=7)
            transaction.savepoint_commit(sid)
    assert (name_of(ann.pk), name_of(bob.pk), Author.cached.get(pk=bob.pk).age) == ("A2", "Bob", 7)


def test_by_hand_without_autocommit(ann):
    name_of(ann.pk)
    transaction.set_autocommit(False)
    try:
        Author.objects.update(name="A2")
        assert elsewhere(lambda: name_of(ann.pk)) == "Ann"
        transaction.commit()
        assert elsewhere(lambda: name_of(ann.pk)) == "A2"
        Author.objects.update(name="A3")
        assert name_of(ann.pk) == "A3"
        transaction.rollback()
        assert name_of(ann.pk) == "A2"
        sid = transaction.savepoint()
        Author.objects.update(name="A4")
        transaction.savepoint_commit(sid)
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert name_of(ann.pk) == "A4"


def test_hooks_of_on_commit_see_what_was_committed(ann):
    found = []
    name_of(ann.pk)
    with transaction.atomic():
        transaction.on_commit(lambda: found.append(name_of(ann.pk)))
        Author.objects.update(name="New")
    assert found == ["New"]
    with queries(0):
        assert name_of(ann.pk) == "New"  # and what a hook has read is kept


def test_what_is_invalidated_by_hand_waits_as_well(ann):
    @cacheable(deps=["menu"])
    def menu():
        return Author.objects.get().name

    menu()
    with transaction.atomic():
        invalidate("menu")
        Author.objects.update(name="New")
        assert elsewhere(menu) == "Ann"
    assert menu() == "New"


def test_what_is_read_in_a_snapshot_is_not_stored_if_it_has_changed_since(ann):
    with transaction.atomic():
        assert Tag.objects.count() == 0  # the snapshot
        elsewhere(lambda: Author.objects.update(name="New"))
        assert name_of(ann.pk) in ("Ann", "New")
    assert name_of(ann.pk) == "New"


def test_a_connection_that_is_closed_in_a_transaction(ann):
    name_of(ann.pk)
    with pytest.raises(Exception), transaction.atomic():
        Author.objects.update(name="New")
        connection.close()
        Author.objects.count()
    assert name_of(ann.pk) == "Ann"


def test_a_commit_that_fails_is_told(ann, monkeypatch):
    name_of(ann.pk)

    def fails():
        raise IntegrityError("at the end")

    with pytest.raises(IntegrityError), transaction.atomic():
        Author.objects.update(name="New")
        monkeypatch.setattr(connection, "_commit", fails)
    monkeypatch.undo()
    with queries(1):
        assert name_of(ann.pk) == "Ann"


def test_a_transaction_that_does_not_begin(ann, monkeypatch):
    def fails(autocommit):
        raise IntegrityError("locked")

    monkeypatch.setattr(connection, "_start_transaction_under_autocommit", lambda: fails(False))
    with pytest.raises(IntegrityError), transaction.atomic():
        pass
    assert not context.OPEN


def test_a_fill_that_writes(ann):
    @cacheable(deps=[model_tag(Author)])
    def count_up():
        Author.objects.update(age=F("age") + 1)
        return Author.objects.get().age

    assert (count_up(), count_up()) == (31, 32)

    @cacheable(deps=[model_tag(Author)])
    def count_in_atomic():
        with transaction.atomic():
            Author.objects.update(age=F("age") + 1)
            return Author.objects.get().age

    assert (count_in_atomic(), count_in_atomic()) == (33, 34)


def test_a_function_of_another_context_reads_what_is_not_committed(ann):
    @cacheable(deps=[model_tag(Author)])
    def names():
        return list(Author.objects.values_list("name", flat=True))

    with transaction.atomic():
        Author.objects.update(name="New")
        assert contextvars.Context().run(names) == ["New"]
        assert contextvars.Context().run(name_of, ann.pk) == "New"
        inner = transaction.atomic()
        contextvars.Context().run(inner.__enter__)
        assert contextvars.Context().run(names) == ["New"]
        contextvars.Context().run(inner.__exit__, None, None, None)
        transaction.set_rollback(True)
    assert names() == ["Ann"] and name_of(ann.pk) == "Ann"


def test_a_block_of_ones_own_in_a_transaction(ann):
    name_of(ann.pk)
    with transaction.atomic(), zoocache.transaction():
        invalidate(*whole(Author))
        with queries(1):
            assert name_of(ann.pk) == "Ann"


# ---- several databases -------------------------------------------------------------------------------


def test_databases_are_kept_apart(ann):
    Author.objects.using("other").create(pk=ann.pk, name="Otto")
    assert name_of(ann.pk) == "Ann"
    assert Author.cached.using("other").get(pk=ann.pk).name == "Otto"
    assert Author.cached.db_manager("other").get(pk=ann.pk).name == "Otto"
    assert Author.cached.using("other").get(pk=ann.pk)._state.db == "other"
    Author.objects.using("other").update(name="O2")
    assert name_of(ann.pk) == "Ann"
    assert Author.cached.using("other").get(pk=ann.pk).name == "O2"


def test_routers():
    track = Track.objects.create(name="T")
    assert Track.cached.get(pk=track.pk)._state.db == "other"
    with queries(0, "other"):
        assert Track.cached.get(pk=track.pk).name == "T"
    track.name = "T2"
    track.save()
    assert Track.cached.get(pk=track.pk).name == "T2"


def test_tenants_with_schemas_of_their_own_are_kept_apart(ann, monkeypatch):
    """As django-tenants has them: the same SQL means other tables."""

    def read():
        return Author.cached.get(pk=ann.pk).name, [each.name for each in Author.cached.filter(name__startswith="A")]

    monkeypatch.setattr(connections["default"], "schema_name", "acme", raising=False)
    first = read()
    monkeypatch.setattr(connections["default"], "schema_name", "umbra")
    with queries(2):
        assert read() == first
    monkeypatch.setattr(connections["default"], "schema_name", "acme")
    with queries(0):
        assert read() == first


def test_transactions_on_two_databases(ann):
    Author.objects.using("other").create(pk=ann.pk, name="Otto")
    read = lambda: (name_of(ann.pk), Author.cached.using("other").get(pk=ann.pk).name)
    assert read() == ("Ann", "Otto")
    with pytest.raises(Stop), transaction.atomic():
        Author.objects.update(name="A2")
        with transaction.atomic("other"):
            Author.objects.using("other").update(name="O2")
            assert read() == ("A2", "O2")
        raise Stop
    assert read() == elsewhere(read) == ("Ann", "O2")
    with pytest.raises(Stop), transaction.atomic():
        Author.objects.using("other").update(name="O3")  # at once
        assert elsewhere(read) == ("Ann", "O3")
        raise Stop
    assert read() == ("Ann", "O3")


def test_what_is_written_kills_what_a_replica_gave(ann):
    replica = Author.cached.using("replica")
    assert replica.get(pk=ann.pk).name == "Ann"
    Author.objects.update(name="New")
    assert replica.get(pk=ann.pk).name == "New"
    connections["replica"].close()


def test_a_replica_that_lags(kit, ann):
    connections["replica"].ensure_connection()
    watch = watching.watch(connections["replica"])
    watch.lag = 5.0
    try:
        replica = Author.cached.using("replica")
        for _ in range(20):  # time goes by in which nothing happens
            kit.clock.advance(1)
            Author.cached.using("replica").filter(name="x").exists()
        bob = Author.objects.create(name="Bob")
        kit.clock.advance(1)
        with queries(2, "replica"):  # within the lag: it may not be there yet, so it is not stored
            replica.filter(name="Bob").count()
            replica.filter(name="Bob").count()
        for _ in range(20):
            kit.clock.advance(1)
            replica.filter(name="Bob").count()
        with queries(0, "replica"):
            replica.filter(name="Bob").count()
        assert bob
    finally:
        watch.lag = 0.0
        connections["replica"].close()


def test_holds_are_announced_before_the_commit(ann):
    watch, cache = watching.watch(connection), watching.cache()
    watch.lease = 60.0
    seen = []
    see = lambda execute, *statement: (seen.append(cache.stats().holds), execute(*statement))[1]
    try:
        with transaction.atomic():
            Author.objects.update(name="New")
            with transaction.atomic():
                Book.objects.create(title="A", author=ann, price=3)
            assert cache.stats().holds == 2
            cache.set("k", 1, deps=[row(Author, ann.pk)])
            assert cache.get("k") is None, "nobody stores what depends on it"
        assert not cache.stats().holds
        with connection.execute_wrapper(see):  # committed as it is executed
            Author.objects.update(name="Newer")
        assert seen == [1] and not cache.stats().holds
    finally:
        watch.lease = 0.0


# ---- querysets ---------------------------------------------------------------------------------------


def same_from_the_cache(make, of=lambda found: found):
    """What a queryset gives, which is the same if it is asked again without a query."""
    first = of(list(make()))
    with queries(0):
        again = of(list(make()))
    assert again == first
    return first


def test_every_kind_of_queryset(ann, bob):
    for title, price in ("A", 3), ("B", 5):
        Book.objects.create(title=title, author=ann, price=price)
    dicts = lambda found: [{k: v for k, v in vars(each).items() if k != "_state"} for each in found]
    cached = Author.cached
    assert same_from_the_cache(lambda: cached.order_by("pk")) == [ann, bob]
    found = same_from_the_cache(lambda: cached.filter(pk=ann.pk), dicts)
    assert found[0]["born"] == ann.born and found[0]["likes"] == {"tea": [1]}
    assert same_from_the_cache(lambda: cached.values("name", "age").order_by("age"))[0] == {"name": "Ann", "age": 30}
    assert same_from_the_cache(lambda: cached.values_list("name").order_by("age")) == [("Ann",), ("Bob",)]
    assert same_from_the_cache(lambda: cached.values_list("name", flat=True).order_by("-age")) == ["Bob", "Ann"]
    assert same_from_the_cache(lambda: cached.values_list("name", named=True).order_by("age"))[0].name == "Ann"
    assert same_from_the_cache(lambda: cached.annotate(n=Count("books")).order_by("pk"), lambda f: [a.n for a in f]) == [2, 0]  # fmt: skip
    assert same_from_the_cache(lambda: cached.only("name"), dicts)[0].keys() == {"id", "name"}
    assert "name" not in same_from_the_cache(lambda: cached.defer("name"), dicts)[0]
    assert same_from_the_cache(lambda: cached.filter(Q(pk=ann.pk) | Q(age=40)).distinct().order_by("pk")) == [ann, bob]
    assert same_from_the_cache(lambda: cached.order_by("pk")[1:2]) == [bob]
    assert same_from_the_cache(lambda: cached.filter(pk=1).union(cached.filter(name="Bob"))) == [bob]
    assert same_from_the_cache(lambda: cached.filter(pk__in=Book.objects.values("author"))) == [ann]
    assert same_from_the_cache(lambda: cached.dates("born", "year"))[-1].year == 1990
    assert same_from_the_cache(lambda: cached.none()) == []
    books = same_from_the_cache(lambda: Book.cached.select_related("author").order_by("pk"))
    with queries(0):
        assert [each.author.name for each in books] == ["Ann", "Ann"]
    assert books[0].price == Decimal(3)
    assert same_from_the_cache(lambda: ann.books.all()[:0]) == []


def test_objects_are_ones_own(ann):
    one, two = Author.cached.get(pk=ann.pk), Author.cached.get(pk=ann.pk)
    one.name = "changed"
    one.likes["tea"].append(2)
    assert two.name == "Ann" and two.likes == {"tea": [1]}
    assert Author.cached.get(pk=ann.pk).likes == {"tea": [1]}
    assert two._state.adding is False and two._state.db == "default"
    one.save()
    assert name_of(ann.pk) == "changed"


def test_mutable_values_of_the_driver_are_copied(ann, monkeypatch):
    found = list(Author.cached.all())
    kept = []
    monkeypatch.setattr("zoocache.contrib.django.model._PLAIN", (int,))
    monkeypatch.setattr("zoocache.contrib.django.model.deepcopy", lambda rows: kept.append(rows) or rows)
    assert list(Author.cached.all()) == found and kept


def test_a_queryset_is_evaluated_once(ann):
    authors = Author.cached.all()
    first = authors[0] if list(authors) else None
    with queries(0):
        assert list(authors)[0] is first and authors.count() == 1 and authors.exists()
    Author.objects.update(name="New")
    assert list(authors)[0].name == "Ann"  # as Django has it
    assert authors.all()[0].name == "New"


def test_counting(ann, bob):
    with queries(2):
        assert [Author.cached.count(), Author.cached.distinct().count()] == [2, 2]
    with queries(0):
        assert [Author.cached.count(), Author.cached.distinct().count()] == [2, 2]
    assert Author.cached.none().count() == 0 and not Author.cached.none().exists()
    assert Author.cached.filter(pk__in=[]).count() == 0 and not list(Author.cached.filter(pk__in=[]))
    assert Author.cached.aggregate(Sum("age")) == {"age__sum": 70}
    ann.delete()
    assert Author.cached.count() == 1


def test_prefetch(ann):
    book = Book.objects.create(title="A", author=ann)
    read = lambda: [[each.title for each in a.books.all()] for a in Author.cached.prefetch_related("books")]
    with queries(2):
        assert read() == [["A"]]
    with queries(1):
        assert read() == [["A"]]
    whole = lambda: [a.books.all()[0].title for a in Author.cached.prefetch_related(models.Prefetch("books", Book.cached.all()))]  # fmt: skip
    assert whole() == ["A"]
    with queries(0):
        assert whole() == ["A"]
    Book.objects.update(title="B")
    assert whole() == ["B"] and read() == [["B"]]
    assert book


def test_what_is_not_cached(ann):
    def uncached(make):
        with queries(2):
            make(), make()

    uncached(lambda: list(Author.cached.iterator()))
    uncached(lambda: list(Author.cached.raw("SELECT * FROM shop_author")))
    uncached(lambda: Author.cached.aggregate(Sum("age")))
    with transaction.atomic():
        uncached(lambda: list(Author.cached.select_for_update()))
        uncached(lambda: Author.cached.select_for_update().get(pk=ann.pk))
    weird = Author.cached.annotate(x=models.Value(object(), output_field=models.Field()))
    with pytest.raises(TypeError, match="no plain text"):
        weird._get_cache_key()
    key = Book.cached.all()._get_cache_key()
    assert key.startswith("shop:django.model:shop.book:")


TOO_LARGE = Author.DoesNotExist if django.VERSION >= (5,) else OverflowError  # for a column of SQLite


def test_getting_by_key(ann, bob):
    with queries(1):
        assert Author.cached.get(pk=ann.pk) == Author.cached.get(id=ann.pk) == Author.cached.get(pk=str(ann.pk)) == ann
    with pytest.raises(Author.DoesNotExist):
        Author.cached.get(pk=-1)
    with pytest.raises(TOO_LARGE):
        Author.cached.get(pk=10**30)
    with pytest.raises(ValueError):
        Author.cached.get(pk="x")
    assert Author.cached.get(name="Ann") == Author.cached.get(Q(pk=ann.pk)) == ann
    assert Author.cached.filter(age=30).get(pk=ann.pk) == ann
    with pytest.raises(Author.DoesNotExist):
        Author.cached.filter(age=31).get(pk=ann.pk)
    note = Note.objects.create(text="n", of=ann)
    assert Note.cached.get(pk=note.pk) == Note.cached.get(pk=str(note.pk)) == note
    note.text = "m"
    note.save()
    assert Note.cached.get(pk=note.pk).text == "m"
    Tag.objects.create(name="Big")
    assert Tag.cached.get(pk="Big").name == "Big"
    Tag.objects.filter(pk="Big").update(name="Small")
    with pytest.raises(Tag.DoesNotExist):
        Tag.cached.get(pk="Big")


def test_the_first_key_may_be_none_at_all(ann):
    from zoocache.contrib.django import model

    model._by_key.clear()
    with pytest.raises(TOO_LARGE):
        Author.cached.get(pk=10**30)
    assert name_of(ann.pk) == "Ann"


def test_rows_that_are_read_with_others(ann, bob):
    """A row by key that is joined with others depends on those tables, and on its own row."""
    book = Book.objects.create(title="A", author=ann)
    other = Book.objects.create(title="B", author=bob)
    read = lambda: Book.cached.select_related("author").get(pk=book.pk)
    assert read().author.name == "Ann"
    other.save()
    with queries(0):
        assert read().title == "A"
    bob.save()
    with queries(1):
        assert read().title == "A"
    ann.name = "New"
    ann.save()
    assert read().author.name == "New"
    exists = lambda: Author.cached.filter(pk=ann.pk, books__title="B").exists()
    assert not exists()
    Book.objects.filter(title="B").update(author=ann)
    assert exists()
    twice = lambda: Author.cached.filter(pk=ann.pk).filter(models.Exists(Author.objects.filter(name="Zoe")))
    assert not list(twice())
    Author.objects.create(name="Zoe")
    assert list(twice())
    apart = lambda: Author.cached.exclude(pk=ann.pk).count()
    assert apart() == 2
    Author.objects.create(name="Max")
    assert apart() == 3


def test_models_that_inherit(ann):
    audio = Audio.objects.create(title="A", minutes=3)
    book = Book.objects.create(title="B")
    read = lambda: Audio.cached.get(pk=audio.pk)
    assert (read().title, read().minutes) == ("A", 3)
    book.save()
    with queries(0):
        assert read().minutes == 3
    Book.objects.filter(pk=audio.pk).update(title="A2")  # the parent's table
    assert read().title == "A2" and Cheap.cached.get(pk=audio.pk).title == "A2"
    Audio.objects.update(minutes=4)
    assert read().minutes == 4
    Cheap.objects.filter(pk=audio.pk).update(title="A3")  # a proxy
    assert read().title == "A3" and Book.cached.get(pk=audio.pk).title == "A3"
    audio.delete()
    with pytest.raises(Audio.DoesNotExist):
        read()


def test_a_field_that_is_new_is_a_miss(ann):
    assert name_of(ann.pk) == "Ann"
    with connection.schema_editor() as editor:
        field = models.CharField(max_length=9, default="x")
        Author.add_to_class("extra", field)
        editor.add_field(Author, field)
    try:
        assert Author.cached.get(pk=ann.pk).extra == "x"
        assert Author.cached.all()[0].extra == "x"
    finally:
        with connection.schema_editor() as editor:
            editor.remove_field(Author, field)
        Author._meta.local_fields.remove(field)
        Author._meta._expire_cache()
        del Author.extra
    assert name_of(ann.pk) == "Ann"


def test_managers(ann):
    class Tea(models.Model):
        cached = shop.ZooCacheManager(ensure_objects_manager=False)

        class Meta:
            app_label = "shop"

    try:
        assert not hasattr(Tea, "objects")
        assert type(Author.objects) is models.Manager
    finally:
        del shop.django.apps.apps.all_models["shop"]["tea"]
        shop.django.apps.apps.clear_cache()


def test_the_life_of_what_a_manager_gives(kit, ann):
    Book.objects.create(title="A")
    with queries(1):
        Book.cached.get(), Book.cached.get()
    kit.clock.advance(61)
    with queries(1):
        Book.cached.get()


async def test_async(ann):
    name = await sync_to_async(lambda: ann.name)()
    assert name == "Ann"
    assert (await Author.cached.aget(pk=ann.pk)).name == "Ann"
    assert await Author.cached.acount() == 1
    assert await Author.cached.aexists()
    assert [a.name async for a in Author.cached.all()] == ["Ann"]
    assert (await Author.cached.afirst()).name == "Ann"
    await Author.objects.aupdate(name="New")
    assert [a.name async for a in Author.cached.all()] == ["New"]
    assert (await Author.cached.aget(pk=ann.pk)).name == "New"
    await sync_to_async(connections.close_all)()


def test_without_django():
    code = """
        import sys
        sys.modules["django"] = None
        try:
            import zoocache.contrib.django
        except ImportError as error:
            assert "zoocache[django]" in str(error)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_settings_are_heeded():
    assert watching.cache().max_entries == 10_000
    zoocache.reset()
    zoocache.configure(max_entries=5)
    assert watching.cache().max_entries == 5


def test_one_computes_for_all(ann):
    Author.cached.all()._get_cache_key()
    gate, started = threading.Event(), threading.Event()
    counted = []

    def slow(execute, sql, params, many, context):
        counted.append(sql)
        started.set()
        gate.wait()
        return execute(sql, params, many, context)

    def leads():
        with connection.execute_wrapper(slow):
            return name_of(ann.pk)

    found = []
    first = threading.Thread(target=lambda: (found.append(leads()), connections.close_all()))
    first.start()
    started.wait()
    second = threading.Thread(target=lambda: (found.append(leads()), connections.close_all()))
    second.start()
    while not zoocache.stats().waits:
        second.join(0.01)
    gate.set()
    first.join(), second.join()
    assert found == ["Ann", "Ann"] and len(counted) == 1


# ---- tests of a project ------------------------------------------------------------------------------


def run(case):
    """Runs the tests of a class."""
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    assert result.testsRun and result.wasSuccessful(), result.errors + result.failures


def test_nothing_of_a_test_case_is_left():
    class Case(TestCase):
        databases = ("default", "other")

        @classmethod
        def setUpTestData(cls):
            cls.ann = Author.objects.create(name="Ann")
            assert name_of(cls.ann.pk) == "Ann"

        def test_one(self):
            assert name_of(self.ann.pk) == "Ann"
            Author.objects.update(name="One")
            assert name_of(self.ann.pk) == "One" and Author.cached.filter(name="One").count() == 1
            with self.captureOnCommitCallbacks() as callbacks:
                Author.objects.update(name="Two")
            assert callbacks == [] and name_of(self.ann.pk) == "Two"

        def test_two(self):
            assert name_of(self.ann.pk) == "Ann" and Author.cached.count() == 1
            with transaction.atomic():
                Author.objects.create(name="Bob")
            assert Author.cached.count() == 2

        async def test_three(self):
            assert (await Author.cached.aget(pk=self.ann.pk)).name == "Ann"
            await Author.objects.aupdate(name="Three")
            assert (await Author.cached.aget(pk=self.ann.pk)).name == "Three"

        def test_a_cache_of_its_own(self):
            zoocache.reset()
            assert name_of(self.ann.pk) == "Ann"
            zoocache.reset()
            Author.objects.update(name="Four")
            zoocache.reset()
            assert name_of(self.ann.pk) == "Four"
            assert len(watching.cache()) == 0

    run(Case)
    assert Author.cached.count() == 0 and not list(Author.cached.all())


def test_a_test_case_with_transactions():
    class Case(TransactionTestCase):
        available_apps = ("djangoshop", "django.contrib.contenttypes")

        def test_one(self):
            assert Author.cached.count() == 0
            Author.objects.create(name="Ann")
            assert Author.cached.count() == 1

        test_two = test_one

    run(Case)


def test_fields_by_the_names_of_before(ann):
    from zoocache.contrib.django import _get_query_deps, _model_to_raw, _raw_to_instance

    book = Book.objects.select_related("author").get(pk=Book.objects.create(title="A", author=ann).pk)
    raw = _model_to_raw(book)
    again = _raw_to_instance(Book, raw)
    assert again == book and again.title == "A"
    with queries(0):
        assert again.author.name == "Ann"
    assert _get_query_deps(Book.cached.filter(author__name="Ann")) == {"shop.book", "shop.author"}
