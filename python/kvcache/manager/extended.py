"""Named tuples that have more fields than their base class."""

from collections.abc import Iterable
from typing import Any, Self


class Extended:
    """A named tuple with fields that its base class lacks.

    What reads `_fields` then works for all of them. The type checker knows no
    named tuple that grows, and is told so: in here that the other base has
    `_asdict`, below that a tuple of five is one of four for who wants four.
    """

    __slots__ = ()

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:
        return cls(*iterable)

    def _replace(self, **changes: Any) -> Self:
        fields = self._asdict()  # type: ignore[attr-defined]
        return self._make({**fields, **changes}.values())

    def __repr__(self) -> str:
        fields = self._asdict().items()  # type: ignore[attr-defined]
        parts = ", ".join(f"{name}={value!r}" for name, value in fields)
        return f"{type(self).__name__}({parts})"
