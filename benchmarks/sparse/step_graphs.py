"""Steps over a cache with summaries: the graphs that are timed."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from max.dtype import DType
from max.graph import Graph, Module, TensorType, TensorValue

from benchmarks.sparse import steps
from kvcache import ops
from kvcache.compiler.mojo_backend import flow_ops
from kvcache.compiler.registry import make_flow
from kvcache.flow_ops import FlowOps
from kvcache.graphs.ragged import row_offsets_type
from kvcache.ops import CacheInputs, CacheInputTypes


def flow_named(name: str, machine: steps.Machine) -> FlowOps:
    """Compiles a flow for the layout that is measured."""
    return flow_ops(
        make_flow(name),
        block_size=steps.BLOCK_SIZE,
        head_dim=steps.HEAD_DIM,
        group_size=steps.NUM_Q_HEADS // steps.NUM_KV_HEADS,
        field_dtype=machine.dtype.name,
    )


def cache_types(
    machine: steps.Machine, num_layers: int, flow: FlowOps | None
) -> CacheInputTypes:
    """Returns the types of the cache's inputs."""
    return CacheInputTypes(
        dtype=machine.dtype,
        num_layers=num_layers,
        page_size=steps.PAGE_SIZE,
        num_kv_heads=steps.NUM_KV_HEADS,
        head_dim=steps.HEAD_DIM,
        device=machine.ref,
        summaries=None if flow is None else flow.summaries,
    )


def add_graphs(
    module: Module,
    machine: steps.Machine,
    flows: dict[str, FlowOps],
    layer_counts: Iterable[int],
    *,
    store_layers: int,
) -> None:
    """Adds the graphs of every flow, each with as many layers."""
    for num_layers in layer_counts:
        _add(module, machine, "dense", num_layers, None)
        for name, flow in flows.items():
            for what in ("attend", "choose"):
                _add(module, machine, f"{name}_{what}", num_layers, flow)
    for name, flow in flows.items():
        for what in ("store", "store_only"):
            _add(module, machine, f"{name}_{what}", store_layers, flow)
        for kept in (flow, None):
            _add_rotations(module, machine, name, store_layers, flow, kept)


def _add(  # noqa: PLR0917  (private, and each is of another type)
    module: Module,
    machine: steps.Machine,
    name: str,
    num_layers: int,
    flow: FlowOps | None,
) -> None:
    """Adds one graph, named by its layers as well.

    Its inputs are those of the cache, row offsets, then queries and ratios, or
    keys and values.
    """
    cache = cache_types(machine, num_layers, flow)
    stores = "store" in name
    heads = steps.NUM_KV_HEADS if stores else steps.NUM_Q_HEADS
    rows = TensorType(
        machine.dtype, ["total_tokens", heads, steps.HEAD_DIM], machine.ref
    )
    ratios = TensorType(DType.float32, ["batch_size"], machine.ref)
    with Graph(
        f"{name}_{num_layers}",
        input_types=[
            *cache,
            row_offsets_type(machine.ref),
            *([rows, rows] if stores else [rows, ratios]),
        ],
        custom_extensions=extensions([flow] if flow else []),
        module=module,
    ) as graph:
        inputs = CacheInputs.of(graph.inputs[: len(cache)])
        offsets, *rest = (value.tensor for value in graph.inputs[len(cache) :])
        if stores:
            kept = None if name.endswith("only") else flow
            for layer in range(num_layers):
                ops.store(inputs, *rest, offsets, layer=layer, flow=kept)
            graph.output()
            return
        results: list[TensorValue] = []
        for layer in range(num_layers):
            results += _attend(inputs, flow, offsets, rest, layer, name)
        graph.output(*results)


def _add_rotations(  # noqa: PLR0917  (private, and each is of another type)
    module: Module,
    machine: steps.Machine,
    name: str,
    num_layers: int,
    flow: FlowOps,
    kept: FlowOps | None,
) -> None:
    """Adds a graph that rotates and stores, and keeps summaries or none.

    Its inputs are those of the cache, row offsets, queries, keys and values of
    each row, and the rotation of each position.
    """
    cache = cache_types(machine, num_layers, flow)
    heads = steps.NUM_Q_HEADS + 2 * steps.NUM_KV_HEADS
    what = "rope_store" if kept else "rope_store_only"
    with Graph(
        f"{name}_{what}_{num_layers}",
        input_types=[
            *cache,
            row_offsets_type(machine.ref),
            TensorType(
                machine.dtype,
                ["total_tokens", heads * steps.HEAD_DIM],
                machine.ref,
            ),
            TensorType(
                DType.float32, ["num_positions", steps.HEAD_DIM], machine.ref
            ),
        ],
        custom_extensions=extensions([flow]),
        module=module,
    ) as graph:
        inputs = CacheInputs.of(graph.inputs[: len(cache)])
        offsets, qkv, freqs = (
            value.tensor for value in graph.inputs[len(cache) :]
        )
        queries = [
            ops.rope_store(inputs, qkv, freqs, offsets, layer=layer, flow=kept)
            for layer in range(num_layers)
        ]
        graph.output(queries[-1])


def _attend(  # noqa: PLR0917  (a layer's tensors)
    cache: CacheInputs,
    flow: FlowOps | None,
    offsets: TensorValue,
    rest: list[TensorValue],
    layer: int,
    name: str,
) -> Iterator[TensorValue]:
    """Yields what one layer gives."""
    queries, ratios = rest
    if flow is None:
        yield ops.attention(
            cache, queries, offsets, layer=layer, scale=steps.SCALE
        )
    elif name.endswith("attend"):
        yield ops.flow_attention(
            *(cache, flow, queries, offsets, ratios),
            layer=layer,
            scale=steps.SCALE,
        )
    else:
        scores = ops.score_blocks(cache, flow, queries, offsets, layer=layer)
        chosen = ops.choose_blocks(
            *(cache, scores, offsets, ratios),
            block_size=steps.BLOCK_SIZE,
            reserved_first=flow.reserved_first,
            reserved_last=flow.reserved_last,
            top_k=flow.top_k,
        )
        yield chosen.block_ids


def extensions(flows: Iterable[FlowOps]) -> list[Path]:
    """Returns the compiled kernels that graphs of flows need."""
    return [
        ops.precompiled_package(),
        *dict.fromkeys(flow.extension for flow in flows),
    ]
