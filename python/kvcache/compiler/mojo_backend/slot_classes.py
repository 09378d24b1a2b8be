"""Both sides as classes, for tensors with a row for each block."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from max.driver import Device
from max.dtype import DType
from max.engine import Model
from max.graph import BufferType, DeviceRef, Graph, Module, TensorType, ops

from kvcache.cache_folder import cache_folder
from kvcache.compiler.mojo_backend.packages import compiled_package
from kvcache.compiler.mojo_backend.segment_classes import indexer_class
from kvcache.compiler.mojo_backend.slot_buffers import ids_buffer, tiles_buffer
from kvcache.compiler.mojo_backend.slot_graphs import GraphPlan, loaded
from kvcache.compiler.mojo_backend.slot_modules import (
    slot_tensors,
    slot_text,
)
from kvcache.compiler.program import Program, Side


class SlotCache:
    """A compiled cache side; `compiled_class` makes its subclasses."""

    program: ClassVar[Program]
    package: ClassVar[tuple[str, Path]]
    """The name of the compiled module, and its file."""
    page_size: ClassVar[int]
    num_kv_heads: ClassVar[int]

    def forward(
        self,
        cache: Mapping[str, Any],
        loc: Any,
        ctx: Any = None,
        cur_layer: int = 0,
    ) -> None:
        """Makes the summaries of blocks that new tokens complete, in place.

        Args:
            cache: The layer's arrays by name, `[total_num_blocks, r, c]`:
                buffers of one device, or arrays of NumPy, contiguous.
            loc: The slot of each new token, int64 `[num_tokens]`.
            ctx: Not looked at.
            cur_layer: Not looked at.

        Raises:
            KeyError: If an array is missing.
            ValueError: If one has another shape or type, or slots have.
        """
        del ctx, cur_layer
        names = self.program.names
        tensors = slot_tensors(self.program)
        buffers = [
            tiles_buffer(names[each], cache[names[each]], self.program, each)
            for each in tensors
        ]
        slots = ids_buffer("loc", loc, buffers[0].device, DType.int64)
        if any(len(each.shape) != 3 for each in buffers) or (
            len({each.shape[0] for each in buffers}) != 1
        ):
            raise ValueError(
                "wanted as many rows in each array, got "
                f"{[tuple(each.shape) for each in buffers]}"
            )
        self.model_on(buffers[0].device).execute(slots, *buffers)

    @classmethod
    def model_on(cls, device: Device) -> Model:
        """Returns the graph that `forward` runs on a device.

        It is compiled for the device once, and kept. A subclass may return one
        that was compiled with others.
        """
        return loaded(cls.plan_of(), device)

    @classmethod
    def plan_of(cls) -> GraphPlan:
        """Returns what the graph is built of."""
        tensors = [
            cls.program.tensors[each] for each in slot_tensors(cls.program)
        ]
        return _CachePlan(
            *cls.package,
            cls.page_size,
            cls.num_kv_heads,
            tuple((each.dtype, *each.tile) for each in tensors),
        )


def compiled_class(program: Program, ctx: Any) -> type[Any]:
    """Returns the class that runs one side of a flow on the seed's layout.

    The graph is compiled when the first arrays of a device come, and kept
    beside the generated module, so that another process only loads it.

    Args:
        program: The cache side, or the indexer side.
        ctx: Its context; for the sizes, and the folder of generated code.

    Returns:
        A subclass of `SlotCache`, or of `SegmentIndexer`.

    Raises:
        RuntimeError: If it is an indexer that does not call `topK`.
        MojoCompileError: If the generated code does not compile.
    """
    folder = ctx.compilation_cache_dir
    home = Path(folder).expanduser() if folder else cache_folder() / "compiler"
    if program.side is Side.INDEXER:
        return indexer_class(program, home.absolute())
    name, extension = compiled_package(slot_text(program), home.absolute())
    return type(
        f"{name}_CompiledFunc",
        (SlotCache,),
        {
            "program": program,
            "package": (name, extension),
            "page_size": ctx.page_size,
            "num_kv_heads": ctx.head_num,
        },
    )


@dataclass(frozen=True, slots=True)
class _CachePlan(GraphPlan):
    """What the graph of a cache side is built of."""

    page_size: int
    num_kv_heads: int
    tensors: tuple[tuple[str, int, int], ...]
    """Type, rows and columns of each tensor."""

    @property
    def label(self) -> str:
        """The sizes that the operation is compiled for."""
        return f"{self.page_size}_{self.num_kv_heads}"

    def graph(self, device: DeviceRef, module: Module | None = None) -> Graph:
        """Builds the graph for a device, in a module if one is given."""
        inputs = [
            BufferType(DType[dtype], ["num_rows", rows, columns], device)
            for dtype, rows, columns in self.tensors
        ]
        slots = TensorType(DType.int64, ["num_slots"], device)
        with Graph(
            self.name,
            input_types=[slots, *inputs],
            custom_extensions=self.extensions,
            module=module,
        ) as graph:
            ops.inplace_custom(
                f"{self.name}.summarise",
                device=device,
                values=list(graph.inputs),
                parameters={
                    "page_size": self.page_size,
                    "num_kv_heads": self.num_kv_heads,
                },
            )
            graph.output()
        return graph
