"""Causal paged attention on the CPU.

A unit of work is a tile of one sequence's new tokens under one key-value head:
all query heads of the group share the loads of keys and values.
"""

from kv_cache.types import KVCacheStaticParams
from max.algorithm.backend.cpu.parallelize import sync_parallelize
from std.math import ceildiv

from .attention_inputs import AttentionInputs
from .attention_rules import RulesInUse
from .attention_tile import Tile
from .scales import Quantization


def attention_cpu[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
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
    ]
) raises:
    """Computes every tile, the tiles spread over the cores.

    Parameters:
        dtype: The type of queries and results; sums are float32.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads, a multiple of the key-value heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.

    Args:
        inputs: The tensors.

    Raises:
        If a task fails.
    """
    comptime num_kv_heads = kv_params.num_heads
    comptime tile_tokens = Tile[
        dtype=dtype,
        kv_params=kv_params,
        page_size=page_size,
        num_q_heads=num_q_heads,
        rules_in_use=rules_in_use,
        kv_dtype=kv_dtype,
        quantization=quantization,
    ].tokens
    var batch = inputs.batch
    var tiles = List[Int](capacity=Int(batch.batch_size) + 1)
    tiles.append(0)
    for seq in range(Int(batch.batch_size)):
        var rows = batch.start(seq + 1) - batch.start(seq)
        tiles.append(tiles[seq] + ceildiv(rows, tile_tokens))
    var num_tiles = tiles[Int(batch.batch_size)]
    if num_tiles == 0:
        return

    def unit(index: Int) raises {imm}:
        var tile, head = divmod(index, num_kv_heads)
        var seq = 0
        while tiles[seq + 1] <= tile:
            seq += 1
        var first = batch.start(seq)
        var begin = first + (tile - tiles[seq]) * tile_tokens
        var end = min(begin + tile_tokens, batch.start(seq + 1))
        var work = Tile(
            inputs,
            seq=seq,
            head=head,
            first_row=begin,
            num_tokens=end - begin,
            position=inputs.keys.cache_length(seq) + begin - first,
        )
        work.attend()

    sync_parallelize(unit, num_tiles * num_kv_heads)
