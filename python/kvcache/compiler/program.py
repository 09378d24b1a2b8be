"""A recorded pipeline as kernels: what code is generated from."""

from dataclasses import dataclass
from enum import StrEnum

from kvcache.compiler.vop import Schedule, vOp
from kvcache.compiler.vtensor import vTensor


class Side(StrEnum):
    """Which half of a flow a pipeline is."""

    CACHE = "cache"
    """It makes summaries of blocks that are complete."""
    INDEXER = "indexer"
    """It scores blocks for a query, and chooses some."""


@dataclass(frozen=True, slots=True)
class Node:
    """One recorded call."""

    op_id: int
    """Its place in the context's `op_list`."""
    op: vOp
    """The operator."""
    inputs: tuple[int, ...]
    """The ids of the tensors it reads, in the order of its operands."""
    output: int
    """The id of the tensor it makes."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Calls that are computed together, row by row."""

    nodes: tuple[Node, ...]
    """The calls, each after those that it reads from."""
    reads: tuple[int, ...]
    """Tensors that come from outside the kernel, ascending."""
    stores: tuple[int, ...]
    """Tensors that leave the kernel, ascending."""
    schedule: Schedule
    """Whether its calls are fused ones or a single standalone one."""


@dataclass(frozen=True, slots=True)
class Program:
    """A pipeline: what is computed, in which kernels and order."""

    side: Side
    tensors: tuple[vTensor, ...]
    """All tensors of the context, by their ids."""
    names: dict[int, str]
    """The tensors that the caller gives: fields of the cache (`k`, `v`, and
    the declared ones) and, in an indexer, `q` and `o`."""
    kernels: tuple[Kernel, ...]
    """Each after those that it reads from."""
    block_size: int
    """Tokens of a block."""

    @property
    def intermediates(self) -> tuple[int, ...]:
        """Tensors that go from one kernel to another and have no name."""
        stored = {each for kernel in self.kernels for each in kernel.stores}
        return tuple(sorted(stored - self.names.keys()))

    @property
    def written(self) -> tuple[int, ...]:
        """Tensors of the caller that the pipeline writes, ascending."""
        stored = {each for kernel in self.kernels for each in kernel.stores}
        return tuple(sorted(stored & self.names.keys()))
