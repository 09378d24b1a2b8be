"""Writes the Mojo module of a flow: its kernels, and its graph operations."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.graph_ops import graph_op
from kvcache.compiler.mojo_backend.kernels import summariser
from kvcache.compiler.mojo_backend.pipeline import Pipeline
from kvcache.compiler.mojo_backend.scoring import ScorePlan
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
from max.gpu.host import DeviceContext
from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder
from std.math import sqrt
from std.memory import AddressSpace, stack_allocation
from std.utils.numerics import inf, nan

from kvcache.block_tables import BlockTables
from kvcache.op_tensors import (
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
from kvcache.scales import Quantization
from kvcache.score_cpu import CpuScorer, score_cpu
from kvcache.score_gpu import GpuScorer, score_gpu
from kvcache.shared_memory import Shared
from kvcache.summarise_cpu import CpuSummariser, summarise_cpu
from kvcache.summarise_gpu import GpuSummariser, summarise_gpu
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
    summarise = summariser(whole(cache), maker)
    plan = ScorePlan(indexer, fields, group_size, head_dim)
    parts = [HEADER, summarise.text]
    parts += [each.text for each in plan.kernels if each]
    parts += [
        graph_op(plan, summarise, is_quantized=is_quantized, is_score=is_score)
        for is_score in (False, True)
        for is_quantized in (False, True)
    ]
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
<<<<<<< HEAD


class _Plan:
    """The launches that score blocks."""

    def __init__(
        self,
        program: Program,
        fields: Sequence[SummaryField],
        group_size: int,
        head_dim: int,
    ) -> None:
        program = _reading_scratch(program)
        self.program = program
        (self.score,) = _choice(program).inputs
        self.bindings = Bindings(
            program, fields, group_size, head_dim, self.score
        )
        self.kernels: list[KernelText | None] = []
        self.launches = [
            kernel
            for kernel in program.kernels
            if kernel.nodes[0].op.kind != "topK"
        ]
        for number_, kernel in enumerate(self.launches):
            # What looks at all blocks is not generated.
            text = None
            if kernel.schedule is Schedule.W:
                pipeline = Pipeline(
                    kernel.nodes, kernel.stores, program.tensors
                )
                text = scorer(f"Score{number_}", pipeline, self.bindings)
            self.kernels.append(text)
        stored = {x for k in self.launches for x in k.stores}
        self.scratch = sorted(stored - {self.score})


def _choice(program: Program) -> Node:
    return next(
        node
        for kernel in program.kernels
        for node in kernel.nodes
        if node.op.kind == "topK"
    )


def _reading_scratch(program: Program) -> Program:
    """Has what looks at all blocks read copies of fields, not fields."""
    tensors, kernels = list(program.tensors), []
    for kernel in program.kernels:
        (*_, node) = kernel.nodes
        named = [x for x in node.inputs if x in program.names]
        if kernel.schedule is Schedule.W or not named:
            kernels.append(kernel)
            continue
        copy = len(tensors)
        tensors.append(
            vTensor(
                tensors[named[0]].shape,
                "float32",
                _format=FORMAT.RAGGED,
                tensor_id=copy,
            )
        )
        same = Node(node.op_id, Add_Mul(), (named[0],), copy)
        kernels += [
            Kernel((same,), (named[0],), (copy,), Schedule.W),
            replace(
                kernel,
                nodes=(replace(node, inputs=(copy,)),),
                reads=(copy,),
            ),
        ]
    return replace(program, tensors=tuple(tensors), kernels=tuple(kernels))


def _op(
    plan: _Plan,
    summarise: KernelText,
    *,
    is_quantized: bool,
    is_score: bool,
) -> str:
    name = "score" if is_score else "summarise"
    end = "_quantized" if is_quantized else ""
    title = name.capitalize() + ("Quantized" if is_quantized else "")
    extra = "granularity: Int, group_size: Int, " if is_quantized else ""
    q = "q_dtype: DType, " if is_score else ""
    heads = "num_q_heads: Int, " if is_score else ""
    lines = [
        f'@extensibility.register("{NAME}.{name}{end}")',
        f"struct {title}Op:",
        "    @staticmethod",
        "    def execute[",
        f"        {q}dtype: DType, //, target: StaticString, page_size: Int, "
        f"num_kv_heads: Int, head_dim: Int, {heads}{extra}",
        "    ](",
    ]
    if is_score:
        lines += _results(plan)
        lines += ["        queries: InputTensor[dtype=q_dtype, rank=3, ...],"]
    lines += [
        "        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],"
    ]
    if is_quantized:
        lines += [
            "        kv_scales: MutableInputTensor[dtype=DType.float32, "
            "rank=6, ...],"
        ]
    lines += [
        f"        pool_{field.name}: MutableInputTensor[dtype=DType."
        f"{field.dtype}, rank=6, ...],"
        for field in plan.bindings.fields
    ]
    text = "\n".join(lines) + "\n" + STEP
    if is_score:
        text += "        layer: UInt32,\n"
    text += "        ctx: DeviceContext,\n    ) raises:\n"
    body = _setup(plan, is_quantized=is_quantized)
    if is_score:
        body += _launch_scores(plan)
    else:
        body += _launch_summaries(summarise)
    return text + "\n".join(f"        {line}" for line in body) + "\n\n\n"


def _results(plan: _Plan) -> list[str]:
    lines = ["        scores: OutputTensor[dtype=DType.float32, rank=3, ...],"]
    for tensor in plan.scratch:
        rank = 4 if plan.bindings.is_request(tensor) else 5
        lines.append(
            f"        scratch_{tensor}: OutputTensor[dtype=DType.float32, "
            f"rank={rank}, ...],"
        )
    return lines


def _setup(plan: _Plan, *, is_quantized: bool) -> list[str]:
    bindings = plan.bindings
    block = plan.program.block_size
    quantization = "granularity, group_size" if is_quantized else ""
    scales = ", write_pointer(kv_scales)" if is_quantized else ""
    lines = [
        f"comptime assert head_dim == {bindings.head_dim}, "
        f'"the flow is compiled for heads of {bindings.head_dim}"',
        f"comptime quantization = Quantization({quantization})",
        "var num_layers = kv_blocks.dim_size(2)",
        f"var tables = BlockTables[page_size, {block}](",
        "    ragged_batch(input_row_offsets),",
        "    read_pointer(cache_lengths),",
        "    read_pointer(lookup_table),",
        "    num_columns=lookup_table.dim_size(1),",
        "    num_pages=kv_blocks.dim_size(0) - 1,",
        ")",
        f"var tokens = TokenPool[dtype, page_size, {block}, num_kv_heads, "
        f"{bindings.head_dim}, quantization](",
        f"    write_pointer(kv_blocks), num_layers{scales}",
        ")",
    ]
    for field in bindings.fields:
        lines.append(
            f"var field_{field.name} = FieldPool[DType.{field.dtype}, "
            f"{field.rows}, {field.columns}, page_size // {block}, "
            f"num_kv_heads](write_pointer(pool_{field.name}), num_layers)"
        )
    return lines


def _made(kernel: KernelText, *, is_score: bool) -> str:
    q = "q_dtype, " if is_score else ""
    arguments = ", ".join(
        f"{member}_tiles"
        if member.startswith(("scratch", "scores", "queries"))
        else member
        for member in kernel.members
    )
    return (
        f"{kernel.name}[{q}dtype, page_size, num_kv_heads, quantization]("
        f"{arguments})"
    )


def _launch_summaries(kernel: KernelText) -> list[str]:
    return [
        f"var flow = {_made(kernel, is_score=False)}",
        'comptime if target == "cpu":',
        "    summarise_cpu(flow, tables, num_layers=num_layers, "
        "num_kv_heads=num_kv_heads)",
        "else:",
        "    summarise_gpu[num_kv_heads](flow, tables, "
        "num_layers=num_layers, ctx=ctx)",
    ]


def _launch_scores(plan: _Plan) -> list[str]:
    bindings = plan.bindings
    lines = [
        f"comptime assert num_q_heads == num_kv_heads * {bindings.group_size}, "
        f'"the flow is compiled for groups of {bindings.group_size} heads"',
        f"var queries_tiles = Queries[q_dtype, num_kv_heads, "
        f"{bindings.group_size}, {bindings.head_dim}](read_pointer(queries))",
    ]
    for tensor in (plan.score, *plan.scratch):
        member = bindings.member(tensor)
        type_ = bindings.member_type(tensor).replace("Self.", "")
        lines.append(
            f"var {member}_tiles = {type_}(result_pointer({member}), "
            "tables.width())"
        )
    for text, kernel in zip(plan.kernels, plan.launches, strict=True):
        lines += (
            _launch_kernel(text) if text else _launch_over_blocks(plan, kernel)
        )
    return lines


def _launch_kernel(kernel: KernelText) -> list[str]:
    name = kernel.name.lower()
    return [
        f"var {name} = {_made(kernel, is_score=True)}",
        'comptime if target == "cpu":',
        f"    score_cpu({name}, tables, num_kv_heads=num_kv_heads, "
        "layer=Int(layer))",
        "else:",
        f"    score_gpu({name}, tables, num_kv_heads=num_kv_heads, "
        f"layer=Int(layer), is_per_block={kernel.is_per_block}, ctx=ctx)",
    ]


def _launch_over_blocks(plan: _Plan, kernel: Kernel) -> list[str]:
    (node,) = kernel.nodes
    (x,) = node.inputs
    rows, columns = plan.program.tensors[x].tile
    source, result = (
        f"result_pointer({plan.bindings.member(each)})"
        for each in (x, node.output)
    )
    scale = number(node.op.attributes.get("scale", 1.0))
    work = f"OverBlocks({OVER_BLOCKS[node.op.kind]}, {rows * columns}, {scale})"
    return [
        'comptime if target == "cpu":',
        f"    over_blocks_cpu[{work}]({source}, {result}, tables, "
        "num_kv_heads=num_kv_heads)",
        "else:",
        f"    over_blocks_gpu[num_kv_heads, {work}]({source}, {result}, "
        "tables, ctx)",
    ]


__all__ = ["NAME", "TOKENS", "FlowText", "flow_text"]
=======
>>>>>>> c6-mojo
