"""Writes a cache side for tensors with a row for each block."""

from dataclasses import dataclass

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.graph_ops import NAME
from kvcache.compiler.mojo_backend.kernels import KernelText
from kvcache.compiler.mojo_backend.modules import HEADER
from kvcache.compiler.mojo_backend.summarising import SummaryPlan
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
        name = self.name(tensor)
        return f"scratch_{tensor}" if name is None else f"field_{name}"

    def member_type(self, tensor: int) -> str:
        """Returns the type of that member: a block a page, of one head."""
        described = self.program.tensors[tensor]
        rows, columns = described.tile
        dtype = "float32" if self.name(tensor) is None else described.dtype
        return f"FieldPool[DType.{dtype}, {rows}, {columns}, 1, 1]"

    def tile(self, tensor: int, *, block: str | None) -> str:
        """Returns the expression of a tensor's tile."""
        del block
        return f"self.{self.member(tensor)}.tile(place)"


def slot_tensors(program: Program) -> tuple[int, ...]:
    """Returns the caller's tensors that are read or written, ascending."""
    return _plan(program).named


def _plan(program: Program) -> SummaryPlan:
    return SummaryPlan(SlotBindings(program, (), group_size=1, head_dim=1))


def slot_text(program: Program) -> str:
    """Writes the module of a cache side.

    Its operation takes the slots of new tokens, int64, and the tensors of
    `slot_tensors`, which it changes.
    """
    plan = _plan(program)
    tensors, bindings, kernels = plan.named, plan.bindings, plan.kernels()
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
    rows = f"{bindings.name(tensors[0])}.dim_size(0)"
    lines += ["        ctx: DeviceContext,", "    ) raises:"]
    lines += [f"        {each}" for each in plan.memory(rows, "1")]
    for kernel in kernels:
        lines += _made(kernel, plan)
    lines += [
        f"        var rows = SlotRows[page_size, {block}, num_kv_heads](",
        "            read_pointer(slots),",
        "            num_slots=slots.dim_size(0),",
        f"            num_rows={rows},",
        "        )",
    ]
    for kernel in kernels:
        flow = _variable(kernel)
        lines += [
            '        comptime if target == "cpu":',
            f"            summarise_slots_cpu({flow}, rows)",
            "        else:",
            f"            summarise_slots_gpu({flow}, rows, ctx)",
        ]
    lines += [f"        {each}" for each in plan.release()]
    return (
        HEADER.rstrip()
        + "\n"
        + IMPORTS
        + "".join(kernel.text for kernel in kernels)
        + "\n"
        + ("\n".join(lines) + "\n")
    )


def _variable(kernel: KernelText) -> str:
    return kernel.name.lower().replace("summarise", "flow")


def _made(kernel: KernelText, plan: SummaryPlan) -> list[str]:
    """Writes the variable of a kernel."""
    types = {
        plan.bindings.member(x): plan.bindings.member_type(x)
        for x in plan.tensors
    }
    arguments = []
    for member in kernel.members:
        name = member.removeprefix("field_")
        made = f"{types[member]}(write_pointer({name}), 1)"
        is_scratch = member.startswith("scratch_")
        arguments.append(f"{member}_tiles" if is_scratch else made)
    return [
        f"        var {_variable(kernel)} = {kernel.name}[",
        "            DType.float32, page_size, num_kv_heads, Quantization()",
        f"        ]({', '.join(arguments)})",
    ]
