"""Token ids as callers give them, and as pages keep them."""

from std.memory import unsafe_memcpy

from .memory import Ptr, at_address

comptime LANES = 8
"""Token ids that are looked at together."""

comptime BLOCK = 16
"""Token ids that are compared before the first difference is asked for."""


struct Tokens(TrivialRegisterPassable):
    """A caller's row of token ids, of 32 or 64 bits each."""

    var address: Int
    """Where the row starts."""
    var length: Int
    """How many token ids there are."""
    var is_wide: Bool
    """Whether an id has 64 bits."""

    def __init__(out self, *, address: Int, length: Int, width: Int):
        """Names a caller's row.

        Args:
            address: Where the row starts.
            length: How many token ids there are.
            width: Bytes of an id, 4 or 8.
        """
        self.address = address
        self.length = length
        self.is_wide = width == 8

    def width(self) -> Int:
        """Returns the bytes of an id.

        Returns:
            4 or 8.
        """
        return 8 if self.is_wide else 4

    def equal(self, first: Int, kept: Ptr[Int32], count: Int) -> Bool:
        """Returns whether ids are those that a page keeps.

        Args:
            first: The first id's place in the row.
            kept: The page's ids, `[count]`.
            count: How many ids.

        Returns:
            Whether all are equal.
        """
        if self.is_wide:
            return _equal(self._row[DType.int64](first), kept, count)
        return _equal(self._row[DType.int32](first), kept, count)

    def common(self, first: Int, kept: Ptr[Int32], count: Int) -> Int:
        """Returns how many leading ids are those that a page keeps.

        Args:
            first: The first id's place in the row.
            kept: The page's ids, `[count]`.
            count: How many ids to look at.

        Returns:
            The length of the common beginning.
        """
        for i in range(count):
            if self[first + i] != kept[unsafe_offset=i].cast[DType.int64]():
                return i
        return count

    def copy_to(self, kept: Ptr[Int32], first: Int, count: Int):
        """Writes ids into a page; they must fit 32 bits.

        Args:
            kept: The page's ids, `[count]`.
            first: The first id's place in the row.
            count: How many ids.
        """
        if not self.is_wide:
            unsafe_memcpy(
                dest=kept, src=self._row[DType.int32](first), count=count
            )
            return
        var row = self._row[DType.int64](first)
        var i = 0
        while i + LANES <= count:
            kept.unsafe_store(
                i, row.unsafe_load[width=LANES](i).cast[DType.int32]()
            )
            i += LANES
        while i < count:
            kept[unsafe_offset=i] = row[unsafe_offset=i].cast[DType.int32]()
            i += 1

    def fit(self, first: Int, end: Int) -> Bool:
        """Returns whether ids fit 32 bits.

        Args:
            first: The first id's place in the row.
            end: The place behind the last one.

        Returns:
            Whether all do.
        """
        if not self.is_wide:
            return True
        var row = self._row[DType.int64](first)
        var count = end - first
        var misfits = SIMD[DType.int64, LANES](0)
        var i = 0
        while i + LANES <= count:
            var ids = row.unsafe_load[width=LANES](i)
            misfits |= ids ^ ids.cast[DType.int32]().cast[DType.int64]()
            i += LANES
        var rest = misfits.reduce_or()
        while i < count:
            var id = row[unsafe_offset=i]
            rest |= id ^ id.cast[DType.int32]().cast[DType.int64]()
            i += 1
        return rest == 0

    def __getitem__(self, index: Int) -> Int64:
        """Returns one id.

        Args:
            index: Its place in the row.

        Returns:
            The id.
        """
        if self.is_wide:
            return self._row[DType.int64](index)[unsafe_offset=0]
        var id = self._row[DType.int32](index)[unsafe_offset=0]
        return id.cast[DType.int64]()

    def _row[dtype: DType](self, first: Int) -> Ptr[Scalar[dtype]]:
        return at_address[Scalar[dtype]](self.address).unsafe_offset(first)


def _equal[
    dtype: DType
](row: Ptr[Scalar[dtype]], kept: Ptr[Int32], count: Int) -> Bool:
    var i = 0
    while i + 4 * BLOCK <= count:
        if _differ[4 * BLOCK](row.unsafe_offset(i), kept.unsafe_offset(i)):
            return False
        i += 4 * BLOCK
    while i + BLOCK <= count:
        if _differ[BLOCK](row.unsafe_offset(i), kept.unsafe_offset(i)):
            return False
        i += BLOCK
    while i < count:
        if row[unsafe_offset=i] != kept[unsafe_offset=i].cast[dtype]():
            return False
        i += 1
    return True


@always_inline
def _differ[
    dtype: DType, //, count: Int
](row: Ptr[Scalar[dtype]], kept: Ptr[Int32]) -> Bool:
    var differ = SIMD[dtype, LANES](0)
    comptime for part in range(count // LANES):
        var there = kept.unsafe_load[width=LANES](part * LANES).cast[dtype]()
        differ |= row.unsafe_load[width=LANES](part * LANES) ^ there
    return differ.reduce_or() != 0
