"""Flows that are compiled for tests, and the graphs that run them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from max.driver import Buffer, Device

from kvcache.compiler.flow import vFlow
from kvcache.compiler.mojo_backend import FlowPrograms, flow_programs
from kvcache.summaries import Summaries, SummaryField

from .batch import Batch, Pages
from .buffers import Array, to_array, to_buffer
from .configuration import Configuration
from .models import CompiledKernels, loaded

if TYPE_CHECKING:
    from max.graph import BufferType, DeviceRef, Module, TensorType, Value

    from kvcache.flow_ops import FlowOps
    from kvcache.ops import CacheInputs, CacheInputTypes

MEF_NAME = "flows.mef"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowConfiguration:
    """What a flow is compiled for."""

    flow: Callable[[], vFlow]
    block_size: int
    field_dtype: str
    sizes: Configuration

    def __str__(self) -> str:
        return (
            f"{self.flow.__name__}_b{self.block_size}_{self.field_dtype}_"
            f"{self.sizes}"
        )

    @property
    def group_size(self) -> int:
        return self.sizes.heads[1]

    @property
    def blocks_per_page(self) -> int:
        return self.sizes.page_size // self.block_size

    @property
    def summaries(self) -> Summaries:
        return self.flow().summaries(
            self.block_size, self.sizes.head_dim, self.field_dtype
        )

    @property
    def programs(self) -> FlowPrograms:
        """What the flow computes."""
        return _programs(self)

    def field_shape(self, field: SummaryField) -> tuple[int, ...]:
        """The shape of one page of a field."""
        return self.summaries.shape_per_page(
            field,
            num_layers=self.sizes.num_layers,
            page_size=self.sizes.page_size,
            heads=self.sizes.num_kv_heads,
        )


@cache
def _programs(configuration: FlowConfiguration) -> FlowPrograms:
    return flow_programs(
        configuration.flow(),
        block_size=configuration.block_size,
        head_dim=configuration.sizes.head_dim,
        group_size=configuration.group_size,
    )


@dataclass(frozen=True, slots=True)
class FlowKernels:
    """The graphs of one configuration, with pools as float32 arrays."""

    configuration: FlowConfiguration
    compiled: CompiledKernels

    def summarise(
        self,
        pools: list[Buffer],
        fields: dict[str, Array],
        batch: Batch,
        pages: Pages,
    ) -> dict[str, Array]:
        """Returns the fields with the summaries of completed blocks."""
        buffers = self._fields(fields)
        model = self.compiled.models[f"{self.configuration}_summarise"]
        model.execute(*pools, *buffers.values(), *self._step(batch, pages))
        return {name: to_array(buffer) for name, buffer in buffers.items()}

    def score(
        self,
        pools: list[Buffer],
        fields: dict[str, Array],
        queries: Array,
        batch: Batch,
        pages: Pages,
    ) -> Array:
        """Returns the scores, `[batch_size, num_kv_heads, width]`."""
        sizes = self.configuration.sizes
        model = self.compiled.models[f"{self.configuration}_score"]
        scores, *_ = model.execute(
            to_buffer(queries, self.compiled.device, sizes.dtype),
            *pools,
            *self._fields(fields).values(),
            *self._step(batch, pages),
        )
        return to_array(scores)

    def _fields(self, fields: dict[str, Array]) -> dict[str, Buffer]:
        return {
            field.name: to_buffer(
                fields[field.name], self.compiled.device, field.dtype
            )
            for field in self.configuration.summaries.fields
        }

    def _step(self, batch: Batch, pages: Pages) -> list[Buffer]:
        kernels = self.compiled.of(self.configuration.sizes)
        return [
            kernels.indices(batch.input_row_offsets),
            *kernels.tables(batch, pages),
        ]


def flow_kernels_on(
    device: Device, configurations: Iterable[FlowConfiguration]
) -> CompiledKernels:
    """Compiles the flows, asserts on, or loads them where they are compiled."""
    from max.graph import DeviceRef

    flows = tuple(configurations)
    return loaded(
        device,
        MEF_NAME,
        lambda: flow_module(flows, DeviceRef.from_device(device)),
        extensions=lambda: extensions_of(flows),
    )


def extensions_of(configurations: Iterable[FlowConfiguration]) -> list[Path]:
    """Returns the compiled modules of flows, each once."""
    return sorted({ops_of(each).extension for each in configurations})


@cache
def ops_of(configuration: FlowConfiguration) -> "FlowOps":
    """Compiles a flow, once."""
    from kvcache.compiler.mojo_backend import flow_ops

    return flow_ops(
        configuration.flow(),
        block_size=configuration.block_size,
        head_dim=configuration.sizes.head_dim,
        group_size=configuration.group_size,
        field_dtype=configuration.field_dtype,
    )


def flow_module(
    configurations: Iterable[FlowConfiguration],
    device: "DeviceRef",
    module: "Module | None" = None,
    *,
    stored: Iterable[FlowConfiguration] | None = None,
) -> "Module":
    """Builds the graphs of each configuration, in a module or a new one.

    Args:
        configurations: What is compiled.
        device: Where it runs.
        module: Gets the graphs, if there is one already.
        stored: Those that stores are compiled for, too; all of them by default.
    """
    from max.graph import Module

    from .flow_stores import add_stores

    module = module or Module()
    configurations = list(configurations)
    for configuration in configurations:
        _add_summarise(module, configuration, device)
        _add_score(module, configuration, device)
    for configuration in configurations if stored is None else stored:
        add_stores(module, configuration, device)
    return module


def types_of(
    configuration: FlowConfiguration, device: "DeviceRef"
) -> "tuple[CacheInputTypes, list[BufferType], list[BufferType | TensorType]]":
    """Returns the types of pools and fields, and of what describes a step."""
    from max.dtype import DType
    from max.graph import BufferType

    from kvcache.graphs.ragged import row_offsets_type

    from .build import cache_types

    types = cache_types(configuration.sizes, device)
    pools = [types.kv_blocks]
    pools += [types.kv_scales] if types.kv_scales else []
    fields = [
        BufferType(
            DType[field.dtype],
            ["total_num_pages", *configuration.field_shape(field)],
            device,
        )
        for field in configuration.summaries.fields
    ]
    step = [
        row_offsets_type(device),
        types.cache_lengths,
        types.lookup_table,
        types.max_lengths,
    ]
    return types, [*pools, *fields], step


def _add_summarise(
    module: "Module", configuration: FlowConfiguration, device: "DeviceRef"
) -> None:
    from max.graph import Graph, ops

    types, pools, step = types_of(configuration, device)
    compiled = ops_of(configuration)
    with Graph(
        f"{configuration}_summarise",
        input_types=[*pools, *step],
        custom_extensions=[*extensions_of_one(configuration)],
        module=module,
    ) as graph:
        inputs = graph.inputs
        cache = _cache(inputs, types, len(pools))
        ops.inplace_custom(
            cache.op(compiled.summarise),
            device=device,
            values=list(inputs),
            parameters=cache.sizes,
        )
        graph.output()


def _add_score(
    module: "Module", configuration: FlowConfiguration, device: "DeviceRef"
) -> None:
    from max.dtype import DType
    from max.graph import DeviceRef, Dim, Graph, TensorType, ops

    types, pools, step = types_of(configuration, device)
    compiled, sizes = ops_of(configuration), configuration.sizes
    queries = TensorType(
        types.row_dtype,
        ["total_tokens", sizes.num_q_heads, sizes.head_dim],
        device,
    )
    with Graph(
        f"{configuration}_score",
        input_types=[queries, *pools, *step],
        custom_extensions=[*extensions_of_one(configuration)],
        module=module,
    ) as graph:
        query, *inputs = graph.inputs
        cache = _cache(inputs, types, len(pools))
        batch = [Dim("batch_size"), sizes.num_kv_heads]
        width = Dim("num_columns") * configuration.blocks_per_page
        shapes = [[*batch, width]]
        for scratch in compiled.score_scratch:
            per_block = [width] if scratch.is_per_block else []
            shapes.append([*batch, *per_block, scratch.rows, scratch.columns])
        scores, *_ = ops.inplace_custom(
            cache.op(compiled.score),
            device=device,
            values=[
                query,
                *inputs,
                ops.constant(
                    sizes.layer, dtype=DType.uint32, device=DeviceRef.CPU()
                ),
            ],
            out_types=[
                TensorType(DType.float32, shape, device) for shape in shapes
            ],
            parameters=cache.sizes | {"num_q_heads": sizes.num_q_heads},
        )
        graph.output(scores.tensor)


def _cache(
    inputs: "Sequence[Value[Any]]", types: "CacheInputTypes", num_pools: int
) -> "CacheInputs":
    """The cache, of pools and what describes a step."""
    from kvcache.ops import CacheInputs

    _, *tables = inputs[num_pools:]
    scales = inputs[1:2] if types.kv_scales else []
    return CacheInputs.of([inputs[0], *tables, *scales])


def extensions_of_one(configuration: FlowConfiguration) -> list[Path]:
    """Returns what the graphs of one flow need."""
    from kvcache.ops import precompiled_package

    return [precompiled_package(), ops_of(configuration).extension]
