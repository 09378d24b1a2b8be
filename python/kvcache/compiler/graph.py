"""A recorded pipeline as kernels: what is needed, together, in which order."""

import os
from collections.abc import Iterable, Sequence

from kvcache.compiler.fusion import fused, needed
from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.program import Kernel, Node, Program
from kvcache.compiler.values import Values, values_of
from kvcache.compiler.vop import Schedule
from kvcache.compiler.vtensor import vTensor

DISABLE_FUSION = "KVCACHE_DISABLE_FUSION"
"""Environment variable: with 1 every operator is a kernel of its own."""


def program_of(
    ctx: GraphContext, roots: Iterable[int | vTensor] | None = None
) -> Program:
    """Returns the kernels of a recorded pipeline.

    Operators that lead to no root are left out. What the caller named and an
    operator makes is always stored, whoever else reads it. An operator reads
    what a tensor held where it was recorded: one before a field is written
    the old content, one behind it the new.

    Args:
        ctx: A context that recorded a pipeline.
        roots: The tensors that are wanted, or their ids; by default all that
            an operator makes and that nobody reads, and all that the caller
            named and an operator makes.

    Returns:
        The kernels in order. A field whose old content is read and that is
        then written has a further tensor of the same name for the old one.

    Raises:
        RuntimeError: If there are no roots, a root is made by no operator,
            operators wait for each other, or the context's lists contradict
            each other.
    """
    values = values_of(ctx)
    wanted = _all_roots(values, len(ctx.tensor_list))
    if roots is not None:
        wanted = [_tensor_id(root) for root in roots]
    _check_roots(wanted, values.makers)
    after = _readers_after_makers(values)
    live = needed(after, [values.makers[root] for root in wanted])
    after = {call: before for call, before in after.items() if call in live}
    _writers_after_readers(values, after)
    groups = fused(after, _fusible(values, live))
    return Program(
        side=ctx.side,
        tensors=values.tensors,
        names=_names_in_use(values, groups),
        kernels=_kernels(values, groups, set(wanted)),
        block_size=ctx.block_size,
    )


def _tensor_id(root: int | vTensor) -> int:
    return root.tensor_id if isinstance(root, vTensor) else root


def _all_roots(values: Values, num_tensors: int) -> list[int]:
    """Returns what is named, or read by nobody; of the context's tensors."""
    read = {each for node in values.nodes for each in node.inputs}
    return sorted(
        tensor
        for tensor in values.makers
        if tensor < num_tensors
        and (tensor in values.names or tensor not in read)
    )


def _check_roots(roots: Sequence[int], makers: dict[int, int]) -> None:
    if not roots:
        raise RuntimeError(
            "No final output tensors found: wanted an operator that makes one"
        )
    for root in roots:
        if root not in makers:
            raise RuntimeError(
                f"wanted roots that an operator makes, got tensor {root}"
            )


def _readers_after_makers(values: Values) -> dict[int, set[int]]:
    makers = values.makers
    return {
        node.op_id: {makers[each] for each in node.inputs if each in makers}
        for node in values.nodes
    }


def _writers_after_readers(values: Values, after: dict[int, set[int]]) -> None:
    """Has those that replace a field wait for those that read the old one."""
    for call in after:
        for each in values.nodes[call].inputs:
            writer = values.overwritten.get(each, call)
            if writer != call and writer in after:
                after[writer].add(call)


def _fusible(values: Values, live: set[int]) -> set[int]:
    if os.environ.get(DISABLE_FUSION, "0") not in {"", "0"}:
        return set()
    return {
        call for call in live if values.nodes[call].op.schedule == Schedule.W
    }


def _names_in_use(
    values: Values, groups: list[tuple[int, ...]]
) -> dict[int, str]:
    """Returns the names of the caller's tensors, and of old contents read."""
    nodes = [values.nodes[call] for group in groups for call in group]
    read = {each for node in nodes for each in node.inputs}
    return {
        tensor: name
        for tensor, name in values.names.items()
        if tensor not in values.overwritten or tensor in read
    }


def _kernels(
    values: Values, groups: list[tuple[int, ...]], roots: set[int]
) -> tuple[Kernel, ...]:
    all_nodes = [
        tuple(values.nodes[call] for call in group) for group in groups
    ]
    readers = [
        {each for node in nodes for each in node.inputs} for nodes in all_nodes
    ]
    kernels = []
    for i, nodes in enumerate(all_nodes):
        elsewhere = set().union(*readers[:i], *readers[i + 1 :])
        kept = elsewhere | roots | values.names.keys()
        kernels.append(_kernel(nodes, readers[i], kept))
    return tuple(kernels)


def _kernel(nodes: tuple[Node, ...], read: set[int], kept: set[int]) -> Kernel:
    made = {node.output for node in nodes}
    return Kernel(
        nodes=nodes,
        reads=tuple(sorted(read - made)),
        stores=tuple(sorted(made & kept)),
        schedule=Schedule(nodes[0].op.schedule),
    )
