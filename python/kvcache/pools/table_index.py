"""Indices of a table of requests and positions, and what is written there."""

import operator
from typing import TypeAlias

import torch

from kvcache.errors import (
    InvalidParamsError,
    SequenceTooLongError,
    SlotRangeError,
    TensorMismatchError,
)
from kvcache.pools.indices import INDEX_DTYPES, INT32_LIMIT, check_range

Part: TypeAlias = int | slice | torch.Tensor
"""One of an index's two parts."""


def bounded(part: Part, size: int, *, name: str, looks: bool) -> Part:
    """Returns a part whose numbers are all in `[0, size)`.

    Args:
        part: An integer, a slice of step 1, or a tensor.
        size: How many there are.
        name: What they are, for the message.
        looks: Whether a tensor's values are looked at.

    Returns:
        The part; a slice with both its ends.

    Raises:
        InvalidParamsError: If a slice has another step.
        SlotRangeError: If a number is out of range.
        TensorMismatchError: If a tensor is not of int32 or int64.
    """
    if isinstance(part, slice):
        if part.step not in (None, 1):
            raise InvalidParamsError(
                f"{name}: wanted a slice of step 1, got {part.step}"
            )
        begin = 0 if part.start is None else operator.index(part.start)
        end = size if part.stop is None else operator.index(part.stop)
        if not 0 <= begin <= end <= size:
            raise SlotRangeError(
                f"{name}: wanted a slice in 0:{size}, got {begin}:{end}"
            )
        return slice(begin, end)
    if not isinstance(part, torch.Tensor):
        index = operator.index(part)
        if not 0 <= index < size:
            raise SlotRangeError(f"{name}: wanted 0 to {size - 1}, got {index}")
        return index
    if part.dtype not in INDEX_DTYPES:
        raise TensorMismatchError(
            f"{name}: wanted int32 or int64, got {part.dtype}"
        )
    if looks:
        check_range(part, 0, size - 1, name)
    return part


def check_length(part: Part, max_length: int, *, looks: bool) -> None:
    """Raises if positions are past the longest request.

    Raises:
        SequenceTooLongError: If they are.
    """
    if isinstance(part, slice):
        end = part.stop or 0
    elif not isinstance(part, torch.Tensor):
        end = part + 1
    elif looks and part.numel():
        end = int(part.max()) + 1
    else:
        return
    if end > max_length:
        raise SequenceTooLongError(
            f"wanted at most {max_length} tokens in a request, got {end}"
        )


def shape_of(rows: Part, columns: Part) -> tuple[int, ...]:
    """Returns the shape of what a bounded index names.

    Raises:
        TensorMismatchError: If two tensors do not fit each other.
    """
    if isinstance(rows, torch.Tensor) and isinstance(columns, torch.Tensor):
        try:
            return tuple(torch.broadcast_shapes(rows.shape, columns.shape))
        except RuntimeError as error:
            raise TensorMismatchError(
                f"wanted requests and positions of one shape, got "
                f"{tuple(rows.shape)} and {tuple(columns.shape)}"
            ) from error
    return (*_shape(rows), *_shape(columns))


def _shape(part: Part) -> tuple[int, ...]:
    if isinstance(part, slice):
        return (part.stop - part.start,)
    return tuple(part.shape) if isinstance(part, torch.Tensor) else ()


def check_values(
    values: torch.Tensor | int, shape: tuple[int, ...], *, looks: bool
) -> None:
    """Raises unless these are slots of that shape, or one slot for all.

    Args:
        values: Slots.
        shape: What the index names.
        looks: Whether a tensor's values are looked at.

    Raises:
        SlotRangeError: If one is negative, or past what int32 holds.
        TensorMismatchError: If the shape or the dtype is another one.
    """
    if not isinstance(values, torch.Tensor):
        values = torch.tensor(operator.index(values))
        shape, looks = (), True
    if values.dtype not in INDEX_DTYPES:
        raise TensorMismatchError(
            f"values: wanted int32 or int64, got {values.dtype}"
        )
    if tuple(values.shape) != shape:
        raise TensorMismatchError(
            f"values: wanted the shape {shape}, got {tuple(values.shape)}"
        )
    if looks:
        check_range(values, 0, INT32_LIMIT - 1, "values")
