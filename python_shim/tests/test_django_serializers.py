"""Serializers whose output is cached."""

import djangoshop as shop
import pytest
from django.db import connection, connections
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from djangoshop import Author, Book, Tag
from rest_framework import serializers

from zoocache.contrib.django import CacheableListSerializerMixin, CacheableSerializerMixin, cacheable_serializer

pytestmark = pytest.mark.plain


@pytest.fixture(autouse=True)
def db():
    shop.create("default")
    yield
    shop.empty("default")
    connections.close_all()


class BookSerializer(serializers.ModelSerializer):
    class Meta:
        model = Book
        fields = ["title", "tags"]


@cacheable_serializer
class AuthorSerializer(serializers.ModelSerializer):
    books = BookSerializer(many=True)

    class Meta:
        model = Author
        fields = ["id", "name", "books"]

    def to_representation(self, instance):
        found = super().to_representation(instance)
        return {**found, "for": self.context.get("role")} if self.context else found


@pytest.fixture
def ann():
    return Author.objects.create(name="Ann")


def shown(author, **options):
    return AuthorSerializer(Author.objects.get(pk=author.pk), **options).data


def unseen(n, *args, **options):
    """What is shown, with so many statements beside that which loads it."""
    with CaptureQueriesContext(connection) as found:
        result = shown(*args, **options)
    assert len(found) - 1 == n
    return result


def test_what_it_depends_on(ann):
    other = Author.objects.create(name="Bob")
    assert unseen(1, ann) == unseen(0, ann) == {"id": ann.pk, "name": "Ann", "books": []}
    other.save()
    assert unseen(0, ann)["name"] == "Ann"
    Author.objects.filter(pk=ann.pk).update(name="New")
    assert shown(ann)["name"] == "New"
    book = Book.objects.create(title="A", author=ann)
    assert shown(ann)["books"] == [{"title": "A", "tags": []}]
    Book.objects.update(title="B")
    assert shown(ann)["books"][0]["title"] == "B"
    book.tags.add(Tag.objects.create(name="big"))
    assert shown(ann)["books"][0]["tags"] == ["big"]
    shown(ann)["books"].clear()  # one's own
    assert len(unseen(0, ann)["books"]) == 1


def test_an_object_that_is_older_than_its_row(ann):
    old = Author.objects.get(pk=ann.pk)
    Author.objects.update(name="New")
    assert AuthorSerializer(old).data["name"] == "Ann"
    assert shown(ann)["name"] == "New"
    old.name = "not saved"
    assert AuthorSerializer(old).data["name"] == "not saved"
    assert shown(ann)["name"] == "New"
    prefetched = Author.objects.prefetch_related("books").get(pk=ann.pk)
    Book.objects.create(title="A", author=ann)
    assert AuthorSerializer(prefetched).data["books"] == []
    assert len(shown(ann)["books"]) == 1
    new = Author(name="Cid", pk=99)
    assert AuthorSerializer(new).data["name"] == "Cid"


def test_keys(ann):
    request = RequestFactory().get("/")
    assert shown(ann, context={"role": "admin"})["for"] == "admin"
    assert shown(ann, context={"role": "user"})["for"] == "user"
    assert shown(ann, context={"role": "user", "request": request, "view": object()})["for"] == "user"
    assert shown(ann, context={"role": object()})["for"] is not None  # has no key
    key = AuthorSerializer()._get_cache_key(ann)
    assert key.startswith("django.serializer:")
    assert unseen(0, ann)["name"] == "Ann" if shown(ann) else None
    assert AuthorSerializer.__name__ == "AuthorSerializer"


def test_many(ann):
    bob = Author.objects.create(name="Bob")
    read = lambda: [each["name"] for each in AuthorSerializer(Author.objects.order_by("pk"), many=True).data]
    assert read() == read() == ["Ann", "Bob"]
    Author.objects.filter(pk=bob.pk).update(name="New")
    with CaptureQueriesContext(connection) as found:
        assert read() == ["Ann", "New"]
    assert len(found) == 2

    class Many(CacheableListSerializerMixin):
        child = AuthorSerializer()

    assert [each["name"] for each in Many().to_representation(Author.objects)] == ["Ann", "New"]
    assert len(Many().to_representation([ann])) == 1


def test_of_ones_own(ann):
    class Plain:
        def to_representation(self, instance):
            return {"name": instance.name}

    class Card(CacheableSerializerMixin, Plain):
        zoocache_model = Author

    assert Card().to_representation(ann) == {"name": "Ann"}

    class Bare(CacheableSerializerMixin, Plain): ...

    with pytest.raises(TypeError, match="neither"):
        Bare().to_representation(ann)


def test_objects_in_a_circle(ann):
    book = Book.objects.create(title="A", author=ann)
    ann._state.fields_cache["book"] = book
    book._state.fields_cache["author"] = ann
    assert AuthorSerializer(ann).data["name"] == "Ann"
