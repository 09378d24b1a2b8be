"""Computes over the scored blocks of a sequence, for each element of a tile."""

from std.math import exp, sqrt
from std.utils.numerics import neg_inf

comptime SOFTMAX = 0
"""`exp(scale * x)`, divided by its sum."""

comptime NORMALIZE = 1
"""`x`, divided by its sum."""

comptime MEAN = 2
"""The mean, one for all blocks."""

comptime MAX = 3
"""The largest, one for all blocks."""

comptime MIN = 4
"""The smallest, one for all blocks."""

comptime L2_NORM = 5
"""The square root of the sum of squares, one for all blocks."""

comptime SUM = 6
"""The sum, one for all blocks."""


@fieldwise_init
struct OverBlocks(Equatable, TrivialRegisterPassable):
    """What is computed."""

    var kind: Int
    """One of the above."""

    var length: Int
    """The elements of a tile."""

    var scale: Float32
    """With `SOFTMAX` the factor of `x`; else it does not matter."""

    @always_inline
    def is_per_block(self) -> Bool:
        """Returns whether each block has a result.

        Returns:
            True if it has; else there is one for the sequence.
        """
        return self.kind <= NORMALIZE

    @always_inline
    def first_sum(self) -> Float32:
        """Returns what the sum is before the first element.

        Returns:
            What changes no element that is added.
        """
        if self.kind == MAX:
            return neg_inf[DType.float32]()
        if self.kind == MIN:
            return -neg_inf[DType.float32]()
        return 0

    @always_inline
    def add(self, sum: Float32, x: Float32, largest: Float32) -> Float32:
        """Adds an element to what is summed up.

        Args:
            sum: The sum so far.
            x: The element.
            largest: With `SOFTMAX` the largest element times `scale`.

        Returns:
            The sum with the element.
        """
        if self.kind == SOFTMAX:
            return sum + self.weight(x, largest)
        if self.kind == MAX:
            return max(sum, x)
        if self.kind == MIN:
            return min(sum, x)
        if self.kind == L2_NORM:
            return sum + x * x
        return sum + x

    @always_inline
    def merge(self, a: Float32, b: Float32) -> Float32:
        """Puts two sums together.

        Args:
            a: One sum.
            b: The other.

        Returns:
            The sum of both.
        """
        if self.kind == MAX:
            return max(a, b)
        if self.kind == MIN:
            return min(a, b)
        return a + b

    @always_inline
    def weight(self, x: Float32, largest: Float32) -> Float32:
        """Computes an exponential that does not overflow.

        Args:
            x: The element.
            largest: The largest element times `scale`.

        Returns:
            `exp(scale * x - largest)`.
        """
        return exp(self.scale * x - largest)

    @always_inline
    def of_block(self, x: Float32, sum: Float32, largest: Float32) -> Float32:
        """Returns the result for a block.

        Args:
            x: Its element.
            sum: The sum over all blocks.
            largest: With `SOFTMAX` the largest element times `scale`.

        Returns:
            The element's share.
        """
        if self.kind == SOFTMAX:
            return self.weight(x, largest) / sum
        return x / sum

    @always_inline
    def of_all(self, sum: Float32, num_blocks: Int) -> Float32:
        """Returns the result for all blocks.

        Args:
            sum: The sum over them.
            num_blocks: How many they are.

        Returns:
            The result.
        """
        if self.kind == MEAN:
            return sum / Float32(num_blocks)
        if self.kind == L2_NORM:
            return sqrt(sum)
        return sum
