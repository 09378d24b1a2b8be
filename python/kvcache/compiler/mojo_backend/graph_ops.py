"""Writes the graph operations of a flow: what they take, and launch."""

from kvcache.compiler.mojo_backend.code import number
from kvcache.compiler.mojo_backend.kernels import KernelText
from kvcache.compiler.mojo_backend.meanings import OVER_BLOCKS
from kvcache.compiler.mojo_backend.scoring import ScorePlan
from kvcache.compiler.mojo_backend.summarising import SummaryPlan
from kvcache.compiler.program import Kernel

NAME = "@FLOW@"
"""Stands for the module's name, which is made from its text."""

STEP = "".join(
    f"        {name}: InputTensor[dtype=DType.uint32, rank={rank}, ...],\n"
    for name, rank in {
        "input_row_offsets": 1,
        "cache_lengths": 1,
        "lookup_table": 2,
        "max_lengths": 2,
    }.items()
)
"""The arguments that describe a step."""


def graph_op(
    plan: ScorePlan,
    summaries: SummaryPlan,
    *,
    is_quantized: bool,
    is_score: bool,
) -> str:
    """Writes one operation.

    Args:
        plan: How blocks are scored.
        summaries: How their summaries are made.
        is_quantized: Whether it takes pools of codes, and their scales.
        is_score: Whether it scores blocks; else it makes summaries.
    """
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
        (
            f"        {q}dtype: DType, //, target: StaticString, "
            f"page_size: Int, num_kv_heads: Int, head_dim: Int, "
            f"{heads}{extra}"
        ),
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
            (
                "        kv_scales: MutableInputTensor[dtype=DType.float32, "
                "rank=6, ...],"
            )
        ]
    lines += pool_arguments(plan)
    text = "\n".join(lines) + "\n" + STEP
    if is_score:
        text += "        layer: UInt32,\n"
    text += "        ctx: DeviceContext,\n    ) raises:\n"
    body = pools_and_tables(plan, is_quantized=is_quantized)
    if is_score:
        body += _launch_scores(plan)
    else:
        body += launch_summaries(summaries)
    return text + "\n".join(f"        {line}" for line in body) + "\n\n\n"


def pool_arguments(plan: ScorePlan) -> list[str]:
    """Writes the arguments that are the pools of fields."""
    return [
        f"        pool_{field.name}: MutableInputTensor[dtype=DType."
        f"{field.dtype}, rank=6, ...],"
        for field in plan.bindings.fields
    ]


def _results(plan: ScorePlan) -> list[str]:
    lines = ["        scores: OutputTensor[dtype=DType.float32, rank=3, ...],"]
    for tensor in plan.scratch:
        rank = 4 if plan.bindings.is_request(tensor) else 5
        lines.append(
            f"        scratch_{tensor}: OutputTensor[dtype=DType.float32, "
            f"rank={rank}, ...],"
        )
    return lines


def pools_and_tables(plan: ScorePlan, *, is_quantized: bool) -> list[str]:
    """Writes what names the tables, and the pools by tokens and by fields."""
    bindings = plan.bindings
    block = plan.program.block_size
    quantization = "granularity, group_size" if is_quantized else ""
    scales = ", write_pointer(kv_scales)" if is_quantized else ""
    lines = [
        (
            f"comptime assert head_dim == {bindings.head_dim}, "
            f'"the flow is compiled for heads of {bindings.head_dim}"'
        ),
        f"comptime quantization = Quantization({quantization})",
        "var num_layers = kv_blocks.dim_size(2)",
        f"var tables = BlockTables[page_size, {block}](",
        "    ragged_batch(input_row_offsets),",
        "    read_pointer(cache_lengths),",
        "    read_pointer(lookup_table),",
        "    num_columns=lookup_table.dim_size(1),",
        "    num_pages=kv_blocks.dim_size(0) - 1,",
        ")",
        (
            f"var tokens = TokenPool[dtype, page_size, {block}, num_kv_heads, "
            f"{bindings.head_dim}, quantization]("
        ),
        f"    write_pointer(kv_blocks), num_layers{scales}",
        ")",
    ]
    lines.extend(
        f"var field_{field.name} = FieldPool[DType.{field.dtype}, "
        f"{field.rows}, {field.columns}, page_size // {block}, "
        f"num_kv_heads](write_pointer(pool_{field.name}), num_layers)"
        for field in bindings.fields
    )
    return lines


def made(kernel: KernelText, *, is_score: bool) -> str:
    """Writes what makes a kernel's struct."""
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


def launch_summaries(
    plan: SummaryPlan, *, follows_store: bool = False
) -> list[str]:
    """Returns the launches that make the summaries of all layers.

    Args:
        plan: What they are.
        follows_store: Whether a store of the step is launched just before.
    """
    block = plan.program.block_size
    lines = plan.memory(
        f"kv_blocks.dim_size(0) * num_layers * (page_size // {block})"
        " * num_kv_heads",
        "num_layers",
    )
    for kernel in plan.kernels():
        lines += _launch_summary(kernel, follows_store=follows_store)
        follows_store = False
    return lines + plan.release()


def summarise_on_cpu(kernel: KernelText) -> list[str]:
    """Returns the launch of a kernel that makes summaries of all layers."""
    flow = kernel.name.lower().replace("summarise", "flow")
    return [
        f"var {flow} = {made(kernel, is_score=False)}",
        (
            f"summarise_cpu({flow}, tables, num_layers=num_layers, "
            "num_kv_heads=num_kv_heads)"
        ),
    ]


def _summarise_on_gpu(kernel: KernelText, *, follows_store: bool) -> list[str]:
    flow = kernel.name.lower().replace("summarise", "flow")
    return [
        f"var {flow} = {made(kernel, is_score=False)}",
        (
            f"summarise_gpu[num_kv_heads, follows_store={follows_store}]("
            f"{flow}, tables, num_layers=num_layers, ctx=ctx)"
        ),
    ]


def _launch_summary(kernel: KernelText, *, follows_store: bool) -> list[str]:
    on_gpu = _summarise_on_gpu(kernel, follows_store=follows_store)
    return [
        'comptime if target == "cpu":',
        *(f"    {line}" for line in summarise_on_cpu(kernel)),
        "else:",
        *(f"    {line}" for line in on_gpu),
    ]


def _launch_scores(plan: ScorePlan) -> list[str]:
    bindings = plan.bindings
    group = bindings.group_size
    lines = [
        (
            f"comptime assert num_q_heads == num_kv_heads * {group}, "
            f'"the flow is compiled for groups of {group} heads"'
        ),
        (
            f"var queries_tiles = Queries[q_dtype, num_kv_heads, {group}, "
            f"{bindings.head_dim}](read_pointer(queries))"
        ),
    ]
    for tensor in (plan.score, *plan.scratch):
        member = bindings.member(tensor)
        type_ = bindings.member_type(tensor).replace("Self.", "")
        lines.append(
            f"var {member}_tiles = {type_}(result_pointer({member}), "
            "tables.width())"
        )
    return lines + score_launches(plan)


def score_launches(plan: ScorePlan) -> list[str]:
    """Returns the launches that score blocks, in their order."""
    lines: list[str] = []
    for text, kernel in zip(plan.kernels, plan.launches, strict=True):
        lines += (
            _launch_kernel(text) if text else _launch_over_blocks(plan, kernel)
        )
    return lines


def _launch_kernel(kernel: KernelText) -> list[str]:
    name = kernel.name.lower()
    return [
        f"var {name} = {made(kernel, is_score=True)}",
        'comptime if target == "cpu":',
        (
            f"    score_cpu({name}, tables, num_kv_heads=num_kv_heads, "
            "layer=Int(layer))"
        ),
        "else:",
        (
            f"    score_gpu({name}, tables, num_kv_heads=num_kv_heads, "
            f"layer=Int(layer), is_per_block={kernel.is_per_block}, ctx=ctx)"
        ),
    ]


def _launch_over_blocks(plan: ScorePlan, kernel: Kernel) -> list[str]:
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
        (
            f"    over_blocks_cpu[{work}]({source}, {result}, tables, "
            "num_kv_heads=num_kv_heads)"
        ),
        "else:",
        (
            f"    over_blocks_gpu[num_kv_heads, {work}]({source}, {result}, "
            "tables, ctx)"
        ),
    ]
