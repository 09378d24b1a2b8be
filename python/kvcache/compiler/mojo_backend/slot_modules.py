"""Writes a cache side for tensors with a row for each block."""

from dataclasses import dataclass

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.graph_ops import NAME
from kvcache.compiler.mojo_backend.kernels import summariser
from kvcache.compiler.mojo_backend.modules import HEADER, whole
from kvcache.compiler.program import Program

IMPORTS = """from kvcache.slots import SlotRows
from kvcache.summarise_slots_cpu import summarise_slots_cpu
from kvcache.summarise_slots_gpu import summarise_slots_gpu


"""


@dataclass(frozen=True, slots=True)
class SlotBindings(Bindings):
    """The tensors of the caller, `[total_num_blocks, r, c]`."""

    def member(self, tensor: int) -> str:
        """Returns the member of the struct that a tensor is in."""
        return f"field_{self.name(tensor)}"

    def member_type(self, tensor: int) -> str:
        """Returns the type of that member: a block a page, of one head."""
        described = self.program.tensors[tensor]
        rows, columns = described.tile
        return f"FieldPool[DType.{described.dtype}, {rows}, {columns}, 1, 1]"

    def tile(self, tensor: int, *, block: str | None) -> str:
        """Returns the expression of a tensor's tile."""
        del block
        return f"self.{self.member(tensor)}.tile(place)"


def slot_tensors(program: Program) -> tuple[int, ...]:
    """Returns the caller's tensors that are read or written, ascending."""
    pipeline = whole(program)
    return tuple(sorted({*pipeline.leaves, *pipeline.stores}))


def slot_text(program: Program) -> str:
    """Writes the module of a cache side.

    Its operation takes the slots of new tokens, int64, and the tensors of
    `slot_tensors`, which it changes.
    """
    tensors = slot_tensors(program)
    bindings = SlotBindings(program, (), group_size=1, head_dim=1)
    kernel = summariser(whole(program), bindings)
    block = program.block_size
    lines = [
        f'@extensibility.register("{NAME}.summarise")',
        "struct SummariseOp:",
        "    @staticmethod",
        "    def execute[",
        "        target: StaticString, page_size: Int, num_kv_heads: Int",
        "    ](",
        "        slots: InputTensor[dtype=DType.int64, rank=1, ...],",
    ]
    lines += [
        f"        {bindings.name(each)}: MutableInputTensor[dtype=DType."
        f"{program.tensors[each].dtype}, rank=3, ...],"
        for each in tensors
    ]
    types = {bindings.member(x): bindings.member_type(x) for x in tensors}
    arguments = ", ".join(
        f"{types[member]}(write_pointer({member.removeprefix('field_')}), 1)"
        for member in kernel.members
    )
    lines += [
        "        ctx: DeviceContext,",
        "    ) raises:",
        "        var flow = Summarise[",
        "            DType.float32, page_size, num_kv_heads, Quantization()",
        f"        ]({arguments})",
        f"        var rows = SlotRows[page_size, {block}, num_kv_heads](",
        "            read_pointer(slots),",
        "            num_slots=slots.dim_size(0),",
        f"            num_rows={bindings.name(tensors[0])}.dim_size(0),",
        "        )",
        '        comptime if target == "cpu":',
        "            summarise_slots_cpu(flow, rows)",
        "        else:",
        "            summarise_slots_gpu(flow, rows, ctx)",
    ]
    return (
        HEADER.rstrip()
        + "\n"
        + IMPORTS
        + kernel.text
        + "\n"
        + ("\n".join(lines) + "\n")
    )
