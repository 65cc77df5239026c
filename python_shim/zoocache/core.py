"""Names that code written for zoocache 2026 may import from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoocache import _default
from zoocache._default import (
    clear,
    clear_async,
    configure,
    get_tag_version,
    invalidate,
    invalidate_async,
    prune,
    reset,
    version,
)
from zoocache._default import get as get_cache
from zoocache._default import get_async as get_cache_async
from zoocache._default import set as set_cache
from zoocache._default import set_async as set_cache_async
from zoocache._functions import Function, cacheable
from zoocache._table import Rules
from zoocache._zoocache import Core
from zoocache.context import DepsTracker, get_current_deps

__all__ = [
    "DepsTracker",
    "cacheable",
    "clear",
    "clear_async",
    "configure",
    "get_cache",
    "get_cache_async",
    "get_current_deps",
    "get_tag_version",
    "invalidate",
    "invalidate_async",
    "prune",
    "reset",
    "set_cache",
    "set_cache_async",
    "version",
]


class CacheManager:
    """The default cache, as it used to be reached."""

    @property
    def core(self) -> Core | None:
        """None until the first use."""
        return None if _default.state.cache is None else Core()

    @property
    def config(self) -> dict[str, Any]:
        """What configure() has said."""
        return _default.state.config

    def is_configured(self) -> bool:
        """Whether configure() was called, or the cache was used."""
        return _default.state.cache is not None or bool(_default.state.config)

    def get_core(self) -> Core:
        """The default cache, made if need be."""
        _default.cache()
        return Core()

    def configure(self, **settings: Any) -> None:
        """As zoocache.configure()."""
        configure(**settings)

    def reset(self) -> None:
        """As zoocache.reset()."""
        reset()


_manager = CacheManager()


def _generate_key(
    func: Callable[..., Any], namespace: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """The text of a call's key, whether or not the function would take these arguments."""
    function = Function(func, namespace, None, None, None, Rules())
    function.signature.positional = "args"
    return function.key_text(function.freeze(args, kwargs))
