"""Quantises the keys and values of a ragged batch into pages, on the CPU."""

from kv_cache.types import KVCacheStaticParams

from .quantized_pages import QuantizedPages
from .ragged import RaggedBatch
from .runs import PageRun, parallel_page_runs
from .scales import Quantization


def store_quantized_cpu[
    dtype: DType,
    kv_dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    quantization: Quantization,
    //,
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    pages: QuantizedPages[kv_dtype, kv_params, page_size, quantization],
    batch: RaggedBatch,
) raises:
    """Quantises every row behind the cached tokens of its sequence.

    Parameters:
        dtype: The element type of the rows.
        kv_dtype: The type of the codes.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        quantization: Which elements share a scale.

    Args:
        keys: The new keys, or latents, `[total_tokens, num_kv_heads,
            head_dim]`.
        values: The new values, of the same shape; of latents, not looked at.
        pages: The layer's keys and values.
        batch: The rows of each sequence.

    Raises:
        If a task fails.
    """
    comptime num_heads = kv_params.num_heads
    comptime head_dim = kv_params.head_size

    def keep_run(run: PageRun) raises {imm}:
        var seq = run.seq
        comptime if not pages.scale_layout.is_per_token:
            for head in range(num_heads):
                pages.keep_given_scale[0](seq, run.position, head)
                comptime if not kv_params.is_mla:
                    pages.keep_given_scale[1](seq, run.position, head)
        for token in range(run.length):
            var position = run.position + token
            for head in range(num_heads):
                var first = ((run.row + token) * num_heads + head) * head_dim
                pages.keep_head[0](
                    keys.unsafe_offset(first), seq, position, head
                )
                comptime if not kv_params.is_mla:
                    pages.keep_head[1](
                        values.unsafe_offset(first), seq, position, head
                    )

    parallel_page_runs[after_cached=True](keep_run, pages.keys, batch)
