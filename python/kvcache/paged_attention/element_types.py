"""The names of element types, whoever's types they are."""

from kvcache.errors import InvalidParamsError
from kvcache.quantization import QUANTIZED_DTYPES

ROW_DTYPES = ("float32", "float16", "bfloat16")
"""The types of keys, values, and pages that are not quantised."""

PAGE_DTYPES = (*ROW_DTYPES, *QUANTIZED_DTYPES)
"""The types of pages."""

INTEGER_DTYPES = (
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
)
"""The types of positions and page tables."""

DTYPE_BYTES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
}
"""Bytes per element."""

NUMPY_DTYPES = {
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e5m2": "uint8",
}
"""What NumPy, which has no such type, keeps the bits in."""


def dtype_name(name: str, dtype: object, wanted: tuple[str, ...]) -> str:
    """Returns the name of a type of NumPy, torch, MAX or JAX.

    Args:
        name: What has the type.
        dtype: The type or its name.
        wanted: The names that are taken.

    Raises:
        InvalidParamsError: If it is none of them.
    """
    found = dtype
    if not isinstance(dtype, str):
        attribute = "__name__" if isinstance(dtype, type) else "name"
        found = getattr(dtype, attribute, str(dtype))
    text = str(found).removeprefix("torch.")
    if text not in wanted:
        raise InvalidParamsError(
            f"`{name}` must be one of {', '.join(wanted)}, got {dtype!r}"
        )
    return text


def numpy_dtype(dtype: str) -> str:
    """Returns the name of the type that NumPy keeps elements in."""
    return NUMPY_DTYPES.get(dtype, dtype)
