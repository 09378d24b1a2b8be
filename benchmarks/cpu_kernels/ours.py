"""Our side: graphs of several layers, their pools and their tables."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from max.driver import CPU, Buffer
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import BufferType, DeviceRef, Graph, Module, TensorType
from tests.kernels.batch import Batch, Pages
from tests.kernels.buffers import Array, rounded, to_array, to_buffer
from tests.kernels.build import cache_types
from tests.kernels.checks import TOLERANCE, drawn, filled_pool

from benchmarks.cpu_kernels.cases import TABLE_BYTES, Decode, Setting
from kvcache import ops, reference
from kvcache.graphs import copy_pages_graph
from kvcache.graphs.ragged import row_offsets_type

Run = Callable[[], object]

MOVED_LAYERS = 4
"""The layers of a graph that stores or gathers."""


def compile_graphs(settings: Iterable[Setting]) -> dict[str, Model]:
    """Compiles the graphs of all settings at once."""
    module = Module()
    for setting in settings:
        _add_attention(module, setting)
        if setting.num_layers == MOVED_LAYERS:
            _add_moves(module, setting)
    session = InferenceSession(devices=[CPU()])
    package = [ops.precompiled_package()]
    return session.load_all(module, custom_extensions=package)


def _add_attention(module: Module, setting: Setting) -> None:
    """Adds a graph in which every layer attends once."""
    configuration = setting.configuration
    cache = cache_types(configuration, DeviceRef.CPU())
    heads: list[str | int] = [
        "total_tokens",
        configuration.num_q_heads,
        configuration.head_dim,
    ]
    queries_type = TensorType(cache.dtype, heads, cache.device)
    with Graph(
        f"{setting}_attention",
        input_types=[*cache, queries_type, row_offsets_type(cache.device)],
        custom_extensions=[ops.precompiled_package()],
        module=module,
    ) as graph:
        *inputs, queries, offsets = graph.inputs
        outputs = [
            ops.attention(
                ops.CacheInputs.of(inputs),
                queries.tensor,
                offsets.tensor,
                layer=layer,
                scale=configuration.scale,
            )
            for layer in range(setting.num_layers)
        ]
        graph.output(outputs[-1])


def _add_moves(module: Module, setting: Setting) -> None:
    """Adds graphs in which every layer stores or gathers, and a page copy."""
    configuration = setting.configuration
    cache = cache_types(configuration, DeviceRef.CPU())
    shape: list[str | int] = ["total_tokens", *configuration.row]
    for kind, call in (("store", ops.store), ("gather", ops.gather)):
        type_of = TensorType if kind == "store" else BufferType
        rows = type_of(cache.dtype, shape, cache.device)
        with Graph(
            f"{setting}_{kind}",
            input_types=[*cache, rows, rows, row_offsets_type(cache.device)],
            custom_extensions=[ops.precompiled_package()],
            module=module,
        ) as graph:
            *inputs, keys, values, offsets = graph.inputs
            if kind == "store":
                keys, values = keys.tensor, values.tensor
            else:
                keys, values = keys.buffer, values.buffer
            for layer in range(setting.num_layers):
                call(
                    ops.CacheInputs.of(inputs),
                    keys,
                    values,
                    offsets.tensor,
                    layer=layer,
                )
            graph.output()
    copy_pages_graph(cache, name=f"{setting}_copy", module=module)


def numbers(shape: tuple[int, ...], dtype: str) -> Buffer:
    """Returns a buffer of that shape: drawn numbers, over and over."""
    some = np.random.default_rng(0).standard_normal(1 << 16, np.float32)
    if dtype == "float32":
        return Buffer.from_numpy(np.resize(some, shape))
    bits = rounded(some, dtype).view(np.uint32) >> 16
    filled = np.resize(bits.astype(np.uint16), shape)
    return Buffer.from_numpy(filled).view(DType.bfloat16)


def check(models: Mapping[str, Model], setting: Setting) -> None:
    """Holds the last layer's attention against the reference."""
    page = setting.page_size
    lengths = [(0, 1), (99, 1), (page - 1, 1), (2 * page + 300, 1), (5, 40)]
    batch = Batch(lengths=lengths, page_size=page)
    configuration, rng = setting.configuration, batch.rng()
    pages = batch.read()
    first = filled_pool(rng, configuration, batch)
    heads = configuration.num_q_heads, configuration.head_dim
    queries = drawn(rng, configuration, batch.num_rows, *heads)
    tables = batch.input_row_offsets, batch.cache_lengths, pages.lookup_table
    expected = reference.attention(
        first,
        queries,
        *tables,
        layer=configuration.layer,
        scale=configuration.scale,
    )
    # The other layers hold what they like, but no NaN, which would be slow.
    pool = np.nan_to_num(first)
    (output,) = models[f"{setting}_attention"].execute(
        to_buffer(pool, CPU(), setting.dtype),
        *_tables(batch, pages),
        to_buffer(queries, CPU(), setting.dtype),
        Buffer.from_numpy(batch.input_row_offsets),
    )
    np.testing.assert_allclose(
        to_array(output), expected, **TOLERANCE[setting.dtype]
    )


def decode(models: Mapping[str, Model], case: Decode) -> Run:
    """Returns what runs one step: the attention of every layer."""
    setting = case.setting
    configuration = setting.configuration
    batch = Batch(
        lengths=[(case.context - 1, 1)] * case.batch,
        page_size=setting.page_size,
    )
    pages = batch.read()
    pool_shape = (pages.num_pages + 1, *configuration.page)
    heads = configuration.num_q_heads, configuration.head_dim
    inputs = [
        numbers(pool_shape, setting.dtype),
        *_tables(batch, pages),
        numbers((case.batch, *heads), setting.dtype),
        Buffer.from_numpy(batch.input_row_offsets),
    ]
    model = models[f"{setting}_attention"]
    return lambda: model.execute(*inputs)


def moves(models: Mapping[str, Model], setting: Setting) -> dict[str, Run]:
    """Returns what moves `TABLE_BYTES` a layer, by name.

    A page copy takes all layers at once, so as many bytes in fewer pages.
    """
    configuration, page = setting.configuration, setting.page_size
    num_tokens = TABLE_BYTES // setting.token_bytes // 8 // page * page
    batch = Batch(lengths=[(0, num_tokens)] * 8, page_size=page)
    pages = batch.read()
    pool = numbers((pages.num_pages + 1, *configuration.page), setting.dtype)
    rows = (batch.num_rows, *configuration.row)
    keys, values = (numbers(rows, setting.dtype) for _ in "kv")
    offsets = Buffer.from_numpy(batch.input_row_offsets)
    inputs = [pool, *_tables(batch, pages), keys, values, offsets]
    order = np.arange(pages.num_pages // 2 * 2, dtype=np.uint32)
    pairs = Buffer.from_numpy(order.reshape(-1, 2).copy())
    store, gather, copy = (
        models[f"{setting}_{kind}"] for kind in ("store", "gather", "copy")
    )
    return {
        "store": lambda: store.execute(*inputs),
        "gather": lambda: gather.execute(*inputs),
        "copy_pages": lambda: copy.execute(pool, pairs),
    }


def _tables(batch: Batch, pages: Pages) -> list[Buffer]:
    tables: list[Array] = [
        batch.cache_lengths,
        pages.lookup_table,
        batch.max_lengths,
    ]
    return [Buffer.from_numpy(table) for table in tables]
