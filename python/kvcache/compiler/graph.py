"""A recorded pipeline as kernels: what is needed, together, in which order."""

import os
from collections.abc import Iterable, Mapping, Sequence

from kvcache.compiler.cache.context import Context as CacheContext
from kvcache.compiler.fusion import fused, needed
from kvcache.compiler.indexer.context import Context as IndexerContext
from kvcache.compiler.program import Kernel, Node, Program
from kvcache.compiler.recorded_lists import check_lists
from kvcache.compiler.vop import Schedule
from kvcache.compiler.vtensor import vTensor

DISABLE_FUSION = "KVCACHE_DISABLE_FUSION"
"""Environment variable: with 1 every operator is a kernel of its own."""


def program_of(
    ctx: CacheContext | IndexerContext,
    roots: Iterable[int | vTensor] | None = None,
) -> Program:
    """Returns the kernels of a recorded pipeline.

    Operators that lead to no root are left out, and so are those whose result
    another one replaces. What the caller named and an operator makes is always
    stored, whoever else reads it, and its readers read the new content.

    Args:
        ctx: A context that recorded a pipeline.
        roots: The tensors that are wanted, or their ids; by default all that
            an operator makes and that nobody reads, and all that the caller
            named and an operator makes.

    Raises:
        RuntimeError: If there are no roots, a root is made by no operator,
            operators wait for each other, or the context's lists contradict
            each other.
    """
    check_lists(ctx)
    makers = {
        tensor: op
        for tensor, op in enumerate(ctx.output_tensor_to_op_list)
        if op is not None
    }
    named = set(ctx.tensor_id_to_tensor_name_map)
    wanted = _all_roots(ctx, makers) if roots is None else _tensor_ids(roots)
    _check_roots(wanted, makers)
    after = _readers_after_makers(ctx, makers)
    live = needed(after, [makers[root] for root in wanted])
    after = {op: before for op, before in after.items() if op in live}
    groups = [
        tuple(_node(ctx, op) for op in group)
        for group in fused(after, _fusible(ctx, live))
    ]
    return Program(
        side=ctx.side,
        tensors=tuple(ctx.tensor_list),
        names={
            tensor: plain_name(name)
            for tensor, name in ctx.tensor_id_to_tensor_name_map.items()
        },
        kernels=_kernels(groups, named.union(wanted)),
        block_size=ctx.block_size,
    )


def plain_name(name: str) -> str:
    """Returns `k` of `cache['k']`, and other names as they are."""
    return name.removeprefix("cache[").removesuffix("]").strip("'\"")


def _tensor_ids(roots: Iterable[int | vTensor]) -> list[int]:
    return [
        root.tensor_id if isinstance(root, vTensor) else root for root in roots
    ]


def _all_roots(
    ctx: CacheContext | IndexerContext, makers: Mapping[int, int]
) -> list[int]:
    """Returns what an operator makes and is named, or read by nobody."""
    read = {each for some in ctx.op_to_input_tensor_list for each in some}
    return [
        tensor
        for tensor in makers
        if tensor in ctx.tensor_id_to_tensor_name_map or tensor not in read
    ]


def _check_roots(roots: Sequence[int], makers: Mapping[int, int]) -> None:
    if not roots:
        raise RuntimeError(
            "No final output tensors found: wanted an operator that makes one"
        )
    for root in roots:
        if root not in makers:
            raise RuntimeError(
                f"wanted roots that an operator makes, got tensor {root}"
            )


def _readers_after_makers(
    ctx: CacheContext | IndexerContext, makers: Mapping[int, int]
) -> dict[int, set[int]]:
    """Returns for each operator those that make what it reads."""
    return {
        op: {makers[each] for each in read if each in makers}
        for op, read in enumerate(ctx.op_to_input_tensor_list)
    }


def _fusible(ctx: CacheContext | IndexerContext, live: set[int]) -> set[int]:
    if os.environ.get(DISABLE_FUSION, "0") not in {"", "0"}:
        return set()
    return {op for op in live if ctx.op_list[op].schedule == Schedule.W}


def _node(ctx: CacheContext | IndexerContext, op: int) -> Node:
    return Node(
        op_id=op,
        op=ctx.op_list[op],
        inputs=tuple(ctx.op_to_input_tensor_list[op]),
        output=ctx.op_to_output_tensor_list[op][0],
    )


def _kernels(
    groups: Sequence[tuple[Node, ...]], wanted: set[int]
) -> tuple[Kernel, ...]:
    reads = [
        {each for node in nodes for each in node.inputs} for nodes in groups
    ]
    kernels = []
    for i, nodes in enumerate(groups):
        made = {node.output for node in nodes}
        elsewhere = set().union(*reads[:i], *reads[i + 1 :])
        kernels.append(
            Kernel(
                nodes=nodes,
                reads=tuple(sorted(reads[i] - made)),
                stores=tuple(sorted(made & (elsewhere | wanted))),
                schedule=nodes[0].op.schedule,
            )
        )
    return tuple(kernels)
