"""Sizes of memory, as people write and read them."""

import re

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Returns the bytes that a text such as `64MiB` or `1.5 GB` means.

    A bare number counts bytes; `K`, `M`, `G`, `T` are powers of 1024.

    Raises:
        ValueError: If it means no size, or none of at least one byte.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(
            f"wanted a size such as 64MiB, 1.5GiB or 1000000, got {text!r}"
        )
    size = int(float(match[1]) * unit)
    if size < 1:
        raise ValueError(f"wanted at least one byte, got {text!r}")
    return size


def format_size(num_bytes: int) -> str:
    """Returns a size as text: `512 B`, `1.5 KiB`, `64.0 MiB`."""
    if num_bytes < 2**10:
        return f"{num_bytes} B"
    size = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 2**10
        if size < 2**10:
            return f"{size:.1f} {unit}"
    return f"{size / 2**10:.1f} TiB"
