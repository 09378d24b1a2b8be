"""Which rows a block of the prefill kernel serves, and which keys they see.

The rows of a sequence under one key-value head are its pairs of a new token and
a query head of the group, token by token; a tile is some of them. So every key
that is loaded serves all query heads.
"""

from max.gpu import lane_id
from max.gpu.primitives import warp
from std.bit import pop_count

from .attention_rules import AttentionRules
from .prefill_shape import CHUNK, LANES, PrefillShape
from .ragged import RaggedBatch


@fieldwise_init
struct Tile[shape: PrefillShape](TrivialRegisterPassable):
    """Rows of one sequence, and the blocks of keys that they see.

    Parameters:
        shape: What the kernel is compiled for.
    """

    var seq: Int32
    """The sequence."""

    var head: Int32
    """The key-value head."""

    var start: Int32
    """The sequence's first row of the batch."""

    var first: Int32
    """The tile's first row, counted over the sequence's."""

    var end: Int32
    """The row behind the tile's last."""

    var oldest: Int32
    """The position of the tile's first token."""

    var newest: Int32
    """The position of the tile's last token."""

    var window_start: Int32
    """The first position of the first token's window."""

    var last_window_start: Int32
    """The first position of the last token's window."""

    var sink_tokens: Int32
    """The first tokens, which are seen from behind the window too."""

    var gap: Int32
    """The whole blocks of keys, in the middle, that no row sees."""

    def __init__(out self):
        """Makes a tile without rows."""
        self = Self(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

    def __init__(
        out self,
        batch: RaggedBatch,
        lengths: Pointer[UInt32, ImmUntrackedOrigin],
        rules: AttentionRules[Self.shape.rules],
        *,
        number: Int,
        head: Int,
    ):
        """Finds a tile.

        Sequence `s` has the tiles from `_first_tile` on, which are enough for
        its rows.

        Args:
            batch: The rows of each sequence.
            lengths: Tokens cached before this step, `[batch_size]`.
            rules: What a query sees.
            number: The tile of a key-value head.
            head: The key-value head.
        """
        comptime rows = Self.shape.rows()
        comptime group = Self.shape.group()
        comptime keys = Int32(Self.shape.keys)
        var low = _sequence_of[rows, group](batch, number)
        var start = batch.start(low)
        var first = (number - _first_tile[rows, group](start, low)) * rows
        var end = min((batch.start(low + 1) - start) * group, first + rows)
        var cached = Int(lengths[unsafe_offset=low])
        self.seq = Int32(low)
        self.head = Int32(head)
        self.start = Int32(start)
        self.first = Int32(first)
        self.end = Int32(end)
        self.oldest = Int32(cached + first // group)
        self.newest = Int32(cached + (end - 1) // group)
        self.window_start = Int32(rules.window_start(Int(self.oldest)))
        self.last_window_start = Int32(rules.window_start(Int(self.newest)))
        self.sink_tokens = Int32(
            min(rules.num_sink_tokens(), Int(self.newest) + 1)
        )
        self.gap = max(
            Int32(0),
            self.window_start // keys - (self.sink_tokens + keys - 1) // keys,
        )

    @staticmethod
    def most_tiles(*, total_tokens: Int, batch_size: Int) -> Int:
        """Returns how many tiles there are for a batch, some without rows.

        Args:
            total_tokens: The new tokens of all sequences.
            batch_size: The sequences.

        Returns:
            The tiles.
        """
        return _first_tile[Self.shape.rows(), Self.shape.group()](
            total_tokens, batch_size
        )

    @always_inline
    def is_empty(self) -> Bool:
        """Returns whether the tile has no rows.

        Returns:
            Whether it has none.
        """
        return self.first >= self.end

    @always_inline
    def has(self, row: Int32) -> Bool:
        """Returns whether the tile has a row.

        Args:
            row: The row of the tile.

        Returns:
            Whether it is not beyond the last one.
        """
        return self.first + row < self.end

    @always_inline
    def position(self, row: Int32) -> Int32:
        """Returns the position of a row's token.

        Args:
            row: The row of the tile; beyond the last one, the last one's.

        Returns:
            The position.
        """
        comptime group = Int32(Self.shape.group())
        var ahead = (self.first + row) // group - self.first // group
        return min(self.oldest + ahead, self.newest)

    @always_inline
    def query_head(self, row: Int32) -> Int:
        """Returns a row's query head.

        Args:
            row: The row of the tile.

        Returns:
            The head.
        """
        comptime group = Int32(Self.shape.group())
        return Int(self.head * group + (self.first + row) % group)

    @always_inline
    def element(self, row: Int32) -> Int:
        """Returns where a row's query, and its result, start.

        Args:
            row: The row of the tile.

        Returns:
            The offset in elements.
        """
        var token = self.start + (self.first + row) // Int32(Self.shape.group())
        return (
            Int(token) * Self.shape.num_q_heads + self.query_head(row)
        ) * Self.shape.head_dim()

    @always_inline
    def blocks(self) -> Int:
        """Returns how many blocks of keys the rows see.

        Returns:
            The blocks.
        """
        return Int(self.newest // Int32(Self.shape.keys) + 1 - self.gap)

    @always_inline
    def seen(self, block: Int) -> Int32:
        """Returns the position of a block's first key.

        Args:
            block: The block, counted over those that are seen.

        Returns:
            The position, a multiple of the keys of a block.
        """
        comptime keys = Int32(Self.shape.keys)
        var position = Int32(block) * keys
        comptime if Self.shape.rules.window:
            if position >= self.sink_tokens:
                position += self.gap * keys
        return position

    @always_inline
    def sees(self, position: Int32) -> Bool:
        """Returns whether any row sees a key.

        Args:
            position: The key's position.

        Returns:
            Whether one does.
        """
        var is_seen = position <= self.newest
        comptime if Self.shape.rules.window:
            is_seen = is_seen and (
                position >= self.window_start or position < self.sink_tokens
            )
        return is_seen

    @always_inline
    def sees_chunk(self, position: Int32) -> Bool:
        """Returns whether any row sees any key of a chunk.

        Args:
            position: The position of the chunk's first key.

        Returns:
            Whether one does.
        """
        var last = min(position + Int32(CHUNK - 1), self.newest)
        return self.sees(position) or (position <= last and self.sees(last))

    @always_inline
    def is_whole(self, position: Int32) -> Bool:
        """Returns whether each key of a block is seen by some row.

        Args:
            position: The position of the block's first key.

        Returns:
            Whether it is.
        """
        var last = position + Int32(Self.shape.keys - 1)
        var is_seen = last <= self.newest
        comptime if Self.shape.rules.window:
            is_seen = is_seen and (
                position >= self.window_start or last < self.sink_tokens
            )
        return is_seen

    @always_inline
    def sees_block(self, position: Int32) -> Bool:
        """Returns whether every row sees all keys of a block.

        Args:
            position: The position of the block's first key.

        Returns:
            Whether they do.
        """
        var last = position + Int32(Self.shape.keys - 1)
        var is_seen = last <= self.oldest
        comptime if Self.shape.rules.window:
            is_seen = is_seen and (
                position >= self.last_window_start or last < self.sink_tokens
            )
        return is_seen


@always_inline
def _first_tile[rows: Int, group: Int](start: Int, seq: Int) -> Int:
    """Returns a sequence's first tile: what is enough for those before it."""
    return (start * group + seq * (rows - 1)) // rows


@always_inline
def _sequence_of[rows: Int, group: Int](batch: RaggedBatch, number: Int) -> Int:
    """Returns the last sequence whose tiles begin at a tile or before it.

    A whole warp calls it: its lanes look at the last 32 at once.
    """
    var low = 0
    var high = Int(batch.batch_size)
    while high - low > LANES:
        var middle = (low + high) // 2
        if _first_tile[rows, group](batch.start(middle), middle) <= number:
            low = middle
        else:
            high = middle
    var seq = low + 1 + Int(lane_id())
    var begins = False
    if seq < high:
        begins = _first_tile[rows, group](batch.start(seq), seq) <= number
    return low + Int(pop_count(warp.vote[DType.uint32](begins)))
