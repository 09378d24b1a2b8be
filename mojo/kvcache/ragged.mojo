"""Finds which sequence a row of a ragged batch belongs to."""

from std.builtin.device_passable import DevicePassable, DeviceTypeEncoder


struct RaggedBatch(DevicePassable, TrivialRegisterPassable):
    """The sequences of a ragged batch: rows end to end, without padding.

    Sequence `s` owns the rows `[offsets[s], offsets[s + 1])`; it may be empty.
    """

    comptime device_type: AnyType = Self
    """The type that a GPU kernel receives: this one."""

    var offsets: Pointer[UInt32, ImmUntrackedOrigin]
    """Where each sequence starts: uint32 `[batch_size + 1]`."""

    var batch_size: Int64
    """The number of sequences."""

    def __init__(
        out self, input_row_offsets: Pointer[UInt32, _], batch_size: Int
    ):
        """Wraps the row offsets of a batch.

        Args:
            input_row_offsets: Where each sequence starts, `[batch_size + 1]`.
            batch_size: The number of sequences.
        """
        self.offsets = input_row_offsets.unsafe_mut_cast[
            False
        ]().unsafe_origin_cast[ImmUntrackedOrigin]()
        self.batch_size = Int64(batch_size)

    def _to_device_type(
        self, mut encoder: Some[DeviceTypeEncoder], target: MutOpaquePointer[_]
    ):
        encoder.encode(self, target)

    @staticmethod
    def get_type_name() -> String:
        """Returns the name of this type.

        Returns:
            The name.
        """
        return "RaggedBatch"

    @always_inline
    def start(self, seq: Int) -> Int:
        """Returns a sequence's first row.

        Args:
            seq: The sequence in `[0, batch_size]`.

        Returns:
            The row; for `batch_size`, the number of rows of the batch.
        """
        return Int(self.offsets[unsafe_offset=seq])

    @always_inline
    def num_rows(self) -> Int:
        """Returns how many rows the batch has.

        Returns:
            The rows of all sequences.
        """
        return self.start(Int(self.batch_size))

    @always_inline
    def sequence_of(self, row: Int) -> Int:
        """Returns the sequence that owns a row.

        Args:
            row: The row in `[0, num_rows())`.

        Returns:
            The sequence.
        """
        var low = 0
        var high = Int(self.batch_size)
        while high - low > 1:
            var middle = (low + high) // 2
            if self.start(middle) <= row:
                low = middle
            else:
                high = middle
        return low
