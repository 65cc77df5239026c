"""JSON, by orjson or the standard library: what one has written, the other reads alike."""

from __future__ import annotations

from math import isfinite
from typing import Any

from zoocache._errors import Unserializable
from zoocache.serializers._forms import refuse

__all__ = ["Json"]

_PLAIN = {str, bool, type(None)}
_LEAST, _MOST = -(2**63), 2**64 - 1  # integers that every reader takes for integers


def _check(value: Any) -> None:
    """Refuses what would come back as something else."""
    kind = type(value)
    if kind is dict:
        if not {str}.issuperset(map(type, value)):
            refuse("a dict whose keys are not all str", "JSON has no other keys")
        value = list(value.values())
    elif kind is not list:
        value = [value]
    kinds = set(map(type, value)) - _PLAIN
    if not kinds:
        return
    for kind in kinds - {int, float, list, dict}:
        refuse(f"{kind.__module__}.{kind.__qualname__} objects", "JSON does not have them")
    if int in kinds and not all(_LEAST <= x <= _MOST for x in value if type(x) is int):
        refuse("an int of more than 64 bits", "not every reader of JSON takes it for one")
    if float in kinds and not all(isfinite(x) for x in value if type(x) is float):
        refuse("a float that is no number", "JSON does not have it")
    for x in value:
        if type(x) is list or type(x) is dict:
            _check(x)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


class Json:
    """JSON for records that other programs read: None, bool, int, float, str, list and dict, each exactly."""

    name = "json"

    def __init__(self) -> None:
        try:
            import orjson
        except ImportError:
            import json

            encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            decoder = json.JSONDecoder(parse_constant=_no_number)
            self._dumps: Any = lambda value: encoder.encode(value).encode()
            self._loads: Any = lambda data: decoder.decode(str(data, "utf-8"))
        else:
            self._dumps, self._loads = orjson.dumps, orjson.loads

    def dumps(self, value: Any) -> bytes:
        """The bytes of a value."""
        try:
            _check(value)
            data: bytes = self._dumps(value)
            return data
        except Unserializable:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise Unserializable(f"cannot be stored as JSON: {error}") from error

    def loads(self, data: bytes | memoryview) -> Any:
        """The value."""
        return self._loads(data)
