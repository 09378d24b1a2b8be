"""NumPy modules of pipelines."""

from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.module_text import (
    NAME,
    ModuleText,
    module_text,
    parameters,
    variable,
)
from kvcache.compiler.numpy_backend.expressions import statements
from kvcache.compiler.program import Kernel, Program, Side
from kvcache.compiler.vtensor import FORMAT

CONSTANTS = (
    "import numpy as np",
    "",
    'ZERO, MINUS_INFINITY = np.float32("0"), np.float32("-inf")',
)
"""What the code of operators needs."""

_HEADER = (
    "import numpy as np",
    "from kvcache.compiler.numpy_backend.choice import choose_blocks",
    "from kvcache.compiler.numpy_backend.rows import completed_blocks",
    "from kvcache.compiler.numpy_backend.rows import segments",
    "from kvcache.compiler.numpy_backend.tiles import read, scratch, write",
    "",
    CONSTANTS[-1],
)


def numpy_module(program: Program, ctx: GraphContext) -> ModuleText:
    """Returns the module of a pipeline.

    Raises:
        NotImplementedError: If there is no code for an operator.
        AssertionError: If a tensor between kernels is not RAGGED, or BATCHED.
    """
    _check_intermediates(program)
    return module_text(
        program,
        ctx,
        header=_HEADER,
        kernels=[
            _topk(program, i)
            if is_topk(kernel)
            else [*implementation(program, i), "", "", *_interface(program, i)]
            for i, kernel in enumerate(program.kernels)
        ],
    )


def is_topk(kernel: Kernel) -> bool:
    """Whether a kernel chooses blocks."""
    return kernel.nodes[0].op.kind == "topK"


def implementation(program: Program, i: int) -> list[str]:
    """Returns the function that computes a kernel's tiles.

    It takes the tiles that the kernel reads, in their order, and returns a
    tuple of those that it stores, in theirs.
    """
    kernel = program.kernels[i]
    given = ", ".join(variable(program, each) for each in kernel.reads)
    lines = [
        '@np.errstate(all="ignore")',
        f"def {NAME}_subgraph_{i}_impl({given}):",
    ]
    for node in kernel.nodes:
        operands = [
            variable(program, each) for each in (*node.inputs, node.output)
        ]
        body = statements(node, operands, program.tensors)
        lines += [f"    {line}" for line in body]
    made = "".join(f"{variable(program, each)}, " for each in kernel.stores)
    return [*lines, f"    return ({made.rstrip()})"]


def _check_intermediates(program: Program) -> None:
    for tensor in program.intermediates:
        if program.tensors[tensor].format is FORMAT.PAGED:
            raise AssertionError(
                "wanted tensors between kernels with rows of the step, got "
                f"{program.tensors[tensor]}"
            )


def _topk(program: Program, i: int) -> list[str]:
    (score,) = program.kernels[i].reads
    return [
        f"def {NAME}_subgraph_{i}_interface({parameters(program, i)}):",
        f"    choose_blocks(tensor_{score}, o, ctx)",
    ]


def _interface(program: Program, i: int) -> list[str]:
    """Returns the function that reads, computes and writes rows."""
    lines = [f"def {NAME}_subgraph_{i}_interface({parameters(program, i)}):"]
    if program.side is Side.CACHE:
        return [
            *lines,
            "    ragged, paged = completed_blocks(loc, ctx)",
            "    if not ragged.size:",
            "        return",
            *(f"    {line}" for line in _steps(program, i)),
        ]
    return [
        *lines,
        "    for each in segments(ctx):",
        "        if not each.ragged.size:",
        "            continue",
        "        batched, ragged, paged = each.row, each.ragged, each.paged",
        *(f"        {line}" for line in _steps(program, i)),
    ]


def _steps(program: Program, i: int) -> list[str]:
    kernel = program.kernels[i]
    lines = [
        f"{variable(program, each)} = read({_access(program, each)})"
        for each in kernel.reads
    ]
    given = ", ".join(variable(program, each) for each in kernel.reads)
    made = "".join(f"{variable(program, each)}, " for each in kernel.stores)
    lines.append(f"{made.rstrip()} = {NAME}_subgraph_{i}_impl({given})")
    for each in kernel.stores:
        access = _access(program, each, variable(program, each))
        lines.append(f"write({access})")
    return lines


def _access(program: Program, tensor: int, *tiles: str) -> str:
    """Returns the array, its rows and its type, as arguments."""
    described = program.tensors[tensor]
    rows = described.format.name.lower()
    name = program.names.get(tensor)
    if name is None:
        return ", ".join([f"tensor_{tensor}", rows, *tiles, "'float32'"])
    array = name if name in {"q", "o"} else f"cache[{name!r}]"
    return ", ".join([array, rows, *tiles, repr(described.dtype)])
