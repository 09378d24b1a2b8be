"""Triton modules of pipelines."""

from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.module_text import (
    NAME,
    ModuleText,
    module_text,
    parameters,
    variable,
)
from kvcache.compiler.program import Kernel, Program, Side
from kvcache.compiler.triton_backend import over_blocks
from kvcache.compiler.triton_backend.expressions import statements
from kvcache.compiler.triton_backend.tile_code import inside, places
from kvcache.compiler.vop import Schedule
from kvcache.compiler.vtensor import FORMAT

LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
"""The largest finite number of each float of eight bits."""

_HEADER = (
    "import torch",
    "import triton",
    "import triton.language as tl",
    "from kvcache.compiler.triton_backend.arrays import pointer, scratch",
    "from kvcache.compiler.triton_backend.arrays import checked_loc",
    "from kvcache.compiler.triton_backend.choice import choose_blocks",
    "from kvcache.compiler.triton_backend.choice import num_segments",
    "from kvcache.compiler.triton_backend.choice import segment_of_blocks",
)
_SIZES = {
    "BLOCK_SIZE": "ctx.block_size",
    "PAGE_SIZE": "ctx.page_size",
    "HEADS": "ctx.head_num",
    "BLOCKS_PER_PAGE": "ctx.num_blocks_per_page",
}


def triton_module(program: Program, ctx: GraphContext) -> ModuleText:
    """Returns the module of a pipeline.

    Where some elements are NaN, `Max`, `Min`, `Maximum` and `Minimum` give one
    of the others; those of the NumPy backend give NaN.

    Raises:
        NotImplementedError: If there is no code for an operator, or a field
            is of a type that cannot be written.
        AssertionError: If a tensor between kernels has rows of the pool.
    """
    for tensor in program.intermediates:
        if program.tensors[tensor].format is FORMAT.PAGED:
            raise AssertionError(
                "wanted tensors between kernels with rows of the step, got "
                f"{program.tensors[tensor]}"
            )
    kernels = [_kernel(program, i) for i in range(len(program.kernels))]
    return module_text(program, ctx, header=_HEADER, kernels=kernels)


def _kernel(program: Program, i: int) -> list[str]:
    kernel = program.kernels[i]
    if kernel.nodes[0].op.kind == "topK":
        (score,) = kernel.reads
        return [
            f"def {NAME}_subgraph_{i}_interface({parameters(program, i)}):",
            f"    choose_blocks(tensor_{score}, o, ctx)",
        ]
    if program.side is Side.CACHE:
        code = _cache_kernel(program, i)
    elif kernel.schedule is Schedule.S:
        code = over_blocks.kernel(program, i)
    else:
        code = _indexer_kernel(program, i)
    launch = _cache_launch if program.side is Side.CACHE else _indexer_launch
    return [*code, "", "", *launch(program, i)]


def _arrays(kernel: Kernel) -> tuple[int, ...]:
    return (*kernel.reads, *kernel.stores)


def _pointers(kernel: Kernel) -> str:
    return ", ".join(f"p{tensor}" for tensor in _arrays(kernel))


def _cache_kernel(program: Program, i: int) -> list[str]:
    """Returns the kernel that makes summaries, for each new token and head."""
    kernel = program.kernels[i]
    sizes = ", ".join(f"{name}: tl.constexpr" for name in _SIZES)
    return [
        "@triton.jit",
        f"def {NAME}_subgraph_{i}_kernel({_pointers(kernel)}, loc, {sizes}):",
        "    token = tl.program_id(0).to(tl.int64)",
        "    head = tl.program_id(1)",
        "    slot = tl.load(loc + token)",
        "    if (slot + 1) % BLOCK_SIZE != 0:",
        "        return",
        "    ragged = token * HEADS + head",
        "    page = (slot // PAGE_SIZE) * HEADS + head",
        "    block = (slot % PAGE_SIZE) // BLOCK_SIZE",
        "    paged = page * BLOCKS_PER_PAGE + block",
        *(f"    {line}" for line in _body(program, i)),
    ]


def _indexer_kernel(program: Program, i: int) -> list[str]:
    """Returns the kernel of blocks, or of requests where it makes no block."""
    kernel = program.kernels[i]
    arrays = f"{_pointers(kernel)}, indptr, indices, segment_of, segments"
    lines = ["@triton.jit", f"def {NAME}_subgraph_{i}_kernel({arrays}):"]
    if _is_per_request(program, kernel):
        lines += ["    batched = tl.program_id(0).to(tl.int64)"]
    else:
        lines += [
            "    ragged = tl.program_id(0).to(tl.int64)",
            "    batched = tl.load(segment_of + ragged)",
            "    if batched >= segments:",
            "        return",
            "    if ragged + 1 == tl.load(indptr + batched + 1):",
            "        return",
            "    paged = tl.load(indices + ragged).to(tl.int64)",
        ]
    return [*lines, *(f"    {line}" for line in _body(program, i))]


def _is_per_request(program: Program, kernel: Kernel) -> bool:
    return all(
        program.tensors[node.output].format is FORMAT.BATCHED
        for node in kernel.nodes
    )


def _body(program: Program, i: int) -> list[str]:
    """Returns lines that load tiles, compute, and store tiles."""
    kernel = program.kernels[i]
    lines = []
    for tensor in kernel.reads:
        place, mask = _place(program, tensor)
        load = f"tl.load({place}, mask={mask}, other=0.0).to(tl.float32)"
        lines.append(f"{variable(program, tensor)} = {load}")
    for node in kernel.nodes:
        operands = [variable(program, t) for t in (*node.inputs, node.output)]
        lines += statements(node, operands, program.tensors)
    for tensor in kernel.stores:
        lines += _store(program, tensor)
    return lines


def _store(program: Program, tensor: int) -> list[str]:
    place, mask = _place(program, tensor)
    made = variable(program, tensor)
    dtype = program.tensors[tensor].dtype
    is_field = tensor in program.names
    if is_field and dtype.startswith("int"):
        raise NotImplementedError(
            f"{program.names[tensor]}: the Triton backend writes floats, got "
            f"{dtype}"
        )
    lines = []
    if is_field and dtype in LARGEST:
        most = LARGEST[dtype]
        lines = [
            f"{made} = tl.where({made} > {most}, {most}, {made})",
            f"{made} = tl.where({made} < {-most}, {-most}, {made})",
        ]
    cast = f"{made}.to(p{tensor}.dtype.element_ty)"
    return [*lines, f"tl.store({place}, {cast}, mask={mask})"]


def _place(program: Program, tensor: int) -> tuple[str, str]:
    """Returns where a tensor's tile is, and what of it is no padding."""
    described = program.tensors[tensor]
    rows, columns = described.tile
    row = described.format.name.lower()
    place = (
        f"p{tensor} + {row} * {rows * columns} + "
        f"{places(rows, 0)} * {columns} + {places(columns, 1)}"
    )
    return place, inside((rows, columns))


def _cache_launch(program: Program, i: int) -> list[str]:
    kernel = program.kernels[i]
    name = f"{NAME}_subgraph_{i}"
    return [
        f"def {name}_impl({_pointers(kernel)}, loc, ctx):",
        "    if not loc.shape[0]:",
        "        return",
        f"    {name}_kernel[(loc.shape[0], ctx.head_num)](",
        *(f"        p{tensor}," for tensor in _arrays(kernel)),
        "        loc,",
        *(f"        {size}={value}," for size, value in _SIZES.items()),
        "    )",
        "",
        "",
        f"def {name}_interface({parameters(program, i)}):",
        "    loc = checked_loc(loc)",
        "    with torch.cuda.device_of(loc):",
        f"        {name}_impl(",
        *_given(program, kernel),
        "            loc,",
        "            ctx,",
        "        )",
    ]


def _indexer_launch(program: Program, i: int) -> list[str]:
    kernel = program.kernels[i]
    name = f"{NAME}_subgraph_{i}"
    rows, scalars = "ctx.dense_kv_indices.shape[0]", ["num_segments(ctx)"]
    if kernel.schedule is Schedule.S:
        rows, scalars = "num_segments(ctx)", []
    elif _is_per_request(program, kernel):
        rows = "num_segments(ctx)"
    shared = [
        "ctx.dense_kv_indptr",
        "ctx.dense_kv_indices",
        "segment_of_blocks(ctx)",
        *scalars,
    ]
    return [
        f"def {name}_impl({_pointers(kernel)}, ctx):",
        f"    rows = {rows}",
        "    if not rows:",
        "        return",
        f"    {name}_kernel[(rows,)](",
        *(f"        p{tensor}," for tensor in _arrays(kernel)),
        *(f"        {each}," for each in shared),
        "    )",
        "",
        "",
        f"def {name}_interface({parameters(program, i)}):",
        "    with torch.cuda.device_of(q):",
        f"        {name}_impl(",
        *_given(program, kernel),
        "            ctx,",
        "        )",
    ]


def _given(program: Program, kernel: Kernel) -> list[str]:
    """Returns the arrays of a kernel, as arguments, a line each."""
    lines = []
    for tensor in _arrays(kernel):
        name = program.names.get(tensor)
        array = f"tensor_{tensor}"
        dtype = "float32"
        if name is not None:
            array = name if name in {"q", "o"} else f"cache[{name!r}]"
            dtype = program.tensors[tensor].dtype
        lines.append(f"            pointer({array}, {dtype!r}),")
    return lines
