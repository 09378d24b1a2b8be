"""What the pools do on a GPU in one launch each."""

import torch
import triton
import triton.language as tl

_BLOCK_BYTES = 4096
"""The most bytes of a row that one program moves."""

_STATE_BLOCK = 256
"""The most words of a state that one program moves, of each slot."""

_STATE_TILE = 8192
"""The most words of a state that one program moves, of all slots."""


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


@triton.jit
def _copy(
    first,
    second,
    sources,
    targets,
    count,
    num_slots,
    first_words: tl.constexpr,
    second_words: tl.constexpr,
    copies: tl.constexpr,
    block: tl.constexpr,
):
    """Reads one part of all source slots in a layer, then writes it."""
    layer = tl.program_id(0).to(tl.int64) * num_slots
    place = tl.program_id(1) * block + tl.arange(0, block)[None, :]
    index = tl.arange(0, copies)[:, None]
    is_copy = index < count
    source = layer + tl.load(sources + index, mask=is_copy, other=0)
    target = layer + tl.load(targets + index, mask=is_copy, other=0)
    is_first = is_copy & (place < first_words)
    is_second = is_copy & (place < second_words)
    one = tl.load(first + source * first_words + place, mask=is_first)
    other = tl.load(second + source * second_words + place, mask=is_second)
    tl.store(first + target * first_words + place, one, mask=is_first)
    tl.store(second + target * second_words + place, other, mask=is_second)


@triton.jit
def _clear(
    first,
    second,
    slots,
    num_slots,
    first_words: tl.constexpr,
    second_words: tl.constexpr,
    block: tl.constexpr,
):
    """Makes one part of one slot zero in a layer."""
    slot = tl.program_id(0).to(tl.int64) * num_slots
    slot += tl.load(slots + tl.program_id(1))
    place = tl.program_id(2) * block + tl.arange(0, block)
    is_first = place < first_words
    is_second = place < second_words
    tl.store(first + slot * first_words + place, 0, mask=is_first)
    tl.store(second + slot * second_words + place, 0, mask=is_second)


def copy_states_triton(
    first: torch.Tensor,
    second: torch.Tensor,
    sources: torch.Tensor,
    targets: torch.Tensor,
) -> None:
    """Copies slots of two states in all layers; all are read before written.

    Args:
        first: One state, contiguous words `[num_layers, num_slots, words]`.
        second: The other one, likewise with its own words.
        sources: Where from, int32 or int64 `[num_copies]`; a part of all of
            them is in registers at once, so no more than some hundred.
        targets: Where to, of the same shape.
    """
    copies = triton.next_power_of_2(len(sources))
    block = min(_STATE_BLOCK, max(16, _STATE_TILE // copies))
    widest = max(first.shape[2], second.shape[2])
    _copy[(len(first), triton.cdiv(widest, block))](
        first,
        second,
        sources,
        targets,
        len(sources),
        first.shape[1],
        first_words=first.shape[2],
        second_words=second.shape[2],
        copies=copies,
        block=block,
    )


def reset_states_triton(
    first: torch.Tensor, second: torch.Tensor, slots: torch.Tensor
) -> None:
    """Makes slots of two states zero in all layers.

    Args:
        first: One state, contiguous words `[num_layers, num_slots, words]`.
        second: The other one, likewise with its own words.
        slots: The slots, int32 or int64 `[num_resets]`.
    """
    widest = max(first.shape[2], second.shape[2])
    grid = (len(first), len(slots), triton.cdiv(widest, _STATE_BLOCK))
    _clear[grid](
        first,
        second,
        slots,
        first.shape[1],
        first_words=first.shape[2],
        second_words=second.shape[2],
        block=_STATE_BLOCK,
    )
