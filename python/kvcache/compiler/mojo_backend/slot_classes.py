"""Cache sides as classes, for tensors with a row for each block."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from max.driver import Buffer, Device
from max.dtype import DType
from max.engine import InferenceSession, Model
from max.graph import BufferType, DeviceRef, Graph, TensorType, ops

from kvcache.cache_folder import cache_folder
from kvcache.compiler.mojo_backend.packages import (
    compiled_package,
    is_whole,
    seal,
)
from kvcache.compiler.mojo_backend.slot_modules import (
    slot_tensors,
    slot_text,
)
from kvcache.compiler.program import Program, Side
from kvcache.mojo_sources import precompiled_package


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
            _buffer(names[each], cache[names[each]], self.program, each)
            for each in tensors
        ]
        slots = _slots(loc, buffers[0].device)
        if any(len(each.shape) != 3 for each in buffers) or (
            len({each.shape[0] for each in buffers}) != 1
        ):
            raise ValueError(
                "wanted as many rows in each array, got "
                f"{[tuple(each.shape) for each in buffers]}"
            )
        self._model(buffers[0].device).execute(slots, *buffers)

    def _model(self, device: Device) -> Model:
        tensors = [
            self.program.tensors[each] for each in slot_tensors(self.program)
        ]
        name, extension = self.package
        plan = _GraphPlan(
            name,
            extension,
            self.page_size,
            self.num_kv_heads,
            tuple((each.dtype, *each.tile) for each in tensors),
        )
        return _loaded(plan, device)


def compiled_class(program: Program, ctx: Any) -> type[SlotCache]:
    """Returns the class that runs a cache side on the seed's layout.

    The graph is compiled when the first arrays of a device come, and kept
    beside the generated module, so that another process only loads it.

    Args:
        program: The cache side.
        ctx: Its context; for the sizes, and the folder of generated code.

    Raises:
        NotImplementedError: If it is an indexer, which only `flow_ops`
            compiles for graphs.
        MojoCompileError: If the generated code does not compile.
    """
    if program.side is not Side.CACHE:
        raise NotImplementedError(
            "wanted a cache side: indexers are compiled by flow_ops, for "
            "graphs, or with impl_backend numpy or triton"
        )
    folder = ctx.compilation_cache_dir
    home = Path(folder).expanduser() if folder else cache_folder() / "compiler"
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
class _GraphPlan:
    """What a graph is built of."""

    name: str
    extension: Path
    page_size: int
    num_kv_heads: int
    tensors: tuple[tuple[str, int, int], ...]
    """Type, rows and columns of each tensor."""

    def mef(self, label: str) -> Path:
        """Returns the file of the compiled graph."""
        return self.extension.with_name(
            f"{self.name}_{label}_{self.page_size}_{self.num_kv_heads}.mef"
        )


@cache
def _loaded(plan: _GraphPlan, device: Device) -> Model:
    """Loads the graph of a device, compiled before or now."""
    session = InferenceSession(devices=[device])
    reference = DeviceRef.from_device(device)
    label = "cpu" if device.is_host else f"gpu_{device.architecture_name}"
    mef = plan.mef(label)
    if not is_whole(mef):
        compiled = session.compile(
            _graph(plan, reference),
            custom_extensions=[precompiled_package(), plan.extension],
        )
        staged = mef.with_name(f".writing_{id(compiled)}_{mef.name}")
        compiled.export_mef(staged)
        staged.replace(mef)
        seal(mef)
    return session.load(mef)


def _graph(plan: _GraphPlan, device: DeviceRef) -> Graph:
    inputs = [
        BufferType(DType[dtype], ["num_rows", rows, columns], device)
        for dtype, rows, columns in plan.tensors
    ]
    slots = TensorType(DType.int64, ["num_slots"], device)
    with Graph(
        plan.name,
        input_types=[slots, *inputs],
        custom_extensions=[precompiled_package(), plan.extension],
    ) as graph:
        ops.inplace_custom(
            f"{plan.name}.summarise",
            device=device,
            values=list(graph.inputs),
            parameters={
                "page_size": plan.page_size,
                "num_kv_heads": plan.num_kv_heads,
            },
        )
        graph.output()
    return graph


def _buffer(name: str, given: Any, program: Program, tensor: int) -> Buffer:
    """Returns the buffer over an array's memory."""
    described = program.tensors[tensor]
    dtype = DType[described.dtype]
    if isinstance(given, Buffer):
        buffer = given
    else:
        array = np.asarray(given)
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError(f"wanted {name} contiguous and writable")
        if array.dtype.name != described.dtype:
            raise ValueError(
                f"wanted {name} of {described.dtype}, got {array.dtype.name}"
            )
        bits = array.view(f"uint{8 * array.itemsize}")
        buffer = Buffer.from_numpy(bits).view(dtype)
    if buffer.dtype != dtype or tuple(buffer.shape[1:]) != described.tile:
        raise ValueError(
            f"wanted {name} {described.dtype} [rows, {described.tile[0]}, "
            f"{described.tile[1]}], got {buffer.dtype.name} "
            f"{tuple(buffer.shape)}"
        )
    return buffer


def _slots(loc: Any, device: Device) -> Buffer:
    slots = loc if isinstance(loc, Buffer) else None
    if slots is None:
        array = np.ascontiguousarray(loc)
        if array.dtype != np.int64:
            raise ValueError(f"wanted loc of int64, got {array.dtype.name}")
        slots = Buffer.from_numpy(np.array(array)).to(device)
    if slots.dtype != DType.int64 or len(slots.shape) != 1:
        raise ValueError(
            f"wanted loc int64 [num_tokens], got {slots.dtype.name} "
            f"{tuple(slots.shape)}"
        )
    return slots
