"""A cache in front of the application, a CDN or a proxy, is told what was invalidated.

    purger = Purger(fastly("service-id", token))  # or cloudflare("zone-id", token), or a callable of one's own
    ...
    purger.close()  # sends what waits

What it purges by are the tags that pages bear: cache_endpoint(http=True, tag_header="Surrogate-Key"). Those have also
the tags above their own, so that the tag which is invalidated is all that is sent. The tags of scopes (evict_scope) and
of the endpoint itself (cache_clear) begin with "|". clear() purges everything. What a transaction() holds back is told
after its commit. Each process tells what is invalidated in it.

Tags wait in a set, of which a thread sends up to 30 at a time: however often one is invalidated meanwhile, it is sent
once. What fails is sent again, after a pause that doubles up to a minute, or what Retry-After says, for as long as it
takes; with more than 10,000 tags that wait, everything is purged instead.

Each tag is sent twice: at once, and a moment later (a second, and max_staleness if there is a bus). For a page that was
computed before, here or in a process that had not heard yet, may have been on its way to the cache in front.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from zoocache import _default
from zoocache._log import logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from zoocache._cache import Cache
    from zoocache.events import Event

__all__ = ["Purger", "cloudflare", "fastly"]

_BATCH = 30  # tags in a request: what every service takes
_MANY = 10_000  # tags that wait, at most
_PAUSE, _LONGEST = 0.5, 60.0  # seconds between two tries

_ALL = ""  # no tag: everything

Tags = tuple[str, ...]


def fastly(service: str, token: str, *, url: str = "https://api.fastly.com") -> Callable[[Tags], Request]:
    """Requests of Fastly, which knows pages by Surrogate-Key."""

    def request(tags: Tags) -> Request:
        headers = {"Fastly-Key": token, "Accept": "application/json"}
        if not tags:
            return Request(f"{url}/service/{service}/purge_all", b"", headers, method="POST")
        headers["Surrogate-Key"] = " ".join(tags)
        return Request(f"{url}/service/{service}/purge", b"", headers, method="POST")

    return request


def cloudflare(zone: str, token: str, *, url: str = "https://api.cloudflare.com") -> Callable[[Tags], Request]:
    """Requests of Cloudflare, which knows pages by Cache-Tag."""

    def request(tags: Tags) -> Request:
        body = json.dumps({"tags": tags} if tags else {"purge_everything": True}).encode()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return Request(f"{url}/client/v4/zones/{zone}/purge_cache", body, headers, method="POST")

    return request


class Purger:
    """Follows the invalidations of a cache, the default one unless another is given, from now until close().

    request: a callable of tags that gives the request which purges them; of none, that which purges everything.
    timeout: of one request, in seconds. Good for any number of threads; close() is to be called by the one who ends it.
    """

    again = 1.0  # seconds until what was sent is sent once more, beside max_staleness
    failing = ""  # why the last request has failed

    def __init__(
        self, request: Callable[[Tags], Request], *, cache: Cache | None = None, timeout: float = 10.0
    ) -> None:
        self._request = request
        self._timeout = timeout
        self._begin_anew()
        followed = _default.cache() if cache is None else cache
        shared = followed.shared
        self._later = self.again + (0.0 if shared is None else shared.bound)
        followed.listen(self)

    def _begin_anew(self) -> None:
        """Nothing waits. Also in the child of a fork: its parent sends what was invalidated there."""
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[float, bool]] = {}  # tags: when they are due, whether for the last time
        self._end: float | None = None  # of close(): until then what waits is sent
        self._thread: threading.Thread | None = None

    def _of_this_process(self) -> None:
        if self._pid != os.getpid():
            self._begin_anew()

    # ---- what happens in the cache ---------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Takes an event of the cache."""
        if event.kind != "invalidated":
            return
        self._of_this_process()
        tags = event.tags or (_ALL,)
        with self._changed:
            if self._end is not None:
                return
            now = time.monotonic()
            self._waiting.update((tag, (now, False)) for tag in tags)
            if len(self._waiting) > _MANY:
                self._waiting = {_ALL: (now, False)}
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zoocache-purge", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    # ---- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while batch := self._next():
            asked = self._send(() if _ALL in batch else tuple(batch))
            now = time.monotonic()
            with self._changed:
                if asked is None:
                    failures = 0
                    again = {tag: (now + self._later, True) for tag, last in batch.items() if not last}
                    self._waiting = {**again, **self._waiting} if self._end is None else self._waiting
                    continue
                failures += 1
                pause = max(asked, min(_LONGEST, _PAUSE * 2 ** min(failures - 1, 10)) * (0.5 + random.random() / 2))
                self._waiting = {**{tag: (now, last) for tag, last in batch.items()}, **self._waiting}
                self._changed.wait_for(lambda: self._end is not None, pause)
                if self._end is not None:
                    self._changed.wait(max(0.0, min(pause, self._end - time.monotonic())))

    def _next(self) -> dict[str, bool]:
        """Some tags that are due, and whether for the last time; waits for them. Empty: it is over."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._end is not None and (not self._waiting or now >= self._end):
                    return {}
                due = [tag for tag, (at, _) in self._waiting.items() if at <= now or self._end is not None]
                if due:
                    chosen = due if _ALL in due else due[:_BATCH]
                    return {tag: self._waiting.pop(tag)[1] for tag in chosen}
                first = min((at for at, _ in self._waiting.values()), default=None)
                self._changed.wait(None if first is None else first - now)

    def _send(self, tags: Tags) -> float | None:
        """Sends a request. None: it was taken; else the seconds until it may be tried again, by who refused it."""
        asked = 0.0
        try:
            with urlopen(self._request(tags), timeout=self._timeout) as response:
                response.read()
            self._told("")
            return None
        except HTTPError as error:
            with error:
                why = f"status {error.code}"
                after = error.headers.get("Retry-After", "")
                asked = min(_LONGEST, float(after)) if after.isdigit() else 0.0
        except Exception as error:  # of the network, or of the callable
            why = type(error).__name__
        self._told(why)
        return asked

    def _told(self, why: str) -> None:
        """Says once that purging has failed, and once that it works again."""
        if why and not self.failing:
            logger.error("zoocache: the cache in front could not be told what was invalidated (%s); trying again", why)
        elif not why and self.failing:
            logger.info("zoocache: the cache in front is told again what was invalidated")
        self.failing = why

    # ---- the end ---------------------------------------------------------------------------------------

    def close(self, timeout: float = 10.0) -> bool:
        """Sends what waits, for so many seconds at most, and follows no more. Whether nothing is left."""
        self._of_this_process()
        with self._changed:
            self._end = time.monotonic() + timeout
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout + self._timeout)
        return not self._waiting

    def __enter__(self) -> Purger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
