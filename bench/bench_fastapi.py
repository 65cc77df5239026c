#!/usr/bin/env python3
"""Times FastAPI's endpoints, cached and not, through the ASGI interface, in this process.

    python bench/bench_fastapi.py [--rounds 30] [--profile]

Each figure is the least of batches that take turns, so that a busy machine is no part of it.
"""

import argparse
import asyncio
import cProfile
import gc
import pstats
import time
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel

from zoocache.contrib.fastapi import cache_endpoint

perf = time.perf_counter


class Note(BaseModel):
    id: int
    text: str


async def session():
    yield None


async def small():
    return {"a": 1}


async def model(note: int, q: str = "") -> Note:
    return Note(id=note, text=q)


async def dependent(note: int, db: Annotated[None, Depends(session)], q: str = "") -> Note:
    return Note(id=note, text=q)


def app_of(endpoint):
    """An application of one route, for routes are looked at in turn."""
    app = FastAPI()
    app.get("/x/{note}")(endpoint)
    return app


def asked(**headers):
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": "/x/1",
        "raw_path": b"/x/1", "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "headers": [(b"host", b"test"), (b"accept", b"*/*"), (b"user-agent", b"bench")]
        + [(name.replace("_", "-").encode(), text) for name, text in headers.items()],
    }  # fmt: skip


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


async def response(app, scope):
    sent = []

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


async def nothing(message):
    pass


async def batch(app, scope, n):
    gc.disable()
    start = perf()
    for _ in range(n):
        await app(dict(scope), receive, nothing)
    spent = perf() - start
    gc.enable()
    return spent / n * 1e6


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    for endpoint in (small, model, dependent):
        page = app_of(cache_endpoint(http=True, ttl=600)(endpoint))
        etag = (await response(page, asked()))[1][b"etag"]
        timed = {
            "bare": (app_of(endpoint), asked()),
            "cached, hit": (app_of(cache_endpoint(ttl=600)(endpoint)), asked()),
            "page, hit": (page, asked()),
            "page, 304": (page, asked(if_none_match=etag)),
        }
        assert (await response(*timed["page, 304"]))[0] == 304
        least = dict.fromkeys(timed, float("inf"))
        for _ in range(options.rounds):
            for name, given in timed.items():
                least[name] = min(least[name], await batch(*given, 50))
        bare = least["bare"]
        for name, us in least.items():
            print(f"{endpoint.__name__:10} {name:12} {us:6.1f} us  {us - bare:+6.1f} us  {us / bare:5.2f} x", flush=True)
        if options.profile:
            for name in ("cached, hit", "page, 304"):
                profile = cProfile.Profile()
                profile.enable()
                await batch(*timed[name], 2000)
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(18)


asyncio.run(main())
