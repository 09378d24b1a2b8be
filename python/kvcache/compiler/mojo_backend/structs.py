"""Writes the structs of kernels, without what they compute."""

from collections.abc import Sequence

from kvcache.compiler.mojo_backend.bindings import Bindings


def members(tensors: Sequence[int], bindings: Bindings) -> tuple[str, ...]:
    """Returns the members that tensors are in, each once."""
    return tuple(dict.fromkeys(bindings.member(x) for x in tensors))


def struct(
    name: str,
    tensors: Sequence[int],
    bindings: Bindings,
    *,
    kept: int,
    lanes: int,
) -> str:
    """Writes a kernel's struct down to its methods.

    Args:
        name: Its name; it begins with `Summarise` or is a scorer's.
        tensors: What it reads and writes.
        bindings: Where these are.
        kept: The numbers that a team keeps in shared memory.
        lanes: The lanes of a team.
    """
    is_summariser = name.startswith("Summarise")
    side = "Summariser" if is_summariser else "Scorer"
    q_dtype = "" if is_summariser else "q_dtype: DType, "
    types = {bindings.member(x): bindings.member_type(x) for x in tensors}
    if not is_summariser:
        types = {"tables": bindings.tables} | types
    lines = [
        f"struct {name}[",
        f"    {q_dtype}dtype: DType, page_size: Int, num_kv_heads: Int,",
        "    quantization: Quantization,",
        f"](Cpu{side}, Gpu{side}):",
        "    comptime device_type: AnyType = Self",
        f"    comptime lanes = {lanes}",
        f"    comptime kept = {kept}",
        "",
        *(f"    var {member}: {type_}" for member, type_ in types.items()),
        "",
        "    def __init__(",
        "        out self,",
        *(f"        {member}: {type_}," for member, type_ in types.items()),
        "    ):",
        *(f"        self.{member} = {member}" for member in types),
        "",
        "    def _to_device_type(",
        (
            "        self, mut encoder: Some[DeviceTypeEncoder], "
            "target: MutOpaquePointer[_]"
        ),
        "    ):",
        "        encoder.encode(self, target)",
        "",
        "    @staticmethod",
        "    def get_type_name() -> String:",
        f'        return "{name}"',
        "",
    ]
    return "\n".join(lines) + "\n"


def method(head: str, body: str) -> str:
    """Writes a method, of what is in its `def` and its body."""
    return f"    @always_inline\n    def {head}:\n{body}\n"
