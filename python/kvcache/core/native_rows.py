"""The memory through which Python and the Mojo core talk."""

import ctypes
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.core.running import NO_MOVES
from kvcache.core.values import Batch, Counts
from kvcache.errors import RequestStateError

Ids: TypeAlias = npt.NDArray[Any]
"""Token ids, `[num_tokens]`."""

_HEADER = 16
_FIELDS = 7


class RowMemory:
    """A header of numbers and seven numbers a row, as `rows.mojo` has them.

    Args:
        capacity: Rows that fit.
        module: The extension module.
    """

    def __init__(self, capacity: int, module: ModuleType) -> None:
        """Starts with no row."""
        self.capacity = capacity
        self.numbers = np.zeros(_HEADER + _FIELDS * capacity, np.int64)
        self.fields = self.numbers[_HEADER:].reshape(_FIELDS, capacity)
        self.address = self.numbers.ctypes.data
        self._words = (
            self.numbers.data
        )  # Quicker than an array, for single ones.
        self._name_tokens = functools.partial(
            module.write_tokens, self.address, capacity
        )
        self._seqs, self._processed, self._active = self.fields[:3]
        self._lengths, self._addresses, self._widths = self.fields[3:6]
        self._hits: Counts = self.fields[6]

    def detail(self, place: int) -> int:
        """Returns a number that goes with a call's answer."""
        return self._words[4 + place]

    def set_limits(
        self, num_steps: int, min_partial: int, max_onload: int
    ) -> None:
        """Writes what the next reservation may do."""
        words = self._words
        words[1], words[2], words[3] = num_steps, min_partial, max_onload

    @contextmanager
    def of(self, batch: Batch) -> Iterator[None]:
        """Holds a batch while a call reads it.

        Raises:
            RequestStateError: If there are more rows than sequences.
        """
        count = len(batch.seqs)
        self._check_room(count)
        self._seqs[:count] = batch.seqs
        self._processed[:count] = batch.processed
        self._active[:count] = batch.active
        if batch.places is None:
            held = self._write_tokens(batch.tokens)
            yield
            del held
            return
        self.numbers[0] = count
        addresses, lengths = zip(*batch.places, strict=True)
        self._lengths[:count] = lengths
        self._addresses[:count] = addresses
        self._widths[:count] = 8
        yield

    @contextmanager
    def of_tokens(self, tokens: npt.NDArray[Any]) -> Iterator[None]:
        """Holds one row of tokens while a call reads it."""
        held = self._write_tokens([tokens])
        yield
        del held

    def write_seqs(self, seqs: Counts, active: Counts) -> None:
        """Writes sequences and a number for each.

        Raises:
            RequestStateError: If there are more rows than sequences.
        """
        count = len(seqs)
        self._check_room(count)
        self.numbers[0] = count
        self._seqs[:count] = seqs
        self._active[:count] = active

    def hits(self) -> Counts:
        """Returns the tokens that each row found."""
        return self._hits[: self._words[0]].copy()

    def moves(self) -> npt.NDArray[np.uint32]:
        """Returns what is to be moved, `[num_moves, 3]`."""
        count = self._words[6]
        if not count:
            return NO_MOVES
        return copied(self._words[7], 3 * count, np.uint32).reshape(count, 3)

    def found(self) -> npt.NDArray[np.uint32]:
        """Returns the pages that a call found."""
        address, count = self.numbers[8:10].tolist()
        return copied(address, count, np.uint32)

    def _write_tokens(self, rows: Sequence[Ids]) -> list[Ids]:
        """Writes where tokens are; returns what must be kept alive."""
        held = list(rows)
        if self._name_tokens(held):
            held = readable(held)
            self._name_tokens(held)
        return held

    def _check_room(self, count: int) -> None:
        if count > self.capacity:
            raise RequestStateError(
                f"wanted at most {self.capacity} sequences, each once, got "
                f"{count}"
            )


def readable(rows: Sequence[Ids]) -> list[Ids]:
    """Returns copies of token ids that the core reads as they are."""
    return [np.array(tokens, np.int64) for tokens in rows]


def copied(address: int, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns a copy of the core's memory."""
    if count == 0:
        return np.empty(0, dtype)
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).copy()
