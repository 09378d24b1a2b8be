"""Causal paged attention on the CPU: units of work, spread over the cores."""

from kv_cache.types import KVCacheStaticParams

from .attention_inputs import AttentionInputs
from .attention_rules import RulesInUse
from .attention_parts import Parts
from .attention_tile import Tile
from .attention_units import Flags, Plan
from .parallel import parallel_units
from .scales import Quantization


def attention_cpu[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
    value_dim: Int,
    block_size: Int,
    //,
](
    inputs: AttentionInputs[
        dtype,
        kv_params,
        page_size,
        num_q_heads,
        rules_in_use,
        kv_dtype,
        quantization,
        value_dim,
        block_size,
    ],
    elsewhere: Flags = None,
) raises:
    """Computes every unit, then adds up the parts of split contexts.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads, a multiple of the key-value heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
        value_dim: The elements of a value; 0 for as many as a key has.
        block_size: The tokens of a block, where blocks are chosen; else 0.

    Args:
        inputs: The tensors.
        elsewhere: Not 0 for sequences that are left out, `[batch_size]`.

    Raises:
        If a task fails.
    """
    var plan = Plan[num_q_heads, kv_params.num_heads, kv_params.head_size](
        inputs.rules, inputs.batch, inputs.keys, elsewhere
    )
    if len(plan.units) == 0:
        return
    comptime PartsType = Parts[
        dtype=dtype,
        kv_params=kv_params,
        page_size=page_size,
        num_q_heads=num_q_heads,
        rules_in_use=rules_in_use,
        kv_dtype=kv_dtype,
        quantization=quantization,
        value_dim_=value_dim,
        block_size=block_size,
    ]
    var room = List[Float32](
        unsafe_uninit_length=plan.num_parts
        * plan.part_rows
        * PartsType.row_floats
    )
    var parts = PartsType(
        inputs,
        room.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
        plan.part_rows,
    )

    def work(index: Int) raises {imm}:
        var tile = Tile(inputs, plan.units[index])
        tile.attend()
        if tile.unit.part < 0:
            tile.write()
        else:
            parts.keep(tile)

    parallel_units(work, num_units=len(plan.units), tasks=plan.tasks)
    parts.write(plan.units)
    _ = room^
