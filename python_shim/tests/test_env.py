"""Settings that the environment has: what counts, when it is read, what is refused, and what the README says of it."""

import inspect
import logging
import os
import pathlib
import subprocess
import sys

import pytest

import zoocache
from zoocache import Cache, _default, _options, cacheable, configure
from zoocache.testing import FakeClock, isolated

OPTIONS = [name for name in inspect.signature(configure).parameters if name != "telemetry"]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Nothing of the environment that the tests are run in."""
    for name in list(os.environ):
        if name.startswith("ZOOCACHE_") and name != "ZOOCACHE_LIB":
            monkeypatch.delenv(name)
    monkeypatch.setattr(_options, "_told", set())


def settings(**given):
    return _options.resolve(given)[0]


# ---- one table ---------------------------------------------------------------------------------------


def test_the_table_has_every_option_of_configure_with_its_default():
    declared = inspect.signature(configure).parameters
    assert list(_options.DEFAULTS) == OPTIONS
    assert {name: declared[name].default for name in OPTIONS} == _options.DEFAULTS


def test_the_table_has_the_defaults_of_a_cache_and_of_a_storage():
    from zoocache._shared import Settings

    for made in (Cache, Settings):
        found = {name: p.default for name, p in inspect.signature(made).parameters.items() if p.default is not p.empty}
        found.pop("telemetry", None)
        assert found
        assert found == {name: _options.DEFAULTS[name] for name in found}


def test_every_option_of_the_table_is_one_of_a_cache():
    with Cache(**_options.DEFAULTS) as cache:
        cache.set("k", 1)
        assert cache.get("k") == 1
    with pytest.raises(TypeError, match="unknown option: lifetime, size$"):
        Cache(size=1, lifetime=2)


def test_the_readme_has_the_table_and_the_help_every_option():
    text = (pathlib.Path(__file__).parent.parent / "README.md").read_text("utf-8")
    found = text.partition("<!-- options")[2].partition("\n")[2].partition("<!-- end of options -->")[0]
    assert found == _options.table()
    assert [name for name in OPTIONS if name not in configure.__doc__] == []


# ---- argument, then variable, then default -----------------------------------------------------------

TEXTS = {
    "storage_url": ("lmdb:///tmp/x", "lmdb:///tmp/x"),
    "bus_url": ("redis://h", "redis://h"),
    "prefix": (" shop ", "shop"),
    "prune_after": ("2h", 7200),
    "default_ttl": ("1.5", 1.5),
    "read_extend_ttl": ("off", False),
    "max_entries": ("10_000", 10_000),
    "max_bytes": ("1GB", 10**9),
    "max_entry_bytes": ("64KiB", 65536),
    "max_loads": ("100", 100),
    "lmdb_map_size": ("512 MiB", 512 * 2**20),
    "flight_timeout": ("250ms", 0.25),
    "tti_flush_secs": ("5", 5),
    "auto_prune_secs": ("7d", 7 * 86400),
    "auto_prune_interval": ("30m", 1800),
    "lru_update_interval": ("1", 1),
    "channel_capacity": ("2", 2),
    "batch_size": ("3", 3),
    "lru_cache_size": ("4", 4),
    "serializer": ("pickle", "pickle"),
    "compression": ("off", False),
    "timeout": (".1", 0.1),
    "connections": ("5", 5),
    "replicas": ("1", 1),
    "log_shards": ("8", 8),
    "tls_ca": ("/ca.pem", "/ca.pem"),
    "tls_cert": ("/c.pem", "/c.pem"),
    "tls_key": ("/k.pem", "/k.pem"),
    "storage_ttl": ("1 d", 86400),
    "write_behind": ("TRUE", True),
    "sync": ("yes", True),
    "max_staleness": ("2s", 2),
    "max_stale": ("1M", 60),
    "silence": ("serve", "serve"),
    "ack": ("async", "async"),
    "bus_pause": ("5 ms", 0.005),
    "seal_key": ("61" * 32, b"a" * 32),
    "previous_seal_keys": ("62" * 32 + ", " + "YWFh" * 10 + "YWE=", (b"b" * 32, b"a" * 32)),
    "seal_strict": ("on", True),
    "breaker_failures": ("5", 5),
    "breaker_pause": ("2s", 2),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_argument_counts_before_its_variable_and_that_before_the_default(name, monkeypatch):
    default = _options.DEFAULTS[name]
    assert settings()[name] == default
    monkeypatch.setenv(f"ZOOCACHE_{name.upper()}", "")
    assert settings()[name] == default, "an empty variable is not set"
    monkeypatch.setenv(f"ZOOCACHE_{name.upper()}", "  ")
    assert settings()[name] == default
    if name in ("clock", "storage", "scopes", "on_event", "weigh"):
        monkeypatch.setenv(f"ZOOCACHE_{name.upper()}", "some.module")
        with pytest.raises(ValueError, match=f"^ZOOCACHE_{name.upper()} must be given to configure"):
            settings()
        own = object()
        assert settings(**{name: own})[name] is own
        return
    text, value = TEXTS[name]
    assert value != default
    monkeypatch.setenv(f"ZOOCACHE_{name.upper()}", text)
    found = settings()
    assert found.pop(name) == value
    assert found == {other: _options.DEFAULTS[other] for other in found}
    assert settings(**{name: default})[name] == default, "what is given counts, be it the default"
    if default is None:
        monkeypatch.setenv(f"ZOOCACHE_{name.upper()}", "None")
        assert settings()[name] is None


@pytest.mark.parametrize("text", ["1", "true", "Yes", "ON", " on "])
def test_yes(text, monkeypatch):
    monkeypatch.setenv("ZOOCACHE_SYNC", text)
    assert settings()["sync"] is True


@pytest.mark.parametrize("text", ["0", "false", "No", "OFF"])
def test_no(text, monkeypatch):
    monkeypatch.setenv("ZOOCACHE_READ_EXTEND_TTL", text)
    assert settings()["read_extend_ttl"] is False


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1b", 1), ("2kB", 2000), ("2KiB", 2048), ("1.5GiB", 3 * 2**29), ("1TB", 10**12), ("1TiB", 2**40)],
)
def test_sizes(text, size, monkeypatch):
    monkeypatch.setenv("ZOOCACHE_LMDB_MAP_SIZE", text)
    assert settings()["lmdb_map_size"] == size


def test_the_default_cache_has_them(monkeypatch):
    monkeypatch.setenv("ZOOCACHE_MAX_ENTRIES", "2")
    monkeypatch.setenv("ZOOCACHE_DEFAULT_TTL", "1m")
    monkeypatch.setenv("ZOOCACHE_PREFIX", "env")
    clock = FakeClock()
    configure(clock=clock, prefix="argument")
    for key in "abc":
        zoocache.set(key, 1)
    assert zoocache.stats().entries == 2
    assert _default.cache().prefix == "argument"
    clock.advance(61)
    assert [zoocache.get(key) for key in "abc"] == [None] * 3


def test_given_by_position(monkeypatch):
    monkeypatch.setenv("ZOOCACHE_STORAGE_URL", "redis://nowhere.invalid")
    monkeypatch.setenv("ZOOCACHE_PREFIX", "env")
    configure(None, None, "mine")
    assert _default.state.config["storage_url"] is None
    assert _default.state.config["prefix"] == "mine"
    with pytest.raises(TypeError, match="multiple values"):
        configure(None, storage_url=None)
    with pytest.raises(TypeError, match="lifetime"):
        configure(lifetime=1)


# ---- when it is read ---------------------------------------------------------------------------------


def test_first_use_reads_it_and_import_does_not():
    code = (
        "import os, zoocache\n"
        "os.environ['ZOOCACHE_MAX_ENTRIES'] = '1'\n"
        "own = zoocache.Cache()\n"
        "zoocache.set('a', 1); zoocache.set('b', 2)\n"
        "print(zoocache.stats().entries, own.max_entries)\n"
    )
    environment = {**os.environ, "ZOOCACHE_MAX_ENTRIES": "nonsense, before the import"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "1 None\n", done.stderr


def test_what_was_read_stays(monkeypatch):
    monkeypatch.setenv("ZOOCACHE_PREFIX", "one")
    zoocache.set("k", 1)
    monkeypatch.setenv("ZOOCACHE_PREFIX", "nonsense")
    configure(prefix="one")
    configure()
    with pytest.raises(RuntimeError, match="already initialized"):
        configure(prefix="two")
    with pytest.raises(RuntimeError, match="already initialized"):
        configure(max_entries=5)
    assert zoocache.get("k") == 1


def test_a_new_default_cache_reads_it_anew(monkeypatch):
    monkeypatch.setenv("ZOOCACHE_MAX_ENTRIES", "1")
    assert _default.cache().max_entries == 1
    monkeypatch.setenv("ZOOCACHE_MAX_ENTRIES", "2")
    zoocache.reset()
    assert _default.cache().max_entries == 2


def test_isolated_does_not_read_it(monkeypatch):
    monkeypatch.setenv("ZOOCACHE_STORAGE_URL", "redis://production.invalid")
    monkeypatch.setenv("ZOOCACHE_MAX_ENTRIES", "nonsense")
    with isolated() as kit:
        assert kit.cache.shared is None
        assert kit.cache.max_entries is None
    with isolated(max_entries=3) as kit:
        assert kit.cache.max_entries == 3


def test_after_isolated_what_was_read_before_is_in_place(monkeypatch):
    monkeypatch.setenv("ZOOCACHE_BUS_URL", "ftp://h")
    configure()
    with isolated():
        pass
    monkeypatch.delenv("ZOOCACHE_BUS_URL")
    with pytest.raises(ValueError, match=r"set by ZOOCACHE_BUS_URL\)$"):
        zoocache.get("k")


# ---- what is refused ---------------------------------------------------------------------------------

SECRET = "redis://user:hunter2@h"


@pytest.mark.parametrize("name", [n for n in TEXTS if not isinstance(TEXTS[n][1], str)])
@pytest.mark.parametrize("text", [SECRET, "-1", "1 fortnight", "1e400", "nan", "maybe", "9" * 5000])
def test_what_makes_no_sense_names_its_variable_and_tells_nothing(name, text, monkeypatch):
    variable = f"ZOOCACHE_{name.upper()}"
    monkeypatch.setenv(variable, text)
    for use in (configure, lambda: zoocache.get("k"), cacheable(lambda: 1)):
        with pytest.raises(ValueError, match=f"^{variable} must be ") as caught:
            use()
        assert text not in str(caught.value) or text == "-1"
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
    monkeypatch.delenv(variable)
    zoocache.set("k", 1)
    assert zoocache.get("k") == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("STORAGE_URL", "ftp://user:hunter2@h"),
        ("STORAGE_URL", "user:hunter2@h"),
        ("STORAGE_URL", "redis://user:hunter2@h:port/x y"),
        ("BUS_URL", "lmdb://user:hunter2@/h"),
    ],
)
def test_what_the_cache_refuses_names_its_variable(name, text, monkeypatch):
    monkeypatch.setenv(f"ZOOCACHE_{name}", text)
    with pytest.raises((ValueError, RuntimeError), match=rf"\((set by|with) ZOOCACHE_{name}\)$") as caught:
        zoocache.get("k")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SERIALIZER", "yaml"),
        ("SILENCE", "shout"),
        ("ACK", "maybe"),
        ("MAX_STALENESS", "2h"),
        ("MAX_STALENESS", "0"),
        ("LOG_SHARDS", "17"),
        ("LOG_SHARDS", "0"),
        ("MAX_ENTRIES", "0"),
        ("LRU_CACHE_SIZE", "0"),
    ],
)
@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1"])
def test_what_is_out_of_bounds_is_refused_with_a_storage_and_without(name, text, url, monkeypatch):
    monkeypatch.setenv(f"ZOOCACHE_{name}", text)
    with pytest.raises(ValueError, match=f"^ZOOCACHE_{name} must be "):
        configure(storage_url=url)


def test_choices_and_bounds_are_those_of_the_storage(monkeypatch):
    from zoocache._shared import ACKS, SILENCES

    for name, choices in (("silence", SILENCES), ("ack", ACKS)):
        for choice in filter(None, choices):
            monkeypatch.setenv(f"ZOOCACHE_{name.upper()}", choice)
            assert settings()[name] == choice
        monkeypatch.setenv(f"ZOOCACHE_{name.upper()}", "?")
        with pytest.raises(ValueError) as caught:
            settings()
        assert all(choice in str(caught.value) for choice in filter(None, choices))
        monkeypatch.delenv(f"ZOOCACHE_{name.upper()}")
    with Cache(bus_url="redis://127.0.0.1:1", max_staleness=3600) as cache:
        assert cache.shared.bound == 3600
    for beyond in (0.09, 3601):
        with pytest.raises(ValueError, match="max_staleness"):
            Cache(bus_url="redis://127.0.0.1:1", max_staleness=beyond)


def test_a_mistake_in_an_argument_blames_no_variable(monkeypatch):
    monkeypatch.setenv("ZOOCACHE_DEFAULT_TTL", "5")
    for given, text in (
        ({"max_entries": 0}, "max_entries must be >= 1"),
        ({"storage_url": "redis://h:x"}, "cannot open"),
    ):
        configure(**given)
        with pytest.raises(ValueError, match=text) as caught:
            zoocache.get("k")
        assert "ZOOCACHE" not in str(caught.value)
        zoocache.reset()


def test_what_is_no_option_is_named_once(monkeypatch, caplog):
    monkeypatch.setenv("ZOOCACHE_MAX_ENTIRES", "hunter2")
    monkeypatch.setenv("ZOOCACHE_URL", "hunter2")
    monkeypatch.setenv("ZOOCACHE_LIB", os.environ.get("ZOOCACHE_LIB", ""))
    monkeypatch.setenv("ZOOCACHE_DISABLED", "0")
    with caplog.at_level(logging.WARNING, "zoocache"):
        configure()
        zoocache.set("k", 1)
        zoocache.reset()
        zoocache.set("k", 1)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["zoocache: these variables of the environment are no options: ZOOCACHE_MAX_ENTIRES, ZOOCACHE_URL"]


def test_options_without_effect_are_named(monkeypatch, caplog):
    monkeypatch.setenv("ZOOCACHE_BATCH_SIZE", "7")
    with caplog.at_level(logging.WARNING, "zoocache"):
        zoocache.set("k", 1)
    assert [r.getMessage() for r in caplog.records] == ["zoocache: these options have no effect: batch_size"]
