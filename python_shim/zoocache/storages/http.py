"""An HTTP server with strong ETags: a bucket of S3 or what is compatible, or WebDAV. Needs zoocache[http].

    configure(storage_url="https://shop.s3.eu-central-1.amazonaws.com/cache?s3=eu-central-1", prefix="shop")
    cache = Cache(storage=HTTPStorage("https://user:password@dav.internal/cache"), prefix="shop")

A record is a resource below the URL, asked for by GET, PUT and DELETE. The log is changed by PUT with If-Match or
If-None-Match, which the server must do in one step, and its ETag must be strong: one that is weak is an error. Of
Apache's mod_dav neither is so by itself: it takes ``FileETag Digest`` and one worker.

Nothing there expires by itself: give a bucket a rule for old objects. ``s3`` signs requests for a region, with the
credentials that boto3 finds (zoocache[dynamodb] has it); ``sign`` may be any function of the method, the URL, the
headers and the body that returns headers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from zoocache.storage import SharedStorage
from zoocache.storages import digest, missing, patience

try:
    import urllib3
except ImportError as error:
    raise missing("http", "urllib3 2", "http") from error

__all__ = ["HTTPStorage"]

Sign: TypeAlias = Callable[[str, str, Mapping[str, str], bytes], Mapping[str, str]]

_MOST = 2**26  # bytes of an answer
_CHANGED = (404, 409, 412)  # of a PUT with a condition


class HTTPStorage(SharedStorage):
    """Records as resources below a URL, whose user and password are for Basic authentication."""

    def __init__(self, url: str, *, s3: str | None = None, sign: Sign | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("HTTPStorage takes http://host/path or https://host/path")
        parts.port  # noqa: B018 - raises ValueError
        user, at, host = parts.netloc.rpartition("@")
        self._headers = urllib3.make_headers(basic_auth=unquote(user)) if at else {}
        self._url = urlunsplit((parts.scheme, host, parts.path.rstrip("/") + "/", "", ""))
        self._sign = sign or (_s3(s3) if s3 else None)
        self.forked()

    @classmethod
    def from_url(cls, url: str, parts: SplitResult, options: dict[str, str]) -> HTTPStorage:
        return cls(urlunsplit(parts._replace(query="")), s3=options.pop("s3", None))

    def get(self, key: bytes) -> bytes | None:
        return self._get(key)[0]

    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        self._ask("PUT", key, record)

    def delete(self, key: bytes) -> None:
        self._ask("DELETE", key, but=(404, 410))

    def read(self, key: bytes) -> tuple[bytes | None, bytes]:
        value, tag = self._get(key, {"cache-control": "no-cache"})
        if value is not None and not tag.startswith('"'):
            raise OSError("http: the server gives no strong ETag, so it cannot hold the log")
        return value, tag.encode()

    def swap(self, key: bytes, value: bytes, token: bytes) -> bool:
        condition = {"if-match": token.decode()} if token else {"if-none-match": "*"}
        return self._ask("PUT", key, value, condition, _CHANGED)[0] not in _CHANGED

    def close(self) -> None:
        self._pool.clear()

    def forked(self) -> None:
        self._pool = urllib3.PoolManager(maxsize=16, retries=False)

    def _get(self, key: bytes, more: Mapping[str, str] = {}) -> tuple[bytes | None, str]:
        status, body, tag = self._ask("GET", key, more=more, but=(404, 410))
        return (body, tag) if status == 200 else (None, "")

    def _ask(
        self, method: str, key: bytes, body: bytes = b"", more: Mapping[str, str] = {}, but: tuple[int, ...] = ()
    ) -> tuple[int, bytes, str]:
        """Status, content and ETag of an answer, which is a success or one of these."""
        url = self._url + digest(key)
        headers = {**self._headers, **more}
        headers.update(self._sign(method, url, headers, body) if self._sign else {})
        options: Any = {"timeout": urllib3.Timeout(total=patience()), "redirect": False, "preload_content": False}
        try:
            answer = self._pool.request(method, url, body=body or None, headers=headers, **options)
            data = answer.read(_MOST + 1)
            answer.release_conn() if len(data) <= _MOST else answer.close()
        except urllib3.exceptions.TimeoutError:
            raise TimeoutError("http: no answer in time") from None
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"http: {type(error).__name__}") from None
        if not (answer.status < 300 or answer.status in but) or len(data) > _MOST:
            raise OSError(f"http: {method} was answered with {answer.status} and {len(data)} bytes")
        return answer.status, data, answer.headers.get("etag", "")


def _s3(region: str) -> Sign:
    """Signs as S3 wants it."""
    try:
        from boto3.session import Session
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
    except ImportError as error:
        raise missing("http", "boto3 to sign for S3", "dynamodb") from error
    session = Session()

    def sign(method: str, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        request = AWSRequest(method, url, dict(headers), body)
        S3SigV4Auth(session.get_credentials(), "s3", region).add_auth(request)
        return dict(request.headers)

    return sign
