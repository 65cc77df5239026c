"""Litestar: handlers whose answers are cached, and a store that knows tags. Needs zoocache[litestar].

    @get("/users/{uid:int}")
    @cache_endpoint(deps=lambda uid: [f"user:{uid}"])
    async def profile(uid: int, db: Session) -> User: ...

    Litestar([profile], stores=StoreRegistry(default_factory=ZooCacheStore().with_namespace))

See zoocache.contrib.litestar.route for what is a part of the key, and zoocache.contrib.litestar.stores.
"""

try:
    import litestar as _litestar  # noqa: F401
except ImportError as error:
    raise ImportError("zoocache.contrib.litestar needs Litestar: pip install 'zoocache[litestar]'") from error

from zoocache.contrib.litestar.route import cache_endpoint
from zoocache.contrib.litestar.stores import ZooCacheStore

__all__ = ["ZooCacheStore", "cache_endpoint"]
