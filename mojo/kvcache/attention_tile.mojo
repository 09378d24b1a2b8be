"""Causal paged attention of one unit of work, on one core.

The softmax is computed on the fly, a span of keys at a time, so that no row of
scores is ever held in full.

See:
    [Online softmax](https://arxiv.org/abs/1805.02867), for the running
    maximum, and [PagedAttention](https://arxiv.org/abs/2309.06180).
"""

from kv_cache.types import KVCacheStaticParams
from std.math import align_down, gcd

from .attention_inputs import AttentionInputs
from .attention_pieces import Pieces
from .attention_products import BLOCK, add_block, in_blocks, score_block
from .attention_rules import RulesInUse
from .attention_softmax import SPAN, RunningSoftmax
from .attention_units import Unit
from .scales import Quantization
from .vectors import cpu_width

comptime VALUES = 8
"""The values that are added at once."""


struct Tile[
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
]:
    """What a unit holds while it goes through its part of the context.

    Row `r` of a head is query head `r % group` of token `r // group`. All rows
    of a head come before those of the next.

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
    """The attention that the tile is a part of."""

    comptime head_dim = Self.Call.head_dim
    """The elements per head."""

    comptime group = Self.Call.group
    """The query heads that share a key-value head."""

    comptime Source = Pieces[
        Self.kv_dtype,
        Self.kv_params,
        Self.page_size,
        Self.quantization,
        Self.block_size,
    ]
    """Where keys and values come from."""

    comptime value_dim = Self.Call.value_dim
    """The elements per value."""

    comptime width = cpu_width[DType.float32](
        gcd(Self.head_dim, Self.value_dim)
    )
    """The elements per vector."""

    comptime Softmax = RunningSoftmax[Self.value_dim, Self.width]
    """The softmax over the tile's rows."""

    var call: Self.Call
    """The tensors."""

    var unit: Unit
    """Which rows, heads and part of the context."""

    var rows: Int
    """The rows of one head."""

    var keys: Self.Source
    """The sequence's keys."""

    var values: Self.Source
    """The sequence's values."""

    var queries: List[Float32]
    """The queries times the scale, `[heads, rows, head_dim]`."""

    var softmax: Self.Softmax
    """The scores of a span and what all spans so far add up to."""

    def __init__(out self, call: Self.Call, unit: Unit):
        """Loads the unit's queries.

        Args:
            call: The tensors.
            unit: Which rows, heads and part of the context.
        """
        self.call = call
        self.unit = unit
        self.rows = unit.num_tokens * Self.group
        self.keys = Self.Source(call.keys, seq=unit.seq, head=unit.first_head)
        self.values = Self.Source(
            call.values, seq=unit.seq, head=unit.first_head
        )
        var rows = self.rows * unit.num_heads
        self.queries = List[Float32](unsafe_uninit_length=rows * Self.head_dim)
        self.softmax = Self.Softmax(rows)
        for row in range(rows):
            var head, token = self._head_and_token(row)
            if unit.begin == 0:
                self.softmax.largest[row] = call.rules.first_largest(head)
                self.softmax.weight[row] = call.rules.first_weight()
            var source = call.queries.unsafe_offset(call.element(token, head))
            comptime for i in range(0, Self.head_dim, Self.width):
                self.queries.unsafe_ptr().unsafe_store(
                    row * Self.head_dim + i,
                    source.unsafe_load[width=Self.width](i).cast[
                        DType.float32
                    ]()
                    * call.rules.scale,
                )

    @always_inline
    def _head_and_token(self, row: Int) -> Tuple[Int, Int]:
        """Returns a row's query head and its row in the batch."""
        var head, rest = divmod(row, self.rows)
        var token, member = divmod(rest, Self.group)
        return (
            (self.unit.first_head + head) * Self.group + member,
            self.unit.first_row + token,
        )

    def attend(mut self):
        """Goes through the unit's part of the context."""
        var begin, end = self.unit.begin, self.unit.end
        comptime if Self.rules_in_use.window:
            var sinks = self.call.rules.num_sink_tokens()
            var hidden = self.call.rules.num_hidden(self.unit.position)
            self._attend_to[in_window=False](begin, min(end, sinks))
            self._attend_to[in_window=True](
                max(begin, sinks) + hidden, end + hidden
            )
        else:
            self._attend_to[in_window=False](begin, end)

    def _attend_to[*, in_window: Bool](mut self, first: Int, last: Int):
        """Goes through consecutive positions span by span."""
        for start in range(align_down(first, SPAN), last, SPAN):
            var begin, end = max(0, first - start), min(SPAN, last - start)
            self._score(start, begin, end, last)
            for row in range(self.rows):
                var low, high = self._seen[in_window=in_window](
                    row, start, begin, end
                )
                if low < high:
                    for head in range(self.unit.num_heads):
                        self.softmax.take(
                            head * self.rows + row, low, high, self.call.rules
                        )
            self._add[in_window=in_window](start, begin, end, last)

    @always_inline
    def _seen[
        *, in_window: Bool
    ](self, row: Int, start: Int, begin: Int, end: Int) -> Tuple[Int, Int]:
        """Returns the first and behind the last of a span's keys to a row."""
        var rules = self.call.rules
        var position = self.unit.position + row // Self.group
        var first = begin
        comptime if in_window:
            var shown = max(
                rules.window_start(position), rules.num_sink_tokens()
            )
            first = max(begin, shown - start)
        return first, min(end, position + 1 - start)

    def _score(mut self, start: Int, begin: Int, end: Int, context: Int):
        """Multiplies a span's keys with all rows that see any of them."""
        var first = max(0, start - self.unit.position) * Self.group
        for piece in range(
            align_down(begin, Self.Source.tokens), end, Self.Source.tokens
        ):
            var keys = self.keys.read(
                start + piece,
                heads=self.unit.num_heads,
                begin=max(begin - piece, 0),
                end=min(end - piece, Self.Source.tokens),
            )
            var ahead = self.keys.behind(start + piece, context)
            var key, last = max(begin, piece), min(
                end, piece + Self.Source.tokens
            )
            while key < last:
                var source = keys.unsafe_offset(
                    (key - piece) * Self.Source.stride
                )
                var count = BLOCK if key + BLOCK <= last else 1
                for head in range(self.unit.num_heads):
                    Self.Source.bring_near[Self.head_dim](
                        ahead,
                        head=head,
                        begin=key - piece,
                        end=key - piece + count,
                    )
                    if count == BLOCK:
                        self._score_keys[BLOCK](source, head, first, key)
                    else:
                        self._score_keys[1](source, head, first, key)
                key += count

    @always_inline
    def _score_keys[
        num_keys: Int
    ](mut self, keys: Self.Source.Elements, head: Int, first: Int, key: Int):
        """Multiplies a few keys with the rows of a head from `first` on."""

        @__parameter
        @always_inline
        def score[num_rows: Int](row: Int):
            var state = head * self.rows + row
            score_block[
                rows=num_rows,
                keys=num_keys,
                dim=Self.head_dim,
                width=Self.width,
                stride=Self.Source.stride,
                span=SPAN,
            ](
                self.queries.unsafe_ptr().unsafe_offset(state * Self.head_dim),
                keys.unsafe_offset(head * Self.head_dim),
                self.softmax.scores.unsafe_ptr().unsafe_offset(
                    state * SPAN + key
                ),
            )

        in_blocks[score](first, self.rows)

    def _add[
        *, in_window: Bool
    ](mut self, start: Int, begin: Int, end: Int, context: Int):
        """Adds a span's values to the rows that see them."""
        for piece in range(
            align_down(begin, Self.Source.tokens), end, Self.Source.tokens
        ):
            var values = self.values.read(
                start + piece,
                heads=self.unit.num_heads,
                begin=max(begin - piece, 0),
                end=min(end - piece, Self.Source.tokens),
            )
            var ahead = self.values.behind(start + piece, context)
            var last = min(end, piece + Self.Source.tokens)
            for key in range(max(begin, piece), last, VALUES):
                for head in range(self.unit.num_heads):
                    Self.Source.bring_near[Self.value_dim](
                        ahead,
                        head=head,
                        begin=key - piece,
                        end=min(key + VALUES, last) - piece,
                    )
                    self._add_values[in_window=in_window](
                        values.unsafe_offset(
                            head * Self.head_dim - piece * Self.Source.stride
                        ),
                        head,
                        start,
                        key,
                        min(key + VALUES, last),
                    )

    @always_inline
    def _add_values[
        *, in_window: Bool
    ](
        mut self,
        values: Self.Source.Elements,
        head: Int,
        start: Int,
        begin: Int,
        end: Int,
    ):
        """Adds a few values to the rows of a head that see them."""

        @__parameter
        @always_inline
        def add[num_rows: Int](row: Int):
            var first, last = self._seen[in_window=in_window](
                row, start, begin, end
            )
            var low, high = self._seen[in_window=in_window](
                row + num_rows - 1, start, begin, end
            )
            if low == first and high == last:
                self._add_rows[num_rows](values, head, row, first, last)
                return
            for single in range(row, row + num_rows):
                first, last = self._seen[in_window=in_window](
                    single, start, begin, end
                )
                self._add_rows[1](values, head, single, first, last)

        in_blocks[add](0, self.rows)

    @always_inline
    def _add_rows[
        num_rows: Int
    ](
        mut self,
        values: Self.Source.Elements,
        head: Int,
        row: Int,
        begin: Int,
        end: Int,
    ):
        """Adds values to a few rows that see the same of them."""
        comptime part = BLOCK * Self.width
        var state = head * self.rows + row
        comptime for i in range(0, Self.value_dim, part):
            add_block[
                rows=num_rows,
                pieces=min(part, Self.value_dim - i) // Self.width,
                dim=Self.value_dim,
                width=Self.width,
                stride=Self.Source.stride,
                span=SPAN,
            ](
                self.softmax.scores.unsafe_ptr().unsafe_offset(state * SPAN),
                values.unsafe_offset(i),
                self.softmax.sums.unsafe_ptr().unsafe_offset(
                    state * Self.value_dim + i
                ),
                begin,
                end,
            )

    def write(self):
        """Divides every row by the sum of its weights and stores it."""
        for row in range(self.rows * self.unit.num_heads):
            var head, token = self._head_and_token(row)
            self.call.write_row(
                self.softmax.sums.unsafe_ptr().unsafe_offset(
                    row * Self.value_dim
                ),
                self.softmax.weight[row],
                self.call.result(token, head),
            )
