"""Rows of tokens: their shapes, and how they get into a buffer."""

import torch

from kvcache.errors import TensorMismatchError


def as_rows(
    given: torch.Tensor,
    buffer: torch.Tensor,
    *,
    num_rows: int,
    name: str,
) -> torch.Tensor:
    """Returns what is to be written as one row a token.

    Args:
        given: Leading dimensions of `num_rows` tokens in all, then trailing
            ones of one token's elements in all.
        buffer: Where it is to go, `[num_slots, num_heads, head_dim]`.
        num_rows: How many tokens there are indices for.
        name: What it is, for the message.

    Returns:
        A contiguous `[num_rows, num_heads * head_dim]`.

    Raises:
        TensorMismatchError: If its shape, dtype or device is another one.
    """
    num_heads, head_dim = buffer.shape[1:]
    row_size = num_heads * head_dim
    if not isinstance(given, torch.Tensor):
        raise TensorMismatchError(
            f"{name}: wanted a tensor, got {type(given).__name__}"
        )
    if given.dtype != buffer.dtype:
        raise TensorMismatchError(
            f"{name}: wanted {buffer.dtype}, got {given.dtype}"
        )
    if given.device != buffer.device:
        raise TensorMismatchError(
            f"{name}: wanted it on {buffer.device}, got {given.device}"
        )
    if not _splits(tuple(given.shape), num_rows, row_size):
        raise TensorMismatchError(
            f"{name}: wanted {num_rows} tokens of {num_heads} x {head_dim} "
            f"elements, got the shape {tuple(given.shape)}"
        )
    return given.detach().reshape(num_rows, row_size).contiguous()


def _splits(shape: tuple[int, ...], num_rows: int, row_size: int) -> bool:
    """Whether a shape is leading dimensions of rows, then those of a row."""
    leading = 1
    for cut in range(len(shape) + 1):
        trailing = 1
        for size in shape[cut:]:
            trailing *= size
        if (leading, trailing) == (num_rows, row_size):
            return True
        leading *= shape[cut] if cut < len(shape) else 1
    return False


def write_rows(
    buffer: torch.Tensor, slots: torch.Tensor, rows: torch.Tensor
) -> None:
    """Writes rows into their slots: one path on the CPU, one elsewhere.

    On the CPU, NumPy copies the rows as bytes in the tensors' own memory,
    about four times as fast as torch's indexed copies. The Mojo store kernel
    moves rows at the same rate, but writes into pages that hold keys and
    values together, and a call through MAX costs about 60 microseconds before
    the first byte (`benchmarks/bench_pools.py`). Elsewhere `index_put_` does
    it, which takes int32 slots and does not wait; not yet measured on a GPU.

    Args:
        buffer: Where to, contiguous `[num_slots, num_heads, head_dim]`.
        slots: One a row, in range, `[num_rows]`.
        rows: Of the buffer's dtype, `[num_rows, num_heads * head_dim]`.
    """
    flat = buffer.view(len(buffer), -1)
    if buffer.device.type != "cpu":
        flat.index_put_((slots,), rows)
        return
    source = rows.view(torch.uint8).numpy()
    flat.view(torch.uint8).numpy()[slots.numpy()] = source
