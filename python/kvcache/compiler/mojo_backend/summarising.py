"""The launches by which summaries are made, and what they hand on."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvcache.compiler.mojo_backend.bindings import Bindings
from kvcache.compiler.mojo_backend.kernels import KernelText, summariser
from kvcache.compiler.mojo_backend.pipeline import Pipeline
from kvcache.compiler.program import Program


@dataclass(frozen=True, slots=True)
class SummaryBindings(Bindings):
    """The tensors of a cache side; unnamed ones have pools for one step."""

    def member_type(self, tensor: int) -> str:
        """Returns the type of the member that a tensor is in."""
        if self.name(tensor) is not None:
            return Bindings.member_type(self, tensor)
        rows, columns = self.program.tensors[tensor].tile
        return (
            f"FieldPool[DType.float32, {rows}, {columns}, "
            f"Self.page_size // {self.program.block_size}, Self.num_kv_heads]"
        )

    def tile(self, tensor: int, *, block: str | None) -> str:
        """Returns the expression of a tensor's tile."""
        if self.name(tensor) is not None:
            return Bindings.tile(self, tensor, block=block)
        return f"self.{self.member(tensor)}.tile(place)"


@dataclass(frozen=True)
class SummaryPlan:
    """The launches of a cache side: one, or without fusion one an operator.

    What an operator hands to another is kept in pools as large as a field's,
    which the operation makes for each run.

    Args:
        bindings: Where the tensors are.
        holds_blocks: Whether a single launch takes keys in shared memory, too.
    """

    bindings: Bindings
    holds_blocks: bool = False

    @property
    def program(self) -> Program:
        """The cache side."""
        return self.bindings.program

    @property
    def pipelines(self) -> Sequence[Pipeline]:
        """What each launch computes."""
        program = self.program
        if len(program.kernels) == 1:
            return (whole(program),)
        return tuple(
            Pipeline(k.nodes, k.stores, program.tensors)
            for k in program.kernels
        )

    @property
    def tensors(self) -> tuple[int, ...]:
        """What is read or written by any launch, ascending."""
        found = (x for p in self.pipelines for x in (*p.leaves, *p.stores))
        return tuple(sorted(set(found)))

    @property
    def named(self) -> tuple[int, ...]:
        """The caller's tensors among them."""
        names = self.program.names
        return tuple(x for x in self.tensors if x in names)

    @property
    def scratch(self) -> tuple[int, ...]:
        """What launches hand on."""
        names = self.program.names
        return tuple(x for x in self.tensors if x not in names)

    def kernels(self) -> list[KernelText]:
        """Writes the kernels, in the order of the launches."""
        pipelines = self.pipelines
        if len(pipelines) == 1:
            return [
                summariser(
                    pipelines[0], self.bindings, holds_blocks=self.holds_blocks
                )
            ]
        return [
            summariser(each, self.bindings, f"Summarise{i}")
            for i, each in enumerate(pipelines)
        ]

    def memory(self, planes: str, num_layers: str) -> list[str]:
        """Writes the pools of what launches hand on.

        Args:
            planes: The expression of how many tiles a pool has.
            num_layers: That of how many layers it has.
        """
        lines = []
        for each in self.scratch:
            member = self.bindings.member(each)
            rows, columns = self.program.tensors[each].tile
            type_ = self.bindings.member_type(each).replace("Self.", "")
            lines += [
                (
                    f"var {member}_memory = ctx.enqueue_create_buffer["
                    f"DType.float32](max(1, {planes}) * {rows * columns})"
                ),
                (
                    f"var {member}_tiles = {type_}({member}_memory.unsafe_ptr()"
                    f".unsafe_origin_cast[MutUntrackedOrigin](), {num_layers})"
                ),
            ]
        return lines

    def release(self) -> list[str]:
        """Writes what gives the pools back, behind the last launch."""
        return [
            f"_ = {self.bindings.member(each)}_memory^" for each in self.scratch
        ]


def whole(program: Program) -> Pipeline:
    """All kernels of a cache side as one: none waits for another tile."""
    return Pipeline(
        nodes=tuple(node for k in program.kernels for node in k.nodes),
        stores=tuple(
            x for k in program.kernels for x in k.stores if x in program.names
        ),
        tensors=program.tensors,
    )
