"""Wraps the tensors of MAX's operations for the kernels."""

from extensibility import (
    InputTensor,
    OutputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from kv_cache.types import KVCacheStaticParams
from std.collections import OptionalReg

from .collection import PagedKVCacheCollection
from .ragged import RaggedBatch
from .scales import Quantization
from .tensors import lengths_tensor, lookup_table_tensor


@always_inline
def read_pointer[
    dtype: DType, rank: Int, //
](tensor: InputTensor[dtype=dtype, rank=rank, ...]) -> Pointer[
    Scalar[dtype], ImmUntrackedOrigin
]:
    """Returns the address of a tensor that an op only reads.

    Parameters:
        dtype: The element type.
        rank: The number of axes.

    Args:
        tensor: The tensor.

    Returns:
        Its first element.
    """
    return (
        tensor.unsafe_ptr()
        .unsafe_mut_cast[False]()
        .unsafe_origin_cast[ImmUntrackedOrigin]()
    )


@always_inline
def write_pointer[
    dtype: DType, rank: Int, //
](tensor: MutableInputTensor[dtype=dtype, rank=rank, ...]) -> Pointer[
    Scalar[dtype], MutUntrackedOrigin
]:
    """Returns the address of a tensor that an op changes.

    Parameters:
        dtype: The element type.
        rank: The number of axes.

    Args:
        tensor: The tensor.

    Returns:
        Its first element.
    """
    return tensor.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()


@always_inline
def result_pointer[
    dtype: DType, rank: Int, //
](tensor: OutputTensor[dtype=dtype, rank=rank, ...]) -> Pointer[
    Scalar[dtype], MutUntrackedOrigin
]:
    """Returns the address of a tensor that an op makes.

    Parameters:
        dtype: The element type.
        rank: The number of axes.

    Args:
        tensor: The tensor.

    Returns:
        Its first element.
    """
    return tensor.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()


@always_inline
def ragged_batch(
    offsets: InputTensor[dtype=DType.uint32, rank=1, ...]
) -> RaggedBatch:
    """Wraps the row offsets of a ragged batch.

    Args:
        offsets: Where each sequence starts, `[batch_size + 1]`.

    Returns:
        The batch.
    """
    return RaggedBatch(read_pointer(offsets), offsets.dim_size(0) - 1)


@always_inline
def cache_collection[
    dtype: DType,
    //,
    page_size: Int,
    num_kv_heads: Int,
    head_dim: Int,
    quantization: Quantization = Quantization(),
    is_mla: Bool = False,
](
    kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],
    cache_lengths: InputTensor[dtype=DType.uint32, rank=1, ...],
    lookup_table: InputTensor[dtype=DType.uint32, rank=2, ...],
    max_lengths: InputTensor[dtype=DType.uint32, rank=2, ...],
    kv_scales: OptionalReg[Pointer[Float32, MutUntrackedOrigin]] = None,
    out collection: PagedKVCacheCollection[
        dtype,
        KVCacheStaticParams(
            num_heads=num_kv_heads, head_size=head_dim, is_mla=is_mla
        ),
        page_size,
        quantization,
    ],
):
    """Wraps the tensors that describe the cache in one step.

    Parameters:
        dtype: The element type of the pool.
        page_size: The tokens per page.
        num_kv_heads: The key-value heads held on this device.
        head_dim: The elements per head.
        quantization: Which elements share a scale.
        is_mla: Whether the pool has latents in the place of keys and values.

    Args:
        kv_blocks: The pool.
        cache_lengths: Tokens cached before this step, `[batch_size]`.
        lookup_table: The pages of each sequence, `[batch_size, max_pages]`.
        max_lengths: The most new tokens, and tokens, of any sequence.
        kv_scales: The pool of scales, if the cache is quantised.

    Returns:
        The cache.
    """
    collection = type_of(collection)(
        write_pointer(kv_blocks),
        num_pages=kv_blocks.dim_size(0),
        num_layers=kv_blocks.dim_size(2),
        cache_lengths=lengths_tensor(
            read_pointer(cache_lengths), cache_lengths.dim_size(0)
        ),
        lookup_table=lookup_table_tensor(
            read_pointer(lookup_table),
            lookup_table.dim_size(0),
            lookup_table.dim_size(1),
        ),
        max_seq_length=read_pointer(max_lengths)[unsafe_offset=0],
        max_cache_length=read_pointer(max_lengths)[unsafe_offset=1],
        kv_scales=kv_scales,
    )
