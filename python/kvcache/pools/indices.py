"""Checks of indices: integers, in range, on the pool's device."""

import operator

import torch

from kvcache.errors import (
    InvalidParamsError,
    SlotRangeError,
    TensorMismatchError,
)

INT32_LIMIT = 2**31
INDEX_DTYPES = (torch.int32, torch.int64)


def at_least(value: int, low: int, name: str) -> int:
    """Returns a count that is not below `low`.

    Raises:
        InvalidParamsError: If it is below.
        TypeError: If it is no integer.
    """
    count = operator.index(value)
    if count < low:
        raise InvalidParamsError(f"{name}: wanted at least {low}, got {count}")
    return count


def flat_indices(
    indices: torch.Tensor, device: torch.device, name: str = "indices"
) -> torch.Tensor:
    """Returns indices as one row on a device; on another one they are copied.

    Args:
        indices: int32 or int64, of any shape.
        device: Where they are wanted.
        name: What they are, for the message.

    Returns:
        The indices, `[num_indices]`, of the dtype they had.

    Raises:
        TensorMismatchError: If they are no tensor of int32 or int64.
    """
    if not isinstance(indices, torch.Tensor):
        raise TensorMismatchError(
            f"{name}: wanted a tensor, got {type(indices).__name__}"
        )
    if indices.dtype not in INDEX_DTYPES:
        raise TensorMismatchError(
            f"{name}: wanted int32 or int64, got {indices.dtype}"
        )
    flat = indices.detach().reshape(-1)
    return flat.to(device) if flat.device.type != device.type else flat


def check_range(
    indices: torch.Tensor, low: int, high: int, name: str = "indices"
) -> None:
    """Raises unless every index is in `[low, high]`.

    Waits for the device on which the indices are.

    Raises:
        SlotRangeError: If one is not.
    """
    if indices.numel() == 0:
        return
    least, most = torch.aminmax(indices)
    for value in (int(least), int(most)):
        check_index(value, low, high, name)


def check_index(value: int, low: int, high: int, name: str) -> int:
    """Returns an index that is in `[low, high]`.

    Raises:
        SlotRangeError: If it is not.
        TypeError: If it is no integer.
    """
    index = operator.index(value)
    if not low <= index <= high:
        raise SlotRangeError(f"{name}: wanted {low} to {high}, got {index}")
    return index
