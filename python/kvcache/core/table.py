"""Which pages each sequence holds, in order."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvcache.errors import PageStateError

_FIRST_CAPACITY = 8


class PageTable:
    """A row of pages per sequence.

    Args:
        num_sequences: How many rows there are, all empty at first.

    Performance:
        A row grows in amortised constant time per page, and what a call costs
        does not depend on how many rows there are.
    """

    def __init__(self, num_sequences: int) -> None:
        """Starts with empty rows."""
        empty = np.empty(0, np.uint32)
        self._rows: list[npt.NDArray[np.uint32]] = [empty] * num_sequences
        self._num_pages = np.zeros(num_sequences, np.int64)

    def __len__(self) -> int:
        """Returns how many rows there are."""
        return len(self._rows)

    def num_pages(self, seqs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns how many pages each of some sequences holds, `[batch]`."""
        return self._num_pages[seqs]

    def pages(self, seq: int) -> npt.NDArray[np.uint32]:
        """Returns a sequence's pages in order, as a read-only view."""
        view = self._rows[seq][: self._num_pages[seq]]
        view.flags.writeable = False
        return view

    def extend(self, seq: int, pages: Sequence[int]) -> None:
        """Appends pages to a sequence's row."""
        held = int(self._num_pages[seq])
        wanted = held + len(pages)
        if wanted > self._rows[seq].size:
            grown = np.empty(max(2 * held, wanted, _FIRST_CAPACITY), np.uint32)
            grown[:held] = self._rows[seq][:held]
            self._rows[seq] = grown
        self._rows[seq][held:wanted] = pages
        self._num_pages[seq] = wanted

    def replace(self, seq: int, column: int, pages: Sequence[int]) -> None:
        """Puts pages in the place of those from `column` on.

        Raises:
            PageStateError: If the row has fewer pages than would be replaced.
        """
        end = column + len(pages)
        if not 0 <= column <= end <= self._num_pages[seq]:
            raise PageStateError(
                f"wanted columns within the {self._num_pages[seq]} pages held, "
                f"got {column} to {end}"
            )
        self._rows[seq][column:end] = pages

    def truncate(self, seq: int, num_pages: int) -> None:
        """Keeps the first pages of a sequence, all if it has no more."""
        self._num_pages[seq] = min(num_pages, self._num_pages[seq])

    def clear(self, seq: int) -> None:
        """Empties a sequence's row and gives its memory back."""
        self._rows[seq] = np.empty(0, np.uint32)
        self._num_pages[seq] = 0

    def fill(
        self,
        seqs: npt.NDArray[np.int64],  # [batch]
        num_pages: npt.NDArray[np.int64],  # [batch]
        lookup_table: npt.NDArray[np.uint32],  # [batch, columns], filled up
    ) -> None:
        """Writes the first `num_pages` pages of each sequence into its row.

        Raises:
            PageStateError: If a sequence holds fewer, or they do not fit.
        """
        held = self._num_pages[seqs]
        if (short := np.flatnonzero(num_pages > held)).size:
            first = short[0]
            raise PageStateError(
                f"wanted {num_pages[first]} pages of sequence {seqs[first]}, "
                f"it holds {held[first]}"
            )
        if num_pages.max(initial=0) > lookup_table.shape[1]:
            raise PageStateError(
                f"wanted at least {num_pages.max()} columns, got "
                f"{lookup_table.shape[1]}"
            )
        rows = zip(seqs.tolist(), num_pages.tolist(), strict=True)
        for row, (seq, count) in enumerate(rows):
            lookup_table[row, :count] = self._rows[seq][:count]
