"""Stores that keep a flow's summaries, beside the plain ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from max.driver import Buffer

from .batch import Batch, Pages
from .buffers import Array, to_array, to_buffer
from .flows import (
    FlowConfiguration,
    FlowKernels,
    extensions_of_one,
    ops_of,
    types_of,
)

if TYPE_CHECKING:
    from max.graph import BufferType, DeviceRef, Module, TensorType, Value

STORES = ("store", "plain_store", "rope_store", "plain_rope_store")
"""The pools of one graph, and what each is stored by."""


@dataclass(frozen=True, slots=True)
class NewRows:
    """What all layers of a step store, each its own."""

    keys: list[Array]  # [total_tokens, num_kv_heads, head_dim]
    values: list[Array]
    qkv: list[Array]  # [total_tokens, num_heads * head_dim]
    freqs: Array
    scales: Array | None
    """What keys and values are kept with, where tokens have none."""


def run_stores(
    kernels: FlowKernels,
    pools: dict[str, list[Buffer]],
    fields: dict[str, list[Buffer]],
    rows: NewRows,
    batch: Batch,
    pages: Pages,
) -> list[Array]:
    """Stores a step into all four pools, in place; returns the queries.

    Args:
        kernels: The graphs.
        pools: The pool of each of `STORES`, and its scales if it has any.
        fields: The summaries of the two that keep some.
        rows: What is stored.
        batch: The step.
        pages: Its pages.
    """
    compiled, sizes = kernels.compiled, kernels.configuration.sizes
    device = compiled.device
    of_sizes = compiled.of(sizes)
    model = compiled.models[f"{kernels.configuration}_stores"]
    given = [] if rows.scales is None else [to_buffer(rows.scales, device)]
    results = model.execute(
        *(buffer for name in STORES for buffer in pools[name]),
        *(buffer for leaves in fields.values() for buffer in leaves),
        *(of_sizes.elements(x) for x in (*rows.keys, *rows.values, *rows.qkv)),
        to_buffer(rows.freqs, device),
        *given,
        of_sizes.indices(batch.input_row_offsets),
        *of_sizes.tables(batch, pages),
    )
    return [to_array(each) for each in results]


def add_stores(
    module: "Module", configuration: FlowConfiguration, device: "DeviceRef"
) -> None:
    """Adds the graph of `run_stores`."""
    from max.graph import Graph

    types, pools, step = types_of(configuration, device)
    count = len(configuration.summaries.fields)
    inputs = [*pools[:-count] * len(STORES), *pools[-count:] * 2]
    inputs += list(_row_types(configuration, types, device))
    with Graph(
        f"{configuration}_stores",
        input_types=[*inputs, *step],
        custom_extensions=extensions_of_one(configuration),
        module=module,
    ) as graph:
        graph.output(*_store_all(configuration, types, graph.inputs))


def _row_types(
    configuration: FlowConfiguration, types: Any, device: "DeviceRef"
) -> "Iterator[TensorType | BufferType]":
    from max.dtype import DType
    from max.graph import TensorType

    sizes = configuration.sizes
    heads: list[Any] = ["total_tokens", sizes.num_kv_heads, sizes.head_dim]
    num_heads = sizes.num_q_heads + 2 * sizes.num_kv_heads
    for _ in range(2 * sizes.num_layers):
        yield TensorType(types.row_dtype, heads, device)
    for _ in range(sizes.num_layers):
        yield TensorType(
            types.row_dtype,
            ["total_tokens", num_heads * sizes.head_dim],
            device,
        )
    yield TensorType(DType.float32, ["num_positions", sizes.head_dim], device)
    if sizes.kept is not None and sizes.kept.granularity != "token":
        shape = [2, sizes.scales_of_page[3]]
        yield TensorType(DType.float32, shape, device)


def _store_all(
    configuration: FlowConfiguration, types: Any, values: "list[Value[Any]]"
) -> "Iterator[Value[Any]]":
    """Calls all four stores of each layer; yields the rotated queries."""
    from kvcache import ops
    from kvcache.ops import CacheInputs

    left = list(values)
    offsets, *tables = left[-4:]
    del left[-4:]
    per_pool = 1 + bool(types.kv_scales)
    pools = {name: _first(left, per_pool) for name in STORES}
    count = len(configuration.summaries.fields)
    fields = {name: _first(left, count) for name in STORES[::2]}
    layers = configuration.sizes.num_layers
    keys, new_values, qkv = (_first(left, layers) for _ in range(3))
    freqs, *given = left
    flow = ops_of(configuration)
    for name in STORES:
        own = pools[name]
        cache = CacheInputs.of(
            [own[0], *tables, *own[1:], *fields.get(name, [])]
        )
        for layer in range(layers):
            shared: dict[str, Any] = {
                "layer": layer,
                "scales": given[0].tensor if given else None,
                "flow": flow if name in fields else None,
            }
            if "rope" in name:
                yield ops.rope_store(
                    *(cache, qkv[layer].tensor, freqs.tensor, offsets.tensor),
                    **shared,
                )
            else:
                ops.store(
                    *(cache, keys[layer].tensor, new_values[layer].tensor),
                    offsets.tensor,
                    **shared,
                )


def _first(left: list[Any], count: int) -> list[Any]:
    """Takes the first of a list out of it."""
    taken = left[:count]
    del left[:count]
    return taken
