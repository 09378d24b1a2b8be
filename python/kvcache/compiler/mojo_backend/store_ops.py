"""Writes the graph operations that store, and keep a flow's summaries."""

from kvcache.compiler.mojo_backend.graph_ops import (
    NAME,
    STEP,
    made,
    pool_arguments,
    pools_and_tables,
)
from kvcache.compiler.mojo_backend.kernels import KernelText
from kvcache.compiler.mojo_backend.scoring import ScorePlan

CACHE = """\
var cache = cache_collection[page_size, num_kv_heads, head_dim](
    kv_blocks, cache_lengths, lookup_table, max_lengths
)
var summaries = LayerSummaries(
    {flow},
    tables,
    layer=Int(layer),
    num_layers=num_layers,
)
"""
"""The layer's pages and summaries."""

STORE = """\
store_summarised[target](
    read_pointer(keys),
    read_pointer(values),
    cache.get_key_cache(Int(layer)),
    cache.get_value_cache(Int(layer)),
    summaries,
    total_tokens=keys.dim_size(0),
    ctx=ctx,
)
"""

ROPE_STORE = """\
comptime params = KVCacheStaticParams(
    num_heads=num_kv_heads, head_size=head_dim
)
var work = RopeStore[
    dtype, params, page_size, num_q_heads, rope_dim, interleaved
](
    result_pointer(queries),
    read_pointer(qkv),
    read_pointer(freqs),
    freqs.dim_size(0),
    cache.get_key_cache(Int(layer)),
    cache.get_value_cache(Int(layer)),
    ragged_batch(input_row_offsets),
)
rope_store_summarised[target](
    work, summaries, total_tokens=qkv.dim_size(0), ctx=ctx
)
"""


def store_op(plan: ScorePlan, summarise: KernelText) -> str:
    """Writes the store of keys and values."""
    rows = [
        f"        {name}: InputTensor[dtype=dtype, rank=3, ...],"
        for name in ("keys", "values")
    ]
    return _op(plan, summarise, "store", "", [], rows, STORE)


def rope_store_op(plan: ScorePlan, summarise: KernelText) -> str:
    """Writes the rotation fused with the store."""
    return _op(
        plan,
        summarise,
        "rope_store",
        ", num_q_heads: Int, rope_dim: Int, interleaved: Bool",
        ["        queries: OutputTensor[dtype=dtype, rank=3, ...],"],
        [
            "        qkv: InputTensor[dtype=dtype, rank=2, ...],",
            "        freqs: InputTensor[dtype=DType.float32, rank=2, ...],",
        ],
        ROPE_STORE,
    )


def _op(  # noqa: PLR0917  (private, and each is of another type)
    plan: ScorePlan,
    summarise: KernelText,
    name: str,
    parameters: str,
    results: list[str],
    rows: list[str],
    launch: str,
) -> str:
    title = name.title().replace("_", "")
    lines = [
        f'@extensibility.register("{NAME}.{name}")',
        f"struct {title}Op:",
        "    @staticmethod",
        "    def execute[",
        (
            "        dtype: DType, //, target: StaticString, page_size: Int, "
            f"num_kv_heads: Int, head_dim: Int{parameters}"
        ),
        "    ](",
        *results,
        "        kv_blocks: MutableInputTensor[dtype=dtype, rank=6, ...],",
        *rows,
        *pool_arguments(plan),
    ]
    body = [
        *pools_and_tables(plan, is_quantized=False),
        *CACHE.format(flow=made(summarise, is_score=False)).splitlines(),
        *launch.splitlines(),
    ]
    return (
        "\n".join(lines)
        + f"\n{STEP}        layer: UInt32,\n        ctx: DeviceContext,\n"
        + "    ) raises:\n"
        + "\n".join(f"        {line}" for line in body)
        + "\n\n\n"
    )
