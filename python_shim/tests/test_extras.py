"""What is needed is needed by whom: nothing by a cache in memory, and a serializer's package where values are stored."""

import importlib.metadata
import re
import subprocess
import sys
import textwrap

import pytest

from zoocache import _ffi

PARTS = _ffi.parts()


def run(blocked, code):
    """Runs code in a process in which these packages cannot be imported."""
    block = f"""
    import sys
    class Nothing:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {set(blocked)!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Nothing())
    """
    code = textwrap.dedent(block) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


THIRD = ("msgpack", "orjson", "pyarrow", "numpy", "pandas", "pydantic", "msgspec")


def test_memory_needs_nothing():
    out = run(
        THIRD,
        """
        import asyncio, zoocache
        from zoocache import Cache, Scope, add_deps, cacheable, invalidate

        @cacheable(deps=lambda x: [f"t:{x}"], ttl=60, serializer="arrow", compression=False)
        def f(x):
            calls.append(x)
            return {"x": (x, {1})}

        @cacheable
        async def g(x):
            add_deps([f"t:{x}"])
            return f(x)

        calls = []
        assert f(1) is f(1) and asyncio.run(g(1)) is f(1) and calls == [1]
        invalidate("t:1")
        f(1)
        assert calls == [1, 1]
        zoocache.set("k", object(), deps=["a"])
        assert zoocache.get("k") is not None
        assert zoocache.get_many(["k"])
        zoocache.clear()
        assert zoocache.get("k") is None
        with Cache(max_entries=3, scopes=Scope("org", "org_id"), serializer="json") as cache:
            cache.set("k", 1, scope="org", org_id=1)
            assert cache.get("k", scope="org", org_id=1) == 1
        from zoocache.testing import isolated
        with isolated() as kit:
            assert f(2) == {"x": (2, {1})}
        zoocache.configure(serializer="arrow")
        zoocache.set("k", 1)
        print(sorted({name.partition(".")[0] for name in sys.modules} & set(THIRD)), "zoocache.serializers" in sys.modules)
        """.replace("THIRD", repr(THIRD)),
    )
    assert out == "[] True\n", "the name of a serializer is looked at when it is given, its package is not"


@pytest.mark.skipif(not PARTS["redis"], reason="without Redis")
def test_a_bus_alone_stores_nothing():
    code = """
        import logging, zoocache
        logging.disable()
        with zoocache.Cache(bus_url="redis://127.0.0.1:1") as cache:
            cache.set("k", 1)
        """
    run(["msgpack"], code)


STORAGES = ["storage=Shelf()"] + ["storage_url=f'lmdb://{directory}'"] * PARTS["lmdb"]
STORAGES += ["storage_url='redis://127.0.0.1:1'"] * PARTS["redis"]


@pytest.mark.parametrize("how", STORAGES)
@pytest.mark.parametrize(
    ("blocked", "serializer", "extra"),
    [("msgpack", None, "msgpack"), ("pyarrow", "arrow", "arrow"), ("numpy", "arrow", "arrow")],
)
def test_a_storage_says_what_to_install(how, blocked, serializer, extra, tmp_path):
    option = f", serializer={serializer!r}" if serializer else ""
    code = f"""
        import zoocache
        from zoocache.storage import Storage
        class Shelf(dict, Storage):
            def get(self, key): return dict.get(self, key)
            def put(self, key, record, expires): self[key] = record
            def delete(self, key): self.pop(key, None)
        directory = {str(tmp_path)!r}
        for make in (lambda: zoocache.Cache({how}{option}), lambda: (zoocache.configure({how}{option}), zoocache.set("k", 1))):
            try:
                make()
            except ImportError as error:
                print(error.name, error)
            else:
                print("nothing was said")
        """
    lines = run([blocked], code).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"{blocked if blocked != 'numpy' else 'numpy'} zoocache: ")
        assert f"pip install 'zoocache[{extra}]'" in line


def test_a_function_says_it_as_well():
    """By itself if its cache is known; else when it is called. It does not go on without."""
    code = """
        import zoocache
        from zoocache.storage import Storage
        class Shelf(dict, Storage):
            def get(self, key): return dict.get(self, key)
            def put(self, key, record, expires): self[key] = record
            def delete(self, key): self.pop(key, None)
        with zoocache.Cache(storage=Shelf(), serializer="pickle") as cache:
            f = cache.cacheable(serializer="arrow")(lambda: 1)
            for _ in range(2):
                try:
                    f()
                except ImportError as error:
                    print(error)
        """
    lines = run(["pyarrow"], code).splitlines()
    assert len(lines) == 2
    assert all("zoocache[arrow]" in line for line in lines)


def test_json_does_without_orjson(tmp_path):
    code = """
        import sys
        from zoocache.serializers import Json
        print(Json().dumps({"a": [1, 2.5, None, "é"]}).hex(), "orjson" in sys.modules)
        """
    without, own = run(["orjson"], code).split()
    assert own == "False"
    assert run([], code).split() == [without, "True"]


def test_extras():
    """Each says what it needs, and nothing is needed without one."""
    found = {}
    for line in importlib.metadata.requires("zoocache"):
        name, _, rest = line.partition(";")
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", rest)
        found.setdefault(extra[1] if extra else None, []).append(re.match(r"[\w.-]+(\[\w+\])?", name)[0])
    assert None not in found
    for extra, needs in {
        "lmdb": "zoocache[msgpack]", "redis": "zoocache[msgpack]", "msgpack": "msgpack", "json": "orjson", "arrow": "pyarrow",
        "numpy": "numpy", "pandas": "pandas", "pydantic": "pydantic", "msgspec": "msgspec",
    }.items():  # fmt: skip
        assert needs in found[extra], extra


@pytest.mark.parametrize(
    ("package", "url", "extra"),
    [
        ("pymemcache", "memcached://h", "memcached"),
        ("pymongo", "mongodb://h/x", "mongodb"),
        ("boto3", "dynamodb://r/t", "dynamodb"),
        ("boto3", "http://h/x?s3=r", "dynamodb"),
        ("urllib3", "http://h/x", "http"),
    ],
)
def test_a_place_says_which_extra_it_needs(package, url, extra):
    out = run(
        [package],
        f"""
        from zoocache import Cache
        try:
            Cache(storage_url={url!r})
        except ImportError as error:
            print(error)
        """,
    )
    assert f"pip install 'zoocache[{extra}]'" in out
