"""A batch that runs on the Mojo core, one call per step."""

import functools
import weakref
from collections.abc import Callable, Sequence
from operator import index
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcache.core.native_rows import RowMemory, readable
from kvcache.core.native_status import Status, raise_for
from kvcache.core.owner import Owner
from kvcache.core.running import (
    NO_MOVES,
    Prompt,
    StepMemory,
    check_count,
    check_prompts,
    check_rows,
)
from kvcache.core.values import Granted
from kvcache.errors import ClaimError, RequestStateError

MOVES = -1
"""What `advance` answers when it is done and has moves to carry out."""


class NativeRows:
    """`RunningRows` of a Mojo core.

    Args:
        module: The extension module.
        core: The core's address.
        rows: The memory through which it is talked to.
        number_of: Returns the core's number of a namespace.
        owner: The thread that may change the core.
        memory: Where the tables are written; C-contiguous.
    """

    def __init__(
        self,
        module: ModuleType,
        core: int,
        *,
        rows: RowMemory,
        number_of: Callable[[bytes], int],
        owner: Owner,
        memory: StepMemory,
    ) -> None:
        """Starts without rows."""
        self._module, self._core, self._rows = module, core, rows
        self._number_of, self._owner = number_of, owner
        self._memory = memory
        self._count = 0
        max_rows, columns = memory.lookup_table.shape
        self._most = min(max_rows, rows.capacity)
        config = np.array(
            [
                max_rows,
                columns,
                memory.cache_lengths.ctypes.data,
                memory.lookup_table.ctypes.data,
                memory.max_lengths.ctypes.data,
            ],
            np.int64,
        )
        self._batch: int = module.open_running(config.ctypes.data)
        self._tokens = np.zeros(max_rows, np.int64)
        self._tokens_address = self._tokens.ctypes.data
        self._admit = functools.partial(module.admit, core, self._batch)
        self._leave = functools.partial(module.leave, core, self._batch)
        weakref.finalize(self, module.close_running, self._batch)

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._count

    def admit(
        self,
        namespace: bytes,
        prompts: Sequence[Prompt],
        *,
        min_partial: int | None = None,
        max_onload: int | None = None,
    ) -> Granted:
        """Claims and reserves prompts; see `RunningRows.admit`."""
        self._owner.check()
        rows, count = self._rows, self._count + len(prompts)
        if count > self._most:
            raise ClaimError(f"wanted at most {self._most} rows, got {count}")
        most = -1 if max_onload is None else max_onload
        rows.set_limits(1, min_partial or 0, most)
        number = self._number_of(namespace)
        status = self._admit(number, list(prompts))
        if status == Status.UNREADABLE:
            check_prompts(prompts)
            status = self._admit(number, readable(prompts))
        if status:
            raise_for(status, rows)
        self._count = count
        return Granted(rows.hits(), rows.moves())

    def settle(self) -> None:
        """Takes every row's tokens as computed; see `RunningRows.settle`."""
        self._owner.check()
        self._module.settle(self._core, self._batch)

    def advance(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
        """Settles, and appends a token to each row."""
        self._owner.check()
        check_count(tokens, self._count)
        if tokens.dtype.kind != "i":
            raise RequestStateError(
                f"wanted integers as token ids, got {tokens.dtype}"
            )
        self._tokens[: self._count] = tokens
        status = self._module.advance(
            self._core, self._batch, self._tokens_address, 8
        )
        if status == MOVES:
            return self._rows.moves()
        if status:
            raise_for(status, self._rows)
        return NO_MOVES

    def leave(self, rows: Sequence[int]) -> None:
        """Releases rows; see `RunningRows.leave`."""
        self._owner.check()
        if self._leave(sorted(rows)):
            check_rows(rows, self._count)
            self._leave(sorted(map(index, rows)))  # Raises: no integers.
        self._count -= len(rows)

    def pages(self, row: int) -> npt.NDArray[np.uint32]:
        """Returns a row's pages in order."""
        self._owner.check()
        check_rows([row], self._count)
        self._module.look_at_row(self._core, self._batch, row)
        return self._rows.found()
