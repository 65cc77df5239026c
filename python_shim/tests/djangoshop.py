"""A Django project for the tests: its settings, its models, its databases. Imported before anything of Django."""

import atexit
import shutil
import tempfile
import uuid

import django
from django.apps import AppConfig
from django.conf import settings

_files = tempfile.mkdtemp(prefix="zoocache-django-")
atexit.register(shutil.rmtree, _files)
DATABASES = {
    alias: {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{_files}/{name}.db", "OPTIONS": {"timeout": 60}}
    for alias, name in {"default": "one", "replica": "one", "other": "two"}.items()
}
DATABASES["pg"] = {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "test", "HOST": "127.0.0.1"}


class Router:
    """Reads of Track go to the other database."""

    def db_for_read(self, model, **hints):
        return "other" if model.__name__ == "Track" else None

    db_for_write = db_for_read

    def allow_relation(self, one, other, **hints):
        return True


class Shop(AppConfig):
    name = "djangoshop"
    label = "shop"


settings.configure(
    DATABASES=DATABASES,
    DATABASE_ROUTERS=["djangoshop.Router"],
    INSTALLED_APPS=[
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.staticfiles",
        "debug_toolbar",
        "zoocache.contrib.django",
        "djangoshop.Shop",
    ],
    CACHES={
        "default": {"BACKEND": "zoocache.contrib.django.cache.Backend"},
        "plain": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    },
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    ZOOCACHE={"max_entries": 10_000, "lag": {"replica": 0.0}},
    SECRET_KEY="tests",
    ROOT_URLCONF="djangoshop",
    STATIC_URL="static/",
    ALLOWED_HOSTS=["*"],
    USE_TZ=True,
)
django.setup()

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation  # noqa: E402
from django.contrib.contenttypes.models import ContentType  # noqa: E402
from django.db import connections, models  # noqa: E402

from zoocache.contrib.django import ZooCacheManager  # noqa: E402

urlpatterns = []


class Base(models.Model):
    class Meta:
        abstract = True
        app_label = "shop"


class Author(Base):
    name = models.CharField(max_length=100)
    age = models.IntegerField(default=0)
    born = models.DateTimeField(null=True)
    likes = models.JSONField(default=dict)
    notes = GenericRelation("Note")

    cached = ZooCacheManager()


class Book(Base):
    title = models.CharField(max_length=100)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books", null=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    tags = models.ManyToManyField("Tag", related_name="books")

    objects = models.Manager()
    cached = ZooCacheManager(ttl=60, prefix="shop")


class Tag(Base):
    name = models.CharField(max_length=100, primary_key=True)

    objects = models.Manager()
    cached = ZooCacheManager()


class Audio(Book):
    minutes = models.IntegerField(default=0)

    objects = models.Manager()
    cached = ZooCacheManager()


class Cheap(Book):
    class Meta:
        proxy = True
        app_label = "shop"

    cached = ZooCacheManager()


class Note(Base):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    text = models.CharField(max_length=100)
    content_type = models.ForeignKey(ContentType, models.CASCADE)
    object_id = models.PositiveIntegerField()
    of = GenericForeignKey()

    cached = ZooCacheManager()


class Track(Base):
    name = models.CharField(max_length=100)

    cached = ZooCacheManager()


MODELS = [ContentType, Author, Tag, Book, Audio, Note, Track]
TABLES = [*MODELS, Book.tags.through]


def create(*aliases):
    """Makes the tables of the models, unless they are there."""
    for alias in aliases:
        if Author._meta.db_table in connections[alias].introspection.table_names():
            continue
        if connections[alias].vendor == "sqlite":
            connections[alias].cursor().execute("PRAGMA journal_mode = WAL")  # who reads does not lock who writes
        with connections[alias].schema_editor() as editor:
            for model in MODELS:
                editor.create_model(model)


def empty(*aliases):
    """Empties them."""
    for alias in aliases:
        for model in reversed(TABLES[1:]):
            model._base_manager.using(alias).all().delete()
