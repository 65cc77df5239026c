"""Django's cache framework, and what of Django uses it: sessions, pages, fragments."""

import pickle
import threading
import warnings

import djangoshop as shop
import pytest
from django.core.cache import CacheKeyWarning, cache, caches
from django.core.cache.backends.base import InvalidCacheBackendError
from django.db import connections, transaction
from django.http import HttpResponse
from django.template import Context, Template, TemplateSyntaxError
from django.test import RequestFactory, override_settings
from django.views.decorators.cache import cache_page
from djangoshop import Author

import zoocache
from zoocache import cacheable
from zoocache.contrib.django import model_tag

pytestmark = pytest.mark.plain


@pytest.fixture(scope="module", autouse=True)
def tables():
    shop.create("default")
    yield
    connections.close_all()


@pytest.fixture(autouse=True)
def db(tables):
    yield
    shop.empty("default")


# ---- the framework -----------------------------------------------------------------------------------


def test_values():
    assert cache.get("k") is None and cache.get("k", 7) == 7
    for value in None, 0, "", [1, {"a": (2,)}], HttpResponse("x").headers, Author(name="Ann"):
        cache.set("k", value)
        found = cache.get("k", "default")
        assert type(found) is type(value) and (found == value or value.__class__ is Author)
    mine = [1]
    cache.set("k", mine)
    cache.get("k").append(2)
    mine.append(3)
    assert cache.get("k") == [1]
    with pytest.raises((pickle.PicklingError, AttributeError)):
        cache.set("k", lambda: 1)


def test_all_methods():
    assert cache.add("a", 1) and not cache.add("a", 2) and cache.get("a") == 1
    assert cache.incr("a") == 2 and cache.decr("a", 3) == -1 and cache.get("a") == -1
    with pytest.raises(ValueError):
        cache.incr("none")
    assert cache.set_many({"b": 2, "c": None}) == []
    assert cache.get_many(["a", "b", "c", "d"]) == {"a": -1, "b": 2, "c": None}
    assert "b" in cache and cache.has_key("c") and "d" not in cache
    assert cache.delete("b") and not cache.delete("b")
    cache.delete_many(["a", "c"])
    assert cache.get_many(["a", "b", "c"]) == {}
    assert cache.get_or_set("e", lambda: 5) == cache.get_or_set("e", 6) == 5
    assert cache.get_or_set("n", lambda: None) is None and cache.get("n", 1) is None
    assert cache.touch("e") and not cache.touch("none")
    cache.clear()
    assert cache.get("e") is None


def test_versions_and_names():
    cache.set("k", 1, version=2)
    assert cache.get("k") is None and cache.get("k", version=2) == 1
    assert cache.incr_version("k", version=2) == 3 and cache.get("k", version=3) == 1
    with override_settings(CACHES={**shop.settings.CACHES, "more": {"BACKEND": shop.settings.CACHES["default"]["BACKEND"], "LOCATION": "more"}}):  # fmt: skip
        caches["more"].set("k", 5)
        cache.set("k", 6)
        caches["more"].clear()
        assert cache.get("k") == 6 and caches["more"].get("k") is None
        with pytest.raises(InvalidCacheBackendError):
            caches["none"].get("k")


def test_timeouts(kit):
    cache.set("default", 1)  # 300 seconds
    cache.set("never", 1, None)
    cache.set("short", 1, 10)
    cache.set("zero", 1, 0)
    cache.set("short", 1, 10)
    cache.set("gone", 1)
    cache.set("gone", 1, -1)
    assert cache.get_many(["zero", "gone"]) == {}
    kit.clock.advance(9)
    assert cache.get("short") == 1  # which does not begin its life anew
    assert cache.incr("short") == 2  # neither does that
    kit.clock.advance(2)
    assert cache.get("short") is None and not cache.delete("short") and not cache.touch("short")
    cache.touch("default", 1000)
    kit.clock.advance(900)
    assert cache.get("default") == 1
    cache.touch("default", None)
    kit.clock.advance(10**6)
    assert cache.get_many(["default", "never"]) == {"default": 1, "never": 1}
    cache.touch("never", 0)
    assert cache.get("never") is None


def test_keys_are_validated():
    with pytest.warns(CacheKeyWarning):
        cache.set("with space", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cache.get("with space") == 1


def test_one_of_many_adds_and_counts():
    cache.set("n", 0)
    added = []

    def work():
        added.append(cache.add("one", 1))
        for _ in range(50):
            cache.incr("n")

    threads = [threading.Thread(target=work) for _ in range(4)]
    [each.start() for each in threads], [each.join() for each in threads]
    assert cache.get("n") == 200 and added.count(True) == 1


def test_tags():
    cache.set("a", 1, tags=["shop:1"])
    cache.add("b", 2, tags="shop:2")
    cache.set_many({"c": 3}, tags=["shop:1", "other"])
    cache.get_or_set("d", lambda: 4, tags=["shop"])
    cache.touch("a"), cache.incr("a")
    cache.invalidate("shop:1")
    assert cache.get_many("abcd") == {"b": 2, "d": 4}
    zoocache.invalidate("shop")
    assert cache.get_many("abcd") == {}
    with pytest.raises(zoocache.InvalidTag):
        cache.set("a", 1, tags=["a::b"])


def test_what_is_invalidated_meanwhile_is_not_stored():
    def load():
        cache.invalidate("shop")
        return 1

    assert cache.get_or_set("a", load, tags=["shop"]) == 1
    assert cache.get("a") is None

    class Sly:
        def __reduce__(self):
            cache.invalidate("shop")
            return int, (1,)

    cache.set("b", 1, tags=["shop"])
    cache._connections[cache._alias]._again(":1:b", None, lambda value: Sly())
    assert cache.get("b") is None

    def loses():
        cache.set("c", "theirs")
        return "mine"

    assert cache.get_or_set("c", loses) == "theirs"


def test_a_value_depends_on_what_its_loader_has_asked():
    load = lambda: Author.cached.count()
    assert cache.get_or_set("n", load) == 0

    @cacheable
    def outer():
        return cache.get_or_set("n", load) + cache.get_or_set("m", load)

    assert outer() == 0
    Author.objects.create(name="Ann")
    assert cache.get("n") is None
    assert outer() == 2


def test_in_a_transaction():
    cache.set("a", 1, tags=[model_tag(Author)])
    cache.set("b", 1)
    with transaction.atomic():
        Author.objects.create(name="Ann")
        assert cache.get("a") is None
        cache.set("a", 2, tags=[model_tag(Author)])
        assert cache.get("a") is None
        cache.delete("b")
    assert cache.get("a") is None and cache.get("b") is None
    with transaction.atomic():
        cache.set("b", 2)
        cache.clear()
    assert cache.get("b") is None


async def test_async():
    assert await cache.aget("a") is None
    await cache.aset("a", 1, 60, tags=["shop"])
    assert not await cache.aadd("a", 2) and await cache.aget("a") == 1
    assert await cache.aget_or_set("b", lambda: 2, tags=["shop"]) == 2
    assert await cache.aincr("a") == 2 and await cache.adecr("a") == 1
    assert await cache.aset_many({"c": 3}, tags=["shop"]) == []
    assert await cache.aget_many("abc") == {"a": 1, "b": 2, "c": 3}
    assert await cache.atouch("a") and await cache.ahas_key("a")
    await cache.ainvalidate("shop")
    assert await cache.aget_many("abc") == {}
    await cache.aset("a", 1)
    assert await cache.adelete("a")
    await cache.aclear()


def test_with_a_storage(tmp_path):
    if not zoocache._ffi.parts()["lmdb"]:
        pytest.skip("built without lmdb")
    url = f"lmdb://{tmp_path}"
    zoocache.configure(storage_url=url)
    cache.set("a", [1], tags=["shop"])
    cache.set("b", 2, None)
    cache.set("c", 3)
    zoocache.reset()
    zoocache.configure(storage_url=url)
    assert cache.get_many("abc") == {"a": [1], "b": 2, "c": 3}
    assert cache.incr("b") == 3 and cache.delete("c")
    cache.invalidate("shop")
    zoocache.reset()
    zoocache.configure(storage_url=url)
    assert cache.get_many("abc") == {"b": 3}
    cache.clear()
    zoocache.reset()
    zoocache.configure(storage_url=url)
    assert cache.get_many("abc") == {}


# ---- what uses it ------------------------------------------------------------------------------------


def test_sessions():
    from django.contrib.sessions.backends.cache import SessionStore

    session = SessionStore()
    session["cart"] = [1, 2]
    session.save()
    assert SessionStore(session.session_key)["cart"] == [1, 2]
    session.delete()
    assert not SessionStore(session.session_key).exists(session.session_key)


def test_pages():
    calls = []

    @cache_page(60)
    def view(request):
        calls.append(1)
        return HttpResponse(f"page {len(calls)}")

    get = lambda: view(RequestFactory().get("/")).content
    assert get() == get() == b"page 1"
    cache.clear()
    assert get() == b"page 2"


def test_fragments_of_django():
    template = Template('{% load cache %}{% cache 60 "x" %}{{ value }}{% endcache %}')
    assert template.render(Context({"value": "a"})) == template.render(Context({"value": "b"})) == "a"


# ---- the template tag --------------------------------------------------------------------------------


def render(text, **values):
    return Template("{% load zoocache %}" + text).render(Context(values))


def test_the_tag():
    text = '{% zoocache 60 side user tags="menu other" %}{{ value }} {{ authors.count }}{% endzoocache %}'
    authors = Author.cached.all()
    assert render(text, user=1, value="<a>", authors=authors) == "&lt;a&gt; 0"
    assert render(text, user=1, value="b", authors=authors) == "&lt;a&gt; 0"
    assert render(text, user="2", value="b", authors=authors) == "b 0"
    zoocache.invalidate("menu")
    assert render(text, user=1, value="c", authors=authors) == "c 0"
    Author.objects.create(name="Ann")  # which it shows
    assert render(text, user=1, value="d", authors=authors.all()) == "d 1"


def test_the_life_of_a_fragment(kit):
    for ttl, end in ("5", "b"), ("None", "a"), ("life", "b"):
        text = f"{{% zoocache {ttl} name{ttl} %}}{{{{ value }}}}{{% endzoocache %}}"
        assert render(text, value="a", life=5) == "a"
        kit.clock.advance(6)
        assert render(text, value="b", life=5) == end
    assert render("{% zoocache None n tags=tags %}{{ value }}{% endzoocache %}", value="a", tags=["x"]) == "a"
    zoocache.invalidate("x")
    assert render("{% zoocache None n tags=tags %}{{ value }}{% endzoocache %}", value="b", tags=["x"]) == "b"


@pytest.mark.parametrize("text", ["", "60", '60 n tags="a" tags="b"', "'x' n", "True n"])
def test_a_tag_that_makes_no_sense(text):
    with pytest.raises(TemplateSyntaxError):
        render(f"{{% zoocache {text} %}}{{% endzoocache %}}")
