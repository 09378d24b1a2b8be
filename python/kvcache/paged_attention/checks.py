"""What the fields of all data classes must be."""

import operator
from typing import TypeVar

from kvcache.errors import InvalidParamsError

_T = TypeVar("_T")


def integer(name: str, value: object) -> int:
    """Returns a number as a plain int.

    Args:
        name: The field's name.
        value: The number, of Python's or NumPy's.

    Raises:
        InvalidParamsError: If it is no integer; a bool is none.
    """
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise InvalidParamsError(f"`{name}` must be an integer, got {value!r}")


def positive(name: str, value: object) -> int:
    """Returns a positive number as a plain int.

    Args:
        name: The field's name.
        value: The number.

    Raises:
        InvalidParamsError: If it is no integer, or not positive.
    """
    number = integer(name, value)
    if number <= 0:
        raise InvalidParamsError(f"`{name}` must be positive, got {number}")
    return number


def fraction(name: str, value: object) -> float:
    """Returns a number between 0 and 1, both excluded.

    Args:
        name: The field's name.
        value: The number.

    Raises:
        InvalidParamsError: If it is none.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if isinstance(value, (bool, str, bytes)) or not 0 < number < 1:
        raise InvalidParamsError(
            f"`{name}` must be positive float value in range 0~1, got {value!r}"
        )
    return number


def instance(name: str, value: object, wanted: type[_T]) -> _T:
    """Returns a value that is of a class.

    Args:
        name: The field's name.
        value: The value.
        wanted: The class.

    Raises:
        InvalidParamsError: If it is of another.
    """
    if not isinstance(value, wanted):
        raise InvalidParamsError(
            f"`{name}` must be a {wanted.__name__}, got {shown(value)}"
        )
    return value


def shown(value: object) -> str:
    """Returns a value for a message, its class where it would be long."""
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__
