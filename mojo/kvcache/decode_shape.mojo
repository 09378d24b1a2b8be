"""What the decode kernel is compiled for, and what follows from it."""

from kv_cache.types import KVCacheStaticParams

from .attention_rules import RulesInUse
from .scales import Quantization
from .shared_memory import MAX_SHARED_BYTES, PIECE_BYTES

comptime CHUNK = 16
"""The keys that a warp attends to at once; chunks never cross a page."""

comptime LANES = 32
"""The threads of a warp."""

comptime MAX_TEAMS = 64
"""The most blocks that serve the same keys: all of them run at once."""


@fieldwise_init
struct DecodeShape(TrivialRegisterPassable):
    """What the decode kernel is compiled for."""

    var code: DType
    """The element type of the pool."""

    var dtype: DType
    """The element type of queries and results."""

    var kv_params: KVCacheStaticParams
    """The heads and the head size."""

    var page_size: Int
    """The tokens per page."""

    var num_q_heads: Int
    """The query heads, a multiple of the key-value heads."""

    var quantization: Quantization
    """Which elements share a scale."""

    var rules: RulesInUse
    """The rules that the kernel is compiled with."""

    var most_heads: Int
    """The most key-value heads that one block serves, one or two."""

    var block_size: Int
    """The tokens of a block of the cache, where blocks are chosen; else 0."""

    def is_quantized(self) -> Bool:
        """Returns whether elements mean their products with a scale.

        Returns:
            Whether they do.
        """
        return self.quantization.granularity != Quantization.NONE

    def half(self) -> DType:
        """Returns the type that the tensor cores multiply.

        Returns:
            The pool's own; float16, which holds every 8-bit code, for codes.
        """
        return DType.float16 if self.is_quantized() else self.dtype

    def group(self) -> Int:
        """Returns how many query heads share a key-value head.

        Returns:
            The query heads.
        """
        return self.num_q_heads // self.kv_params.num_heads

    def columns(self) -> Int:
        """Returns how many tiles of eight hold the query heads of a group.

        Returns:
            The tiles.
        """
        return (self.group() + 7) // 8

    def head_dim(self) -> Int:
        """Returns the elements per head.

        Returns:
            The elements.
        """
        return self.kv_params.head_size

    def steps(self) -> Int:
        """Returns how many tiles of sixteen hold the elements of a head.

        Returns:
            The tiles.
        """
        return self.head_dim() // 16

    def row_bytes(self) -> Int:
        """Returns the bytes of one key.

        Returns:
            The bytes.
        """
        return self.head_dim() * (1 if self.is_quantized() else 2)

    def pieces(self) -> Int:
        """Returns how many copies of a lane bring one key.

        Returns:
            The copies.
        """
        return self.row_bytes() // PIECE_BYTES

    def heads(self) -> Int:
        """Returns the key-value heads that one block serves.

        Two neighbours' keys lie together: read together they come faster. One
        head a block leaves fewer parts of a sequence to put together.

        Returns:
            The heads.
        """
        return self.most_heads if self.kv_params.num_heads % 2 == 0 else 1

    def narrow(self) -> Self:
        """Returns the shape whose blocks serve one head each.

        Returns:
            The shape.
        """
        var shape = self
        shape.most_heads = 1
        return shape

    def bytes_of(self, tokens: Int) -> Int:
        """Returns the bytes of keys and values of some tokens.

        Args:
            tokens: The tokens.

        Returns:
            The bytes, without scales.
        """
        return 2 * self.kv_params.num_heads * self.row_bytes() * tokens

    def teams(self) -> Int:
        """Returns how many blocks serve all heads of the same keys.

        Returns:
            The blocks.
        """
        return self.kv_params.num_heads // self.heads()

    def plane_bytes(self) -> Int:
        """Returns the bytes of a chunk's keys, or values.

        Returns:
            The bytes.
        """
        return CHUNK * self.row_bytes()

    def stage_bytes(self) -> Int:
        """Returns the bytes of a chunk: keys, values, their scales.

        Returns:
            The bytes.
        """
        var scales = 2 * CHUNK * 4 if self.is_quantized() else 0
        return 2 * self.plane_bytes() + scales

    def part_length(self) -> Int:
        """Returns how many numbers tell of a part of one head's keys.

        Returns:
            The weighted sums, `[group, head_dim]`, then for each query head the
            largest score and the sum of weights; a multiple of four.
        """
        return (self.group() * (self.head_dim() + 2) + 3) // 4 * 4

    def workspace_per_block(self) -> Int:
        """Returns how many 32-bit words a block wants of the workspace.

        Returns:
            The words: a counter, and two parts of each of its heads.
        """
        return 1 + 2 * self.heads() * self.part_length()

    def warps(self) -> Int:
        """Returns the warps of a block.

        Returns:
            The warps; 0 where the shared memory does not hold what they need.
        """
        if self._stages_of(8) >= 2:
            return 8
        return 4 if self._stages_of(4) >= 2 else 0

    def stages(self) -> Int:
        """Returns how many chunks of a warp are loaded, or being loaded.

        Returns:
            The chunks, the one that is attended to included.
        """
        var most = 6 if self.is_quantized() else 3
        return min(most, self._stages_of(self.warps()))

    def _stages_of(self, warps: Int) -> Int:
        var left = MAX_SHARED_BYTES // warps - 4 * self.part_length()
        return left // self.stage_bytes() if left > 0 else 0

    def shared_bytes(self) -> Int:
        """Returns the shared memory of a block.

        Returns:
            The bytes: the warps' stages, then their parts.
        """
        return self.warps() * (
            self.stages() * self.stage_bytes() + 4 * self.part_length()
        )

    def is_supported(self) -> Bool:
        """Returns whether there is a decode kernel of this shape.

        Returns:
            Whether there is; if not, the other kernel serves.
        """
        if not self.dtype.is_half_float() or self.kv_params.is_mla:
            return False
        if self.is_quantized():
            var per_group = (
                self.quantization.granularity == Quantization.TOKEN
                and self.quantization.group_size != self.head_dim()
            )
            if per_group:
                return False
        elif self.code != self.dtype:
            return False
        var pieces = self.pieces()
        return (
            self.row_bytes() % PIECE_BYTES == 0
            and pieces in (4, 8, 16, 32)
            and self.page_size % CHUNK == 0
            and self.block_size % CHUNK == 0
            and self.warps() > 0
            and self.teams() <= MAX_TEAMS
        )
