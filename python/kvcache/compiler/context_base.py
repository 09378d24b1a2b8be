"""What the contexts of both halves of a flow have in common."""

import math
from abc import ABC, abstractmethod
from typing import Any, Self

from kvcache.compiler.context_summary import ContextSummary, summary_of
from kvcache.compiler.element_types import ELEMENT_BYTES
from kvcache.compiler.modes import UNSET, Mode
from kvcache.compiler.vtensor import vTensor


class ContextBase(ABC):
    """A named set of fields that `create` fills; others cannot be added.

    Fields without a value are `UNSET`. Assigning to a name that is no field
    raises AttributeError.
    """

    __slots__ = (
        "_aux_total_bytes",
        "_aux_total_flops",
        "_created",
        "mode",
        "name",
        "vortex_dtype",
    )

    name: str
    """What the context is called."""
    mode: Mode
    """Whether calls of operators are recorded or computed."""
    vortex_dtype: str
    """The name of the element type of tensors between operators."""
    _created: bool
    _aux_total_bytes: int
    _aux_total_flops: int

    def __init__(self) -> None:
        """Leaves every field `UNSET` but the mode and the two counters."""
        for slot in self._slots():
            setattr(self, slot, UNSET)
        self._created = False
        self.mode = Mode.PROFILE
        self._aux_total_bytes = 0
        self._aux_total_flops = 0

    @property
    def created(self) -> bool:
        """Whether `create` has filled the fields."""
        return self._created

    @abstractmethod
    def create(
        self, parent: Any, model_runner: Any, *, overwrite: bool = False
    ) -> Self:
        """Fills the fields.

        Args:
            parent: The pool that is described.
            model_runner: What runs the model.
            overwrite: Whether a context that is created may be filled again.

        Raises:
            RuntimeError: If the context is created and not to be overwritten.
        """

    def profile(self) -> None:
        """Lets calls of operators be recorded."""
        self.mode = Mode.PROFILE

    def execute(self) -> None:
        """Ends the recording."""
        self.mode = Mode.EXECUTE

    def assert_created(self) -> None:
        """Does nothing if `create` was called.

        Raises:
            RuntimeError: If not.
        """
        if not self._created:
            raise RuntimeError("Context is not created yet.")

    def missing(self) -> list[str]:
        """Returns the names of the fields without a value."""
        return [slot for slot in self._slots() if getattr(self, slot) is UNSET]

    def add_aux_memory(self, obj: Any) -> int:
        """Counts memory that the context's user holds beside the fields.

        Storage that several arrays share is counted for each of them.

        Args:
            obj: A number of bytes; or an array or a `vTensor`.

        Returns:
            The bytes that were counted.

        Raises:
            TypeError: If `obj` is neither; a bool is no number.
            ValueError: If the number is negative.
        """
        counted = _bytes_of(obj)
        self._aux_total_bytes += counted
        return counted

    def add_aux_flops(self, n: int) -> None:
        """Counts floating-point operations of a call.

        Raises:
            TypeError: If `n` is no int; a bool is none.
            ValueError: If `n` is negative.
        """
        self._aux_total_flops += _count(n)

    def clear_aux_memory(self) -> None:
        """Sets the counted memory to zero."""
        self._aux_total_bytes = 0

    def clear_aux_flops(self) -> None:
        """Sets the counted operations to zero."""
        self._aux_total_flops = 0

    def summary(self) -> ContextSummary:
        """Returns how much memory the fields hold, and what was counted.

        Nothing is printed: `print(ctx.summary())` does.
        """
        fields = {slot: getattr(self, slot) for slot in self._slots()}
        return summary_of(
            self.name,
            fields,
            aux_bytes=self._aux_total_bytes,
            aux_flops=self._aux_total_flops,
        )

    @classmethod
    def _slots(cls) -> list[str]:
        """The names of all fields, those of base classes first."""
        return [
            slot
            for each in reversed(cls.__mro__)
            for slot in each.__dict__.get("__slots__", ())
        ]


def _bytes_of(obj: Any) -> int:
    if isinstance(obj, vTensor):
        return math.prod(obj.shape) * ELEMENT_BYTES[obj.dtype]
    if hasattr(obj, "element_size") and hasattr(obj, "nelement"):
        return int(obj.element_size() * obj.nelement())
    if hasattr(obj, "nbytes"):
        return int(obj.nbytes)
    if hasattr(obj, "num_elements") and hasattr(obj, "dtype"):
        return int(obj.num_elements * obj.dtype.size_in_bytes)
    return _count(obj)


def _count(n: Any) -> int:
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(
            f"wanted an int or an array, got {type(n).__name__} {n!r}"
        )
    if n < 0:
        raise ValueError(f"wanted a count that is not negative, got {n}")
    return n
