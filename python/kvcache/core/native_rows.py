"""The memory through which Python and the Mojo core talk."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcache.core.values import Batch, Counts
from kvcache.errors import RequestStateError

_HEADER = 16
_FIELDS = 7


class RowMemory:
    """A header of numbers and seven numbers a row, as `rows.mojo` has them.

    Args:
        capacity: Rows that fit.
    """

    def __init__(self, capacity: int) -> None:
        """Starts with no row."""
        self.capacity = capacity
        self.numbers = np.zeros(_HEADER + _FIELDS * capacity, np.int64)
        self.fields = self.numbers[_HEADER:].reshape(_FIELDS, capacity)
        self.address = self.numbers.ctypes.data
        self._seqs, self._processed, self._active = self.fields[:3]
        self._lengths, self._addresses, self._widths = self.fields[3:6]

    def detail(self, place: int) -> int:
        """Returns a number that goes with a call's answer."""
        return int(self.numbers[4 + place])

    def set_limits(
        self, num_steps: int, min_partial: int, max_onload: int
    ) -> None:
        """Writes what the next reservation may do."""
        self.numbers[1:4] = num_steps, min_partial, max_onload

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

    def write_prompts(
        self, prompts: Sequence[npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Writes prompts of which nothing is computed.

        Returns:
            What must be kept alive while a call reads them.

        Raises:
            RequestStateError: If there are more rows than sequences.
        """
        count = len(prompts)
        self._check_room(count)
        held = self._write_tokens(prompts)
        self._processed[:count] = 0
        self._active[:count] = self._lengths[:count]
        return held

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
        return self.fields[6, : int(self.numbers[0])].copy()

    def moves(self) -> npt.NDArray[np.uint32]:
        """Returns what is to be moved, `[num_moves, 3]`."""
        count, address = self.numbers[6:8].tolist()
        return copied(address, 3 * count, np.uint32).reshape(count, 3)

    def found(self) -> npt.NDArray[np.uint32]:
        """Returns the pages that a call found."""
        address, count = self.numbers[8:10].tolist()
        return copied(address, count, np.uint32)

    def _write_tokens(
        self, rows: Sequence[npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Writes where tokens are; returns what must be kept alive."""
        count = len(rows)
        lengths = [len(tokens) for tokens in rows]
        self.numbers[0] = count
        self._lengths[:count] = lengths
        if not any(lengths):
            return []
        held = [_contiguous(tokens) for tokens in rows]
        self._addresses[:count] = [address_of(tokens) for tokens in held]
        self._widths[:count] = [tokens.itemsize for tokens in held]
        return held

    def _check_room(self, count: int) -> None:
        if count > self.capacity:
            raise RequestStateError(
                f"wanted at most {self.capacity} sequences, each once, got "
                f"{count}"
            )


def address_of(array: npt.NDArray[Any]) -> int:
    """Returns where an array's memory begins."""
    address: int = array.__array_interface__["data"][0]
    return address


def copied(address: int, count: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Returns a copy of the core's memory."""
    if count == 0:
        return np.empty(0, dtype)
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, size), dtype).copy()


def _contiguous(tokens: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if tokens.dtype in (np.int64, np.int32) and tokens.flags.c_contiguous:
        return tokens
    return np.ascontiguousarray(tokens, np.int64)
