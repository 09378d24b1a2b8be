"""A batch that runs: one call a step, tables written in place."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from max.driver import Buffer

from kvcache.core.digest import namespace
from kvcache.core.interface import Counts
from kvcache.core.running import Prompt, StepMemory
from kvcache.errors import SequenceTooLongError
from kvcache.manager.device import ReplicaPools
from kvcache.manager.inputs import RaggedKVCacheInputs
from kvcache.manager.replica import Replica
from kvcache.manager.tables import padded_columns
from kvcache.spec import pages_for


class RunningBatch:
    """Sequences that decode together, known by their rows.

    For loops that keep tokens themselves: nothing is looked up by request,
    prompts and tokens come as arrays, and the tables that a graph reads are
    written in place. A step of a batch is one call and allocates nothing.

    The tokens of a row are active until `commit` or `advance` says that they
    were computed. A call that raises has changed nothing, but for what
    `advance` says. Rows count as claimed requests of their replica.

    Args:
        replica: Keeps the books.
        pools: Has the pages.
        max_rows: Rows that fit.
        max_seq_len: Tokens of the longest row.
    """

    def __init__(
        self,
        replica: Replica,
        pools: ReplicaPools,
        *,
        max_rows: int,
        max_seq_len: int,
    ) -> None:
        """Starts without rows."""
        self._replica, self._pools = replica, pools
        columns = padded_columns(pages_for(max_seq_len, replica.core.page_size))
        self._tables = StepBuffers(max_rows, columns)
        self._rows = replica.core.open_batch(self._tables.memory)
        self._max_seq_len = max_seq_len

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._rows)

    def admit(
        self,
        prompts: Sequence[Prompt],
        *,
        cache_salt: str | None = None,
        model_name: str = "",
    ) -> Counts:
        """Takes prompts as further rows, with their cached prefixes.

        Args:
            prompts: Token ids of each, int32 or int64 `[num_tokens]`.
            cache_salt: Prompts share cached pages only under equal salts.
            model_name: Prompts share cached pages only under equal models.

        Returns:
            The tokens of each prompt that are cached, int64 `[num_prompts]`.

        Raises:
            ClaimError: If there are more rows than fit.
            InsufficientPagesError: If the pages are not there; then no prompt
                was taken.
            SequenceTooLongError: If a prompt is longer than `max_seq_len`.
            RequestStateError: If a prompt is empty, or an id does not fit 32
                bits.
        """
        lengths, replica = list(map(len, prompts)), self._replica
        self._check_length(max(lengths, default=0))
        root = namespace(cache_salt=cache_salt, model_name=model_name)
        replica.keeper.tick()
        found = replica.taker.admit(
            self._rows, root, prompts, min_partial=replica.min_partial
        )
        replica.claims.note(root)
        replica.prompts.count(
            sum(lengths), found.tolist(), page_size=replica.core.page_size
        )
        replica.verify()
        return found

    def inputs(self) -> list[RaggedKVCacheInputs]:
        """Returns what a graph needs to compute the active tokens.

        Returns:
            The inputs of each device. On the CPU they are the memory that the
            next call writes into: let the graph run to its end before.
        """
        return self._pools.inputs_of(self._tables.of(len(self._rows)))

    def commit(self) -> None:
        """Takes the active tokens as computed; full pages become findable.

        `advance` does so too: this is for rows that leave without a further
        token.
        """
        self._rows.settle()
        self._replica.verify()

    def advance(self, tokens: npt.NDArray[np.integer]) -> None:
        """Takes the active tokens as computed, and one more for each row.

        Full pages become findable, and a row whose pages are full gets one.

        Args:
            tokens: The generated token ids, int32 or int64 `[rows]`.

        Raises:
            InsufficientPagesError: If the pages are not there. Nothing has
                changed: let rows leave, drop their tokens, and call again.
            SequenceTooLongError: If a row would pass `max_seq_len`.
            RequestStateError: If there is not one id for each row, or one does
                not fit 32 bits.
        """
        self._check_length(self._tables.memory.max_lengths.item(1) + 1)
        if self._replica.keeper.has_ttl:
            self._replica.keeper.tick()
        self._replica.taker.carry_out(self._rows.advance(tokens))
        self._replica.verify()

    def leave(self, rows: Sequence[int]) -> None:
        """Gives the pages of rows back; the others close up in order.

        What they committed stays findable until its pages are handed out
        again.

        Args:
            rows: The rows, each once.

        Raises:
            RequestStateError: If there is no such row, or one comes twice.
        """
        self._rows.leave(rows)
        self._replica.verify()

    def pages(self, row: int) -> list[int]:
        """Returns a row's pages in order.

        Raises:
            RequestStateError: If there is no such row.
        """
        pages: list[int] = self._rows.pages(row).tolist()
        return pages

    def _check_length(self, length: int) -> None:
        if length > self._max_seq_len:
            raise SequenceTooLongError(
                f"wanted at most {self._max_seq_len} tokens in a row, got "
                f"{length}"
            )


class StepBuffers:
    """A batch's tables as buffers that share their memory with arrays.

    Args:
        max_rows: Rows that fit.
        columns: Columns of the lookup table.
    """

    def __init__(self, max_rows: int, columns: int) -> None:
        """Takes the memory."""
        self.memory = StepMemory(
            np.zeros(max_rows, np.uint32),
            np.zeros((max_rows, columns), np.uint32),
            np.zeros((1, 2), np.uint32),
        )
        self._lengths = Buffer.from_dlpack(self.memory.cache_lengths)
        self._table = Buffer.from_dlpack(self.memory.lookup_table)
        self._longest = Buffer.from_dlpack(self.memory.max_lengths)
        self._views: tuple[Buffer, Buffer, Buffer] | None = None
        self._count = -1

    def of(self, rows: int) -> tuple[Buffer, Buffer, Buffer]:
        """Returns lengths, table and longest lengths of the first rows."""
        if self._views is None or rows != self._count:
            lengths, table = self._lengths[:rows], self._table[:rows, :]
            self._views, self._count = (lengths, table, self._longest), rows
        return self._views
