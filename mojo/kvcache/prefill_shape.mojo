"""What the prefill kernel is compiled for, and what follows from it."""

from kv_cache.types import KVCacheStaticParams

from max.gpu.host.nvidia.tma import TensorMapSwizzle
from std.math import gcd

from .attention_rules import RulesInUse
from .scales import Quantization
from .shared_memory import PIECE_BYTES
from .tma import MAX_ROWS

comptime CHUNK = 16
"""The keys that lie in one page for sure: page sizes are multiples of it."""

comptime LANES = 32
"""The threads of a warp."""

comptime WARPGROUP = 128
"""The threads that multiply together."""

comptime WARPGROUP_ROWS = 64
"""The rows of a product that a warpgroup forms."""

comptime ALIGNMENT = 1024
"""What swizzled memory is aligned to, in bytes."""


@fieldwise_init
struct PrefillShape(TrivialRegisterPassable):
    """What the prefill kernel is compiled for."""

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

    var warpgroups: Int
    """The warpgroups of a block."""

    var keys: Int
    """The keys that a block attends to at once, a multiple of `CHUNK`."""

    def __init__(
        out self,
        *,
        code: DType,
        dtype: DType,
        kv_params: KVCacheStaticParams,
        page_size: Int,
        num_q_heads: Int,
        quantization: Quantization,
        rules: RulesInUse,
    ):
        """Chooses the sizes of tiles and blocks.

        Args:
            code: The element type of the pool.
            dtype: The element type of queries and results.
            kv_params: The heads and the head size.
            page_size: The tokens per page.
            num_q_heads: The query heads.
            quantization: Which elements share a scale.
            rules: The rules that the kernel is compiled with.
        """
        var is_small = kv_params.head_size <= 128
        var turns_codes = quantization.granularity != Quantization.NONE
        self = Self(
            code=code,
            dtype=dtype,
            kv_params=kv_params,
            page_size=page_size,
            num_q_heads=num_q_heads,
            quantization=quantization,
            rules=rules,
            warpgroups=3 if turns_codes and is_small else 2,
            keys=128 if is_small and not turns_codes else 64,
        )

    def is_fed(self) -> Bool:
        """Returns whether a warpgroup of its own loads for the others.

        Returns:
            Whether it does; else all load, and all multiply.
        """
        return not self.is_quantized() and self.head_dim() <= 128

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

    def head_dim(self) -> Int:
        """Returns the elements per head.

        Returns:
            The elements.
        """
        return self.kv_params.head_size

    def token_stride(self) -> Int:
        """Returns the elements between two tokens of a page.

        Returns:
            The elements.
        """
        return self.kv_params.num_heads * self.head_dim()

    def threads(self) -> Int:
        """Returns the threads of a block.

        Returns:
            The threads.
        """
        return self.multipliers() + (WARPGROUP if self.is_fed() else 0)

    def multipliers(self) -> Int:
        """Returns the threads of a block that multiply; they come first.

        Returns:
            The threads.
        """
        return self.warpgroups * WARPGROUP

    def query_loaders(self) -> Int:
        """Returns the threads of a block that load queries; they come last.

        Returns:
            All threads; with a warpgroup that feeds, two of its warps.
        """
        return 2 * LANES if self.is_fed() else self.threads()

    def has_query_boxes(self) -> Bool:
        """Returns whether a tile's queries are those of whole tokens.

        Returns:
            Whether they are, so that tensor memory can copy them.
        """
        return self.is_fed() and self.rows() % self.group() == 0

    def rows(self) -> Int:
        """Returns the rows of a tile: pairs of a token and a query head.

        Returns:
            The rows.
        """
        return self.warpgroups * WARPGROUP_ROWS

    def chunks(self) -> Int:
        """Returns the chunks of the keys that are attended to at once.

        Returns:
            The chunks.
        """
        return self.keys // CHUNK

    def panel(self) -> Int:
        """Returns the neighbouring elements of a head that lie together.

        A panel's row is as long as the swizzle reaches: 128, 64 or 32 bytes.

        Returns:
            The elements.
        """
        if self.head_dim() % 64 == 0:
            return 64
        return 32 if self.head_dim() % 32 == 0 else 16

    def swizzle(self) -> TensorMapSwizzle:
        """Returns how a panel's rows are permuted.

        Returns:
            The mode whose span is a panel.
        """
        if self.panel() == 64:
            return TensorMapSwizzle.SWIZZLE_128B
        if self.panel() == 32:
            return TensorMapSwizzle.SWIZZLE_64B
        return TensorMapSwizzle.SWIZZLE_32B

    def box_rows(self) -> Int:
        """Returns the tokens that tensor memory copies at once.

        Returns:
            The most that lie in one page, wherever a block of keys starts.
        """
        return gcd(self.page_size, self.keys)

    def panels(self) -> Int:
        """Returns how many panels hold a head.

        Returns:
            The panels.
        """
        return self.head_dim() // self.panel()

    def box_tokens(self) -> Int:
        """Returns the tokens whose queries tensor memory copies at once.

        Returns:
            The tokens of a tile.
        """
        return max(1, self.rows() // self.group())

    def box_heads(self) -> Int:
        """Returns the query heads of a token that it copies at once.

        Returns:
            The heads that share a key-value head; one where it copies none.
        """
        return self.group() if self.has_query_boxes() else 1

    def reaches(self, num_rows: Int) -> Bool:
        """Returns whether the kernel can read all of a pool.

        Args:
            num_rows: The rows of the pool, to the end of the last page.

        Returns:
            Whether it can.
        """
        return not self.is_fed() or num_rows <= MAX_ROWS

    def columns(self) -> Int:
        """Returns the elements of a value that one product gives.

        Returns:
            Those of two panels, where there are two; else of one.
        """
        return 128 if self.head_dim() == 128 else self.panel()

    def parts(self) -> Int:
        """Returns how many products give a whole value.

        Returns:
            The products.
        """
        return self.head_dim() // self.columns()

    def query_bytes(self) -> Int:
        """Returns the shared memory that a tile's queries take.

        Returns:
            The bytes.
        """
        return self.rows() * self.head_dim() * 2

    def plane_bytes(self) -> Int:
        """Returns the bytes of keys, or values, as they are multiplied.

        Returns:
            The bytes.
        """
        return self.keys * self.head_dim() * 2

    def code_bytes(self) -> Int:
        """Returns the bytes of keys, or values, as the pool has them.

        Returns:
            The bytes.
        """
        return self.keys * self.head_dim()

    def stage_bytes(self) -> Int:
        """Returns the bytes of what is loaded at once.

        Returns:
            Those of keys and values; with codes, of their scales too.
        """
        if self.is_quantized():
            return 2 * self.code_bytes() + 2 * self.keys * 4
        return 2 * self.plane_bytes()

    def shared_bytes(self) -> Int:
        """Returns the shared memory of a block.

        Returns:
            The bytes: queries, two stages, and what codes are turned into; with
            a warpgroup that feeds, queries twice, too.
        """
        if self.is_fed():
            return 2 * self.query_bytes() + 4 * self.plane_bytes()
        var turned = 2 * self.plane_bytes() if self.is_quantized() else 0
        return self.query_bytes() + turned + 2 * self.stage_bytes()

    def is_supported(self) -> Bool:
        """Returns whether there is a prefill kernel of this shape.

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
        return (
            self.head_dim() % 16 == 0
            and self.head_dim() <= 256
            and self.page_size % CHUNK == 0
        )


@always_inline
def place_of[shape: PrefillShape, rows: Int](row: UInt32, piece: UInt32) -> Int:
    """Returns where a piece of a row of halves lies in swizzled memory.

    The panels lie one after the other. Eight rows that the tensor cores take at
    once lie in different banks.

    Parameters:
        shape: What the kernel is compiled for.
        rows: The rows of each panel.

    Args:
        row: The row.
        piece: The piece of 16 bytes, counted over all panels.

    Returns:
        The offset in bytes.

    See:
        The PTX manual, under `wgmma`, for the swizzling modes.
    """
    comptime row_bytes = UInt32(2 * shape.panel())
    comptime pieces = row_bytes // UInt32(PIECE_BYTES)
    var panel, place = divmod(piece, pieces)
    var turn = row // (8 // pieces) % pieces
    return Int(
        (panel * UInt32(rows) + row) * row_bytes
        + (place ^ turn) * UInt32(PIECE_BYTES)
    )
