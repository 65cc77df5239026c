"""How figures and the words of others are put before people."""

from __future__ import annotations

__all__ = ["amount", "percent", "plain", "seconds"]


def seconds(value: float | None) -> str:
    """A duration, for people."""
    if value is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if value >= 2 * size:
            return f"{value / size:.0f}{unit}"
    return f"{value:.1f}s" if value >= 1 else f"{max(value, 0) * 1e3:.3g}ms"


def percent(part: float | None) -> str:
    """A part of all, for people."""
    return "-" if part is None else f"{100 * part:.1f}%"


def plain(text: str, most: int = 60) -> str:
    """What others have written, as a terminal may have it: no control characters, and not without end."""
    safe = "".join(char if char.isprintable() else "?" for char in text[: most + 1])
    return safe if len(safe) <= most else safe[: most - 1] + "…"


def amount(value: float) -> str:
    """A number, in five characters."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
