"""Tensors that are only described: shape, element type, and what a row is."""

from enum import IntEnum
from typing import Any

from kvcache.compiler.element_types import element_type

RANK = 3
"""The axes of every tensor: the rows, and two inside a row."""


class FORMAT(IntEnum):
    """What the rows of a tensor stand for."""

    BATCHED = 0
    """One row for each request and key-value head."""
    RAGGED = 1
    """One row for each token and head that is written, or each block and head
    of a request, end to end."""
    PAGED = 2
    """One row for each block of the pool and key-value head."""


class vTensor:  # noqa: N801  (the seed's name)
    """Describes a tensor of a recorded pipeline; it has no memory.

    Args:
        shape: `(rows, r, c)`; rows are 0 while a pipeline is recorded.
        dtype: The element type; see `element_type`.
        device: Where its memory will be.
        _format: What its rows stand for.
        tensor_id: Its place in the context's `tensor_list`.

    Raises:
        TypeError: If `tensor_id` is no int, or `_format` no `FORMAT`.
        ValueError: If the shape has not three axes, or one is negative.
    """

    __slots__ = ("_format", "device", "dtype", "shape", "tensor_id")

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: object = "bfloat16",
        device: object = "cpu",
        *,
        _format: FORMAT,
        tensor_id: int,
    ) -> None:
        """Checks and keeps what describes the tensor."""
        if isinstance(tensor_id, bool) or not isinstance(tensor_id, int):
            raise TypeError(
                f"wanted a tensor_id of type int, got {tensor_id!r}"
            )
        if not isinstance(_format, FORMAT):
            raise TypeError(f"wanted a FORMAT, got {_format!r}")
        if len(shape) != RANK or any(extent < 0 for extent in shape):
            raise ValueError(f"wanted a shape (rows, r, c), got {shape}")
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.dtype = element_type(dtype)
        self.device = device
        self._format = _format
        self.tensor_id = tensor_id

    @property
    def format(self) -> FORMAT:
        """What its rows stand for."""
        return self._format

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        """The shape with both inner extents at the next power of two."""
        rows, r, c = self.shape
        return rows, _power_of_two(r), _power_of_two(c)

    @property
    def tile(self) -> tuple[int, int]:
        """The extents inside a row."""
        return self.shape[1], self.shape[2]

    def dim(self) -> int:
        """Returns the number of axes."""
        return RANK

    def __repr__(self) -> str:
        """Returns what describes the tensor."""
        return (
            f"vTensor(id={self.tensor_id}, shape={self.shape}, "
            f"dtype={self.dtype}, format={self._format.name})"
        )


def as_vtensor(
    x: Any,
    _format: FORMAT,
    tensor_id: int,
    **described: Any,
) -> vTensor:
    """Returns the description of a tensor.

    Args:
        x: A `vTensor`, which is given the format and the id in place; an array
            with `shape` and `dtype`; or None, for one that is described.
        _format: What its rows stand for.
        tensor_id: Its place in the context's `tensor_list`.
        **described: Shape, dtype and device, where `x` is None.

    Raises:
        TypeError: If `x` is none of these.
    """
    if isinstance(x, vTensor):
        x._format, x.tensor_id = _format, tensor_id  # noqa: SLF001  (its own class)
        return x
    if x is None:
        return vTensor(_format=_format, tensor_id=tensor_id, **described)
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise TypeError(
            f"wanted a vTensor, a tensor or None, got {type(x).__name__}"
        )
    return vTensor(
        tuple(x.shape),
        x.dtype,
        getattr(x, "device", "cpu"),
        _format=_format,
        tensor_id=tensor_id,
    )


def _power_of_two(extent: int) -> int:
    return 1 << max(0, extent - 1).bit_length()
