"""Tags: how they are written, and what is said about those that are not."""

from __future__ import annotations

from collections.abc import Iterable

from zoocache import _ffi
from zoocache._errors import InvalidTag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["TAG_MAX", "check", "fine", "listed", "pack", "refuse", "widened"]

TAG_MAX = 256  # bytes
_DEPTH = 32  # segments


def check(tag: object) -> None:
    """Raises InvalidTag if it is not a tag; the library's ``tag_ok`` is the same test without words."""
    if not isinstance(tag, str):
        raise InvalidTag(f"A tag is a str, not {type(tag).__name__}: {tag!r}")
    try:
        size = len(tag.encode())
    except UnicodeEncodeError as error:
        raise InvalidTag(f"Invalid character {tag[error.start]!r} in tag {tag!r}") from None
    if size == 0:
        raise InvalidTag("Tag cannot be empty")
    if size > TAG_MAX:
        raise InvalidTag(f"Tag length exceeded: {size} bytes, at most {TAG_MAX} are allowed")
    for char in tag:
        if char <= " " or char in "|\x7f":
            raise InvalidTag(f"Invalid character {char!r} in tag {tag!r}")
    if "*" in tag:
        raise InvalidTag(_star(tag))
    if tag[0] in ":./" or tag[-1] in ":./":
        raise InvalidTag(f"Tag cannot start or end with ':', '.' or '/': {tag!r}")
    for pair in ("::", ":.", ".:", ".."):
        if pair in tag:
            raise InvalidTag(f"Tag cannot have consecutive separators: {tag!r}")
    if tag.count(":") >= _DEPTH:
        raise InvalidTag(f"Tag depth exceeded: at most {_DEPTH} segments are allowed: {tag!r}")


def _star(tag: str) -> str:
    """What to write instead of a tag with a '*'."""
    above = tag[: tag.index("*")].rpartition(":")[0]
    if above:
        hint = f"Write {above!r}: to invalidate it is to invalidate everything below it"
    else:
        hint = "Segments are matched as a whole: name the tag above what is meant; clear() invalidates everything"
    return f"A tag has no '*', but as its last segment when it is invalidated: {tag!r}. {hint}"


def widened(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Tags to invalidate: "user:*" is everything below "user", which is what "user" means."""

    def above(tag: str) -> str:
        return tag[:-2] if isinstance(tag, str) and tag.find("*") == len(tag) - 1 and tag.endswith(":*") else tag

    return tuple([above(tag) for tag in tags])


def fine(tag: object) -> bool:
    """Whether it is a tag: the library's test."""
    try:
        return isinstance(tag, str) and _ffi.tag_ok(tag.encode())
    except UnicodeEncodeError:
        return False


def listed(tags: object) -> tuple[str, ...]:
    """The tags of an argument as a tuple. A single string is one tag, not a list of letters."""
    if type(tags) is list:
        return tuple(tags)
    if isinstance(tags, str):
        return (tags,)
    if tags is None:
        return ()
    if not isinstance(tags, Iterable):
        raise InvalidTag(f"deps must be tags, or a callable that gives them, not {type(tags).__name__}")
    return tuple(tags)


def pack(tags: tuple[str, ...]) -> bytes:
    """Tags, at least one, as the library takes them. It looks at their characters itself."""
    try:
        if len(tags) == 1:
            text = tags[0]
            if text and "\0" not in text:
                return text.encode()
        text = "\0".join(tags)
        if not text or text.count("\0") != len(tags) - 1:
            refuse(tags)
        return text.encode()
    except (AttributeError, TypeError, UnicodeEncodeError):
        refuse(tags)


def join(tags: Iterable[str], mark: str) -> bytes:
    """Tags that were checked, and the package's own one, as the library takes them."""
    return "\0".join([*tags, mark] if mark else tags).encode()


def refuse(tags: Iterable[object]) -> NoReturn:
    """Raises what is wrong with one of the tags."""
    for tag in tags:
        check(tag)
    raise InvalidTag(f"Invalid tags: {tags!r}")  # pragma: no cover - check() and the library differ
