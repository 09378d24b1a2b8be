"""Whether the lists of a recorded pipeline fit each other."""

from collections.abc import Iterable, Sequence

from kvcache.compiler.graph_context import GraphContext


def check_lists(ctx: GraphContext) -> None:
    """Does nothing if every value of a recorded pipeline has one maker.

    A tensor may be made twice, if nobody reads the first result. A field that
    is read and then made would hold something else for its two readers.

    Raises:
        RuntimeError: If not, or if the lists contradict each other.
    """
    _check_lengths(ctx)
    known = range(len(ctx.tensor_list))
    _check_known(known, ctx.op_to_input_tensor_list)
    _check_known(known, ctx.op_to_output_tensor_list)
    makers: dict[int, list[int]] = {}
    for op, (tensor,) in enumerate(ctx.op_to_output_tensor_list):
        makers.setdefault(tensor, []).append(op)
    for tensor in known:
        some = makers.get(tensor, [])
        wanted = some[-1] if some else None
        got = ctx.output_tensor_to_op_list[tensor]
        if got != wanted:
            raise RuntimeError(
                f"wanted operator {wanted} to make tensor {tensor}, got {got}"
            )
        if len(some) > 1 or tensor in ctx.tensor_id_to_tensor_name_map:
            _check_read_behind(ctx.op_to_input_tensor_list, tensor, some)


def _check_lengths(ctx: GraphContext) -> None:
    tensors, ops = len(ctx.tensor_list), len(ctx.op_list)
    for what, got, wanted in (
        ("output_tensor_to_op_list", ctx.output_tensor_to_op_list, tensors),
        ("op_to_input_tensor_list", ctx.op_to_input_tensor_list, ops),
        ("op_to_output_tensor_list", ctx.op_to_output_tensor_list, ops),
    ):
        if len(got) != wanted:
            raise RuntimeError(
                f"wanted {wanted} entries in {what}, got {len(got)}"
            )
    for op, made in enumerate(ctx.op_to_output_tensor_list):
        if len(made) != 1:
            raise RuntimeError(
                f"wanted one result of operator {op}, got {len(made)}"
            )


def _check_known(known: range, lists: Iterable[list[int]]) -> None:
    for tensor in (each for some in lists for each in some):
        if tensor not in known:
            raise RuntimeError(
                f"wanted tensors below {known.stop}, got {tensor}"
            )


def _check_read_behind(
    reads: Sequence[list[int]], tensor: int, makers: list[int]
) -> None:
    for op in range(max(makers, default=-1) + 1):
        if tensor in reads[op]:
            raise RuntimeError(
                f"wanted tensor {tensor} to be read behind operator "
                f"{makers[-1]}, which makes it, got a read by operator {op}"
            )
