"""What the tensors of a pipeline are called in the generated module."""

from collections.abc import Sequence
from dataclasses import dataclass

from kvcache.compiler.program import Program
from kvcache.compiler.vtensor import FORMAT
from kvcache.flow_ops import Scratch
from kvcache.summaries import SummaryField

TOKENS = {"k": 0, "v": 1}
"""The keys and the values of a block."""


@dataclass(frozen=True, slots=True)
class Bindings:
    """Where the tensors of one side of a flow come from and go to.

    Args:
        program: The side.
        fields: What is kept of each block.
        group_size: Query heads that share a key-value head.
        head_dim: Elements per head.
        score: The tensor of the scores, in an indexer.
    """

    program: Program
    fields: Sequence[SummaryField]
    group_size: int
    head_dim: int
    score: int | None = None

    @property
    def tables(self) -> str:
        """The type that finds the blocks of a scorer."""
        return f"BlockTables[Self.page_size, {self.program.block_size}]"

    def name(self, tensor: int) -> str | None:
        """Returns what the caller calls a tensor, if it does."""
        return self.program.names.get(tensor)

    def scratch(self, tensors: Sequence[int]) -> dict[int, Scratch]:
        """Returns the shape of what kernels hand on, by tensor."""
        return {
            each: Scratch(
                *self.program.tensors[each].tile,
                is_per_block=not self.is_request(each),
            )
            for each in tensors
        }

    def is_request(self, tensor: int) -> bool:
        """Whether a tensor has a tile for a request, not for a block."""
        shape = self.program.tensors[tensor].format
        return shape is FORMAT.BATCHED

    def member(self, tensor: int) -> str:
        """Returns the member of a kernel's struct that a tensor is in."""
        name = self.name(tensor)
        if name is None:
            return "scores" if tensor == self.score else f"scratch_{tensor}"
        if name in TOKENS:
            return "tokens"
        return "queries" if name == "q" else f"field_{name}"

    def member_type(self, tensor: int) -> str:
        """Returns the type of that member."""
        name = self.name(tensor)
        block = self.program.block_size
        if name is None:
            rows, columns = self.program.tensors[tensor].tile
            per_block = not self.is_request(tensor)
            return (
                f"ScratchTiles[{rows}, {columns}, Self.num_kv_heads, "
                f"{per_block}]"
            )
        if name in TOKENS:
            return (
                f"TokenPool[Self.dtype, Self.page_size, {block}, "
                f"Self.num_kv_heads, {self.head_dim}, Self.quantization]"
            )
        if name == "q":
            return (
                "Queries[Self.q_dtype, Self.num_kv_heads, "
                f"{self.group_size}, {self.head_dim}]"
            )
        field = self.field(name)
        return (
            f"FieldPool[DType.{field.dtype}, {field.rows}, {field.columns}, "
            f"Self.page_size // {block}, Self.num_kv_heads]"
        )

    def field(self, name: str) -> SummaryField:
        """Returns a field of the summaries."""
        return next(field for field in self.fields if field.name == name)

    def tile(self, tensor: int, *, block: str | None) -> str:
        """Returns the expression of a tensor's tile.

        Args:
            tensor: The tensor.
            block: The block's place in its sequence; None in a summariser.
        """
        name, member = self.name(tensor), self.member(tensor)
        if name in TOKENS:
            return f"self.{member}.tile[{TOKENS[name]}](place)"
        if name is not None and name != "q":
            return f"self.{member}.tile(place)"
        if name == "q" or self.is_request(tensor):
            return f"self.{member}.tile(at)"
        return f"self.{member}.tile(at, {block})"
