"""What a wheel is tried with, by the Python of a bare root: memory, LMDB, Redis, and TLS, or its absence."""

import importlib.metadata
import os
import shutil
import sys
import uuid

import zoocache
from zoocache import BuiltWithout, Cache

redis, rediss, ca, version = sys.argv[1:]  # rediss "": there is no OpenSSL in this root

assert not any(map(shutil.which, ("cc", "gcc", "clang", "tcc"))) and not os.path.exists("/usr/include/stdio.h")
assert zoocache.version() == importlib.metadata.version("zoocache") == version
files = {os.path.basename(f) for f in importlib.metadata.files("zoocache")}
assert {"py.typed", "_native.so"} | {f"LICENSE{of}" for of in ("", ".hiredis", ".lmdb", ".lz4", ".xxhash")} <= files
assert not {"zoocache.h", "_native.c"} & files
assert importlib.metadata.metadata("zoocache")["License-Expression"] == "MIT"


def shares(url, **options):
    """What one cache has computed, the next one finds in the place that `url` names, until it invalidates it."""
    calls, name = [], uuid.uuid4().hex

    def ask(cache):
        return cache.cacheable(namespace=name, deps=["t"])(lambda: calls.append(1) or "value" * 100)()

    with Cache(storage_url=url, timeout=30, **options) as one:
        value = ask(one)
    with Cache(storage_url=url, timeout=30, **options) as two:
        assert ask(two) == value and calls == [1], calls
        two.invalidate("t")
        assert ask(two) == value and calls == [1, 1], calls


memory = Cache()
f = memory.cacheable(deps=["a:b"])(lambda: object())
value = f()
assert f() is value and memory.invalidate("a") is None and f() is not value
os.mkdir("/tmp/lmdb")
shares("lmdb:///tmp/lmdb")
shares(redis)
os.mkdir("/tmp/sealed")
sealed = {"seal_key": "61" * 32}
if rediss:
    shares(rediss, tls_ca=ca)
    shares("lmdb:///tmp/sealed", **sealed)
else:
    for url, options in (("rediss://localhost", {}), ("lmdb:///tmp/sealed", sealed)):
        try:
            Cache(storage_url=url, **options)
        except BuiltWithout as error:
            assert "apt install libssl3" in str(error), error
        else:
            raise AssertionError("TLS or sealing without OpenSSL")
print("used:", "memory, LMDB, Redis,", "TLS, sealed" if rediss else "no OpenSSL")
