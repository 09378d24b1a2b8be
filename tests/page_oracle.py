"""A stand-in for a model that knows what every slot of every page must hold.

Where a model would write keys and values it notes the namespace and all tokens
up to that position, which is what these depend on. So any page that is shared
wrongly, lost, or given away too early shows at the next look.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Slot = tuple[int, int]  # page, slot
Content = tuple[object, ...]


def content(context: Any, position: int) -> Content:
    """Returns what the keys and values of a position depend on."""
    tokens = context.tokens.all[: position + 1].tolist()
    return (context.cache_salt, context.model_name, *tokens)


class PageOracle:
    """Writes and checks the slots of pages through lookup tables alone."""

    def __init__(self, page_size: int, null_page: int) -> None:
        self.page_size = page_size
        self.null_page = null_page
        self.slots: dict[Slot, Content] = {}

    def run(
        self, batch: Sequence[Any], inputs: Any, *, num_steps: int = 1
    ) -> None:
        """Computes the active tokens of a batch, once its past is checked.

        The steps after the first one write what no one knows yet.
        """
        lengths = inputs.cache_lengths.to_numpy().tolist()
        table = inputs.lookup_table.to_numpy()
        self._check_shapes(batch, inputs, num_steps)
        for row, context in enumerate(batch):
            tokens = context.tokens
            assert lengths[row] == tokens.processed_length
            end = tokens.current_position + num_steps - 1
            columns = -(-end // self.page_size)
            assert (table[row, :columns] < self.null_page).all()
            assert (table[row, columns:] == self.null_page).all()
            for position in range(lengths[row]):
                place = self._place(table[row], position)
                assert self.slots[place] == content(context, position), (
                    f"position {position} of {context!r} is not in {place}"
                )
        for row, context in enumerate(batch):
            tokens = context.tokens
            end = tokens.current_position
            for position in range(lengths[row], end + num_steps - 1):
                known = content(context, position) if position < end else ()
                self.slots[self._place(table[row], position)] = known

    def note(self, batch: Sequence[Any], table: Any, start: list[int]) -> None:
        """Writes what later steps computed, now that their tokens are known."""
        for row, context in enumerate(batch):
            for position in range(start[row], context.tokens.processed_length):
                place = self._place(table[row], position)
                self.slots[place] = content(context, position)

    def _place(self, row: Any, position: int) -> Slot:
        column, slot = divmod(position, self.page_size)
        return int(row[column]), slot

    def _check_shapes(
        self, batch: Sequence[Any], inputs: Any, num_steps: int
    ) -> None:
        ends = [c.tokens.current_position for c in batch]
        longest = max(ends, default=0)
        columns = (
            -(-(longest + num_steps - 1) // self.page_size) if batch else 0
        )
        wanted = (len(batch), -(-columns // 8) * 8 + 16)
        assert tuple(inputs.lookup_table.shape) == wanted
        active = max((c.tokens.active_length for c in batch), default=0)
        first = [active, longest]
        later = [[1, longest + step] for step in range(1, num_steps)]
        np.testing.assert_array_equal(
            inputs.max_lengths.to_numpy(), [first, *later]
        )
