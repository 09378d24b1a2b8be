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
    """Writes rows into their slots.

    One path on every device: torch's `index_copy_`, over elements as wide as
    the rows allow. It moves one element at a time, so words of 16 bytes take a
    fraction of what those of 2 do. The Mojo store kernel cannot do it: it
    writes into pages that hold keys and values together. What it costs through
    MAX was measured on a CPU all the same (`benchmarks/bench_pools.py`): many
    times as much at 1 and 64 tokens, about as much at 1,024, and less at
    16,384, where it has all cores. On a GPU nothing of this is measured yet.

    Args:
        buffer: Where to, contiguous `[num_slots, num_heads, head_dim]`.
        slots: One a row, in range, `[num_rows]`.
        rows: Of the buffer's dtype, `[num_rows, num_heads * head_dim]`.
    """
    flat = buffer.view(len(buffer), -1)
    word = _widest_word(flat.shape[1] * flat.element_size())
    if rows.storage_offset() * rows.element_size() % word.itemsize:
        rows = rows.clone()
    flat.view(word).index_copy_(0, slots.long(), rows.view(word))


def _widest_word(row_bytes: int) -> torch.dtype:
    """Returns the widest dtype of which a row is a whole number."""
    words = (torch.complex128, torch.int64, torch.int32, torch.int16)
    fitting = (word for word in words if row_bytes % word.itemsize == 0)
    return next(fitting, torch.uint8)
