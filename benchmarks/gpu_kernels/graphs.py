"""Graphs of the benchmark: one operation, once for each layer."""

from collections.abc import Callable, Sequence

from max import tree
from max.dtype import DType
from max.graph import (
    BufferType,
    BufferValue,
    Graph,
    Module,
    TensorType,
    TensorValue,
    ops,
)
from max.nn.kv_cache import KVCacheInputsPerDevice, MHAKVCacheParams

from benchmarks.gpu_kernels.layout import (
    DTYPE,
    GPU,
    HEAD_DIM,
    MAX_PAGE_SIZE,
    NUM_KV_HEADS,
    NUM_LAYERS,
)
from kvcache.cache_types import CacheInputTypes
from kvcache.graphs.ragged import row_offsets_type
from kvcache.ops import CacheInputs, precompiled_package

MAX_PARAMS = MHAKVCacheParams(
    dtype=DTYPE,
    n_kv_heads=NUM_KV_HEADS,
    head_dim=HEAD_DIM,
    num_layers=NUM_LAYERS,
    devices=[GPU],
    enable_prefix_caching=True,
    page_size=MAX_PAGE_SIZE,
)
"""The same cache as MAX describes it."""

MaxCache = KVCacheInputsPerDevice[TensorValue, BufferValue]
Types = Sequence[TensorType | BufferType]


def add_ours(
    module: Module,
    name: str,
    cache_types: CacheInputTypes,
    *,
    types: Types,
    op: Callable[..., TensorValue | None],
    keeps_all: bool = False,
) -> None:
    """Adds a graph that calls `op(cache, *inputs, offsets, layer=...)`.

    Its inputs are those of the cache, those of `types`, and row offsets.
    Its output is what the last layer's call returns, if anything; with
    `keeps_all` what every layer's returns.
    """
    with Graph(
        name,
        input_types=[*cache_types, *types, row_offsets_type(GPU)],
        custom_extensions=[precompiled_package()],
        module=module,
    ) as graph:
        cache = CacheInputs.of(graph.inputs[: len(cache_types)])
        inputs = [
            value.buffer if isinstance(value, BufferValue) else value.tensor
            for value in graph.inputs[len(cache_types) :]
        ]
        results = [
            op(cache, *inputs, layer=layer) for layer in range(NUM_LAYERS)
        ]
        _output(graph, results if keeps_all else results[-1:])


def add_theirs(
    module: Module,
    name: str,
    *,
    types: Types,
    op: Callable[..., TensorValue | None],
    keeps_all: bool = False,
) -> None:
    """Adds a graph of MAX's own `op(cache, *inputs, offsets, layer)`.

    Its inputs are those of `types`, row offsets, then those of MAX's cache.
    Its output is what the last layer's call returns, if anything; with
    `keeps_all` what every layer's returns.
    """
    cache_inputs = tree.leaves(MAX_PARAMS.get_symbolic_inputs())
    own = [*types, row_offsets_type(GPU)]
    with Graph(name, input_types=[*own, *cache_inputs], module=module) as graph:
        (cache,) = tree.leaves(
            MAX_PARAMS.unflatten_kv_inputs(iter(graph.inputs[len(own) :])),
            leaf=KVCacheInputsPerDevice,
        )
        inputs = [value.tensor for value in graph.inputs[: len(own)]]
        results = [
            op(cache, *inputs, _layer(layer)) for layer in range(NUM_LAYERS)
        ]
        _output(graph, results if keeps_all else results[-1:])


def _output(graph: Graph, results: Sequence[TensorValue | None]) -> None:
    graph.output(*(result for result in results if result is not None))


def _layer(layer: int) -> TensorValue:
    from max.graph import DeviceRef

    return ops.constant(layer, DType.uint32, DeviceRef.CPU())
