"""Objects of pydantic and msgspec as data: their fields as they are. Nothing is validated on the way, nor converted."""

from __future__ import annotations

import sys
from typing import Any

from zoocache.serializers._forms import refuse

__all__ = ["made", "parts_of"]


def _family(kind: type) -> str:
    """Whose class it is. No class is derived from one of a package that is not loaded."""
    model = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    if model is not None and issubclass(kind, model):
        return "pydantic"
    struct = getattr(sys.modules.get("msgspec"), "Struct", None)
    return "msgspec" if struct is not None and issubclass(kind, struct) else ""


def parts_of(kind: Any, x: Any) -> list[Any] | None:
    """The names of the fields that the class has, and what it takes to make the object again; None: another's."""
    family = _family(kind)
    if not family:
        return None
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not kind:  # of a generic model, for one
        refuse(f"{kind.__module__}.{kind.__qualname__} objects", "their class is not found by its name")
    return _of_model(kind, x) if family == "pydantic" else _of_struct(kind, x)


def _of_model(kind: Any, x: Any) -> list[Any]:
    state = sys.modules["pydantic.main"].BaseModel.__getstate__(x)
    names = list(kind.model_fields)
    if set(state["__dict__"]) - set(names):
        refuse(f"a {kind.__qualname__} object", "it has more to it than its fields")
    parts = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
    return [names, *[state[part] for part in parts]]


def _of_struct(kind: Any, x: Any) -> list[Any]:
    if getattr(x, "__dict__", None):
        refuse(f"a {kind.__qualname__} object", "it has more to it than its fields")
    unset = sys.modules["msgspec"].UNSET
    fields = {name: getattr(x, name) for name in kind.__struct_fields__}
    return [list(fields), {name: value for name, value in fields.items() if value is not unset}]


def made(kind: Any, parts: list[Any]) -> Any:
    """The object; None: of another's class."""
    family = _family(kind)
    if not family:
        return None
    names = kind.model_fields if family == "pydantic" else kind.__struct_fields__
    if list(names) != parts[0]:
        raise TypeError(f"{kind.__qualname__} has other fields now")
    if family == "pydantic":
        x = kind.__new__(kind)
        names = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
        sys.modules["pydantic.main"].BaseModel.__setstate__(x, dict(zip(names, parts[1:])))
        return x
    msgspec = sys.modules["msgspec"]
    fields = {name: parts[1].get(name, msgspec.UNSET) for name in names}
    x = kind(**fields)
    for name, value in fields.items():  # whatever its __post_init__ has made of them
        msgspec.structs.force_setattr(x, name, value)
    return x
