"""DynamoDB, or what is compatible. Needs zoocache[dynamodb].

    configure(storage_url="dynamodb://eu-central-1/cache", prefix="shop")
    cache = Cache(storage=DynamoDBStorage("cache", region="eu-central-1"), prefix="shop")

The table has a key of one part, ``k``, a string; let it end items by ``e`` (TTL):

    aws dynamodb create-table --table-name cache --billing-mode PAY_PER_REQUEST \
        --attribute-definitions AttributeName=k,AttributeType=S --key-schema AttributeName=k,KeyType=HASH
    aws dynamodb update-time-to-live --table-name cache \
        --time-to-live-specification Enabled=true,AttributeName=e

Reads are consistent, and the log is changed under a condition. Not for a global table that is written in several
regions. Credentials are found as boto3 finds them. An item has 400 KiB at most.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import SplitResult

from zoocache.storage import SharedStorage
from zoocache.storages import bounded, digest, missing

try:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError, ConnectTimeoutError, HTTPClientError, ReadTimeoutError
except ImportError as error:
    raise missing("dynamodb", "boto3", "dynamodb") from error

__all__ = ["DynamoDBStorage"]

_LIMIT = 400 * 1024 - 512


class DynamoDBStorage(SharedStorage):
    """Records as items of a table. timeout: of a call, in seconds; its client is told so once."""

    def __init__(
        self, table: str, *, region: str | None = None, endpoint: str | None = None, timeout: float = 1.0
    ) -> None:
        self._table = table
        once = Config(connect_timeout=timeout, read_timeout=timeout, retries={"total_max_attempts": 1})
        self._options = {"region_name": region, "endpoint_url": endpoint, "config": once}
        self.forked()

    @classmethod
    def from_url(cls, url: str, parts: SplitResult, options: dict[str, str]) -> DynamoDBStorage:
        table = parts.path[1:]
        if "@" in parts.netloc or not table or "/" in table:
            raise ValueError
        timeout = float(options.pop("timeout", "1"))
        return cls(table, region=parts.netloc or None, endpoint=options.pop("endpoint", None), timeout=timeout)

    def get(self, key: bytes) -> bytes | None:
        item = self._item(key)
        return item["v"]["B"] if item else None

    def put(self, key: bytes, record: bytes, expires: float | None) -> None:
        bounded(_LIMIT, record, self, key, "an item of DynamoDB")
        end = {} if expires is None else {"e": {"N": str(int(expires) + 1)}}
        self._call("put_item", Item={"k": {"S": digest(key)}, "v": {"B": record}, **end})

    def delete(self, key: bytes) -> None:
        self._call("delete_item", Key={"k": {"S": digest(key)}})

    def touch(self, key: bytes, expires: float | None) -> None:
        change: dict[str, Any] = {"UpdateExpression": "REMOVE e"}
        if expires is not None:
            end = {":e": {"N": str(int(expires) + 1)}}
            change = {"UpdateExpression": "SET e = :e", "ExpressionAttributeValues": end}
        key_of = {"k": {"S": digest(key)}}
        self._met("update_item", Key=key_of, ConditionExpression="attribute_exists(k)", **change)

    def read(self, key: bytes) -> tuple[bytes | None, bytes]:
        item = self._item(key)
        return (item["v"]["B"], item["t"]["B"]) if item else (None, b"")

    def swap(self, key: bytes, value: bytes, token: bytes) -> bool:
        item = {"k": {"S": digest(key)}, "v": {"B": value}, "t": {"B": os.urandom(12)}}
        if not token:
            return self._met("put_item", Item=item, ConditionExpression="attribute_not_exists(k)")
        same = {"ConditionExpression": "t = :t", "ExpressionAttributeValues": {":t": {"B": token}}}
        return self._met("put_item", Item=item, **same)

    def close(self) -> None:
        self._client.close()

    def forked(self) -> None:
        self._client = boto3.session.Session().client("dynamodb", **self._options)

    def _item(self, key: bytes) -> dict[str, Any]:
        item: dict[str, Any] = self._call("get_item", Key={"k": {"S": digest(key)}}, ConsistentRead=True).get(
            "Item", {}
        )
        return item

    def _met(self, method: str, **request: Any) -> bool:
        """Whether the condition of a call was met."""
        try:
            self._call(method, **request)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True

    def _call(self, method: str, **request: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, method)(TableName=self._table, **request)
        except (ConnectTimeoutError, ReadTimeoutError):
            raise TimeoutError("dynamodb: no answer in time") from None
        except HTTPClientError as error:
            raise ConnectionError(f"dynamodb: {type(error).__name__}") from None
        return answer
