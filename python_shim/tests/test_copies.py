"""Several copies of the package in one process: imported anew, reloaded, in interpreters of their own."""

import os
import pkgutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import zoocache

ROOT = Path(zoocache.__file__).parent.parent
TTL = 0.05


def run(code, *args):
    """Runs a program of its own; what it asserts is the test."""
    preamble = """
        import gc, importlib, os, sys, threading, time

        def until(condition):
            for _ in range(3000):
                if condition():
                    return
                time.sleep(0.01)
            raise AssertionError("waited for 30 s")

        class Probe:
            "A cached function of one copy of the package."

            def __init__(self, zoocache, ttl=None):
                self.zoocache, self.runs = zoocache, 0

                @zoocache.cacheable(deps=["a"])
                def f(x):
                    self.runs += 1
                    zoocache.add_deps(["inner"])
                    return [x]

                @zoocache.cacheable(ttl=0.05, deps=["a"])
                def short(x):
                    return [x]

                self.f, self.short = f, short

            def check(self):
                first = self.f(1)
                assert self.f(1) is first, "it hits"
                for tag in ("a", "inner"):
                    self.zoocache.invalidate(tag)
                    assert self.f(1) is not first, "it hears"
                    first = self.f(1)
                assert self.f(1) is first

            def check_expiry(self):
                until(lambda: self.short(1) is self.short(1))
                self.short(1)
                kept = [self.short(1)]
                time.sleep(0.1)
                until(lambda: self.short(1) is not kept[0])

        def anew():
            for name in [name for name in sys.modules if name.split(".")[0] == "zoocache"]:
                del sys.modules[name]
            import zoocache
            return zoocache
        """
    text = textwrap.dedent(preamble) + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", text, *args],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_imported_anew():
    run(
        """
        probes = [Probe(anew()) for _ in range(3)]
        assert len({id(p.zoocache) for p in probes}) == 3
        for p in probes + probes:
            p.check()
        for p in probes:
            p.check_expiry()
        counts = [p.zoocache._ffi.words[0] for p in probes]
        probes[1].zoocache.invalidate("a")
        after = [p.zoocache._ffi.words[0] for p in probes]
        assert after[1] > counts[1]
        """
    )


def test_a_copy_that_is_gone_disturbs_nobody():
    run(
        """
        first = Probe(anew())
        first.check()
        second = Probe(anew())
        second.check_expiry()
        del second
        zoocache = anew()
        gc.collect()
        first.check()
        first.check_expiry()
        """
    )


def test_a_storage_for_a_copy_that_was_replaced_is_refused_with_a_sentence():
    run(
        """
        first = anew()
        second = anew()
        try:
            first.Cache(bus_url="redis://127.0.0.1:1")
        except ImportError as error:
            assert "import it anew" in str(error)
        else:
            raise AssertionError
        """
    )


MODULES = [
    m.name
    for m in pkgutil.walk_packages(zoocache.__path__, "zoocache.")
    if "_native" not in m.name and ".adapters." not in m.name
]


def test_each_module_may_be_reloaded():
    run(
        """
        import zoocache
        from django.conf import settings
        from zoocache.context import ACTIVE
        settings.configure()  # or the toolbar is not imported
        old = Probe(zoocache)
        old.check()
        for name in ["zoocache", *sys.argv[1:]]:
            importlib.reload(importlib.import_module(name))
            old.check()
            new = Probe(zoocache)
            new.check()
            old.check()
            first, other = old.f(2), new.f(2)
            zoocache.invalidate("a")
            assert old.f(2) is not first, name
            assert new.f(2) is not other, name

            @zoocache.cacheable
            def outer(x):
                zoocache.set_ttl(1000)
                return [old.f(x), new.f(x)]

            first = outer(1)
            assert outer(1) is first
            zoocache.invalidate("inner")
            assert outer(1) is not first, name

            @zoocache.cacheable
            def ring(x):
                return ring(x)

            try:
                ring(1)
            except RuntimeError as error:
                assert type(error).__name__ == "RecursiveFill", name
            assert zoocache.stats().flights == 0
            assert not ACTIVE
            if hasattr(os, "fork") and "LD_PRELOAD" not in os.environ:  # see the mark plain
                pid = os.fork()
                if not pid:
                    old.check(), new.check()
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0, name
                assert gc.isenabled(), name
        old.check_expiry()
        new.check_expiry()
        """,
        *[name for name in MODULES if name not in ("zoocache._pytest", "zoocache.testing")],
    )


@pytest.mark.parametrize("url", [True, False])
def test_copies_with_a_storage(tmp_path, url):
    run(
        """
        from pathlib import Path

        def shared(zoocache, where):
            if sys.argv[2] == "url":
                if not zoocache._ffi.parts()["lmdb"]:
                    sys.exit(0)
                return zoocache.Cache(storage_url=f"lmdb://{sys.argv[1]}/{where}")
            import importlib
            base = importlib.import_module("zoocache.storage").Storage

            class Shelf(base):
                def __init__(self): self.records = {}
                def get(self, key): return self.records.get(key)
                def put(self, key, record, expires): self.records[key] = record
                def delete(self, key): self.records.pop(key, None)
                def clear(self): self.records.clear()

            return zoocache.Cache(storage=Shelf())

        caches = [shared(anew(), n) for n in range(2)]
        functions = [c.cacheable(namespace="n", deps=["a"])(lambda x: [x]) for c in caches]
        for cache, f in zip(caches * 2, functions * 2):
            first = f(1)
            assert f(1) is first
            cache.invalidate("a")
            assert f(1) is not first
        import zoocache
        for name in ("zoocache._ffi_shared", "zoocache._ffi", "zoocache._shared"):
            importlib.reload(sys.modules[name])
            gc.collect()
            first = functions[1](2)
            assert functions[1](2) is first
            caches[1].invalidate("a")
            assert functions[1](2) is not first
        for cache in caches:
            cache.close()
        """,
        str(tmp_path), "url" if url else "python",
    )  # fmt: skip


def test_interpreters():
    run(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        import zoocache

        mine = Probe(zoocache)
        first = mine.f(7)
        code = '''
        import sys, time
        import zoocache
        runs = []

        @zoocache.cacheable(deps=["a"], ttl=0.05, soft_ttl=0.01)
        def f(x):
            runs.append(x)
            return [x]

        first = f(1)
        zoocache.invalidate("a")
        assert f(1) is not first
        kept = f(1)
        for _ in range(3000):
            if len(runs) > 3:
                break
            f(1)
            time.sleep(0.01)
        else:
            raise AssertionError("nothing expires")
        '''
        if sys.version_info >= (3, 13):
            kinds = [lambda: interpreters.create("isolated"), lambda: interpreters.create("legacy")]
        else:  # ctypes of 3.12 is not for isolated ones, and says so
            kinds = [lambda: interpreters.create(isolated=False)]
            if sys.version_info < (3, 12):
                kinds.append(interpreters.create)
        for kind in kinds * 2:
            there = kind()
            failed = interpreters.run_string(there, code)
            assert failed is None, failed
            mine.check()
            interpreters.destroy(there)
            mine.check()
            mine.check_expiry()
        """
    )
