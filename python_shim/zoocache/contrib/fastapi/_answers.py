"""Responses as they are stored, and made of what is stored."""

from __future__ import annotations

from fastapi import Response

__all__ = ["Ready", "body_of"]


class Ready(Response):
    """A Response of what was stored."""

    def __init__(self, body: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.body = body
        self.status_code = status
        self.raw_headers = headers
        self.background = None


def body_of(response: Response, name: str) -> bytes:
    """The body. Raises TypeError for what is sent as it comes."""
    body = getattr(response, "body", None)
    if not isinstance(body, (bytes, memoryview)):
        raise TypeError(
            f"zoocache cannot cache `{name}`: it returns a {type(response).__name__}, which only one client can"
            " read; return a Response with the whole body, or leave cache_endpoint() out"
        )
    return bytes(body)
