"""The arrays and numbers of a step of an indexer, checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType

from kvcache.compiler.mojo_backend.segment_modules import SCALARS
from kvcache.compiler.mojo_backend.slot_buffers import ids_buffer
from kvcache.compiler.numpy_backend.choice import sparse_bounds
from kvcache.compiler.numpy_backend.rows import num_segments

MOST_SEGMENTS = 65535
"""The requests times heads of a step, at most: a GPU's grid has no more."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the operation of an indexer takes beside tensors of tiles."""

    num_segments: int
    """Requests times key-value heads."""
    bounds: Buffer
    """Where the blocks of each begin."""
    ids: Buffer
    """The blocks to choose from."""
    chosen_bounds: Buffer
    """Where the chosen blocks of each begin."""
    scalars: tuple[np.generic, ...]
    """The values of `SCALARS`."""

    @property
    def arguments(self) -> list[Any]:
        """The arguments, in the order of the operation."""
        return [self.bounds, self.ids, self.chosen_bounds, *self.scalars]


def step_of(
    ctx: Any, device: Device, *, num_places: int, num_rows: int | None
) -> Step:
    """Returns what a context says of a step.

    Args:
        ctx: An indexer context with a budget and the arrays of a step.
        device: Where the tensors are.
        num_places: The room for chosen blocks.
        num_rows: The rows of every field; None if no field is read.

    Raises:
        TypeError: If an array is missing.
        ValueError: If one has another shape or type, or is on another device;
            on the host, if indices are out of range.
        AssertionError: If `sparse_kv_indptr` has other counts than the budget.
    """
    names = ("dense_kv_indptr", "dense_kv_indices", "sparse_kv_indptr")
    arrays = {
        name: _indices(name, getattr(ctx, name, None), device) for name in names
    }
    length = arrays["dense_kv_indptr"].num_elements
    count = num_segments(ctx) if ctx.batch_size else length - 1
    for name in (names[0], names[2]):
        if not 0 <= count < arrays[name].num_elements:
            raise ValueError(
                f"wanted {name} of at least {max(count, 0) + 1} elements, got "
                f"{arrays[name].num_elements}"
            )
    if count > MOST_SEGMENTS:
        raise ValueError(
            f"wanted at most {MOST_SEGMENTS} requests times heads, got {count}"
        )
    if ctx.block_reserved_bos < 0 or ctx.block_reserved_eos < 1:
        raise ValueError(
            "wanted block_reserved_bos of at least 0 and block_reserved_eos of "
            f"at least 1, got {ctx.block_reserved_bos} and "
            f"{ctx.block_reserved_eos}"
        )
    if device.is_host:
        _check_on_host(
            ctx,
            *(arrays[name].to_numpy() for name in names),
            count=count,
            num_places=num_places,
            num_rows=num_rows,
        )
    values = (
        count,
        ctx.block_reserved_bos,
        ctx.block_reserved_eos,
        ctx.topk_val,
        ctx.topk_ratio,
    )
    scalars = tuple(
        np.dtype(type_.lower()).type(value)
        for type_, value in zip(SCALARS.values(), values, strict=True)
    )
    bounds, ids, chosen_bounds = (arrays[name] for name in names)
    return Step(count, bounds, ids, chosen_bounds, scalars)


def _indices(name: str, given: Any, device: Device) -> Buffer:
    if not isinstance(given, Buffer | np.ndarray):
        raise TypeError(
            f"wanted ctx.{name} as an array or a buffer of int32, got {given!r}"
        )
    buffer = ids_buffer(f"ctx.{name}", given, device, DType.int32)
    if buffer.device != device:
        raise ValueError(
            f"wanted ctx.{name} on {device}, got it on {buffer.device}"
        )
    return buffer


def _check_on_host(
    ctx: Any,
    bounds: Any,
    ids: Any,
    chosen: Any,
    *,
    count: int,
    num_places: int,
    num_rows: int | None,
) -> None:
    bounds = bounds[: count + 1]
    is_ordered = bounds[0] >= 0 and bool((np.diff(bounds) >= 0).all())
    if not is_ordered or bounds[-1] > len(ids):
        raise ValueError(
            f"wanted dense_kv_indptr ascending from 0 to {len(ids)}, got "
            f"{bounds.tolist()}"
        )
    used = ids[bounds[0] : bounds[-1]]
    is_out = (used < 0) | (used >= (np.inf if num_rows is None else num_rows))
    if is_out.any():
        raise ValueError(
            f"wanted dense_kv_indices in [0, {num_rows}), got "
            f"{used[is_out].tolist()}"
        )
    wanted = sparse_bounds(_HostStep(ctx, bounds))
    if not np.array_equal(chosen[: count + 1], wanted):
        raise AssertionError(
            f"wanted sparse_kv_indptr {wanted.tolist()}, got "
            f"{chosen[: count + 1].tolist()}"
        )
    if wanted[-1] > num_places:
        raise ValueError(
            f"wanted o of at least {wanted[-1]} elements, got {num_places}"
        )


class _HostStep:
    """A context's budget, and where segments begin."""

    batch_size = 0

    def __init__(self, ctx: Any, bounds: Any) -> None:
        self.dense_kv_indptr = bounds
        self.topk_ratio = ctx.topk_ratio
        self.topk_val = ctx.topk_val
        self.block_reserved_bos = ctx.block_reserved_bos
        self.block_reserved_eos = ctx.block_reserved_eos
