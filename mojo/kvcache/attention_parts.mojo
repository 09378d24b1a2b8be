"""What the parts of a context add up to, kept until all are done."""

from kv_cache.types import KVCacheStaticParams
from std.math import exp
from std.memory import unsafe_memcpy
from std.utils.numerics import neg_inf

from .attention_inputs import AttentionInputs
from .attention_rules import RulesInUse
from .attention_tile import Tile
from .attention_units import Unit
from .scales import Quantization


struct Parts[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
    value_dim_: Int,
    block_size: Int,
    //,
](TrivialRegisterPassable):
    """The state of every row of every part.

    A part's rows are in the order of its tile's.

    Parameters:
        dtype: The type of queries and results.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
        value_dim_: The elements of a value; 0 for as many as a key has.
        block_size: The tokens of a block, where blocks are chosen; else 0.
    """

    comptime Call = AttentionInputs[
        Self.dtype,
        Self.kv_params,
        Self.page_size,
        Self.num_q_heads,
        Self.rules_in_use,
        Self.kv_dtype,
        Self.quantization,
        Self.value_dim_,
        Self.block_size,
    ]
    """The attention that the parts belong to."""

    comptime value_dim = Self.Call.value_dim
    """The elements per value."""

    var call: Self.Call
    """The tensors."""

    comptime row_floats = Self.value_dim + 2
    """The numbers of a row: its sums, its largest score, its weight."""

    var room: Pointer[Float32, MutUntrackedOrigin]
    """Every row of every part, `[parts, part_rows, row_floats]`."""

    var part_rows: Int
    """The most rows of a part."""

    def __init__(
        out self,
        call: Self.Call,
        room: Pointer[Float32, MutUntrackedOrigin],
        part_rows: Int,
    ):
        """Wraps the room.

        Args:
            call: The tensors.
            room: Room for all parts.
            part_rows: The most rows of a part.
        """
        self.call = call
        self.room = room
        self.part_rows = part_rows

    @always_inline
    def _row(self, part: Int, row: Int) -> Pointer[Float32, MutUntrackedOrigin]:
        """Returns where a row of a part starts."""
        return self.room.unsafe_offset(
            (part * self.part_rows + row) * Self.row_floats
        )

    def keep(self, tile: Tile):
        """Keeps what a tile has found out.

        Args:
            tile: A part of a context.
        """
        for row in range(tile.rows * tile.unit.num_heads):
            var target = self._row(tile.unit.part, row)
            var sums = tile.softmax.sums.unsafe_ptr().unsafe_offset(
                row * Self.value_dim
            )
            unsafe_memcpy(dest=target, src=sums, count=Self.value_dim)
            target[unsafe_offset=Self.value_dim] = tile.softmax.largest[row]
            target[unsafe_offset=Self.value_dim + 1] = tile.softmax.weight[row]

    def write(self, units: List[Unit]):
        """Adds the parts of each context up and writes the results.

        Args:
            units: The units, the parts of one context behind each other.
        """
        var next = 0
        while next < len(units):
            var first = next
            next += 1
            if units[first].part < 0:
                continue
            while (
                next < len(units)
                and units[next].part > 0
                and units[next].begin > 0
            ):
                next += 1
            self._write_context(units[first], next - first)

    def _write_context(self, first: Unit, num_parts: Int):
        """Adds the parts of one context up into the first."""
        for row in range(first.num_tokens * first.num_heads * Self.Call.group):
            var sums = self._row(first.part, row)
            for part in range(first.part + 1, first.part + num_parts):
                Self._add(sums, self._row(part, row))
            # A head's rows are the group's members, token by token.
            var rows = first.num_tokens * Self.Call.group
            var head, rest = divmod(row, rows)
            var token, member = divmod(rest, Self.Call.group)
            self.call.write_row(
                sums,
                sums[unsafe_offset=Self.value_dim + 1],
                self.call.result(
                    first.first_row + token,
                    (first.first_head + head) * Self.Call.group + member,
                ),
            )

    @staticmethod
    @always_inline
    def _add(
        sums: Pointer[Float32, MutUntrackedOrigin],
        more: Pointer[Float32, MutUntrackedOrigin],
    ):
        """Adds one part's row to another's."""
        var mine, theirs = (
            sums[unsafe_offset=Self.value_dim],
            more[unsafe_offset=Self.value_dim],
        )
        var largest = max(mine, theirs)
        if largest == neg_inf[DType.float32]():
            return
        var fade, share = exp(mine - largest), exp(theirs - largest)
        for i in range(Self.value_dim):
            sums[unsafe_offset=i] = (
                sums[unsafe_offset=i] * fade + more[unsafe_offset=i] * share
            )
        comptime weight = Self.value_dim + 1
        sums[unsafe_offset=weight] = (
            sums[unsafe_offset=weight] * fade
            + more[unsafe_offset=weight] * share
        )
        sums[unsafe_offset=Self.value_dim] = largest
