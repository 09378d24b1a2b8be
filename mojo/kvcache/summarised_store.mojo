"""Stores a layer's keys and values, and keeps a flow's summaries up to date.

On a GPU a step with prompts makes each layer's summaries with its store. Where
each sequence has a token, few blocks get complete, and those of all layers are
made at once behind the last layer's store; so they are on the CPU.
"""

from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext

from .block_movers import RopeMover, StoreMover
from .block_tables import BlockTables
from .cache import PagedKVCache
from .rope_store import RopeStore
from .rope_store_cpu import rope_store_cpu
from .rope_store_gpu import rope_store_gpu
from .store_blocks_gpu import BlockMover, store_blocks_gpu
from .store_cpu import store_cpu
from .store_gpu import store_gpu
from .summarise_cpu import CpuSummariser, summarise_cpu
from .summarise_gpu import BlockSummariser, summarise_gpu


struct LayerSummaries[
    Flow: CpuSummariser & BlockSummariser, page_size: Int, block_size: Int
](TrivialRegisterPassable):
    """The summaries that one layer's store is to keep up to date.

    Parameters:
        Flow: The compiled flow.
        page_size: The tokens per page.
        block_size: The tokens per block.
    """

    var flow: Self.Flow
    """What to do with a block and head."""

    var tables: BlockTables[Self.page_size, Self.block_size]
    """The step."""

    var layer: Int
    """The layer."""

    var num_layers: Int
    """The layers in the pools."""

    def __init__(
        out self,
        flow: Self.Flow,
        tables: BlockTables[Self.page_size, Self.block_size],
        *,
        layer: Int,
        num_layers: Int,
    ):
        """Collects what summaries are made of.

        Args:
            flow: What to do with a block and head.
            tables: The step.
            layer: The layer.
            num_layers: The layers in the pools.
        """
        self.flow = flow
        self.tables = tables
        self.layer = layer
        self.num_layers = num_layers

    @always_inline
    def are_of_prompts(self, total_tokens: Int) -> Bool:
        """Returns whether a step may add more than a token to a sequence.

        Args:
            total_tokens: The rows of all sequences.

        Returns:
            True if there are more rows than sequences.
        """
        return total_tokens > Int(self.tables.batch.batch_size)

    def finish_cpu(self, *, num_kv_heads: Int) raises:
        """Makes all layers' summaries behind the last layer's store.

        Args:
            num_kv_heads: The key-value heads.

        Raises:
            If a task fails.
        """
        if self.layer == self.num_layers - 1:
            summarise_cpu(
                self.flow,
                self.tables,
                num_layers=self.num_layers,
                num_kv_heads=num_kv_heads,
            )

    def finish_gpu[num_kv_heads: Int](self, ctx: DeviceContext) raises:
        """Makes all layers' summaries behind the last layer's store.

        Parameters:
            num_kv_heads: The key-value heads.

        Args:
            ctx: The GPU's context.

        Raises:
            If the launch fails.
        """
        if self.layer == self.num_layers - 1:
            summarise_gpu[num_kv_heads, follows_store=True](
                self.flow, self.tables, num_layers=self.num_layers, ctx=ctx
            )

    def store_gpu(
        self, mover: Some[BlockMover], total_tokens: Int, ctx: DeviceContext
    ) raises:
        """Stores the layer and makes its summaries, in one kernel.

        Args:
            mover: Stores the rows.
            total_tokens: The rows of all sequences.
            ctx: The GPU's context.

        Raises:
            If the launch fails.
        """
        store_blocks_gpu(
            mover,
            self.flow,
            self.tables,
            total_tokens=total_tokens,
            layer=self.layer,
            ctx=ctx,
        )


def store_summarised[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    //,
    target: StaticString,
](
    keys: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    values: Pointer[Scalar[dtype], ImmUntrackedOrigin],
    key_cache: PagedKVCache[dtype, kv_params, page_size],
    value_cache: PagedKVCache[dtype, kv_params, page_size],
    summaries: LayerSummaries,
    *,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Stores keys and values, and keeps summaries up to date.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        target: Where it runs.

    Args:
        keys: The new keys, `[total_tokens, num_kv_heads, head_dim]`.
        values: The new values, of the same shape.
        key_cache: The layer's keys.
        value_cache: The layer's values, over the same tables.
        summaries: The layer's summaries.
        total_tokens: The rows in `keys`.
        ctx: The device's context.

    Raises:
        If a task fails.
    """
    var batch = summaries.tables.batch
    comptime if target == "cpu":
        store_cpu(keys, values, key_cache, value_cache, batch)
        summaries.finish_cpu(num_kv_heads=kv_params.num_heads)
    else:
        if summaries.are_of_prompts(total_tokens):
            var mover = StoreMover(keys, values, key_cache, value_cache)
            return summaries.store_gpu(mover, total_tokens, ctx)
        store_gpu(
            keys, values, key_cache, value_cache, batch, total_tokens, ctx
        )
        summaries.finish_gpu[kv_params.num_heads](ctx)


def rope_store_summarised[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rope_dim: Int,
    interleaved: Bool,
    //,
    target: StaticString,
](
    work: RopeStore[
        dtype, kv_params, page_size, num_q_heads, rope_dim, interleaved
    ],
    summaries: LayerSummaries,
    *,
    total_tokens: Int,
    ctx: DeviceContext,
) raises:
    """Rotates and stores, and keeps summaries up to date.

    Parameters:
        dtype: The element type.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rope_dim: The leading elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
        target: Where it runs.

    Args:
        work: The tensors of the layer.
        summaries: The layer's summaries.
        total_tokens: The rows in `work.qkv`.
        ctx: The device's context.

    Raises:
        If a task fails.
    """
    comptime if target == "cpu":
        rope_store_cpu(work)
        summaries.finish_cpu(num_kv_heads=kv_params.num_heads)
    else:
        if summaries.are_of_prompts(total_tokens):
            return summaries.store_gpu(RopeMover(work), total_tokens, ctx)
        rope_store_gpu(work, total_tokens, ctx)
        summaries.finish_gpu[kv_params.num_heads](ctx)
