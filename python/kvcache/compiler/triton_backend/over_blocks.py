"""The Triton code of operators that look at all scored blocks of a request.

One program goes over the blocks of a request and head, some at a time, as a
tile `[blocks, r * c]`.
"""

import math

from kvcache.compiler.module_text import NAME
from kvcache.compiler.program import Node, Program
from kvcache.compiler.triton_backend.expressions import IDENTITIES
from kvcache.compiler.triton_backend.tile_code import constant, padded
from kvcache.compiler.vtensor import FORMAT

ELEMENTS = 2048
"""Elements that are looked at together, at least those of one block."""


def kernel(program: Program, i: int) -> list[str]:
    """Returns the kernel of a standalone operator, but for `topK`.

    Raises:
        NotImplementedError: If there is no code for it.
    """
    (node,) = program.kernels[i].nodes
    x, y = node.inputs[0], node.output
    kind = node.op.kind
    if kind == "Softmax":
        body = _softmax(program, node)
    elif kind == "Normalize":
        body = [
            *_pass(program, node, _SUM),
            *_write(program, node, "x / total[None, :]"),
        ]
    elif kind in IDENTITIES:
        body = _reduction(program, node)
    else:
        raise NotImplementedError(
            f"{kind}: the Triton backend has no code for it"
        )
    size = math.prod(program.tensors[x].tile)
    arrays = f"p{x}, p{y}, indptr, indices, segment_of"
    return [
        "@triton.jit",
        f"def {NAME}_subgraph_{i}_kernel({arrays}):",
        "    row = tl.program_id(0).to(tl.int64)",
        "    start = tl.load(indptr + row).to(tl.int64)",
        "    end = tl.load(indptr + row + 1).to(tl.int64) - 1",
        "    if end <= start:",
        "        return",
        f"    element = tl.arange(0, {padded(size)})",
        *(f"    {line}" for line in body),
    ]


_SUM = ("total", "0.0", "total + tl.sum(tl.where(inside, x, 0.0), axis=0)")


def _softmax(program: Program, node: Node) -> list[str]:
    scale = constant(node.op.attributes["scale"])
    low = "float('-inf')"
    shifted = f"tl.exp({scale} * x - top[None, :])"
    largest = f"tl.max(tl.where(inside, {scale} * x, {low}), axis=0)"
    added = f"total + tl.sum(tl.where(inside, {shifted}, 0.0), axis=0)"
    return [
        *_pass(program, node, ("top", low, f"tl.maximum(top, {largest})")),
        *_pass(program, node, ("total", "0.0", added)),
        *_write(program, node, f"{shifted} / total[None, :]"),
    ]


def _reduction(program: Program, node: Node) -> list[str]:
    kind = node.op.kind
    size = math.prod(program.tensors[node.inputs[0]].tile)
    values = "x * x" if kind == "L2Norm" else "x"
    kept = f"tl.where(inside, {values}, {IDENTITIES[kind]})"
    step = f"total + tl.sum({kept}, axis=0)"
    if kind in {"Max", "Min"}:
        name = kind.lower()
        step = f"tl.{name}imum(total, tl.{name}({kept}, axis=0))"
    lines = _pass(program, node, ("total", IDENTITIES[kind], step))
    result = {"Mean": "total / (end - start)", "L2Norm": "tl.sqrt(total)"}
    return [
        *lines,
        f"place = p{node.output} + row * {size} + element",
        f"tl.store(place, {result.get(kind, 'total')}, mask=element < {size})",
    ]


def _pass(
    program: Program, node: Node, step: tuple[str, str, str]
) -> list[str]:
    """Returns lines that go over all blocks and gather something."""
    name, first, code = step
    size = padded(math.prod(program.tensors[node.inputs[0]].tile))
    return [
        f"{name} = tl.full([{size}], {first}, tl.float32)",
        *_loop(program, node, [f"{name} = {code}"]),
    ]


def _write(program: Program, node: Node, code: str) -> list[str]:
    """Returns lines that go over all blocks and write the result."""
    size = math.prod(program.tensors[node.output].tile)
    place = f"p{node.output} + block * {size} + element[None, :]"
    return _loop(program, node, [f"tl.store({place}, {code}, mask=inside)"])


def _loop(program: Program, node: Node, lines: list[str]) -> list[str]:
    x = node.inputs[0]
    described = program.tensors[x]
    size = math.prod(described.tile)
    count = max(1, ELEMENTS // padded(size))
    row = "block"
    if described.format is FORMAT.PAGED:
        row = "tl.load(indices + block, mask=block < end, other=0)"
    place = f"p{x} + ({row}).to(tl.int64) * {size} + element[None, :]"
    return [
        f"for first in range(start, end, {count}):",
        f"    block = first + tl.arange(0, {count})[:, None]",
        f"    inside = (block < end) & (element[None, :] < {size})",
        f"    x = tl.load({place}, mask=inside, other=0.0).to(tl.float32)",
        *(f"    {line}" for line in lines),
    ]
