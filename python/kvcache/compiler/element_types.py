"""Names of element types, whatever library says them."""

from typing import Final

ELEMENT_BYTES: Final = {
    "bfloat16": 2,
    "float16": 2,
    "float32": 4,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
    "int32": 4,
    "int64": 8,
    "uint32": 4,
}
"""Bytes of one element."""

FLOATS: Final = ("bfloat16", "float16", "float32")
"""The types of what operators compute."""

EIGHT_BITS: Final = ("float8_e4m3fn", "float8_e5m2", "int8")
"""The types of quantised keys and values."""

_ALIASES: Final = {
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
}


def element_type(dtype: object) -> str:
    """Returns the name of an element type.

    Args:
        dtype: A name, or a type of torch, NumPy or MAX.

    Raises:
        TypeError: If it names no type that is known.
    """
    name = dtype
    if isinstance(dtype, type):
        name = dtype.__name__
    elif not isinstance(dtype, str):
        name = getattr(dtype, "name", None) or str(dtype)
    known = str(name).removeprefix("torch.")
    known = _ALIASES.get(known, known)
    if known not in ELEMENT_BYTES:
        raise TypeError(
            f"wanted one of {', '.join(ELEMENT_BYTES)}, got {dtype!r}"
        )
    return known
