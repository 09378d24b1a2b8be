"""A batch that runs: its tables are written in place, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.core.interface import CacheCore
from kvcache.core.values import Batch, Granted
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    RequestStateError,
    SequenceTooLongError,
)
from kvcache.spec import pages_for

Prompt: TypeAlias = npt.NDArray[Any]
"""Token ids, int32 or int64 `[num_tokens]`; at least one."""


NO_MOVES: npt.NDArray[np.uint32] = np.empty((0, 3), np.uint32)
"""What a step moves as a rule."""


@dataclass(frozen=True, slots=True, eq=False)
class StepMemory:
    """What a graph is told of a batch, in memory that is written in place."""

    cache_lengths: npt.NDArray[np.uint32]
    """Tokens computed before this step, `[max_rows]`."""
    lookup_table: npt.NDArray[np.uint32]
    """Pages of each row, `[max_rows, columns]`; the rest is the null page."""
    max_lengths: npt.NDArray[np.uint32]
    """Longest new part and longest whole, `[1, 2]`."""


class RunningRows(Protocol):
    """Sequences that run together, in the order in which they came.

    Rows are from 0 to `len` - 1. A call that raises has changed nothing.
    """

    def __len__(self) -> int:
        """Returns the number of rows."""

    def admit(
        self,
        namespace: bytes,
        prompts: Sequence[Prompt],
        *,
        min_partial: int | None = None,
        max_onload: int | None = None,
    ) -> Granted:
        """Claims and reserves prompts as further rows, all or none.

        Args:
            namespace: Prompts share pages only under equal namespaces.
            prompts: The token ids of each.
            min_partial: Tokens of a page from which on a part of it is copied.
            max_onload: Pages to move from the host for each prompt at most.

        Raises:
            ClaimError: If there are more rows than fit, or sequences left.
            InsufficientPagesError: If the pages are not there.
            SequenceTooLongError: If a prompt takes more columns than there are.
            RequestStateError: If a token id does not fit 32 bits.
        """

    def settle(self) -> None:
        """Takes every row's tokens as computed; full pages become findable."""

    def advance(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
        """Settles, and appends one token to each row.

        Args:
            tokens: Token ids, int32 or int64 `[rows]`.

        Returns:
            What is to be moved, as in `Granted.moves`.

        Raises:
            InsufficientPagesError: If the pages are not there; then the rows
                are not settled either.
            SequenceTooLongError: If a row takes more columns than there are.
            RequestStateError: If a token id does not fit 32 bits.
        """

    def leave(self, rows: Sequence[int]) -> None:
        """Releases rows; the others close up in order.

        Args:
            rows: The rows, each once.
        """

    def pages(self, row: int) -> npt.NDArray[np.uint32]:
        """Returns a row's pages in order."""


@dataclass(slots=True, eq=False)
class _Row:
    seq: int
    tokens: npt.NDArray[np.int64]
    processed: int


class PlainRows:
    """`RunningRows` over any core, a few calls a row; slow.

    Args:
        core: Keeps the pages' books.
        memory: Where the tables are written.
    """

    def __init__(self, core: CacheCore, memory: StepMemory) -> None:
        """Starts without rows."""
        self._core = core
        self._memory = memory
        self._rows: list[_Row] = []

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._rows)

    def admit(
        self,
        namespace: bytes,
        prompts: Sequence[Prompt],
        *,
        min_partial: int | None = None,
        max_onload: int | None = None,
    ) -> Granted:
        """Claims and reserves prompts; see `RunningRows.admit`."""
        rows = len(self._rows) + len(prompts)
        if rows > len(self._memory.cache_lengths):
            raise ClaimError(
                f"wanted at most {len(self._memory.cache_lengths)} rows, got "
                f"{rows}"
            )
        check_prompts(prompts)
        for prompt in prompts:
            check_ids(prompt)
            self._check_columns(len(prompt))
        seqs: list[int] = []
        try:
            seqs.extend(self._core.claim(namespace) for _ in prompts)
            ids = [np.asarray(prompt, np.int64) for prompt in prompts]
            granted = self._core.reserve(
                Batch(
                    np.array(seqs, np.int64),
                    np.zeros(len(seqs), np.int64),
                    np.array([len(prompt) for prompt in ids], np.int64),
                    ids,
                ),
                num_steps=1,
                min_partial=min_partial,
                max_onload=max_onload,
            )
        except Exception:
            for seq in reversed(seqs):
                self._core.release(seq)
            raise
        self._rows.extend(map(_Row, seqs, ids, granted.hits.tolist()))
        self._write_tables()
        return granted

    def settle(self) -> None:
        """Takes every row's tokens as computed; see `RunningRows.settle`."""
        for row in self._rows:
            self._settle(row)
        self._write_tables()

    def advance(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
        """Settles, and appends a token to each row."""
        check_count(tokens, len(self._rows))
        check_ids(tokens)
        self._check_step()
        moves = [NO_MOVES]
        for row, token in zip(self._rows, tokens.tolist(), strict=True):
            self._settle(row)
            row.tokens = np.append(row.tokens, token)
            granted = self._core.reserve(_one(row), num_steps=1)
            moves.append(granted.moves)
        self._write_tables()
        return np.concatenate(moves)

    def leave(self, rows: Sequence[int]) -> None:
        """Releases rows; see `RunningRows.leave`."""
        check_rows(rows, len(self._rows))
        for row in sorted(rows):
            self._core.release(self._rows[row].seq)
        gone = set(rows)
        self._rows = [
            row for place, row in enumerate(self._rows) if place not in gone
        ]
        self._write_tables()

    def pages(self, row: int) -> npt.NDArray[np.uint32]:
        """Returns a row's pages in order."""
        return self._core.pages(self._rows[row].seq)

    def _settle(self, row: _Row) -> None:
        row.processed = len(row.tokens)
        self._core.commit(_one(row))

    def _check_step(self) -> None:
        size = self._core.page_size
        full = [row for row in self._rows if len(row.tokens) % size == 0]
        for row in full:
            self._check_columns(len(row.tokens) + 1)
        if len(full) > self._core.num_free:
            raise InsufficientPagesError(
                wanted=len(full), free=self._core.num_free
            )

    def _check_columns(self, length: int) -> None:
        columns = self._memory.lookup_table.shape[1]
        wanted = pages_for(length, self._core.page_size)
        if wanted > columns:
            raise SequenceTooLongError(
                f"wanted at most {columns} pages in a sequence, got {wanted}"
            )

    def _write_tables(self) -> None:
        self._memory.lookup_table[: len(self._rows)] = self._core.num_pages
        for place, row in enumerate(self._rows):
            pages = self._core.pages(row.seq)
            self._memory.lookup_table[place, : len(pages)] = pages
        starts = [row.processed for row in self._rows]
        ends = [len(row.tokens) for row in self._rows]
        self._memory.cache_lengths[: len(starts)] = starts
        active = map(int.__sub__, ends, starts)
        self._memory.max_lengths[0] = (
            max(active, default=0),
            max(ends, default=0),
        )


def check_count(tokens: npt.NDArray[Any], rows: int) -> None:
    """Verifies that there is one token for each row.

    Raises:
        RequestStateError: If there is not.
    """
    if tokens.shape != (rows,):
        raise RequestStateError(
            f"wanted one token for each of {rows} rows, got shape "
            f"{tokens.shape}"
        )


def check_prompts(prompts: Sequence[Prompt]) -> None:
    """Verifies that each prompt is a row of at least one token.

    Raises:
        RequestStateError: If one is not.
    """
    for prompt in prompts:
        if prompt.ndim != 1 or not prompt.size or prompt.dtype.kind != "i":
            raise RequestStateError(
                f"wanted a row of at least one integer, got {prompt.dtype} of "
                f"shape {prompt.shape}"
            )


def check_ids(tokens: npt.NDArray[Any]) -> None:
    """Verifies that token ids are integers of at most 32 bits.

    Raises:
        RequestStateError: If not.
    """
    if tokens.dtype.kind != "i":
        raise RequestStateError(
            f"wanted integers as token ids, got {tokens.dtype}"
        )
    limits = np.iinfo(np.int32)
    if tokens.size and not (
        limits.min <= tokens.min() and tokens.max() <= limits.max
    ):
        raise RequestStateError("wanted token ids that fit 32 bits")


def check_rows(rows: Sequence[int], count: int) -> None:
    """Verifies that rows are there, each once.

    Raises:
        RequestStateError: If not.
    """
    if len(set(rows)) < len(rows):
        raise RequestStateError("wanted each row once")
    for row in rows:
        if not 0 <= row < count:
            raise RequestStateError(
                f"wanted a row from 0 to {count - 1}, got {row}"
            )


def _one(row: _Row) -> Batch:
    length = len(row.tokens)
    return Batch(
        np.array([row.seq]),
        np.array([row.processed]),
        np.array([max(1, length - row.processed)]),
        [row.tokens],
    )
