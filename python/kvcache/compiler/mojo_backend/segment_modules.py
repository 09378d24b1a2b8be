"""Writes an indexer for tensors with a row for each block."""

from dataclasses import dataclass
from functools import cached_property

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.graph_ops import NAME, score_launches
from kvcache.compiler.mojo_backend.modules import HEADER
from kvcache.compiler.mojo_backend.scoring import ScorePlan
from kvcache.compiler.program import Program

IMPORTS = """from kvcache.choose_segments_cpu import choose_segments_cpu
from kvcache.choose_segments_gpu import choose_segments_gpu
from kvcache.segment_choice import Budget, SegmentChoice
from kvcache.segments import SegmentTiles, Segments


"""

INDICES = ("bounds", "ids", "chosen_bounds")
"""The arrays of a step: where segments begin, their blocks, and where the
chosen ones begin."""

SCALARS = {
    "num_segments": "Int32",
    "reserved_first": "Int32",
    "reserved_last": "Int32",
    "top_k": "Int32",
    "ratio": "Float32",
}
"""The numbers of a step."""


@dataclass(frozen=True, slots=True)
class SegmentBindings(Bindings):
    """The tensors of the caller, with a row for each block or segment."""

    @property
    def tables(self) -> str:
        """The type that finds the blocks of a scorer."""
        return "Segments"

    def member(self, tensor: int) -> str:
        """Returns the member of the struct that a tensor is in."""
        name = self.name(tensor)
        if name is None or name == "q":
            return Bindings.member(self, tensor)
        return f"field_{name}"

    def member_type(self, tensor: int) -> str:
        """Returns the type of that member: a segment is of one head."""
        name = self.name(tensor)
        described = self.program.tensors[tensor]
        rows, columns = described.tile
        if name is None:
            is_per_block = not self.is_request(tensor)
            return f"SegmentTiles[{rows}, {columns}, {is_per_block}]"
        if name == "q":
            return f"Queries[Self.q_dtype, 1, {rows}, {columns}]"
        return f"FieldPool[DType.{described.dtype}, {rows}, {columns}, 1, 1]"

    def tile(self, tensor: int, *, block: str | None) -> str:
        """Returns the expression of a tensor's tile."""
        name, member = self.name(tensor), self.member(tensor)
        if name is not None and name != "q":
            return f"self.{member}.tile(place)"
        if name == "q" or self.is_request(tensor):
            return f"self.{member}.tile(at)"
        return f"self.{member}.tile(at, {block})"


@dataclass(frozen=True)
class SegmentModule:
    """The module of an indexer, and what its operation takes.

    In their order: results that only kernels look at (the scores first), the
    queries if there are any, `INDICES`, `SCALARS`, where the chosen blocks
    go, and the fields.
    """

    program: Program

    @cached_property
    def plan(self) -> ScorePlan:
        """How blocks are scored."""
        return ScorePlan(self.program, (), 1, 1, bindings=SegmentBindings)

    @cached_property
    def given(self) -> dict[str, int]:
        """The caller's tensors that are read, by their names."""
        members = {
            member
            for kernel in self.plan.kernels
            if kernel
            for member in kernel.members
        }
        return {
            name: tensor
            for tensor, name in sorted(self.program.names.items())
            if name != "o" and self.plan.bindings.member(tensor) in members
        }

    @property
    def fields(self) -> dict[str, int]:
        """Those that have a row for each block."""
        return {name: x for name, x in self.given.items() if name != "q"}

    @property
    def results(self) -> tuple[int, ...]:
        """The scores, and what kernels hand on."""
        return (self.plan.score, *self.plan.scratch)

    def text(self) -> str:
        """Writes the module."""
        parts = [HEADER.rstrip() + "\n" + IMPORTS]
        parts += [each.text for each in self.plan.kernels if each]
        lines = [
            f'@extensibility.register("{NAME}.choose")',
            "struct ChooseOp:",
            "    @staticmethod",
            "    def execute[target: StaticString](",
            *(f"        {each}" for each in self._arguments()),
            "        ctx: DeviceContext,",
            "    ) raises:",
            *(f"        {each}" for each in self._body()),
        ]
        return "\n".join([*parts, "\n".join(lines) + "\n"])

    def _arguments(self) -> list[str]:
        tensors, bindings = self.program.tensors, self.plan.bindings
        lines = [
            f"{bindings.member(each)}: OutputTensor[dtype=DType.float32, "
            "rank=3, ...],"
            for each in self.results
        ]
        if "q" in self.given:
            dtype = tensors[self.given["q"]].dtype
            lines.append(
                f"queries: InputTensor[dtype=DType.{dtype}, rank=3, ...],"
            )
        lines += [
            f"{each}: InputTensor[dtype=DType.int32, rank=1, ...],"
            for each in INDICES
        ]
        lines += [f"{name}: {type_}," for name, type_ in SCALARS.items()]
        lines.append(
            "chosen: MutableInputTensor[dtype=DType.int32, rank=1, ...],"
        )
        lines += [
            f"pool_{name}: MutableInputTensor[dtype=DType."
            f"{tensors[each].dtype}, rank=3, ...],"
            for name, each in self.fields.items()
        ]
        return lines

    def _body(self) -> list[str]:
        bindings = self.plan.bindings
        q = self.given.get("q")
        q_dtype = "float32" if q is None else self.program.tensors[q].dtype
        rows = next(
            (f"pool_{name}.dim_size(0)" for name in self.fields),
            "Int(Int32.MAX)",
        )
        lines = [
            f"comptime q_dtype = DType.{q_dtype}",
            "comptime dtype = DType.float32",
            "comptime page_size = 1",
            "comptime num_kv_heads = 1",
            "comptime quantization = Quantization()",
            "comptime layer = 0",
            "var tables = Segments(",
            "    read_pointer(bounds),",
            "    read_pointer(ids),",
            "    num_segments=Int(num_segments),",
            "    num_ids=ids.dim_size(0),",
            f"    num_rows={rows},",
            ")",
        ]
        lines += [
            f"var {bindings.member(each)} = {_outside(bindings, each)}"
            f"(write_pointer(pool_{name}), 1)"
            for name, each in self.fields.items()
        ]
        if q is not None:
            lines.append(
                f"var queries_tiles = {_outside(bindings, q)}"
                "(read_pointer(queries))"
            )
        lines += [
            f"var {bindings.member(each)}_tiles = {_outside(bindings, each)}"
            f"(result_pointer({bindings.member(each)}), tables)"
            for each in self.results
        ]
        return [*lines, *score_launches(self.plan), *_CHOICE]


def _outside(bindings: Bindings, tensor: int) -> str:
    """Returns the type of a member, as the operation names it."""
    return bindings.member_type(tensor).replace("Self.", "")


_CHOICE = (
    "var choice = SegmentChoice(",
    "    chosen=write_pointer(chosen).unsafe_bitcast[UInt32](),",
    "    num_places=Int64(chosen.dim_size(0)),",
    "    bounds=read_pointer(chosen_bounds),",
    "    scores=result_pointer(scores),",
    "    segments=tables,",
    "    budget=Budget(reserved_first, reserved_last, top_k, ratio),",
    ")",
    'comptime if target == "cpu":',
    "    choose_segments_cpu(choice)",
    "else:",
    "    choose_segments_gpu(choice, ctx)",
)
