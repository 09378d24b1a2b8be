"""The rows of a call: which sequences, and the windows of their tokens."""

from .memory import Ptr
from .tokens import Tokens

comptime HEADER = 16
"""Numbers before the first row's."""

comptime NUM_FIELDS = 7
"""Numbers of a row."""


struct Row(TrivialRegisterPassable):
    """One sequence and the window of its tokens that comes next."""

    var seq: Int
    """The sequence."""
    var processed: Int
    """Tokens whose keys and values exist."""
    var active: Int
    """Tokens that are computed next."""
    var tokens: Tokens
    """All its tokens."""

    def __init__(
        out self, *, seq: Int, processed: Int, active: Int, tokens: Tokens
    ):
        """Names a sequence's window.

        Args:
            seq: The sequence.
            processed: Tokens whose keys and values exist.
            active: Tokens that are computed next.
            tokens: All its tokens.
        """
        self.seq = seq
        self.processed = processed
        self.active = active
        self.tokens = tokens


struct Rows(Sized, TrivialRegisterPassable):
    """What a caller wrote for a call, and where it reads the answer.

    A header of `HEADER` numbers, then each field of all rows.
    """

    var numbers: Ptr[Int64]
    """The caller's memory."""
    var stride: Int
    """Rows that fit."""

    def __init__(out self, numbers: Ptr[Int64], *, stride: Int):
        """Wraps the caller's memory.

        Args:
            numbers: `[HEADER + NUM_FIELDS * stride]`.
            stride: Rows that fit.
        """
        self.numbers = numbers
        self.stride = stride

    def __len__(self) -> Int:
        """Returns how many rows there are.

        Returns:
            The number of rows.
        """
        return self.header(0)

    def header(self, place: Int) -> Int:
        """Returns a number of the header.

        Args:
            place: Which one.

        Returns:
            The number.
        """
        return Int(self.numbers[unsafe_offset=place])

    def set_header(self, place: Int, value: Int):
        """Writes a number of the header.

        Args:
            place: Which one.
            value: The number.
        """
        self.numbers[unsafe_offset=place] = Int64(value)

    def num_steps(self) -> Int:
        """Returns how often the model runs; 0 to take the prefixes alone.

        Returns:
            The number of steps.
        """
        return self.header(1)

    def min_partial(self) -> Int:
        """Returns the fewest tokens of a partial hit; 0 for none.

        Returns:
            The number of tokens.
        """
        return self.header(2)

    def max_onload(self) -> Int:
        """Returns how many host pages a row may load; -1 for any number.

        Returns:
            The number of pages.
        """
        return self.header(3)

    def row(self, index: Int) -> Row:
        """Returns a row.

        Args:
            index: Which one.

        Returns:
            The row.
        """
        return Row(
            seq=self._field(0, index),
            processed=self._field(1, index),
            active=self._field(2, index),
            tokens=Tokens(
                address=self._field(4, index),
                length=self._field(3, index),
                width=self._field(5, index),
            ),
        )

    def set_seq(self, index: Int, seq: Int):
        """Names a row's sequence.

        Args:
            index: Which row.
            seq: The sequence.
        """
        self._set_field(0, index, seq)

    def set_window(self, index: Int, *, processed: Int, active: Int):
        """Says what of a row comes next.

        Args:
            index: Which row.
            processed: Tokens whose keys and values exist.
            active: Tokens that are computed next.
        """
        self._set_field(1, index, processed)
        self._set_field(2, index, active)

    def set_tokens(self, index: Int, tokens: Tokens):
        """Says where a row's tokens are.

        Args:
            index: Which row.
            tokens: All its tokens.
        """
        self._set_field(3, index, tokens.length)
        self._set_field(4, index, tokens.address)
        self._set_field(5, index, tokens.width())

    def hit(self, index: Int) -> Int:
        """Returns the answer of `set_hit`.

        Args:
            index: Which row.

        Returns:
            Tokens beyond the processed ones.
        """
        return self._field(6, index)

    def set_hit(self, index: Int, tokens: Int):
        """Answers how many tokens a row's hit has.

        Args:
            index: Which row.
            tokens: Tokens beyond the processed ones.
        """
        self._set_field(6, index, tokens)

    def _set_field(self, field: Int, index: Int, value: Int):
        var place = HEADER + field * self.stride + index
        self.numbers[unsafe_offset=place] = Int64(value)

    def _field(self, field: Int, index: Int) -> Int:
        var place = HEADER + field * self.stride + index
        return Int(self.numbers[unsafe_offset=place])
