"""Indexers as classes, for segments of blocks of each request and head."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType
from max.engine import Model
from max.graph import (
    BufferType,
    DeviceRef,
    Graph,
    Module,
    TensorType,
    Value,
    ops,
)

from kvcache.compiler.mojo_backend.packages import compiled_package
from kvcache.compiler.mojo_backend.segment_modules import (
    INDICES,
    SCALARS,
    SegmentModule,
)
from kvcache.compiler.mojo_backend.segment_steps import Step, step_of
from kvcache.compiler.mojo_backend.slot_buffers import tiles_buffer
from kvcache.compiler.mojo_backend.slot_graphs import GraphPlan, loaded
from kvcache.compiler.program import Program
from kvcache.compiler.vtensor import FORMAT


class SegmentIndexer:
    """A compiled indexer; `indexer_class` makes its subclasses."""

    module: ClassVar[SegmentModule]
    plan: ClassVar["_IndexerPlan"]

    def forward(
        self, q: Any, o: Any, cache: Mapping[str, Any], ctx: Any
    ) -> None:
        """Scores the blocks of each request and head, and chooses some.

        All are buffers of one device, or arrays of NumPy, contiguous. Of
        arrays on the host, indices are checked; on a GPU, with asserts on.

        Args:
            q: The queries, `[num_segments, group_size, head_dim]`; not looked
                at by a flow that reads none.
            o: Receives the ids of the chosen blocks, ascending, int32; of at
                least `sparse_kv_indptr[-1]` elements.
            cache: The layer's arrays by name, `[total_num_blocks, r, c]`.
            ctx: The indexer's context, with a budget and, int32,
                `dense_kv_indptr`, `dense_kv_indices` and `sparse_kv_indptr`.

        Raises:
            KeyError: If an array of the cache is missing.
            TypeError: If an array of the context is missing.
            ValueError: If one has another shape or type, is on another device,
                or indices are out of range.
            AssertionError: If `sparse_kv_indptr` has other counts than the
                budget.
        """
        program, given = self.module.program, self.module.given
        fields = [
            tiles_buffer(name, cache[name], program, tensor)
            for name, tensor in self.module.fields.items()
        ]
        queries = [
            tiles_buffer(name, q, program, given[name], is_written=False)
            for name in given
            if name == "q"
        ]
        rows = {each.shape[0] for each in fields}
        if len(rows) > 1:
            raise ValueError(
                "wanted as many rows in each array, got "
                f"{[tuple(each.shape) for each in fields]}"
            )
        chosen = _chosen(o)
        tensors = [*queries, chosen, *fields]
        if any(each.device != chosen.device for each in tensors):
            raise ValueError(
                "wanted all arrays on one device, got "
                f"{[str(each.device) for each in tensors]}"
            )
        step = step_of(
            ctx,
            chosen.device,
            num_places=chosen.num_elements,
            num_rows=min(rows, default=None),
        )
        if queries and queries[0].shape[0] < step.num_segments:
            raise ValueError(
                f"wanted q with a row for each of {step.num_segments} requests "
                f"and heads, got {tuple(queries[0].shape)}"
            )
        if step.num_segments and step.ids.num_elements:
            self._execute(step, queries, chosen, fields)

    @classmethod
    def model_on(cls, device: Device) -> Model:
        """Returns the graph that `forward` runs on a device.

        It is compiled for the device once, and kept. A subclass may return one
        that was compiled with others.
        """
        return loaded(cls.plan, device)

    def _execute(
        self,
        step: Step,
        queries: list[Buffer],
        chosen: Buffer,
        fields: list[Buffer],
    ) -> None:
        model = self.model_on(chosen.device)
        model.execute(*queries, *step.arguments, chosen, *fields)


def indexer_class(program: Program, home: Path) -> type[SegmentIndexer]:
    """Returns the class that runs an indexer.

    Args:
        program: The indexer.
        home: The folder of generated code.

    Raises:
        RuntimeError: If it does not call `topK`.
        MojoCompileError: If the generated code does not compile.
    """
    kinds = {n.op.kind for kernel in program.kernels for n in kernel.nodes}
    if "topK" not in kinds:
        raise RuntimeError(
            f"wanted an indexer that calls topK, got {', '.join(sorted(kinds))}"
        )
    module = SegmentModule(program)
    name, extension = compiled_package(module.text(), home)
    plan = _IndexerPlan(
        name,
        extension,
        q=next((_described(module, x) for x in _queries(module)), None),
        fields=tuple(_described(module, x) for x in module.fields.values()),
        results=tuple(
            (
                module.plan.program.tensors[x].format is FORMAT.RAGGED,
                *module.plan.program.tensors[x].tile,
            )
            for x in module.results
        ),
    )
    return type(
        f"{name}_CompiledFunc",
        (SegmentIndexer,),
        {"module": module, "plan": plan},
    )


def _queries(module: SegmentModule) -> list[int]:
    return [tensor for name, tensor in module.given.items() if name == "q"]


def _described(module: SegmentModule, tensor: int) -> tuple[str, int, int]:
    described = module.program.tensors[tensor]
    return (described.dtype, *described.tile)


def _chosen(o: Any) -> Buffer:
    """Returns the buffer of the chosen blocks, of one axis."""
    if isinstance(o, Buffer):
        buffer = o
    else:
        array = np.asarray(o)
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError("wanted o contiguous and writable")
        if array.dtype != np.int32:
            raise ValueError(f"wanted o of int32, got {array.dtype.name}")
        buffer = Buffer.from_numpy(array.reshape(-1))
    if buffer.dtype != DType.int32:
        raise ValueError(f"wanted o of int32, got {buffer.dtype.name}")
    return buffer.view(DType.int32, [buffer.num_elements])


@dataclass(frozen=True, slots=True)
class _IndexerPlan(GraphPlan):
    """What the graph of an indexer is built of."""

    q: tuple[str, int, int] | None
    """Type, rows and columns of the queries, if they are read."""
    fields: tuple[tuple[str, int, int], ...]
    """Those of each field."""
    results: tuple[tuple[bool, int, int], ...]
    """Whether each result has a tile for each block, its rows and columns."""

    @property
    def label(self) -> str:
        """The side; the module has all sizes."""
        return "choose"

    def graph(self, device: DeviceRef, module: Module | None = None) -> Graph:
        """Builds the graph for a device, in a module if one is given."""
        with Graph(
            self.name,
            input_types=self.inputs(device),
            custom_extensions=self.extensions,
            module=module,
        ) as graph:
            self.call(graph.inputs, device)
            graph.output()
        return graph

    def call(
        self, values: Iterable[Value[Any]], device: DeviceRef
    ) -> list[Value[Any]]:
        """Adds the operation to a graph; returns the scores and scratch."""
        return ops.inplace_custom(
            f"{self.name}.choose",
            device=device,
            values=list(values),
            out_types=[
                TensorType(
                    DType.float32,
                    ["num_ids" if is_per_block else "num_bounds", r, c],
                    device,
                )
                for is_per_block, r, c in self.results
            ],
        )

    def inputs(self, device: DeviceRef) -> list[TensorType | BufferType]:
        """Returns the types of what the operation takes."""
        inputs: list[TensorType | BufferType] = []
        if self.q:
            dtype, *tile = self.q
            inputs.append(
                TensorType(DType[dtype], ["num_queries", *tile], device)
            )
        inputs += [
            TensorType(DType.int32, [f"num_{each}"], device) for each in INDICES
        ]
        inputs += [
            TensorType(DType[type_.lower()], [], DeviceRef.CPU())
            for type_ in SCALARS.values()
        ]
        inputs.append(BufferType(DType.int32, ["num_places"], device))
        inputs += [
            BufferType(DType[dtype], ["num_rows", rows, columns], device)
            for dtype, rows, columns in self.fields
        ]
        return inputs
