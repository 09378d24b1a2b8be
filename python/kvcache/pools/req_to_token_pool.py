"""Which slots hold the tokens of each request."""

from collections import deque

import torch

from kvcache.errors import SlotStateError
from kvcache.pools.devices import available_device, zeros
from kvcache.pools.indices import at_least, check_index
from kvcache.pools.table_index import (
    Part,
    bounded,
    check_length,
    check_values,
    shape_of,
)


class ReqToTokenPool:
    """A table with one row a request and one column a position.

    Rows are numbered from 1 to `max_reqs`. Row 0 is nobody's: a padded entry
    of a batch names it and finds slot 0 in every column. `GDNPool` takes the
    same numbers, so a request's state is never where padding goes.

    The table does not know how long its requests are: the caller does, and
    reads `req_to_token[request, :length]`.

    Args:
        max_reqs: Requests at the same time.
        max_context_len: The longest request, in tokens.
        device: Where the table is.

    Raises:
        DeviceNotAvailableError: If torch does not have the device.
        InvalidParamsError: If a size is not positive.
    """

    req_to_token: torch.Tensor
    """The slots, int32 `[max_reqs + 1, max_context_len]`."""
    checks_indices: bool
    """Whether `write` looks at the values of tensors first.

    True on the CPU. On a GPU that would wait for the device on each call; what
    Python's own numbers say is checked always.
    """

    def __init__(
        self,
        max_reqs: int,
        max_context_len: int,
        device: str | torch.device = "cuda",
    ) -> None:
        """Makes a table of zeros; all requests are free."""
        self.size = at_least(max_reqs, 1, "max_reqs")
        self.max_context_len = at_least(max_context_len, 1, "max_context_len")
        self.device = available_device(device)
        self.checks_indices = self.device.type == "cpu"
        self.req_to_token = zeros(
            [max_reqs + 1, max_context_len],
            dtype=torch.int32,
            device=self.device,
        )
        self._free_all()

    def _free_all(self) -> None:
        self._free = deque(range(1, self.size + 1))
        self._is_held = torch.zeros(self.size + 1, dtype=torch.bool)

    def available_size(self) -> int:
        """Returns how many requests can be allocated now."""
        return len(self._free)

    def alloc(self, n: int = 1) -> list[int] | None:
        """Takes rows for requests, those freed longest ago first.

        Args:
            n: How many requests.

        Returns:
            Their rows, or None if too few are free; then none was taken. A row
            still has what its last request wrote.

        Raises:
            InvalidParamsError: If the count is negative.
        """
        if at_least(n, 0, "n") > len(self._free):
            return None
        taken = [self._free.popleft() for _ in range(n)]
        for row in taken:
            self._is_held[row] = True
        return taken

    def free(self, slot: int) -> None:
        """Gives a request's row back.

        Raises:
            SlotRangeError: If there is no such row, or it is row 0.
            SlotStateError: If the row is free already.
        """
        row = check_index(slot, 1, self.size, "request")
        self._check_rows(row)
        self._is_held[row] = False
        self._free.append(row)

    def write(
        self, index: Part | tuple[Part, Part], values: torch.Tensor | int
    ) -> None:
        """Writes slots into the table.

        Args:
            index: Requests, or requests and positions: each an integer, a
                slice or a tensor of int32 or int64. Often `(request,
                slice(begin, end))`, or two tensors of one shape.
            values: The slots, int32 or int64 of the shape that the index has,
                or one slot for all of it.

        Raises:
            SequenceTooLongError: If a position is past `max_context_len`.
            SlotRangeError: If a request or a position is out of range, or a
                slot is negative or past what int32 holds.
            SlotStateError: If a request was not allocated.
            TensorMismatchError: If `values` has another shape or dtype.
        """
        if not isinstance(index, tuple):
            index = (index, slice(None))
        rows, columns = index
        looks = self.checks_indices
        rows = bounded(rows, self.size + 1, name="request", looks=looks)
        self._check_rows(rows)
        check_length(columns, self.max_context_len, looks=looks)
        columns = bounded(
            columns, self.max_context_len, name="position", looks=looks
        )
        check_values(values, shape_of(rows, columns), looks=looks)
        if isinstance(values, torch.Tensor):
            values = values.to(self.req_to_token.device, torch.int32)
        self.req_to_token[rows, columns] = values

    def clear(self) -> None:
        """Makes all requests free and the table zero."""
        self._free_all()
        self.req_to_token.zero_()

    def _check_rows(self, rows: Part) -> None:
        """Raises if a request that an index names is not allocated."""
        if not isinstance(rows, torch.Tensor):
            held = self._is_held[rows]
        elif self.checks_indices:
            held = self._is_held[rows.to("cpu")]
        else:
            return
        if not bool(held.all()):
            raise SlotStateError(f"request: {rows} is not allocated")
