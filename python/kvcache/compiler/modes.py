"""What a context is doing, and what stands for a field without a value."""

from enum import StrEnum
from typing import Final


class Mode(StrEnum):
    """Whether calls of operators are recorded or computed.

    Members equal their names: `ctx.mode == "profile"` is true.
    """

    PROFILE = "profile"
    EXECUTE = "execute"


class _Unset:
    """The type of `UNSET`, of which there is one."""

    def __repr__(self) -> str:
        return "UNSET"

    def __reduce__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final = _Unset()
"""Stands for a field that has no value yet."""
