"""Writes the Mojo module of a flow: its kernels, and its graph operations."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvcache.compiler.mojo_backend.graph_ops import graph_op
from kvcache.compiler.mojo_backend.scoring import ScorePlan
from kvcache.compiler.mojo_backend.store_ops import store_op
from kvcache.compiler.mojo_backend.summarising import (
    SummaryBindings,
    SummaryPlan,
)
from kvcache.compiler.program import Program
from kvcache.flow_ops import Scratch
from kvcache.summaries import SummaryField

HEADER = '''"""Generated: keeps the summaries of a flow, and scores blocks."""

import extensibility
from extensibility import (
    InputTensor,
    OutputTensor,
    _MutableInputTensor as MutableInputTensor,
)
from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.math import sqrt
from std.memory import AddressSpace, stack_allocation
from std.utils.numerics import inf, nan

from kvcache.block_tables import BlockTables
from kvcache.gpu_summarisers import (
    BlockSummariser,
    HeldSummariser,
    WideSummariser,
)
from kvcache.op_tensors import (
    cache_collection,
    ragged_batch,
    read_pointer,
    result_pointer,
    write_pointer,
)
from kvcache.over_blocks import (
    L2_NORM,
    MAX,
    MEAN,
    MIN,
    NORMALIZE,
    SOFTMAX,
    SUM,
    OverBlocks,
)
from kvcache.over_blocks_cpu import over_blocks_cpu
from kvcache.over_blocks_gpu import over_blocks_gpu
from kvcache.quantized_pages import QuantizedPages
from kvcache.request_place import Queries, RequestPlace, ScratchTiles
from kvcache.rope_mover import RopeMover
from kvcache.rope_store import RopeStore
from kvcache.rope_store_cpu import rope_store_cpu
from kvcache.rope_store_gpu import rope_store_gpu
from kvcache.rope_store_quantized import RopeStoreQuantized
from kvcache.rope_store_quantized_cpu import rope_store_quantized_cpu
from kvcache.rope_store_quantized_gpu import rope_store_quantized_gpu
from kvcache.scales import Quantization
from kvcache.score_cpu import CpuScorer, score_cpu
from kvcache.score_gpu import GpuScorer, score_gpu
from kvcache.shared_memory import Shared
from kvcache.store_cpu import store_cpu
from kvcache.store_gpu import store_gpu
from kvcache.store_mover import StoreMover
from kvcache.store_quantized_cpu import store_quantized_cpu
from kvcache.store_quantized_gpu import store_quantized_gpu
from kvcache.store_summarised_gpu import store_summarised_gpu
from kvcache.summarise_cpu import CpuSummariser, summarise_cpu
from kvcache.summarise_gpu import summarise_gpu
from kvcache.team import Team
from kvcache.tile_arithmetic import (
    absolute,
    affine,
    exponential,
    logarithm,
    masked,
    relu,
    sigmoid,
    silu,
    slice_mask,
)
from kvcache.tile_place import BlockPlace, FieldPool, TokenPool
from kvcache.tiles import Tile


'''


@dataclass(frozen=True, slots=True)
class FlowText:
    """A generated module, its name not yet in it."""

    text: str
    """The source, with `NAME` where the name is to be."""
    score_scratch: tuple[Scratch, ...]
    """What the scoring hands from kernel to kernel."""


def flow_text(
    cache: Program,
    indexer: Program,
    fields: Sequence[SummaryField],
    *,
    group_size: int,
    head_dim: int,
) -> FlowText:
    """Writes the module of a flow.

    Args:
        cache: How summaries are made.
        indexer: How blocks are scored.
        fields: What is kept of each block, in the order of the pools.
        group_size: Query heads that share a key-value head.
        head_dim: Elements per head.
    """
    maker = SummaryPlan(
        SummaryBindings(cache, fields, group_size, head_dim), holds_blocks=True
    )
    summarise = maker.kernels()
    plan = ScorePlan(indexer, fields, group_size, head_dim)
    parts = [HEADER, *(each.text for each in summarise)]
    parts += [each.text for each in plan.kernels if each]
    parts += [
        graph_op(plan, maker, is_quantized=is_quantized, is_score=is_score)
        for is_score in (False, True)
        for is_quantized in (False, True)
    ]
    parts += [
        store_op(plan, maker, is_quantized=is_quantized, rotates=rotates)
        for rotates in (False, True)
        for is_quantized in (False, True)
    ]
    scratch = plan.bindings.scratch(plan.scratch)
    return FlowText("\n".join(parts), tuple(scratch.values()))
