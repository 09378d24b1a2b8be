"""Causal paged attention of one tile of tokens, on one core.

The softmax is computed on the fly, a span of keys at a time, so that no row of
scores is ever held in full.

See:
    [Online softmax](https://arxiv.org/abs/1805.02867), for the running
    maximum, and [PagedAttention](https://arxiv.org/abs/2309.06180).
"""

from kv_cache.types import KVCacheStaticParams
from std.math import align_down, align_up, exp
from std.utils.numerics import neg_inf

from .attention_inputs import AttentionInputs
from .attention_rules import RulesInUse
from .attention_span import SpanReader
from .scales import Quantization
from .vectors import cpu_width

comptime TILE_ROWS = 32
"""The rows of queries in a tile: tokens times the heads of a group."""

comptime SPAN = 64
"""The most keys that are scored before their values are read."""

comptime BLOCK = 4
"""The rows and the keys that one step of the score loop holds in registers."""


struct Tile[
    dtype: DType,
    kv_params: KVCacheStaticParams,
    page_size: Int,
    num_q_heads: Int,
    rules_in_use: RulesInUse,
    kv_dtype: DType,
    quantization: Quantization,
    //,
]:
    """A tile of tokens of one sequence under one key-value head.

    Row `r` of the tile is query head `r % group` of token `r // group`.

    Parameters:
        dtype: The type of queries and results.
        kv_params: The heads and the head size.
        page_size: The tokens per page.
        num_q_heads: The query heads.
        rules_in_use: The rules that the kernel is compiled with.
        kv_dtype: The element type of the pool.
        quantization: Which of its elements share a scale.
    """

    comptime Call = AttentionInputs[
        Self.dtype,
        Self.kv_params,
        Self.page_size,
        Self.num_q_heads,
        Self.rules_in_use,
        Self.kv_dtype,
        Self.quantization,
    ]
    """The attention that the tile is a part of."""

    comptime head_dim = Self.Call.head_dim
    """The elements per head."""

    comptime group = Self.Call.group
    """The query heads that share a key-value head."""

    comptime tokens = max(1, TILE_ROWS // Self.group)
    """The most tokens in a tile."""

    comptime span = min(Self.page_size, SPAN)
    """The keys scored at once; they never cross a page."""

    comptime width = cpu_width[DType.float32](Self.head_dim)
    """The elements per vector."""

    comptime Vector = SIMD[DType.float32, Self.width]
    """A piece of a head."""

    comptime Reader = SpanReader[
        Self.kv_dtype,
        Self.kv_params,
        Self.page_size,
        Self.quantization,
        Self.span,
    ]
    """What reads keys or values."""

    comptime stride = Self.Reader.stride
    """The elements between two keys of a span."""

    var call: Self.Call
    """The tensors."""

    var seq: Int
    """The sequence."""

    var head: Int
    """The key-value head."""

    var first_row: Int
    """The tile's first row of the batch."""

    var num_tokens: Int
    """The tokens in the tile."""

    var position: Int
    """The first token's position in its sequence."""

    var key_reader: Self.Reader
    """Reads keys."""

    var value_reader: Self.Reader
    """Reads values."""

    var queries: List[Float32]
    """The queries times the scale, `[rows, head_dim]`."""

    var scores: List[Float32]
    """One span's scores, then weights, `[rows, span]`."""

    var sums: List[Float32]
    """The weighted sums of values so far, `[rows, head_dim]`."""

    var largest: List[Float32]
    """The largest score so far, `[rows]`."""

    var weight: List[Float32]
    """The sum of weights so far, `[rows]`."""

    def __init__(
        out self,
        call: Self.Call,
        *,
        seq: Int,
        head: Int,
        first_row: Int,
        num_tokens: Int,
        position: Int,
    ):
        """Loads the tile's queries.

        Args:
            call: The tensors.
            seq: The sequence.
            head: The key-value head.
            first_row: The tile's first row of the batch.
            num_tokens: The tokens in the tile.
            position: The first token's position in its sequence.
        """
        self.call = call
        self.seq = seq
        self.head = head
        self.first_row = first_row
        self.num_tokens = num_tokens
        self.position = position
        self.key_reader = Self.Reader()
        self.value_reader = Self.Reader()
        var rows = num_tokens * Self.group
        self.queries = List[Float32](unsafe_uninit_length=rows * Self.head_dim)
        self.scores = List[Float32](unsafe_uninit_length=rows * Self.span)
        self.sums = List[Float32](length=rows * Self.head_dim, fill=0)
        self.largest = List[Float32](unsafe_uninit_length=rows)
        self.weight = List[Float32](length=rows, fill=call.rules.first_weight())
        for row in range(rows):
            self.largest[row] = call.rules.first_largest(self._head(row))
            var source = call.queries.unsafe_offset(self._element(row))
            comptime for i in range(0, Self.head_dim, Self.width):
                self.queries.unsafe_ptr().unsafe_store(
                    row * Self.head_dim + i,
                    source.unsafe_load[width=Self.width](i).cast[
                        DType.float32
                    ]()
                    * call.rules.scale,
                )

    @always_inline
    def _head(self, row: Int) -> Int:
        """Returns a row's query head."""
        return self.head * Self.group + row % Self.group

    @always_inline
    def _element(self, row: Int) -> Int:
        """Returns where a row's query, and its result, starts."""
        var token = self.first_row + row // Self.group
        return (token * Self.num_q_heads + self._head(row)) * Self.head_dim

    def attend(mut self):
        """Goes through what the tile sees and writes the result."""
        var rules = self.call.rules
        var context = self.position + self.num_tokens
        comptime if Self.rules_in_use.window:
            var sink_tokens = rules.num_sink_tokens()
            var first = max(rules.window_start(self.position), sink_tokens)
            self._attend_to[in_window=False](0, min(sink_tokens, context))
            self._attend_to[in_window=True](first, context)
        else:
            self._attend_to[in_window=False](0, context)
        self._write()

    def _attend_to[*, in_window: Bool](mut self, first: Int, context: Int):
        """Goes through a part of the context span by span."""
        for start in range(align_down(first, Self.span), context, Self.span):
            var count = min(Self.span, context - start)
            var keys = self.key_reader.read(
                self.call.keys,
                seq=self.seq,
                head=self.head,
                start=start,
                count=count,
            )
            var values = self.value_reader.read(
                self.call.values,
                seq=self.seq,
                head=self.head,
                start=start,
                count=count,
            )
            self._score(keys, start, count)
            for row in range(self.num_tokens * Self.group):
                var begin, end = self._seen[in_window=in_window](
                    row, start, count
                )
                if begin < end:
                    self._soften(row, begin, end)
                    self._add_values(values, row, begin, end)

    @always_inline
    def _seen[
        *, in_window: Bool
    ](self, row: Int, start: Int, count: Int) -> Tuple[Int, Int]:
        """Returns the first and behind the last of a span's keys to a row."""
        var rules = self.call.rules
        var position = self.position + row // Self.group
        var begin = 0
        comptime if in_window:
            var first = max(
                rules.window_start(position), rules.num_sink_tokens()
            )
            begin = max(0, first - start)
        return begin, min(count, position + 1 - start)

    def _score(
        mut self,
        keys: Self.Reader.SpanType,
        start: Int,
        count: Int,
    ):
        """Multiplies the span's keys with all rows that see any of them."""
        var rows = self.num_tokens * Self.group
        var first = max(0, start - self.position) * Self.group
        var row = first
        while row + BLOCK <= rows:
            self._score_rows[BLOCK](keys, row, count)
            row += BLOCK
        while row < rows:
            self._score_rows[1](keys, row, count)
            row += 1

    @always_inline
    def _score_rows[
        num_rows: Int
    ](mut self, keys: Self.Reader.SpanType, row: Int, count: Int,):
        """Multiplies the span's keys with a few rows."""
        var key = 0
        while key + BLOCK <= count:
            self._score_block[num_rows, BLOCK](keys, row, key)
            key += BLOCK
        while key < count:
            self._score_block[num_rows, 1](keys, row, key)
            key += 1

    @always_inline
    def _score_block[
        num_rows: Int, num_keys: Int
    ](mut self, keys: Self.Reader.SpanType, row: Int, key: Int,):
        """Multiplies a few keys with a few rows, all held in registers."""
        var products = Array[Self.Vector, num_rows * num_keys](fill=0)
        var queries = self.queries.unsafe_ptr().unsafe_offset(
            row * Self.head_dim
        )
        var first = keys.unsafe_offset(key * Self.stride)
        comptime for i in range(0, Self.head_dim, Self.width):
            comptime for k in range(num_keys):
                var piece = first.unsafe_load[width=Self.width](
                    k * Self.stride + i
                ).cast[DType.float32]()
                comptime for r in range(num_rows):
                    products[r * num_keys + k] = piece.fma(
                        queries.unsafe_load[width=Self.width](
                            r * Self.head_dim + i
                        ),
                        products[r * num_keys + k],
                    )
        var scores = self.scores.unsafe_ptr()
        comptime for r in range(num_rows):
            comptime for k in range(num_keys):
                scores[
                    unsafe_offset=(row + r) * Self.span + key + k
                ] = products[r * num_keys + k].reduce_add()

    @always_inline
    def _soften(mut self, row: Int, begin: Int, end: Int):
        """Turns a row's scores into weights, rescaling what came before."""
        comptime width = cpu_width[DType.float32](Self.span)
        comptime Weights = SIMD[DType.float32, width]
        var scores = self.scores.unsafe_ptr().unsafe_offset(row * Self.span)
        var first, last = align_down(begin, width), align_up(end, width)
        comptime if Self.rules_in_use.softcap:
            for key in range(first, last, width):
                var score = scores.unsafe_load[width=width](key)
                scores.unsafe_store(key, self.call.rules.capped(score))
        for key in range(first, begin):
            scores[unsafe_offset=key] = neg_inf[DType.float32]()
        for key in range(end, last):
            scores[unsafe_offset=key] = neg_inf[DType.float32]()
        var top = Weights(self.largest[row])
        for key in range(first, last, width):
            top = max(top, scores.unsafe_load[width=width](key))
        var largest = top.reduce_max()
        var fade = exp(self.largest[row] - largest)
        var total = Weights(0)
        for key in range(first, last, width):
            var weight = exp(scores.unsafe_load[width=width](key) - largest)
            scores.unsafe_store(key, weight)
            total += weight
        self.weight[row] = self.weight[row] * fade + total.reduce_add()
        self.largest[row] = largest
        if fade != 1:
            var sums = self.sums.unsafe_ptr().unsafe_offset(row * Self.head_dim)
            comptime for i in range(0, Self.head_dim, Self.width):
                sums.unsafe_store(
                    i, sums.unsafe_load[width=Self.width](i) * fade
                )

    @always_inline
    def _add_values(
        mut self,
        values: Self.Reader.SpanType,
        row: Int,
        begin: Int,
        end: Int,
    ):
        """Adds the values that a row sees, times their weights."""
        comptime num_pieces = Self.head_dim // Self.width
        var weights = self.scores.unsafe_ptr().unsafe_offset(row * Self.span)
        var sums = self.sums.unsafe_ptr().unsafe_offset(row * Self.head_dim)
        var pieces = Array[Self.Vector, num_pieces](fill=0)
        for key in range(begin, end):
            var weight = Self.Vector(weights[unsafe_offset=key])
            var value = values.unsafe_offset(key * Self.stride)
            comptime for i in range(num_pieces):
                pieces[i] = (
                    value.unsafe_load[width=Self.width](i * Self.width)
                    .cast[DType.float32]()
                    .fma(weight, pieces[i])
                )
        comptime for i in range(num_pieces):
            sums.unsafe_store(
                i * Self.width,
                sums.unsafe_load[width=Self.width](i * Self.width) + pieces[i],
            )

    def _write(self):
        """Divides every row by the sum of its weights and stores it."""
        for row in range(self.num_tokens * Self.group):
            var target = self.call.output.unsafe_offset(self._element(row))
            var sums = self.sums.unsafe_ptr().unsafe_offset(row * Self.head_dim)
            comptime for i in range(0, Self.head_dim, Self.width):
                var result = (
                    sums.unsafe_load[width=Self.width](i) / self.weight[row]
                )
                target.unsafe_store(i, result.cast[Self.dtype]())
