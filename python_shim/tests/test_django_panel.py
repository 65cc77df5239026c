"""The panel of django-debug-toolbar, in the toolbar."""

import html
import re

import djangoshop as shop
import pytest
from django.db import connections, transaction
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from djangoshop import Author
from test_extras import run

import zoocache
from zoocache import cacheable, invalidate
from zoocache.contrib.django import model_tag, row

pytestmark = pytest.mark.plain


@cacheable(deps=lambda pk: [row(Author, pk)])
def name_of(pk):
    return Author._base_manager.get(pk=pk).name


@cacheable(deps=["<script>"])
def fails():
    raise KeyError("no")


def page(request, pk):
    if "rename" in request.GET:
        with transaction.atomic():
            Author._base_manager.filter(pk=pk).update(name=request.GET["rename"])
    if "fail" in request.GET:
        with pytest.raises(KeyError):
            fails()
    if "clear" in request.GET:
        zoocache.clear()
    return HttpResponse(f"<html><body>{name_of(pk)}, {Author.cached.count()}</body></html>")


urlpatterns = [path("author/<int:pk>", page), path("__debug__/", include("debug_toolbar.urls"))]


@pytest.fixture
def client():
    shop.create("default")
    with override_settings(
        DEBUG=True,
        MIDDLEWARE=["debug_toolbar.middleware.DebugToolbarMiddleware"],
        DEBUG_TOOLBAR_PANELS=["zoocache.contrib.django.panel.ZooCachePanel"],
        DEBUG_TOOLBAR_CONFIG={"IS_RUNNING_TESTS": False},
        INTERNAL_IPS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
    ):
        yield Client()
    shop.empty("default")
    connections.close_all()


def panel(client, url):
    """What the toolbar says of a request: in the side bar, and in the panel, by its headings."""
    text = client.get(url).content.decode()
    subtitle = re.search(r"<small>(.*?)</small>", text[text.index("ZooCachePanel") :]).group(1)
    known = re.search(r'data-(request|store)-id="(.*?)"', text)
    query = {f"{known.group(1)}_id": known.group(2), "panel_id": "ZooCachePanel"}
    found = client.get("/__debug__/render_panel/", query).json()["content"]
    parts = re.split("<h4>(.*?)</h4>", found)[1:]
    said = {
        heading: html.unescape(re.sub(r"<thead>.*?</thead>|<[^>]*>|\s+", " ", part, flags=re.S)).split()
        for heading, part in zip(parts[::2], parts[1::2])
    }
    return subtitle, said, found


def test_what_a_request_has_done(client):
    ann = Author._base_manager.create(name="Ann")
    zoocache.clear()
    url = f"/author/{ann.pk}"
    tags = sorted([row(Author, ann.pk), model_tag(Author), "sql:shop_author:table"])

    subtitle, said, _ = panel(client, url)
    assert (subtitle, said["Summary"], said["Tags"]) == ("0 hits, 2 misses", ["0", "2", "0"], tags)
    assert [word for word in said["Computed"] if not re.fullmatch(r"[\d.]+", word)] == [
        *["name_of", "stored", row(Author, ann.pk)],
        *["_kept", "stored", model_tag(Author), "sql:shop_author:table"],
    ]
    assert said["Invalidated"] == []

    subtitle, said, _ = panel(client, url)
    assert (subtitle, said["Summary"], said["Tags"]) == ("2 hits, 0 misses", ["2", "0", "0"], tags)
    assert said["Computed"] == []

    subtitle, said, _ = panel(client, f"{url}?rename=Bea")
    assert (subtitle, said["Summary"]) == ("0 hits, 2 misses", ["0", "2", "1"])
    assert row(Author, ann.pk) in said["Invalidated"]

    invalidate("elsewhere")  # of no request
    subtitle, said, text = panel(client, f"{url}?fail&clear")
    assert (subtitle, said["Summary"]) == ("0 hits, 3 misses", ["0", "3", "1"])
    assert said["Invalidated"] == ["everything"]
    assert {"fails", "KeyError", "<script>"} <= set(said["Computed"]) and "<script>" not in text


def test_each_request_has_its_own(client):
    """A cache that takes the place of the default one is watched as well."""
    ann = Author._base_manager.create(name="Ann")
    zoocache.reset()
    assert panel(client, f"/author/{ann.pk}")[0] == "0 hits, 2 misses"
    zoocache.reset()
    assert panel(client, f"/author/{ann.pk}")[0] == "0 hits, 2 misses"
    assert panel(client, f"/author/{ann.pk}")[0] == "2 hits, 0 misses"


def test_without_the_toolbar():
    code = """
    try:
        import zoocache.contrib.django.panel
    except ImportError as error:
        print(error)
    """
    assert "pip install 'zoocache[django-toolbar]'" in run(["debug_toolbar"], code)
