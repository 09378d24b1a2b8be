"""Turns cached keys on to new positions, in place.

A rotation by the angles of a distance, behind that of a position, is the
rotation of the position at that distance: what is cached need not be computed
again when tokens before it go.

See:
    [RoFormer](https://arxiv.org/abs/2104.09864), for the rotation, and
    [llama.cpp](https://github.com/ggml-org/llama.cpp), which shifts a context
    in the same way.
"""

from std.math import gcd

from .layout import PageLayout
from .rope import Rope

comptime SHIFT_COLUMNS = 4
"""The numbers that describe a shift: page, begin, end, row of `freqs`."""


struct RopeShift[
    dtype: DType,
    page_size: Int,
    num_kv_heads: Int,
    head_dim: Int,
    rope_begin: Int,
    rope_dim: Int,
    interleaved: Bool,
](TrivialRegisterPassable):
    """One call, the same on every target.

    Parameters:
        dtype: The element type.
        page_size: The tokens per page.
        num_kv_heads: The key-value heads.
        head_dim: The elements per head.
        rope_begin: The first element of a head that turns.
        rope_dim: The elements of a head that turn.
        interleaved: Whether rotated pairs are neighbours.
    """

    comptime Plane = PageLayout[
        Self.page_size, Self.num_kv_heads, Self.head_dim
    ]
    """Where an element lies."""

    comptime pairs = gcd(Self.rope_dim // 2, Self.head_dim)
    """A number of pairs whose vectors are aligned in every head."""

    var kv_blocks: Pointer[Scalar[Self.dtype], MutUntrackedOrigin]
    """The pool."""

    var freqs: Pointer[Float32, ImmUntrackedOrigin]
    """Cosines then sines, float32 `[num_rows, rope_dim]`."""

    var shifts: Pointer[UInt32, ImmUntrackedOrigin]
    """Page, begin, end and row of `freqs`, `[num_shifts, 4]`."""

    var num_pages: Int64
    """The pages in the pool, the null page not counted."""

    var num_rows: Int64
    """The rows in `freqs`."""

    var page_stride: Int64
    """The elements of a page."""

    def __init__(
        out self,
        kv_blocks: Pointer[Scalar[Self.dtype], MutUntrackedOrigin],
        freqs: Pointer[Float32, ImmUntrackedOrigin],
        shifts: Pointer[UInt32, ImmUntrackedOrigin],
        *,
        num_pages: Int,
        num_rows: Int,
        page_stride: Int,
    ):
        """Collects the tensors of one call.

        Args:
            kv_blocks: The pool.
            freqs: The rotations.
            shifts: What turns, and by which of them.
            num_pages: The pages in the pool, the null page not counted.
            num_rows: The rows in `freqs`.
            page_stride: The elements of a page.
        """
        self.kv_blocks = kv_blocks
        self.freqs = freqs
        self.shifts = shifts
        self.num_pages = Int64(num_pages)
        self.num_rows = Int64(num_rows)
        self.page_stride = Int64(page_stride)

    @always_inline
    def column(self, shift: Int, column: Int) -> Int:
        """Returns one of the numbers that describe a shift.

        Args:
            shift: The shift.
            column: The column in `[0, 4)`.

        Returns:
            The number.
        """
        return Int(self.shifts[unsafe_offset=shift * SHIFT_COLUMNS + column])

    @always_inline
    def check(self, shift: Int):
        """Asserts that a shift stays in the pool, in its page and in `freqs`.

        Args:
            shift: The shift.
        """
        assert self.column(shift, 0) < Int(self.num_pages), "page out of range"
        assert (
            self.column(shift, 1) <= self.column(shift, 2) <= Self.page_size
        ), "slots out of range"
        assert self.column(shift, 3) < Int(
            self.num_rows
        ), "rotation out of range"

    @always_inline
    def turn[
        width: Int
    ](self, shift: Int, layer: Int, slot: Int, head: Int, chunk: Int):
        """Turns one chunk of one key.

        Parameters:
            width: The pairs in a chunk.

        Args:
            shift: The shift.
            layer: The layer.
            slot: The token's place in the page.
            head: The key-value head.
            chunk: The chunk of the rotated part.
        """
        comptime Turn = Rope[
            Self.rope_dim, Self.rope_dim, Self.interleaved, width
        ]
        var key = self.kv_blocks.unsafe_offset(
            Self.Plane.offset(
                page_offset=self.column(shift, 0) * Int(self.page_stride)
                + layer * Self.Plane.plane_stride,
                slot=slot,
                head=head,
                dim=Self.rope_begin,
            )
        )
        var row = self.column(shift, 3)
        Turn.rotate(
            key, key, self.freqs.unsafe_offset(row * Self.rope_dim), chunk
        )
