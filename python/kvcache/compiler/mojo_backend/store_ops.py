"""Writes the graph operations that store, and keep a flow's summaries."""

from kvcache.compiler.mojo_backend.graph_ops import (
    NAME,
    STEP,
    launch_summaries,
    made,
    pool_arguments,
    pools_and_tables,
    summarise_on_cpu,
)
from kvcache.compiler.mojo_backend.scoring import ScorePlan
from kvcache.compiler.mojo_backend.summarising import SummaryPlan

MOST_KEPT = 1024
"""The numbers that a team keeps at most where eight warps summarise a block,
with its keys in 16 of their 48 KiB of shared memory."""

PAGES = """\
comptime params = KVCacheStaticParams(
    num_heads=num_kv_heads, head_size=head_dim
)
var batch = ragged_batch(input_row_offsets)
var cache = cache_collection[
    page_size, num_kv_heads, head_dim, quantization
](kv_blocks, cache_lengths, lookup_table, max_lengths{scales})
var key_cache = cache.get_key_cache(Int(layer))
var value_cache = cache.get_value_cache(Int(layer))
"""
"""The layer's pages."""

QUANTIZED_PAGES = """\
var pages = QuantizedPages[dtype, params, page_size, quantization](
    key_cache, value_cache, read_pointer(scales)
)
"""

STORE = """\
var total_tokens = keys.dim_size(0)
var new_keys = read_pointer(keys)
var new_values = read_pointer(values)
"""

WORK = """\
var total_tokens = qkv.dim_size(0)
var work = {type}[
    {parameters}, num_q_heads, rope_dim, interleaved
](
    result_pointer(queries),
    read_pointer(qkv),
    read_pointer(freqs),
    freqs.dim_size(0),
    {pages},
    batch,
)
"""
"""The tensors of a rotation."""

SUMMARISED = """\
comptime if target == "cpu":
    {on_cpu}
else:
    var mover = {mover}
    var flow = {flow}
    var is_stored = store_summarised_gpu(
        mover,
        flow,
        tables,
        total_tokens=total_tokens,
        layer=Int(layer),
        num_layers=num_layers,
        ctx=ctx,
    )
    if not is_stored:
        {on_gpu}
"""
"""A store which on a GPU makes summaries in the same launch."""


def store_op(
    plan: ScorePlan,
    summaries: SummaryPlan,
    *,
    is_quantized: bool,
    rotates: bool,
) -> str:
    """Writes one operation.

    On a GPU summaries are made by the launches that store, unless they want
    more shared memory than there is. Elsewhere all layers' are made at once,
    behind the last layer's store.

    Args:
        plan: How blocks are scored.
        summaries: How their summaries are made.
        is_quantized: Whether it takes pools of codes, and their scales.
        rotates: Whether it rotates queries and keys.
    """
    name = "rope_store" if rotates else "store"
    end = "_quantized" if is_quantized else ""
    title = f"{name}{end}".title().replace("_", "")
    lines = [
        f'@extensibility.register("{NAME}.{name}{end}")',
        f"struct {title}Op:",
        "    @staticmethod",
        "    def execute[",
        f"        {_parameters(is_quantized=is_quantized, rotates=rotates)}",
        "    ](",
        *_arguments(is_quantized=is_quantized, rotates=rotates),
        *pool_arguments(plan),
    ]
    body = [
        *pools_and_tables(plan, is_quantized=is_quantized),
        *_store(summaries, is_quantized=is_quantized, rotates=rotates),
    ]
    return (
        "\n".join(lines)
        + f"\n{STEP}        layer: UInt32,\n        ctx: DeviceContext,\n"
        + "    ) raises:\n"
        + "\n".join(f"        {line}" for line in body)
        + "\n\n\n"
    )


def _parameters(*, is_quantized: bool, rotates: bool) -> str:
    names = ["dtype: DType"]
    if is_quantized:
        names.append("row_dtype: DType")
    names += ["//", "target: StaticString", "page_size: Int"]
    names += ["num_kv_heads: Int", "head_dim: Int"]
    if rotates:
        names += ["num_q_heads: Int", "rope_dim: Int", "interleaved: Bool"]
    if is_quantized:
        names += ["granularity: Int", "group_size: Int"]
    return ", ".join(names)


def _arguments(*, is_quantized: bool, rotates: bool) -> list[str]:
    rows = "row_dtype" if is_quantized else "dtype"
    types = {"kv_blocks": "MutableInputTensor[dtype=dtype, rank=6, ...]"}
    if is_quantized:
        types["kv_scales"] = (
            "MutableInputTensor[dtype=DType.float32, rank=6, ...]"
        )
    if rotates:
        result = {"queries": f"OutputTensor[dtype={rows}, rank=3, ...]"}
        types = result | types
        types["qkv"] = f"InputTensor[dtype={rows}, rank=2, ...]"
        types["freqs"] = "InputTensor[dtype=DType.float32, rank=2, ...]"
    else:
        for name in ("keys", "values"):
            types[name] = f"InputTensor[dtype={rows}, rank=3, ...]"
    if is_quantized:
        types["scales"] = "InputTensor[dtype=DType.float32, rank=2, ...]"
    return [f"        {name}: {type_}," for name, type_ in types.items()]


def _store(
    summaries: SummaryPlan, *, is_quantized: bool, rotates: bool
) -> list[str]:
    """Writes the store of a layer, for each target."""
    scales = ", write_pointer(kv_scales)" if is_quantized else ""
    text = PAGES.format(scales=scales)
    text += QUANTIZED_PAGES if is_quantized else ""
    text += _work(is_quantized=is_quantized) if rotates else STORE
    name = "rope_store" if rotates else "store"
    name += "_quantized" if is_quantized else ""
    pages = "pages" if is_quantized else "key_cache, value_cache"
    of_all = "work" if rotates else f"new_keys, new_values, {pages}, batch"
    rows = "work" if rotates else "new_keys, new_values, key_cache, value_cache"
    on_cpu = f"{name}_cpu({of_all})"
    on_gpu = f"{name}_gpu({of_all}, total_tokens, ctx)"
    kernels = summaries.kernels()
    is_small = len(kernels) == 1 and kernels[0].kept <= MOST_KEPT
    if is_small and not is_quantized:
        on_last = _behind_last(summarise_on_cpu(kernels[0]))
        text += SUMMARISED.format(
            on_cpu="\n    ".join([on_cpu, *on_last]),
            mover=f"{'RopeMover' if rotates else 'StoreMover'}({rows})",
            flow=made(kernels[0], is_score=False),
            on_gpu=on_gpu,
        )
        return text.splitlines()
    text += f'comptime if target == "cpu":\n    {on_cpu}\nelse:\n    {on_gpu}'
    launches = launch_summaries(summaries, follows_store=True)
    return text.splitlines() + _behind_last(launches)


def _behind_last(lines: list[str]) -> list[str]:
    """Returns lines that only the last layer's store runs."""
    return [
        "if Int(layer) == num_layers - 1 and total_tokens > 0:",
        *(f"    {line}" for line in lines),
    ]


def _work(*, is_quantized: bool) -> str:
    if is_quantized:
        return WORK.format(
            type="RopeStoreQuantized",
            parameters="row_dtype, dtype, params, page_size, quantization",
            pages="pages",
        )
    return WORK.format(
        type="RopeStore",
        parameters="dtype, params, page_size",
        pages="key_cache,\n    value_cache",
    )
