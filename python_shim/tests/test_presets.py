"""Presets: what each sets, what counts before it, and that nothing is shared by what they decorate."""

import asyncio
import dataclasses
import pathlib
import pickle
import subprocess
import sys

import pytest

import zoocache
from zoocache import Cache, presets
from zoocache.presets import dev, minimal, production, secure
from zoocache.scopes import Scope
from zoocache.testing import FakeClock

ROOT = pathlib.Path(zoocache.__file__).parent.parent

USABLE = {"minimal": minimal, "production": production, "dev": dev, "test": presets.test}
ALL = {**USABLE, "secure": secure}


@pytest.fixture(params=USABLE)
def preset(request):
    return USABLE[request.param]


# ---- what they set -----------------------------------------------------------------------------------


def test_what_each_sets():
    assert minimal.options == {"ttl": 300}
    assert production.options == {"ttl": 600, "jitter": 0.1, "fleet": True, "soft_ttl": 300}
    assert secure.options == {"ttl": 600, "jitter": 0.1, "fleet": True, "copy": "copy", "sealed": True}
    assert dev.options == presets.test.options == {"ttl": 300, "copy": "copy"}


def test_the_guide_says_the_same():
    text = (pathlib.Path(__file__).parent.parent / "GUIDE.md").read_text("utf-8")
    rows = text.partition("### What each sets")[2].partition("\n| |")[2].partition("\n\n")[0].split("\n")
    names, _, *rows = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]
    assert set(names) == set(ALL)
    said = {name: {row[0]: row[n + 1] for row in rows if row[n + 1]} for n, name in enumerate(names)}
    words = {"yes": True, "half of the `ttl": 300.0, "300": 300, "600": 600, "0.1": 0.1}
    for name, options in said.items():
        found = {option: words.get(text, text) for option, text in options.items()}
        assert {"copy": "share", **ALL[name].options} == found


def test_the_soft_deadline_follows_the_ttl():
    assert production.but(ttl=60).options["soft_ttl"] == 30
    assert production.but(ttl=60, soft_ttl=50).options["soft_ttl"] == 50
    assert production.but(soft_ttl=None).options["soft_ttl"] is None
    assert "soft_ttl" not in production.but(ttl=None).options
    assert production.but(soft_ttl=50).but(ttl=60).options["soft_ttl"] == 50


def rules(function):
    return function.cache_info.__self__.rules


def test_options_of_the_call_count_before_its_own():
    f = production(ttl=60, jitter=0.0)(lambda x: x)
    assert (rules(f).ttl, rules(f).soft_ttl, rules(f).jitter, rules(f).fleet) == (60, 30, 0, True)
    g = production(soft_ttl=7, fleet=False)(lambda x: x)
    assert (rules(g).ttl, rules(g).soft_ttl, rules(g).jitter, rules(g).fleet) == (600, 7, 0.1, False)
    h = production(lambda x: x)
    assert (rules(h).ttl, rules(h).soft_ttl) == (600, 300)


def test_what_is_refused_is_refused_at_once():
    for refused in (production.but, production):
        with pytest.raises(TypeError, match="lifetime"):
            refused(lifetime=1)
        with pytest.raises(TypeError, match="ttl must be a number of seconds"):
            refused(ttl="soon")
        with pytest.raises(ValueError, match="jitter"):
            refused(jitter=2)
        with pytest.raises(zoocache.InvalidTag):
            refused(deps=1)
    with pytest.raises(TypeError, match="decorates functions"):
        minimal(1)


# ---- decorating --------------------------------------------------------------------------------------


def test_bare_and_called(preset):
    calls = []

    @preset
    def bare(x):
        calls.append(x)
        return [x]

    @preset(deps=lambda x, y: [f"item:{x}"])
    def called(x, *, y=2):
        calls.append(x)
        return [x, y]

    assert bare(1) == bare(x=1) == [1]
    assert called(1) == called(1, y=2) == [1, 2]
    assert calls == [1, 1]
    zoocache.invalidate("item:1")
    called(1), bare(1)
    assert calls == [1, 1, 1]
    assert (bare(1) is bare(1)) == (preset in (minimal, production)), "share or copy"


async def test_coroutines(preset):
    calls = []

    @preset
    async def f(x):
        calls.append(x)
        await asyncio.sleep(0)
        return x

    assert await asyncio.gather(f(1), f(1), f(1)) == [1, 1, 1]
    assert calls == [1]


def test_in_classes(preset):
    class Shop:
        @preset
        def price(self, x):
            return object()

        @staticmethod
        @preset
        def tax(x):
            return (x,)

        @preset
        @classmethod
        def name(cls, x):
            return cls.__name__

    shop = Shop()
    assert shop.price.__name__ == "price"
    shop.price(1)
    shop.price(1)
    assert Shop.price.cache_info()[:2] == (1, 1)
    assert (Shop.tax(1), Shop.name(1)) == ((1,), "Shop")


def test_in_a_cache_of_ones_own(preset):
    with Cache() as cache, Cache() as other:
        mine = preset.but(cache=cache)
        f, g = mine(lambda x: x), mine(cache=other)(lambda x: x)
        f(1), g(1), g(2)
        assert (len(cache), len(other)) == (1, 2)
        assert zoocache.stats().entries == 0


def test_production_refreshes_beside():
    import threading

    clock = FakeClock()
    refreshed = threading.Event()
    calls = []
    with Cache(clock=clock, read_extend_ttl=False) as cache:

        @production(cache=cache, ttl=100)
        def f():
            calls.append(1)
            if len(calls) == 2:
                refreshed.set()
            return len(calls)

        assert f() == 1
        clock.advance(49)
        assert f() == 1
        assert calls == [1]
        clock.advance(2)
        assert f() == 1, "served as it is"
        refreshed.wait()
        clock.advance(101)
        assert f() == 3


def test_in_scopes(preset):
    with Cache(scopes=Scope("user", "user_id")) as cache:

        @preset(cache=cache, scope="user")
        def f(user_id, x=1):
            return object()

        f(1), f(2)
        assert (f(1) is f(1)) == (preset in (minimal, production))
        assert cache.evict_scope("user", user_id=1) == 1
        assert f.cache_info().misses == 2
        f(2)
        assert f.cache_info().misses == 2


# ---- nothing is shared -------------------------------------------------------------------------------


def test_one_decorator_for_two_functions(preset):
    decorate = preset(deps=["both"], namespace="n")
    f, g = decorate(lambda x: ("f", x)), decorate(lambda x: ("g", x))
    assert f(1) == ("f", 1)
    assert g(1) == ("g", 1)
    assert f.cache_info()[:2] == g.cache_info()[:2] == (0, 1)
    f.cache_clear()
    assert g.cache_info().currsize == 1
    assert f.invalidate(1) is False
    assert g(1) == ("g", 1)
    assert g.cache_info().hits == 1


def test_they_do_not_change(preset):
    before = preset.options
    other = preset.but(ttl=1, namespace="x")
    assert preset.options == before
    assert other.options == {**other.options, "ttl": 1, "namespace": "x"}
    preset.options["ttl"] = 5
    preset.options.clear()
    assert preset.options == before
    for name in ("name", "given", "soft", "sealed", "options", "new"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(preset, name, 1)
    assert preset.but() == preset
    assert hash(preset.but()) == hash(preset)
    assert other != preset
    assert pickle.loads(pickle.dumps(preset)) == preset


@pytest.mark.parametrize("kind", [list, iter, set])
def test_tags_that_are_given_are_kept_as_they_were(kind):
    tags = ["a", "b"]
    given = tags if kind is list else kind(tags)
    mine = minimal.but(deps=given)
    if kind is not iter:
        given.clear()
    for _ in range(2):
        f = mine(lambda: object())
        g = mine(ttl=5)(lambda: object())
        for tag in "ab":
            first, second = f(), g()
            assert (f(), g()) == (first, second)
            zoocache.invalidate(tag)
            assert f() is not first
            assert g() is not second


# ---- secure ------------------------------------------------------------------------------------------


def test_secure_decorates_nothing_without_a_sealing_key():
    def f():
        return 1

    with Cache() as cache:
        for attempt in (
            lambda: secure(f),
            lambda: secure()(f),
            lambda: secure(ttl=5)(f),
            lambda: secure.but(ttl=5)(f),
            lambda: secure(cache=cache)(f),
            lambda: secure.but(cache=cache)(f),
            lambda: secure.but(sealed=True, ttl=5)(f),
        ):
            with pytest.raises(RuntimeError, match="needs a cache with a key"):
                attempt()
        assert not hasattr(f, "cache_info")


# ---- import ------------------------------------------------------------------------------------------


def test_nobody_pays_who_does_not_name_them():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import zoocache\n"
        "print(sorted(m for m in set(sys.modules) - before if m in\n"
        "    ('zoocache.presets', 'zoocache._options', 'dataclasses', 'inspect', 'logging', 'contextlib')))\n"
        "from zoocache import presets\n"
        "print(presets.minimal.name)\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "[]\nminimal\n", done.stderr
