"""Options of cacheable() that belong together, under one name each.

    from zoocache import presets

    @presets.production(ttl=60, deps=lambda uid: [f"user:{uid}"])
    def profile(uid): ...

    api = presets.production.but(ttl=30, namespace="api")  # a house style of one's own

A preset is used as cacheable is, bare or with options, which count before its own; ``cache=`` says in which cache.

                minimal  production  secure  dev   test
    ttl         300      600         600     300   300   seconds; by default of the cache a read begins it anew
    jitter      -        0.1         0.1     -     -     so that what was stored together does not end together
    soft_ttl    -        ttl / 2     -       -     -     served as it is while one refresh runs beside
    fleet       -        yes         yes     -     -     one loader in all processes; of use with a shared storage only
    copy        share    share       copy    copy  copy  an object of its own for each caller, or one for all
    sealed      -        -           yes     -     -     no sealing key, no decoration

dev and test have the same options: with ``zoocache.testing`` nothing about them depends on time or on chance.
``secure`` is for values that the storage must not be able to read (see zoocache.seal): it raises RuntimeError for
whatever it is to decorate, if the cache has no ``seal_key``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from zoocache import _tags
from zoocache._durations import seconds
from zoocache._functions import cacheable

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Unpack

    from zoocache._cache import Cache
    from zoocache._types import Cached, Decorator, Options, P, R

__all__ = ["Preset", "dev", "minimal", "production", "secure", "test"]


@dataclass(frozen=True)
class Preset:
    """A decorator like cacheable, with options of its own. It never changes: but() gives another one."""

    name: str
    given: tuple[tuple[str, Any], ...]
    soft: float = 0.0  # soft_ttl, if nobody says it: this part of the ttl

    @property
    def options(self) -> dict[str, Any]:
        """What it tells cacheable(). A dict of the caller's own."""
        return self._with({})

    def _with(self, more: dict[str, Any]) -> dict[str, Any]:
        options = {**dict(self.given), **more}
        ttl = seconds("ttl", options.get("ttl"))
        if self.soft and ttl is not None and "soft_ttl" not in options:
            options["soft_ttl"] = ttl * self.soft
        return options

    def but(self, *, cache: Cache | None = None, **changes: Unpack[Options]) -> Preset:
        """A preset that differs from this one in these options."""
        more: dict[str, Any] = {**changes}
        if cache is not None:
            more["cache"] = cache
        deps = more.get("deps")
        if deps is not None and not callable(deps):
            more["deps"] = _tags.listed(deps)
        made = replace(self, given=tuple({**dict(self.given), **more}.items()))
        cacheable(**made.options)  # refuses now what it would refuse later
        return made

    @overload
    def __call__(self, func: Callable[P, R], /) -> Cached[P, R]: ...
    @overload
    def __call__(
        self, func: None = None, /, *, cache: Cache | None = None, **options: Unpack[Options]
    ) -> Decorator: ...
    def __call__(self, func: Any = None, /, **options: Any) -> Any:
        """As cacheable()."""
        return cacheable(func, **self._with(options))


minimal = Preset("minimal", (("ttl", 300),))
production = Preset("production", (("ttl", 600), ("jitter", 0.1), ("fleet", True)), soft=0.5)
secure = Preset("secure", (("ttl", 600), ("jitter", 0.1), ("fleet", True), ("copy", "copy"), ("sealed", True)))
dev = Preset("dev", (("ttl", 300), ("copy", "copy")))
test = Preset("test", (("ttl", 300), ("copy", "copy")))
