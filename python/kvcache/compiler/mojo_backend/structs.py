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
    traits: str,
) -> str:
    """Writes a kernel's struct down to its methods.

    Args:
        name: Its name; it begins with `Summarise` or is a scorer's.
        tensors: What it reads and writes.
        bindings: Where these are.
        kept: The numbers that a team keeps in shared memory.
        lanes: The lanes of a team.
        traits: What it conforms to.
    """
    is_summariser = name.startswith("Summarise")
    q_dtype = "" if is_summariser else "q_dtype: DType, "
    types = {bindings.member(x): bindings.member_type(x) for x in tensors}
    if not is_summariser:
        types = {"tables": bindings.tables} | types
    lines = [
        f"struct {name}[",
        f"    {q_dtype}dtype: DType, page_size: Int, num_kv_heads: Int,",
        "    quantization: Quantization,",
        f"]({traits}):",
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


def held_method(tensors: Sequence[int], bindings: Bindings) -> str:
    """Writes how a summariser takes keys that are held elsewhere.

    Args:
        tensors: What it reads and writes.
        bindings: Where these are.
    """
    types = {bindings.member(x): bindings.member_type(x) for x in tensors}
    dtypes = {member: _dtype(member, bindings) for member in types}
    firsts = ", ".join(
        "keys" if member == "tokens" else f"self.{member}.tile(place).first"
        for member in types
    )
    reads_values = any(bindings.name(x) == "v" for x in tensors)
    lines = [
        "    comptime token_dtype = Self.dtype",
        f"    comptime reads_values = {reads_values}",
        (
            f"    comptime Held = Summarise[Self.dtype, "
            f"{bindings.program.block_size}, 1, Self.quantization]"
        ),
        "",
        "    def __init__(",
        "        out self,",
        *(
            f"        {member}: Pointer[Scalar[{dtype}], MutUntrackedOrigin],"
            for member, dtype in dtypes.items()
        ),
        "        *,",
        "        num_layers: Int,",
        "    ):",
        *(
            f"        self.{member} = {type_}({member}, num_layers)"
            for member, type_ in types.items()
        ),
        "",
        "    @always_inline",
        "    def held(",
        "        self,",
        "        place: BlockPlace,",
        "        keys: Pointer[Scalar[Self.token_dtype], MutUntrackedOrigin],",
        "    ) -> Self.Held:",
        f"        return Self.Held({firsts}, num_layers=1)",
        "",
    ]
    return "\n".join(lines) + "\n"


def _dtype(member: str, bindings: Bindings) -> str:
    """Returns the element type of a pool."""
    if member == "tokens":
        return "Self.dtype"
    return f"DType.{bindings.field(member.removeprefix('field_')).dtype}"
