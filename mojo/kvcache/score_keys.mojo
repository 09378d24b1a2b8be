"""Scores as integers of the same order, and the bar that the highest reach."""

from std.memory import bitcast
from std.utils.numerics import isnan, neg_inf

comptime DIGIT_BITS = 8
"""The bits of a key that are looked at in one pass."""

comptime DIGITS = 1 << DIGIT_BITS
"""The values of a digit."""

comptime KEY_BITS = 32
"""The bits of a key."""


@always_inline
def sortable[
    width: SIMDLength, //
](score: SIMD[DType.float32, width]) -> SIMD[DType.uint32, width]:
    """Returns keys that are in the order of scores.

    No number counts as minus infinity, and both zeros are the same.

    Parameters:
        width: How many scores.

    Args:
        score: The scores.

    Returns:
        The keys.
    """
    comptime Scores = SIMD[DType.float32, width]
    comptime Keys = SIMD[DType.uint32, width]
    var number = isnan(score).select(Scores(neg_inf[DType.float32]()), score)
    number = number.eq(0).select(Scores(0), number)
    var bits = bitcast[DType.uint32, Int(width)](number)
    var flip = (bits >> 31).eq(0).select(Keys(0x8000_0000), Keys(0xFFFF_FFFF))
    return rebind[Keys](bits ^ rebind[type_of(bits)](flip))


struct Bar(TrivialRegisterPassable):
    """What a key must reach to be chosen, digit by digit from the highest.

    See:
        [RadiK](https://arxiv.org/abs/2501.14336), for selection by digits.
    """

    var prefix: UInt32
    """The digits that are known."""

    var mask: UInt32
    """Where they are."""

    var wanted: Int32
    """How many of the keys that begin with the known digits are chosen."""

    def __init__(out self, wanted: Int):
        """Knows no digit.

        Args:
            wanted: How many keys are chosen.
        """
        self.prefix = 0
        self.mask = 0
        self.wanted = Int32(wanted)

    @always_inline
    def is_above(self, key: UInt32) -> Bool:
        """Returns whether a key is chosen for sure.

        Args:
            key: The key.

        Returns:
            Whether it is.
        """
        return key & self.mask > self.prefix

    @always_inline
    def is_at(self, key: UInt32) -> Bool:
        """Returns whether a key begins with the known digits.

        Args:
            key: The key.

        Returns:
            Whether it does: the first `wanted` of those are chosen.
        """
        return key & self.mask == self.prefix

    @always_inline
    def learn(mut self, digit: UInt32, shift: Int, above: Int32):
        """Takes the next digit.

        Args:
            digit: The digit.
            shift: The bits below it.
            above: The keys that begin with the known digits and have a higher
                one next.
        """
        self.prefix |= digit << UInt32(shift)
        self.mask |= UInt32(DIGITS - 1) << UInt32(shift)
        self.wanted -= above
