"""Compiles every op for a GPU that need not be there.

GPU code that does not build is seen on any machine; that it is right is for
`make test-gpu`. All ops are in one graph, as most of a compilation's time does
not depend on what is in it.
"""

import gc
import time

from max.driver import (
    Accelerator,
    set_virtual_cpu_target,
    set_virtual_device_api,
    set_virtual_device_count,
    set_virtual_device_target_arch,
)
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import BufferType, DeviceRef, Graph, TensorType

from kvcache import ops
from kvcache.graphs.ragged import row_offsets_type
from kvcache.ops import CacheInputs, CacheInputTypes

GROUP_SIZE = 3
"""Query heads that share one key-value head."""


def virtual_hopper() -> Accelerator:
    """Makes MAX believe in one H100; call before it makes any device."""
    set_virtual_device_api("cuda")
    set_virtual_device_target_arch("sm_90a")
    set_virtual_device_count(1)
    set_virtual_cpu_target("x86-64-v3")
    return Accelerator()


def every_op_graph(cache: CacheInputTypes) -> Graph:
    """Builds a graph that calls each of our ops once."""
    head = [cache.num_kv_heads, cache.head_dim]
    num_heads = (GROUP_SIZE + 2) * cache.num_kv_heads
    width = num_heads * cache.head_dim
    rows = TensorType(cache.dtype, ["total_tokens", *head], cache.device)
    gathered = BufferType(cache.dtype, ["context_tokens", *head], cache.device)
    qkv = TensorType(cache.dtype, ["total_tokens", width], cache.device)
    freqs = [4096, cache.head_dim]
    types = [
        *cache,
        *(rows, rows),
        *(gathered, gathered),
        qkv,
        TensorType(DType.float32, freqs, cache.device),
        row_offsets_type(cache.device),
        TensorType(DType.uint32, ["num_pairs", 2], cache.device),
    ]
    with Graph(
        "every_op",
        input_types=types,
        custom_extensions=[ops.precompiled_package()],
    ) as graph:
        (
            *four,
            keys,
            values,
            to_keys,
            to_values,
            mixed,
            angles,
            offsets,
            pairs,
        ) = graph.inputs
        inputs, starts = CacheInputs.of(four), offsets.tensor
        ops.store(inputs, keys.tensor, values.tensor, starts, layer=0)
        queries = ops.rope_store(
            inputs, mixed.tensor, angles.tensor, starts, layer=1
        )
        ops.gather(inputs, to_keys.buffer, to_values.buffer, starts, layer=0)
        ops.copy_pages(inputs.kv_blocks, pairs.tensor)
        graph.output(
            ops.attention(inputs, queries, starts, layer=1, scale=0.125)
        )
    return graph


def main() -> None:
    """Compiles for both element types and different page sizes."""
    session = InferenceSession(devices=[virtual_hopper()])
    for dtype, page_size in [(DType.bfloat16, 128), (DType.float32, 16)]:
        cache = CacheInputTypes(
            dtype=dtype,
            num_layers=2,
            page_size=page_size,
            num_kv_heads=3,
            head_dim=64,
            device=DeviceRef.GPU(),
        )
        start = time.perf_counter()
        session.compile(every_op_graph(cache))
        seconds = time.perf_counter() - start
        print(f"{dtype.name}, pages of {page_size}: {seconds:.1f} s")
    # MAX 26.7 aborts now and then where a session lives until Python's end.
    del session
    gc.collect()


if __name__ == "__main__":
    main()
