"""Causal paged attention by MAX's own kernels, which are given our views.

On Hopper that is the kernel for prompts alone. Where a tile of keys spans
several pages, of which a sequence does not have all, that kernel leaves in
shared memory what was there before and multiplies it by 0, which keeps a NaN a
NaN. So tiles are made no larger than a page, and the kernel for single tokens,
whose tiles are set, is not called. Inside a page the same product is formed
with the slots behind a sequence's last token: they must be finite.
"""

from kv_cache.types import KVCacheStaticParams
from layout import ComptimeInt, Coord, TileTensor, row_major
from max.gpu.host import DeviceContext
from nn.attention.cpu.mha import flash_attention_kv_cache
from nn.attention.gpu.mha import flash_attention
from nn.attention.mha_mask import CausalMask
from nn.attention.mha_utils import MHAConfig

from .cache import PagedKVCache
from .max_cache import MaxKVCache
from .ragged import RaggedBatch
from .tensors import lengths_tensor


def attention_max[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    //,
    target: StaticString,
    num_q_heads: Int,
](
    output: Pointer[Scalar[dtype], MutUntrackedOrigin],
    queries: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    keys: PagedKVCache[dtype, kv_params, page_size],
    values: PagedKVCache[dtype, kv_params, page_size],
    batch: RaggedBatch,
    scale: Float32,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Calls the kernel that MAX has for the target.

    Parameters:
        dtype: The element type; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        target: `cpu` or `gpu`.
        num_q_heads: The query heads, a multiple of the key-value heads.

    Args:
        output: Receives the result, `[total_tokens, num_q_heads, head_dim]`.
        queries: The queries, of the same shape.
        keys: The layer's keys, those of the new tokens included.
        values: The layer's values, those of the new tokens included.
        batch: The rows of each sequence.
        scale: What scores are multiplied by.
        total_tokens: The rows in `queries`.
        ctx: The device's context.

    Raises:
        If the launch fails.
    """
    if total_tokens == 0:
        return
    var shape = row_major(
        Coord(
            Int64(total_tokens),
            ComptimeInt[num_q_heads](),
            ComptimeInt[kv_params.head_size](),
        )
    )
    var q = TileTensor(ptr=queries, layout=shape)
    var o = TileTensor(ptr=output, layout=shape)
    var offsets = lengths_tensor(batch.offsets, Int(batch.batch_size) + 1)
    var k = MaxKVCache(keys)
    var v = MaxKVCache(values)
    comptime if target == "cpu":
        flash_attention_kv_cache(
            q, offsets, offsets, k, v, CausalMask(), scale, o
        )
    else:
        comptime default = MHAConfig[dtype](num_q_heads, kv_params.head_size)
        comptime config = MHAConfig[dtype](
            num_q_heads,
            kv_params.head_size,
            num_keys_per_block=min(default.block_n(), page_size),
        )
        flash_attention[config=config, ragged=True](
            o,
            q,
            k,
            v,
            CausalMask(),
            offsets,
            scale,
            ctx,
            q_max_seq_len=max(2, Int(keys.max_prompt_length())),
        )
