"""Writes the Mojo module of a flow: its kernels, and its graph operations."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.graph_ops import graph_op
from kvcache.compiler.mojo_backend.kernels import summariser
from kvcache.compiler.mojo_backend.pipeline import Pipeline
from kvcache.compiler.mojo_backend.scoring import ScorePlan
from kvcache.compiler.mojo_backend.store_ops import rope_store_op, store_op
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
from kvcache.request_place import Queries, RequestPlace, ScratchTiles
from kvcache.rope_store import RopeStore
from kvcache.scales import Quantization
from kvcache.score_cpu import CpuScorer, score_cpu
from kvcache.score_gpu import GpuScorer, score_gpu
from kvcache.shared_memory import Shared
from kvcache.summarise_cpu import CpuSummariser, summarise_cpu
from kvcache.summarise_gpu import (
    BlockSummariser,
    HeldSummariser,
    WideSummariser,
    summarise_gpu,
)
from kvcache.summarised_store import (
    LayerSummaries,
    rope_store_summarised,
    store_summarised,
)
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
    maker = Bindings(cache, fields, group_size, head_dim)
    summarise = summariser(whole(cache), maker, holds_blocks=True)
    plan = ScorePlan(indexer, fields, group_size, head_dim)
    parts = [HEADER, summarise.text]
    parts += [each.text for each in plan.kernels if each]
    parts += [
        graph_op(plan, summarise, is_quantized=is_quantized, is_score=is_score)
        for is_score in (False, True)
        for is_quantized in (False, True)
    ]
    parts += [store_op(plan, summarise), rope_store_op(plan, summarise)]
    scratch = plan.bindings.scratch(plan.scratch)
    return FlowText("\n".join(parts), tuple(scratch.values()))


def whole(program: Program) -> Pipeline:
    """All kernels of a cache side as one: none waits for another tile."""
    return Pipeline(
        nodes=tuple(node for k in program.kernels for node in k.nodes),
        stores=tuple(
            x for k in program.kernels for x in k.stores if x in program.names
        ),
        tensors=program.tensors,
    )
