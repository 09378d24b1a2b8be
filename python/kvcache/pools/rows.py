"""Rows of tokens: their shapes, and how they get into a buffer."""

from functools import cache
from importlib.util import find_spec

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
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    key_rows: torch.Tensor,
    value_rows: torch.Tensor,
) -> None:
    """Writes the rows of tokens into their slots.

    On a GPU keys and values are one launch of a Triton kernel, where torch
    brings Triton: on an H200 a third of the time of torch's `index_copy_`, and
    at 65,536 tokens 95 % of the rate of a copy. Elsewhere it is `index_copy_`,
    which moves one element at a time, so over words as wide as the rows allow.
    The Mojo store kernel cannot do it: it writes into pages that hold keys and
    values together, and a call of it through MAX costs more than torch's up to
    1,024 tokens. `benchmarks/bench_pools.py` measures them all.

    Args:
        keys: Where keys go, contiguous `[num_slots, num_heads, head_dim]`.
        values: Where values go, likewise.
        slots: One a row, in range, `[num_rows]`.
        key_rows: Of the keys' dtype, `[num_rows, num_heads * head_dim]`.
        value_rows: Of the values' dtype, likewise.
    """
    if has_triton(keys):
        from kvcache.pools.triton_kernels import write_rows_triton

        own, given = _as_words(keys, key_rows, _WORDS[1:])
        own_values, given_values = _as_words(values, value_rows, _WORDS[1:])
        write_rows_triton(own, own_values, slots, given, given_values)
        return
    places = slots.long()
    for buffer, rows in ((keys, key_rows), (values, value_rows)):
        own, given = _as_words(buffer, rows, _WORDS)
        own.index_copy_(0, places, given)


_WORDS = (
    torch.complex128,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.uint8,
)
"""dtypes of 16 bytes down to 1."""


def _as_words(
    buffer: torch.Tensor, rows: torch.Tensor, words: tuple[torch.dtype, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns buffer and rows as few and wide elements, `[..., num_words]`."""
    flat = buffer.view(len(buffer), -1)
    row_bytes = flat.shape[1] * flat.element_size()
    word = next(each for each in words if row_bytes % each.itemsize == 0)
    if rows.storage_offset() * rows.element_size() % word.itemsize:
        rows = rows.clone()
    return flat.view(word), rows.view(word)


def has_triton(tensor: torch.Tensor) -> bool:
    """Returns whether Triton's kernels run where a tensor is."""
    return tensor.is_cuda and _is_installed()


@cache
def _is_installed() -> bool:
    return find_spec("triton") is not None
