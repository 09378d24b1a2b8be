"""The text of a generated module, whatever its kernels are written in."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.module_files import digest
from kvcache.compiler.program import Program, Side
from kvcache.compiler.vtensor import FORMAT

NAME = "NAME_OF_PIPELINE"
"""Stands for the pipeline's name, which comes from the whole text."""

_SIGNATURES = {
    Side.CACHE: ("cache, loc, ctx", ", cur_layer=0"),
    Side.INDEXER: ("q, o, cache, ctx", ""),
}


@dataclass(frozen=True, slots=True)
class ModuleText:
    """A generated module."""

    name: str
    """The pipeline's name, the same for equal pipelines."""
    text: str
    """Python source."""

    @property
    def entry_class(self) -> str:
        """The name of the class that runs the pipeline."""
        return f"{self.name}_CompiledFunc"


def module_text(
    program: Program,
    ctx: GraphContext,
    *,
    header: Sequence[str],
    kernels: Sequence[Sequence[str]],
) -> ModuleText:
    """Returns a module: header, auxiliary functions, kernels, entry class.

    Args:
        program: What is computed.
        ctx: Its context; its lines for the header and auxiliary functions come
            in behind the backend's.
        header: Lines of the header; each is kept once, at its first place.
        kernels: For each kernel the lines of `<name>_subgraph_<i>_impl` and
            `<name>_subgraph_<i>_interface`, with `NAME` for the name.
    """
    head = list(dict.fromkeys([*header, *ctx.compilation_header_lines]))
    parts = [head]
    if ctx.auxilary_func_def_lines:
        parts.append(list(ctx.auxilary_func_def_lines))
    parts += [*(list(lines) for lines in kernels), entry_class(program)]
    text = "\n\n\n".join("\n".join(part).strip("\n") for part in parts) + "\n"
    name = f"{program.side}_{digest(text)}"
    return ModuleText(name, text.replace(NAME, name))


def entry_class(program: Program) -> list[str]:
    """Returns the lines of the class that runs the kernels in order.

    Tensors between kernels belong to an instance, and grow with the step.
    """
    start, end = _SIGNATURES[program.side]
    made = [
        f"        self.tensor_{tensor} = None"
        for tensor in program.intermediates
    ]
    lines = [
        f"class {NAME}_CompiledFunc:",
        '    """Runs the pipeline."""',
        "",
        "    def __init__(self):",
        *(made or ["        pass"]),
        "",
        f"    def forward(self, {start}{end}):",
    ]
    source = "loc" if program.side is Side.CACHE else "q"
    for tensor in program.intermediates:
        described = program.tensors[tensor]
        rows = _ROWS[program.side, described.format]
        wanted = f"self.tensor_{tensor}, {rows}, {described.tile}, {source}"
        lines += [
            f"        self.tensor_{tensor} = scratch(",
            f"            {wanted}",
            "        )",
        ]
    for i, kernel in enumerate(program.kernels):
        used = {*kernel.reads, *kernel.stores} & {*program.intermediates}
        tensors = [f"self.tensor_{tensor}" for tensor in sorted(used)]
        call = ", ".join([start, *tensors])
        lines.append(f"        {NAME}_subgraph_{i}_interface({call})")
    return lines


def parameters(program: Program, i: int) -> str:
    """Returns the parameters of the interface of a kernel."""
    kernel = program.kernels[i]
    used = {*kernel.reads, *kernel.stores} & {*program.intermediates}
    start, _ = _SIGNATURES[program.side]
    return ", ".join([start, *(f"tensor_{tensor}" for tensor in sorted(used))])


def variable(program: Program, tensor: int) -> str:
    """Returns what a tensor's tiles are called inside kernels."""
    name = program.names.get(tensor, "")
    return f"t{tensor}_{name}" if name.isidentifier() else f"t{tensor}"


_ROWS = {
    (Side.CACHE, FORMAT.RAGGED): "loc.shape[0] * ctx.head_num",
    (Side.INDEXER, FORMAT.RAGGED): "ctx.dense_kv_indices.shape[0]",
    (Side.INDEXER, FORMAT.BATCHED): "ctx.dense_kv_indptr.shape[0] - 1",
}
