"""FastAPI: endpoints whose answers are cached until what they depend on changes. Needs zoocache[fastapi].

    @app.get("/users/{uid}")
    @cache_endpoint(deps=lambda uid: [f"user:{uid}"])
    async def profile(uid: int, db: Annotated[Session, Depends(session)]) -> User: ...

See zoocache.contrib.fastapi.route for what is a part of the key.
"""

try:
    import fastapi as _fastapi  # noqa: F401
except ImportError as error:
    raise ImportError("zoocache.contrib.fastapi needs FastAPI: pip install 'zoocache[fastapi]'") from error

from zoocache.contrib.fastapi.route import cache_endpoint

__all__ = ["cache_endpoint"]
