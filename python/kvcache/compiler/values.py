"""What each recorded call reads and makes, every value with its own number.

A recorded tensor may be written more than once, and read before it is written:
a field of the cache has something in it already. Here every value has one
maker. What a tensor holds in the end keeps the tensor's number; what it held
before gets further ones.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kvcache.compiler.graph_context import GraphContext
from kvcache.compiler.program import Node
from kvcache.compiler.vtensor import FORMAT, vTensor


@dataclass(frozen=True, slots=True)
class Values:
    """A recorded pipeline in which every value has one maker."""

    nodes: tuple[Node, ...]
    """The calls, by their numbers."""
    tensors: tuple[vTensor, ...]
    """The context's tensors, then those of further values."""
    names: dict[int, str]
    """Values that are in the caller's memory, before or after the pipeline."""
    overwritten: dict[int, int]
    """For values that the caller's memory has before the pipeline, the call
    that replaces them there."""

    @property
    def makers(self) -> dict[int, int]:
        """Returns for each value that a call makes the call."""
        return {node.output: node.op_id for node in self.nodes}


def values_of(ctx: GraphContext) -> Values:
    """Returns the values of a recorded pipeline.

    Raises:
        RuntimeError: If the context's lists contradict each other.
    """
    _check_lists(ctx)
    return _Numbering(ctx).values()


class _Numbering:
    """Gives numbers to values, call by call."""

    def __init__(self, ctx: GraphContext) -> None:
        self._ctx = ctx
        self._tensors = list(ctx.tensor_list)
        self._names = {
            tensor: plain_name(name)
            for tensor, name in ctx.tensor_id_to_tensor_name_map.items()
        }
        self._overwritten: dict[int, int] = {}
        self._numbers: dict[tuple[int, int | None], int] = {}
        self._writers: dict[int, list[int]] = {}
        for call, (tensor,) in enumerate(ctx.op_to_output_tensor_list):
            self._writers.setdefault(tensor, []).append(call)

    def values(self) -> Values:
        """Returns all values."""
        nodes = tuple(
            Node(
                op_id=call,
                op=op,
                inputs=tuple(self._read(tensor, call) for tensor in read),
                output=self._number(made, call),
            )
            for call, (op, read, (made,)) in enumerate(
                zip(
                    self._ctx.op_list,
                    self._ctx.op_to_input_tensor_list,
                    self._ctx.op_to_output_tensor_list,
                    strict=True,
                )
            )
        )
        return Values(
            nodes, tuple(self._tensors), self._names, self._overwritten
        )

    def _read(self, tensor: int, call: int) -> int:
        """Returns what a call finds in a tensor."""
        writers = self._writers.get(tensor, [])
        before = [writer for writer in writers if writer < call]
        if before:
            return self._number(tensor, before[-1])
        if not writers or tensor in self._names:
            return self._number(tensor, None)
        return self._number(tensor, writers[0])

    def _number(self, tensor: int, writer: int | None) -> int:
        """Returns the number of what a call, or nobody, wrote to a tensor."""
        writers = self._writers.get(tensor)
        if writers is None or writer == writers[-1]:
            return tensor
        known = self._numbers.get((tensor, writer))
        if known is not None:
            return known
        number = len(self._tensors)
        self._numbers[tensor, writer] = number
        self._tensors.append(self._further(tensor, number, writer))
        if writer is None:
            self._names[number] = self._names[tensor]
            self._overwritten[number] = writers[-1]
        return number

    def _further(self, tensor: int, number: int, writer: int | None) -> vTensor:
        old = self._ctx.tensor_list[tensor]
        is_scratch = writer is not None and old._format == FORMAT.PAGED  # noqa: SLF001
        return vTensor(
            old.shape,
            old.dtype,
            old.device,
            _format=FORMAT.RAGGED if is_scratch else old._format,  # noqa: SLF001
            tensor_id=number,
        )


def plain_name(name: str) -> str:
    """Returns `k` of `cache['k']`, and other names as they are."""
    return name.removeprefix("cache[").removesuffix("]").strip("'\"")


def _check_lists(ctx: GraphContext) -> None:
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
    for call, made in enumerate(ctx.op_to_output_tensor_list):
        if len(made) != 1:
            raise RuntimeError(
                f"wanted one result of operator {call}, got {len(made)}"
            )
    _check_known(
        tensors, (*ctx.op_to_input_tensor_list, *ctx.op_to_output_tensor_list)
    )


def _check_known(tensors: int, ids: Iterable[list[int]]) -> None:
    for tensor in (each for some in ids for each in some):
        if not 0 <= tensor < tensors:
            raise RuntimeError(
                f"wanted tensor ids below {tensors}, got {tensor}"
            )
