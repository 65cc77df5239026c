import importlib
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

import zoocache
from zoocache import _default, cacheable, configure, invalidate

ROOT = Path(__file__).resolve().parents[2]


def in_child(work):
    """Runs work() in a forked child; fails if it raises or hangs there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    for _ in range(3000):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.plain
def test_fork():
    configure(read_extend_ttl=False)
    go = threading.Event()
    inside = threading.Event()

    @cacheable(deps=["fork"])
    def slow(x):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go.wait(30)
        return [x]

    @cacheable(ttl=0.1)
    def short(x):
        return time.monotonic()

    slow(1), short(1), short(1)
    thread = threading.Thread(target=slow, args=(2,))
    thread.start()
    assert inside.wait(30)

    def child():
        assert zoocache.stats().flights == 0, "the flights of the parent's other threads are over"
        assert slow(2) == [2]
        first = slow(1)
        assert slow(1) is first
        invalidate("fork")
        assert slow(1) is not first
        value = short(1)
        end = time.monotonic() + 30
        while short(1) == value:
            assert time.monotonic() < end, "the ticker must run in the child as well"

    in_child(child)
    before = slow(1)
    go.set()
    thread.join()
    assert slow(1) is before
    value = short(1)
    while short(1) == value:
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.plain
def test_fork_inside_a_fill():
    @cacheable(deps=["x"])
    def f(x):
        zoocache.add_deps(["y"])
        in_child(lambda: (zoocache.add_deps(["z"]), zoocache.set("k", 1), cacheable(lambda: 1)()))
        return [x]

    first = f(1)
    assert f(1) is first
    invalidate("z")
    assert f(1) is first
    invalidate("y")
    assert f(1) is not first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.plain
def test_fork_while_the_default_cache_is_made(monkeypatch):
    inside = threading.Event()
    made = []

    def slow(**config):
        inside.set()
        time.sleep(0.2)
        return zoocache.Cache(**config)

    monkeypatch.setattr(_default, "Cache", slow)
    thread = threading.Thread(target=lambda: made.append(_default.cache()))
    thread.start()
    assert inside.wait(30)

    def child():
        zoocache.configure()
        zoocache.set("k", 1)
        assert zoocache.get("k") == 1

    in_child(child)
    thread.join()
    assert made == [_default.state.cache]


def run(code, **env):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python_shim"), **env}
    return subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)


def storm():
    stop = threading.Event()

    @cacheable(deps=lambda x: [f"s:{x}"])
    def f(x):
        return x

    def work():
        x = 0
        while not stop.is_set():
            f(x % 50)
            invalidate(f"s:{x % 7}")
            x += 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()

    def child():
        for x in range(200):
            assert f(x) == x
            invalidate("s")
        zoocache.clear()

    try:
        for _ in range(10):
            in_child(child)
    finally:
        stop.set()
        for t in threads:
            t.join()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.plain
def test_fork_in_a_storm():
    # In a process of its own: a tracer takes a lock of its own at every call of what it measures, and
    # coverage's does not look after fork(). Held by one of the threads then, it stays so in the child.
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "import test_process\n"
        "assert sys.gettrace() is None\n"
        "test_process.storm()\n"
        "print('over')\n"
    )
    done = run(code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "over", "")


def test_exit_is_silent():
    code = (
        "import zoocache, threading\n"
        "@zoocache.cacheable(ttl=5, soft_ttl=0.001)\n"
        "def f(x):\n    return [x]\n"
        "class D:\n    def __del__(self): f(3)\n"
        "f(1); f(1); f(2)\n"
        "zoocache.set('d', D(), ['a:b', 'c'])\n"
        "print(zoocache.stats().entries)\n"
    )
    done = run(code)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3", "")


def test_import_is_light():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import zoocache\n"
        "@zoocache.cacheable(deps=['a'], ttl=5)\n"
        "def f(x): return x\n"
        "f(1); f(1); zoocache.invalidate('a')\n"
        "heavy = {'asyncio', 'typing', 're', 'inspect', 'random', 'copy', 'logging', 'prometheus_client', 'opentelemetry',"
        " 'redis', 'pytest', 'enum'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))\n"
    )
    done = run(code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_two_modules_know_ctypes():
    package = ROOT / "python_shim" / "zoocache"
    known = sorted(path.name for path in package.rglob("*.py") if "import ctypes" in path.read_text())
    assert known == ["_ffi.py", "_ffi_shared.py"]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "examples" / "python").is_dir(), reason="not in the checkout")
@pytest.mark.parametrize("name", ["shop.py", "shop_async.py", "web.py", "file_storage.py"])
def test_examples(name):
    if name == "web.py":
        importlib.import_module("fastapi")
        importlib.import_module("httpx")
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "python" / name)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python_shim")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = [
        line[4:] for line in (ROOT / "examples" / "python" / name).read_text().splitlines() if line.startswith("#   ")
    ]
    assert done.stdout.splitlines() == expected
