"""Cuts the attention of a ragged batch into units of work for the cores."""

from std.collections import OptionalReg
from std.math import ceildiv

from .attention_rules import AttentionRules
from .cache import PagedKVCache
from .parallel import num_tasks
from .ragged import RaggedBatch

comptime TILE_ROWS = 32
"""The rows of queries under one head in a wide unit: tokens times a group."""

comptime NARROW_FLOATS = 1 << 14
"""The most numbers in the queries of a narrow unit, which has all heads."""

comptime GRAIN_PRODUCTS = 1 << 18
"""The fewest products of two numbers that are worth a task of their own."""

comptime UNITS_PER_TASK = 2
"""About how many units there should be for each task."""

comptime PART_TOKENS = 256
"""The fewest tokens of a part where there are as many parts as tasks."""

comptime Flags = OptionalReg[Pointer[UInt32, ImmUntrackedOrigin]]
"""A number of each sequence, `[batch_size]`, or none at all."""


@fieldwise_init
struct Unit(TrivialRegisterPassable):
    """Some new tokens of one sequence, some heads, and a part of the context."""

    var seq: Int
    """The sequence."""

    var first_row: Int
    """The first token's row of the batch."""

    var num_tokens: Int
    """How many tokens."""

    var position: Int
    """The first token's position in its sequence."""

    var first_head: Int
    """The first key-value head."""

    var num_heads: Int
    """How many key-value heads."""

    var begin: Int
    """The part's begin, as the rules count what the unit's tokens see."""

    var end: Int
    """The part's end."""

    var part: Int
    """The number of the part among those of all sequences; -1 if the unit has
    all of the context."""

    @always_inline
    def num_seen(self, rules: AttentionRules) -> Int:
        """Returns how many positions any of the unit's tokens sees.

        Args:
            rules: What a query sees.

        Returns:
            The positions, from the sink tokens to the last token's own.
        """
        return rules.num_seen(self.position) + self.num_tokens - 1


struct Plan[num_q_heads: Int, num_kv_heads: Int, head_dim: Int](Movable):
    """The units of one call.

    Few tokens of a sequence, as in decoding, are narrow: memory is what they
    wait for, so a unit has all heads of its tokens, and a long context is split
    where there would be too few units for the cores. Many tokens are tiles
    under one head each. Chosen blocks differ from head to head: there a unit
    has one head of the one token.

    Parameters:
        num_q_heads: The query heads.
        num_kv_heads: The key-value heads.
        head_dim: The elements of a head.
    """

    comptime narrow_tokens = max(
        1, NARROW_FLOATS // (Self.num_q_heads * Self.head_dim)
    )
    """The most tokens of a narrow unit."""

    comptime tile_tokens = max(
        1, TILE_ROWS * Self.num_kv_heads // Self.num_q_heads
    )
    """The most tokens of a tile."""

    var units: List[Unit]
    """The units; the parts of one context follow each other."""

    var tasks: Int
    """How many tasks the units are worth."""

    var num_parts: Int
    """How many units are a part of a context."""

    var part_rows: Int
    """The most rows, over all heads, of a unit that is a part."""

    def __init__(
        out self,
        rules: AttentionRules,
        batch: RaggedBatch,
        cache: PagedKVCache,
        elsewhere: Flags = None,
    ):
        """Cuts a batch into units.

        Args:
            rules: What a query sees.
            batch: The rows of each sequence.
            cache: The keys or the values, for their lengths.
            elsewhere: Not 0 for sequences that are left out, `[batch_size]`.
        """
        comptime heads = 1 if cache.block_size else Self.num_kv_heads
        self.units = List[Unit](capacity=Int(batch.batch_size))
        self.num_parts = 0
        self.part_rows = 0
        self.tasks = 1
        var share = self._cut(rules, batch, cache, elsewhere)
        for seq in range(Int(batch.batch_size)):
            var unit = Unit(
                seq=seq,
                first_row=batch.start(seq),
                num_tokens=Self._num_tokens(batch, cache, elsewhere, seq),
                position=cache.cache_length(seq),
                first_head=0,
                num_heads=heads,
                begin=0,
                end=0,
                part=-1,
            )
            if unit.num_tokens > Self.narrow_tokens:
                self._add_tiles(rules, unit)
            elif unit.num_tokens > 0:
                for head in range(0, Self.num_kv_heads, heads):
                    unit.first_head = head
                    self._add_parts(rules, unit, share)

    @staticmethod
    def _num_tokens(
        batch: RaggedBatch, cache: PagedKVCache, elsewhere: Flags, seq: Int
    ) -> Int:
        """Returns a sequence's new tokens; 0 where they are left out."""
        comptime if cache.block_size:
            return Int(cache.cache_length(seq) >= 0)
        else:
            if elsewhere and elsewhere.value()[unsafe_offset=seq] != 0:
                return 0
            return batch.start(seq + 1) - batch.start(seq)

    def _cut(
        mut self,
        rules: AttentionRules,
        batch: RaggedBatch,
        cache: PagedKVCache,
        elsewhere: Flags,
    ) -> Int:
        """Sets the tasks; returns a narrow unit's tokens of a context."""
        var seen = 0
        var products = 0
        for seq in range(Int(batch.batch_size)):
            var num_tokens = Self._num_tokens(batch, cache, elsewhere, seq)
            if num_tokens == 0:
                continue
            var context = (
                rules.num_seen(cache.cache_length(seq)) + num_tokens - 1
            )
            products += context * num_tokens
            if num_tokens <= Self.narrow_tokens:
                seen += context
        products *= 2 * Self.num_q_heads * Self.head_dim
        self.tasks = num_tasks(amount=products, grain=GRAIN_PRODUCTS)
        if self.tasks == 1:
            return max(1, seen)
        comptime if cache.block_size:
            seen *= Self.num_kv_heads
        return max(
            min(PART_TOKENS, ceildiv(seen, self.tasks)),
            ceildiv(seen, self.tasks * UNITS_PER_TASK),
        )

    def _add_tiles(mut self, rules: AttentionRules, all: Unit):
        """Adds tiles of a sequence's tokens, each under one head."""
        for first in range(0, all.num_tokens, Self.tile_tokens):
            for head in range(Self.num_kv_heads):
                var unit = all
                unit.first_row += first
                unit.num_tokens = min(Self.tile_tokens, all.num_tokens - first)
                unit.position += first
                unit.first_head = head
                unit.num_heads = 1
                unit.end = unit.num_seen(rules)
                self.units.append(unit)

    def _add_parts(mut self, rules: AttentionRules, all: Unit, share: Int):
        """Adds the parts of a context, all heads and tokens in each."""
        var seen = all.num_seen(rules)
        var num_parts = ceildiv(seen, share)
        var size = ceildiv(seen, num_parts)
        for begin in range(0, seen, size):
            var unit = all
            unit.begin = begin
            unit.end = min(begin + size, seen)
            if num_parts > 1:
                unit.part = self.num_parts
                self.num_parts += 1
                var rows = (
                    unit.num_tokens
                    * unit.num_heads
                    * Self.num_q_heads
                    // Self.num_kv_heads
                )
                self.part_rows = max(self.part_rows, rows)
            self.units.append(unit)
