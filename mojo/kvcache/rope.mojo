"""Rotary embedding of one head, in vectors.

The table `freqs` has one row a position: the cosines of all pairs, then their
sines. The pairs are either the two halves of the rotated part (Hugging Face's
order) or neighbours (GGUF's and the original order).

See:
    [RoFormer](https://arxiv.org/abs/2104.09864), for the rotation.
"""


struct Rope[head_dim: Int, rope_dim: Int, interleaved: Bool, width: Int]:
    """The pairs of one head, `width` of them at a time.

    Parameters:
        head_dim: The elements per head.
        rope_dim: The leading elements that turn; the others stay.
        interleaved: Whether a pair are neighbours; else they are half of
            `rope_dim` apart.
        width: The pairs that are moved at once; it divides `head_dim / 2` and
            `rope_dim / 2`.
    """

    comptime num_chunks = Self.head_dim // 2 // Self.width
    """How many chunks a head has."""

    @staticmethod
    @always_inline
    def _turns(chunk: Int) -> Bool:
        """Returns whether a chunk lies in the rotated part."""
        return chunk * Self.width < Self.rope_dim // 2

    @staticmethod
    @always_inline
    def rotate[
        dtype: DType, //
    ](
        source: Pointer[Scalar[dtype], _],
        target: Pointer[mut=True, Scalar[dtype], _],
        freqs: Pointer[Float32, _],
        chunk: Int,
    ):
        """Turns one chunk of a head, computing in float32.

        Parameters:
            dtype: The element type.

        Args:
            source: The head before.
            target: The head after.
            freqs: The table's row for the head's position.
            chunk: The chunk in `[0, num_chunks)`.
        """
        comptime half = Self.rope_dim // 2
        if not Self._turns(chunk):
            return Self.copy(source, target, chunk)
        var pair = chunk * Self.width
        var cosine = freqs.unsafe_load[width=Self.width](pair)
        var sine = freqs.unsafe_load[width=Self.width](half + pair)
        comptime if Self.interleaved:
            comptime Half = SIMD[DType.float32, Self.width]
            var even, odd = (
                source.unsafe_load[width=2 * Self.width](2 * pair)
                .cast[DType.float32]()
                .deinterleave()
            )
            var x, y = rebind[Half](even), rebind[Half](odd)
            var turned = (x * cosine - y * sine).interleave(
                y * cosine + x * sine
            )
            target.unsafe_store(2 * pair, turned.cast[dtype]())
        else:
            var x = source.unsafe_load[width=Self.width](pair).cast[
                DType.float32
            ]()
            var y = source.unsafe_load[width=Self.width](half + pair).cast[
                DType.float32
            ]()
            target.unsafe_store(pair, (x * cosine - y * sine).cast[dtype]())
            target.unsafe_store(
                half + pair, (y * cosine + x * sine).cast[dtype]()
            )

    @staticmethod
    @always_inline
    def copy[
        dtype: DType, //
    ](
        source: Pointer[Scalar[dtype], _],
        target: Pointer[mut=True, Scalar[dtype], _],
        chunk: Int,
    ):
        """Copies one chunk's share of a head: `2 * width` neighbours.

        Parameters:
            dtype: The element type.

        Args:
            source: The head before.
            target: The head after.
            chunk: The chunk in `[0, num_chunks)`.
        """
        var element = 2 * chunk * Self.width
        target.unsafe_store(
            element, source.unsafe_load[width=2 * Self.width](element)
        )
