"""Tensors of torch, as generated kernels take them."""

import torch

from kvcache.compiler.element_types import element_type


def pointer(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    """Returns a tensor whose memory is a kernel's operand.

    Args:
        tensor: Of `dtype`, or its bits as unsigned integers; contiguous.
        dtype: The element type; see `element_types`.

    Raises:
        AssertionError: If it is of another type, or not contiguous.
    """
    if not tensor.is_contiguous():
        raise AssertionError(
            f"wanted a contiguous tensor, got strides {tensor.stride()}"
        )
    wanted = getattr(torch, dtype)
    if tensor.dtype == wanted:
        return tensor
    is_bits = tensor.dtype in {torch.uint8, torch.uint16}
    if is_bits and tensor.element_size() == wanted.itemsize:
        return tensor.view(wanted)
    raise AssertionError(
        f"wanted a tensor of {dtype}, got {element_type(tensor.dtype)}"
    )


def checked_loc(loc: torch.Tensor) -> torch.Tensor:
    """Returns the slots of the new tokens, contiguous.

    Raises:
        AssertionError: If they are no int64 tensor of one axis.
    """
    if loc.dtype != torch.int64 or loc.dim() != 1:
        raise AssertionError(
            f"wanted loc of int64 [num_tokens], got {loc.dtype} "
            f"{tuple(loc.shape)}"
        )
    return loc.contiguous()


def scratch(
    old: torch.Tensor | None,
    rows: int,
    tile: tuple[int, int],
    like: torch.Tensor,
) -> torch.Tensor:
    """Returns a tensor between kernels: the old one, if it is large enough.

    Args:
        old: The tensor of an earlier step, or None.
        rows: Rows that are wanted, at least.
        tile: Extents inside a row.
        like: A tensor of the step, for the device.
    """
    if old is not None and len(old) >= rows and old.device == like.device:
        return old
    return torch.empty((rows, *tile), dtype=torch.float32, device=like.device)
