"""Gathers what quantised pages mean, on the CPU."""

from kv_cache.types import KVCacheStaticParams

from .cache import PagedKVCache
from .quantized_pages import read_head
from .ragged import RaggedBatch
from .runs import PageRun, parallel_page_runs
from .scales import Quantization


def gather_quantized_cpu[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    //,
](
    keys: Pointer[Scalar[dtype], MutUntrackedOrigin],
    values: Pointer[Scalar[dtype], MutUntrackedOrigin],
    key_cache: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    value_cache: PagedKVCache[kv_dtype, kv_params, page_size, quantization],
    context: RaggedBatch,
) raises:
    """Writes what the first tokens of every sequence mean.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.

    Args:
        keys: Receives the keys, or latents, `[context_tokens, num_kv_heads,
            head_dim]`.
        values: Receives the values, of the same shape; of latents, untouched.
        key_cache: The layer's keys.
        value_cache: The layer's values.
        context: The output rows of each sequence, from its position 0.

    Raises:
        If a task fails.
    """
    comptime num_heads = kv_params.num_heads
    comptime head_dim = kv_params.head_size

    def read_run(run: PageRun) raises {imm}:
        for token in range(run.length):
            for head in range(num_heads):
                var first = ((run.row + token) * num_heads + head) * head_dim
                read_head(
                    key_cache,
                    keys.unsafe_offset(first),
                    run.seq,
                    run.position + token,
                    head,
                )
                comptime if not kv_params.is_mla:
                    read_head(
                        value_cache,
                        values.unsafe_offset(first),
                        run.seq,
                        run.position + token,
                        head,
                    )

    parallel_page_runs[after_cached=False](read_run, key_cache, context)
