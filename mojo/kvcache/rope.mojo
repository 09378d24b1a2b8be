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

    comptime Angles = SIMD[DType.float32, Self.width]
    """The cosines, or the sines, of a chunk's pairs."""

    @staticmethod
    @always_inline
    def turns(chunk: Int) -> Bool:
        """Returns whether a chunk lies in the rotated part.

        Args:
            chunk: The chunk in `[0, num_chunks)`.

        Returns:
            True if it does.
        """
        return chunk * Self.width < Self.rope_dim // 2

    @staticmethod
    @always_inline
    def places(chunk: Int) -> Tuple[Int, Int]:
        """Returns where the two vectors of a chunk start in a head.

        Args:
            chunk: The chunk in `[0, num_chunks)`.

        Returns:
            The elements, each a multiple of `width`.
        """
        var pair = chunk * Self.width
        comptime if not Self.interleaved:
            if Self.turns(chunk):
                return pair, Self.rope_dim // 2 + pair
        return 2 * pair, 2 * pair + Self.width

    @staticmethod
    @always_inline
    def turn[
        dtype: DType, //
    ](
        x: SIMD[dtype, Self.width],
        y: SIMD[dtype, Self.width],
        cosine: Self.Angles,
        sine: Self.Angles,
    ) -> Tuple[SIMD[dtype, Self.width], SIMD[dtype, Self.width]]:
        """Turns the pairs of a chunk, computing in float32.

        Parameters:
            dtype: The element type.

        Args:
            x: The vector at the first of the chunk's places.
            y: The vector at the second one.
            cosine: The cosine of each pair.
            sine: The sine of each pair.

        Returns:
            What belongs at the two places.
        """
        comptime Vector = SIMD[dtype, Self.width]
        comptime if Self.interleaved:
            var even, odd = x.join(y).cast[DType.float32]().deinterleave()
            var a, b = rebind[Self.Angles](even), rebind[Self.Angles](odd)
            var turned = (a * cosine - b * sine).interleave(
                b * cosine + a * sine
            )
            return (
                rebind[Vector](turned.slice[Self.width]().cast[dtype]()),
                rebind[Vector](
                    turned.slice[Self.width, offset=Self.width]().cast[dtype]()
                ),
            )
        else:
            var a, b = x.cast[DType.float32](), y.cast[DType.float32]()
            return (
                (a * cosine - b * sine).cast[dtype](),
                (b * cosine + a * sine).cast[dtype](),
            )

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

        Nothing is read as if it were constant: a GPU's kernel may overlap the
        one that wrote it.

        Parameters:
            dtype: The element type.

        Args:
            source: The head before.
            target: The head after.
            freqs: The table's row for the head's position.
            chunk: The chunk in `[0, num_chunks)`.
        """
        if not Self.turns(chunk):
            return Self.copy(source, target, chunk)
        var pair = chunk * Self.width
        var first, second = Self.places(chunk)
        var x, y = Self.turn(
            source.unsafe_load[width=Self.width, invariant=False](first),
            source.unsafe_load[width=Self.width, invariant=False](second),
            freqs.unsafe_load[width=Self.width, invariant=False](pair),
            freqs.unsafe_load[width=Self.width, invariant=False](
                Self.rope_dim // 2 + pair
            ),
        )
        target.unsafe_store(first, x)
        target.unsafe_store(second, y)

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
            element,
            source.unsafe_load[width=2 * Self.width, invariant=False](element),
        )
