"""The graphs of the tests, all in one module.

Compiling a graph costs seconds before it looks at the graph, and a fraction of
one after: so every graph of every configuration is compiled at once.
"""

from collections.abc import Iterable

from max.dtype import DType
from max.graph import DeviceRef, Graph, Module, TensorType

from kvcache import ops
from kvcache.graphs import (
    attention_graph,
    attention_max_graph,
    choose_blocks_graph,
    copy_pages_graph,
    gather_graph,
    gather_latents_graph,
    increment_cache_lengths_graph,
    rope_shift_graph,
    rope_store_graph,
    sparse_attention_graph,
    store_graph,
    store_latents_graph,
    transfer_pages_graph,
)
from kvcache.graphs.ragged import row_offsets_type
from kvcache.ops import CacheInputTypes
from kvcache.quantization import Granularity, Quantization

from .configuration import ONNX_FLOAT32, Configuration
from .rules import CAUSAL
from .sparse_configuration import SparseCase


def cache_types(
    configuration: Configuration, device: DeviceRef
) -> CacheInputTypes:
    """Returns the types of the cache's inputs."""
    kept = configuration.kept
    return CacheInputTypes(
        dtype=DType[kept.dtype if kept else configuration.dtype],
        compute_dtype=DType[configuration.dtype],
        quantization=kept
        and Quantization(
            granularity=Granularity(kept.granularity),
            group_size=kept.group_size,
        ),
        num_layers=configuration.num_layers,
        page_size=configuration.page_size,
        num_kv_heads=configuration.num_kv_heads,
        head_dim=configuration.head_dim,
        device=device,
        is_mla=configuration.value_dim is not None,
    )


def module_of(
    configurations: Iterable[Configuration], device: DeviceRef
) -> Module:
    """Builds each op's graph for each configuration.

    Args:
        configurations: What to build for.
        device: Where the graphs run.

    Returns:
        The module. A graph's name is the configuration's and then the op's.
    """
    module = Module()
    increment_cache_lengths_graph(device, module=module)
    if not device.is_cpu():
        _add_transfers(module, device)
    _add_store_to_layer(module, cache_types(ONNX_FLOAT32, device))
    for configuration in configurations:
        _add(module, configuration, cache_types(configuration, device))
    return module


def max_attention_module(
    configurations: Iterable[Configuration],
    device: DeviceRef,
    *,
    module: Module | None = None,
) -> Module:
    """Builds the graph of MAX's attention for each configuration.

    Args:
        configurations: What to build for.
        device: Where the graphs run.
        module: Gets the graphs; a new one if None.

    Returns:
        The module; its graphs are named as those of our attention.
    """
    module = module or Module()
    for configuration in configurations:
        attention_max_graph(
            cache_types(configuration, device),
            num_q_heads=configuration.num_q_heads,
            scale=configuration.scale,
            layer=configuration.layer,
            name=f"{configuration}_{CAUSAL}",
            module=module,
        )
    return module


def sparse_module(
    cases: Iterable[SparseCase],
    device: DeviceRef,
    *,
    module: Module | None = None,
) -> Module:
    """Builds the choice of blocks, and the attention to them, of each case.

    Args:
        cases: What to build for.
        device: Where the graphs run.
        module: Gets the graphs; a new one if None.

    Returns:
        The module.
    """
    module = module or Module()
    for case in cases:
        configuration = case.configuration
        cache = cache_types(configuration, device)
        choose_blocks_graph(
            cache,
            block_size=case.block_size,
            reserved_first=case.reserved_first,
            reserved_last=case.reserved_last,
            top_k=case.top_k,
            name=f"{case}_choose",
            module=module,
        )
        sparse_attention_graph(
            cache,
            num_q_heads=configuration.num_q_heads,
            scale=configuration.scale,
            block_size=case.block_size,
            layer=configuration.layer,
            has_sinks=case.rules.has_sinks,
            softcap=case.rules.softcap,
            name=f"{case}_attend",
            module=module,
        )
    return module


def _add(
    module: Module, configuration: Configuration, cache: CacheInputTypes
) -> None:
    layer, heads = configuration.layer, configuration.num_q_heads
    names = (f"{configuration}_store", f"{configuration}_gather")
    if cache.is_mla:
        store_latents_graph(cache, layer=layer, name=names[0], module=module)
        gather_latents_graph(cache, layer=layer, name=names[1], module=module)
    else:
        store_graph(cache, layer=layer, name=names[0], module=module)
        gather_graph(cache, layer=layer, name=names[1], module=module)
    copy_pages_graph(cache, name=f"{configuration}_copy_pages", module=module)
    for rules in configuration.rules:
        attention_graph(
            cache,
            num_q_heads=heads,
            scale=configuration.scale,
            layer=layer,
            window=rules.window,
            sink_tokens=rules.sink_tokens,
            has_sinks=rules.has_sinks,
            softcap=rules.softcap,
            value_dim=configuration.value_dim,
            name=f"{configuration}_{rules}",
            module=module,
        )
    _add_rotations(module, configuration, cache)


def _add_rotations(
    module: Module, configuration: Configuration, cache: CacheInputTypes
) -> None:
    for rotation in configuration.rotations:
        if not cache.is_mla:
            rope_store_graph(
                cache,
                num_q_heads=configuration.num_q_heads,
                rope_dim=rotation.rope_dim,
                interleaved=rotation.interleaved,
                layer=configuration.layer,
                name=f"{configuration}_{rotation}",
                module=module,
            )
        if cache.kv_scales is None:
            rope_shift_graph(
                cache,
                rope_dim=rotation.rope_dim,
                interleaved=rotation.interleaved,
                begin=configuration.value_dim or 0,
                name=f"{configuration}_shift_{rotation}",
                module=module,
            )


def _add_transfers(module: Module, device: DeviceRef) -> None:
    """Adds what moves pages to the host and back, under the manager's names."""
    for name, to_host in (("offload_pages", True), ("onload_pages", False)):
        transfer_pages_graph(device, to_host=to_host, name=name, module=module)


def _add_store_to_layer(module: Module, cache: CacheInputTypes) -> None:
    """Adds a store whose layer comes at run time, as a model's does."""
    shape = ["total_tokens", cache.num_kv_heads, cache.head_dim]
    rows = TensorType(cache.dtype, shape, cache.device)
    layer_type = TensorType(DType.uint32, [], DeviceRef.CPU())
    offsets_type = row_offsets_type(cache.device)
    with Graph(
        "store_to_layer",
        input_types=[*cache, rows, rows, offsets_type, layer_type],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *inputs, keys, values, offsets, layer = graph.inputs
        ops.store(
            ops.CacheInputs.of(inputs),
            keys.tensor,
            values.tensor,
            offsets.tensor,
            layer=layer.tensor,
        )
        graph.output()
