"""{% load zoocache %}: a fragment that is kept until what it shows is changed.

    {% zoocache 500 sidebar request.user.pk tags="shop.product" %}
        {% for product in products %}...{% endfor %}
    {% endzoocache %}

The life in seconds (None: as the cache says), a name, what the fragment varies on, and tags, if any: one, a list, or
several with spaces between. It depends on what the cached querysets and functions depend on that it asks, too.
"""

from __future__ import annotations

from django.template import Library, Node, TemplateSyntaxError
from django.utils.safestring import mark_safe

from zoocache._default import set_ttl
from zoocache._functions import cacheable
from zoocache.context import add_deps
from zoocache.contrib.django.connection import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["register"]

register = Library()


@cacheable(namespace="django", ignore=("nodes", "context", "ttl", "tags"))
def _fragment(name: str, vary: tuple[str, ...], nodes: Any, context: Any, ttl: float | None, tags: list[str]) -> str:
    """The text of a fragment."""
    add_deps(tags)
    if ttl is not None:
        set_ttl(ttl)
    return str.__str__(nodes.render(context))


class Fragment(Node):  # type: ignore[misc]
    """The tag in a template."""

    def __init__(self, nodes: Any, ttl: Any, name: str, vary: list[Any], tags: Any) -> None:
        self.nodelist, self.ttl, self.name, self.vary, self.tags = nodes, ttl, name, vary, tags

    def render(self, context: Any) -> str:
        tags = () if self.tags is None else self.tags.resolve(context)
        ttl = self.ttl.resolve(context)
        if isinstance(ttl, (bool, str)) or not (ttl is None or isinstance(ttl, (int, float))):
            raise TemplateSyntaxError(f"the life of {{% zoocache %}} is in seconds, or None: {ttl!r}")
        vary = tuple(str(each.resolve(context)) for each in self.vary)
        listed = tags.split() if isinstance(tags, str) else list(tags)
        cache()
        text: str = mark_safe(_fragment(self.name, vary, self.nodelist, context, ttl, listed))
        return text


def fragment(parser: Any, token: Any) -> Fragment:
    """{% zoocache ttl name vary... tags=... %}...{% endzoocache %}"""
    parts = token.split_contents()
    nodes = parser.parse(("endzoocache",))
    parser.delete_first_token()
    named = [each[5:] for each in parts if each.startswith("tags=")]
    rest = [each for each in parts[1:] if not each.startswith("tags=")]
    if len(rest) < 2 or len(named) > 1:
        raise TemplateSyntaxError("{% zoocache %} is given a life, a name, what it varies on, and tags=")
    ttl, *vary = [parser.compile_filter(each) for each in (rest[0], *rest[2:])]
    return Fragment(nodes, ttl, rest[1], vary, parser.compile_filter(named[0]) if named else None)


register.tag("zoocache", fragment)
