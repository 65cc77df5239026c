"""A panel for django-debug-toolbar: what the cache did for a request. Needs zoocache[django-toolbar].

    DEBUG_TOOLBAR_PANELS = [..., "zoocache.contrib.django.panel.ZooCachePanel"]

It lists what the request depends on (the tags of all that it was served), what was computed for it and how long that
took, and what it has invalidated. Hits are what the default cache has counted while the request ran: those of requests
that ran at the same time are among them.

While a request is watched, what is served to it is noted, and its cache tells its events from the first one on: it is
for development.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

try:
    from debug_toolbar.panels import Panel
    from django.template import Context, Engine
except ImportError as error:
    raise ImportError(
        "zoocache.contrib.django.panel needs django-debug-toolbar: pip install 'zoocache[django-toolbar]'"
    ) from error

from zoocache.context import DepsTracker
from zoocache.contrib.django.connection import cache

if TYPE_CHECKING:
    from zoocache import Cache
    from zoocache.events import Event

__all__ = ["ZooCachePanel"]

_request: ContextVar[list[Event] | None] = ContextVar("zoocache_request", default=None)  # what happens in it
_listening: WeakSet[Cache] = WeakSet()

_TEMPLATE = Engine().from_string("""
<h4>Summary</h4>
<table>
  <thead><tr><th>Hits</th><th>Misses</th><th>Invalidations</th></tr></thead>
  <tbody><tr><td>{{ hits }}</td><td>{{ misses|length }}</td><td>{{ invalidations|length }}</td></tr></tbody>
</table>
<h4>Tags</h4>
<p>{% for tag in tags %}<code>{{ tag }}</code> {% empty %}none{% endfor %}</p>
<h4>Computed</h4>
<table>
  <thead><tr><th>Function</th><th>Outcome</th><th>Time (ms)</th><th>Tags</th></tr></thead>
  <tbody>{% for miss in misses %}
    <tr>
      <td><code>{{ miss.function }}</code></td><td>{{ miss.outcome }}</td><td>{{ miss.elapsed|floatformat:2 }}</td>
      <td>{% for tag in miss.tags %}<code>{{ tag }}</code> {% endfor %}</td>
    </tr>{% endfor %}
  </tbody>
</table>
<h4>Invalidated</h4>
<ol>{% for tags in invalidations %}
  <li>{% for tag in tags %}<code>{{ tag }}</code> {% empty %}everything{% endfor %}</li>{% endfor %}
</ol>
""")


def _heard(event: Event) -> None:
    events = _request.get()
    if events is not None:
        events.append(event)


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('s') else 's'}"


class ZooCachePanel(Panel):  # type: ignore[misc]
    """What DEBUG_TOOLBAR_PANELS names."""

    title = nav_title = "zoocache"

    @property
    def nav_subtitle(self) -> str:
        stats = self.get_stats()
        return f"{_times(stats['hits'], 'hit')}, {_times(len(stats['misses']), 'miss')}" if stats else ""

    @property
    def content(self) -> str:
        return str(_TEMPLATE.render(Context(self.get_stats())))

    def process_request(self, request: Any) -> Any:
        found = cache()
        if found not in _listening:
            found.listen(_heard)
            _listening.add(found)
        before = found.stats().hits
        events: list[Event] = []
        token = _request.set(events)
        try:
            with DepsTracker() as tracker:
                response = super().process_request(request)
        finally:
            _request.reset(token)
        self.record_stats(
            {
                "hits": found.stats().hits - before,
                "tags": sorted(tracker.deps),
                "misses": [
                    {
                        "function": event.function,
                        "outcome": event.reason,
                        "elapsed": (event.elapsed or 0) * 1e3,
                        "tags": list(event.tags),
                    }
                    for event in events
                    if event.kind in ("filled", "failed")
                ],
                "invalidations": [list(event.tags) for event in events if event.kind == "invalidated"],
            }
        )
        return response
