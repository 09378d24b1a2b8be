"""Writes rows of keys and values into their slots on a GPU, in one launch."""

import torch
import triton
import triton.language as tl

_BLOCK_BYTES = 4096
"""The most bytes of a row that one program moves."""


@triton.jit
def _write(
    keys,
    values,
    key_rows,
    value_rows,
    slots,
    key_words: tl.constexpr,
    value_words: tl.constexpr,
    block: tl.constexpr,
):
    """Moves one part of one row of keys, and of values.

    Slots and rows are 64 bits wide: a buffer may hold more than 2**31 words.
    """
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * block + tl.arange(0, block)
    slot = tl.load(slots + row).to(tl.int64)
    is_key = place < key_words
    is_value = place < value_words
    key = tl.load(key_rows + row * key_words + place, mask=is_key)
    value = tl.load(value_rows + row * value_words + place, mask=is_value)
    tl.store(keys + slot * key_words + place, key, mask=is_key)
    tl.store(values + slot * value_words + place, value, mask=is_value)


def write_rows_triton(
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    key_rows: torch.Tensor,
    value_rows: torch.Tensor,
) -> None:
    """Writes rows of words into their slots.

    Args:
        keys: Where keys go, contiguous `[num_slots, key_words]`.
        values: Where values go, contiguous `[num_slots, value_words]`.
        slots: One a row, in range, int32 or int64 `[num_rows]`.
        key_rows: Of the keys' dtype, contiguous `[num_rows, key_words]`.
        value_rows: Of the values' dtype, contiguous `[num_rows, value_words]`.
    """
    widest = max(keys.shape[1], values.shape[1])
    block = min(
        triton.next_power_of_2(widest),
        _BLOCK_BYTES // max(keys.itemsize, values.itemsize),
    )
    grid = (len(slots), triton.cdiv(widest, block))
    _write[grid](
        keys,
        values,
        key_rows,
        value_rows,
        slots,
        key_words=keys.shape[1],
        value_words=values.shape[1],
        block=block,
        num_warps=4,
    )
