"""What one step prefills and decodes, and into which pages."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.array_documents import same_array
from kvcache.paged_attention.backend import Array, backend_of
from kvcache.paged_attention.checks import shown
from kvcache.paged_attention.documents import Document
from kvcache.paged_attention.element_types import INTEGER_DTYPES


class StepMode(StrEnum):
    """What a step does."""

    PREFILL = "prefill"
    """One sequence's prompt, or a chunk of it."""
    DECODE = "decode"
    """One token for each sequence of a batch."""
    MIXED = "mixed"
    """Both; the rows of the prompt come first."""


_RANKS = {
    "prefill_length": 0,
    "prefill_pos": 1,
    "prefill_page_table": 1,
    "generate_pos": 1,
    "generate_page_table": 2,
}


@dataclass(frozen=True, eq=False)
class PagedAttentionMetadata(Document):
    """One step: a prompt to prefill, sequences to decode, or both.

    Fields are arrays of integers of any backend; numbers and lists become
    int32 arrays of NumPy. An array of no axes says that a part is absent.

    Raises:
        InvalidParamsError: If a field is no array of integers, has the wrong
            number of axes, or does not fit the others.
    """

    prefill_length: Array
    """Tokens of the prompt or chunk, no axes; any number without a prompt."""
    prefill_pos: Array
    """Position of each of its rows, `[padded_length]`, or absent."""
    prefill_page_table: Array
    """Page of each `page_size` rows, at least `[ceil(length / page_size)]`."""
    generate_pos: Array
    """Position of each token that is decoded, `[batch]`, -1 where a place of
    the batch is not used, or absent."""
    generate_page_table: Array
    """Pages of each sequence, `[batch, num_pages_per_sequence]`."""

    def __post_init__(self) -> None:
        """Turns numbers into arrays and checks that the arrays fit."""
        ranks = {}
        for name, wanted in _RANKS.items():
            array = integers(name, getattr(self, name))
            object.__setattr__(self, name, array)
            ranks[name] = len(array.shape)
            if ranks[name] not in {0, wanted}:
                raise InvalidParamsError(
                    f"`{name}` must have {wanted} axes, or none to be absent, "
                    f"got shape {tuple(array.shape)}"
                )
        for part in ("prefill", "generate"):
            if bool(ranks[f"{part}_pos"]) != bool(ranks[f"{part}_page_table"]):
                raise InvalidParamsError(
                    f"`{part}_pos` and `{part}_page_table` must both be there "
                    f"or both be absent, got {ranks[f'{part}_pos']} and "
                    f"{ranks[f'{part}_page_table']} axes"
                )
        if ranks["generate_pos"]:
            (batch,), rows = self.generate_pos.shape, self.generate_page_table
            if rows.shape[0] != batch:
                raise InvalidParamsError(
                    f"`generate_page_table` must have {batch} rows, as "
                    f"`generate_pos` has, got {rows.shape[0]}"
                )
        if ranks["prefill_pos"]:
            self._check_length()

    def _check_length(self) -> None:
        length, padded = self.length, self.prefill_pos.shape[0]
        if not 1 <= length <= padded:
            raise InvalidParamsError(
                f"`prefill_length` must be from 1 to {padded}, the rows of "
                f"`prefill_pos`, got {length}"
            )

    @property
    def mode(self) -> StepMode:
        """What the step does.

        Raises:
            InvalidParamsError: If both parts are absent.
        """
        has_prefill = len(self.prefill_pos.shape) > 0
        has_decode = len(self.generate_pos.shape) > 0
        if has_prefill and has_decode:
            return StepMode.MIXED
        if has_prefill:
            return StepMode.PREFILL
        if has_decode:
            return StepMode.DECODE
        raise InvalidParamsError(
            "`prefill_pos` or `generate_pos` must be there, both are absent"
        )

    @property
    def length(self) -> int:
        """`prefill_length` as a number."""
        return int(on_host(self.prefill_length))

    @property
    def num_prefill_rows(self) -> int:
        """Rows of the prompt, padding included."""
        shape = self.prefill_pos.shape
        return int(shape[0]) if len(shape) else 0

    @property
    def num_decode_rows(self) -> int:
        """Places of the batch, those not used included."""
        shape = self.generate_pos.shape
        return int(shape[0]) if len(shape) else 0

    def __eq__(self, other: object) -> bool:
        """Returns whether all arrays agree to the bit."""
        if type(other) is not type(self):
            return NotImplemented
        return all(
            same_array(getattr(self, each.name), getattr(other, each.name))
            for each in fields(self)
        )

    __hash__ = None  # type: ignore[assignment]


def absent() -> npt.NDArray[np.int32]:
    """Returns an array of no axes, which says that a part is absent."""
    return np.zeros((), np.int32)


def on_host(array: Array) -> npt.NDArray[Any]:
    """Returns the integers of an array of any backend.

    Args:
        array: The array.
    """
    if isinstance(array, np.ndarray):
        return array
    backend = backend_of(array)
    assert backend is not None, "wanted an array"
    found = backend.describe(array)
    data = np.frombuffer(backend.to_bytes(array), found.dtype)
    return data.reshape(found.shape)


def signed(name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Returns integers of any type as int64.

    Args:
        name: What they are.
        array: The integers.

    Raises:
        InvalidParamsError: If one does not fit.
    """
    if array.dtype == np.uint64 and (array >= 2**63).any():
        raise InvalidParamsError(
            f"`{name}` must be below 2**63, got {array.max()}"
        )
    return array.astype(np.int64)


def integers(name: str, value: object) -> Array:
    """Returns an array of integers; numbers and lists become int32.

    Args:
        name: What it is.
        value: An array of any backend, a number or a list.

    Raises:
        InvalidParamsError: If it is none of these, or not of integers.
    """
    backend = backend_of(value)
    if backend is None:
        value = _from_numbers(name, value)
    elif backend.describe(value).dtype not in INTEGER_DTYPES:
        raise InvalidParamsError(
            f"`{name}` must be of integers, got {backend.describe(value).dtype}"
        )
    return value


def _from_numbers(name: str, value: object) -> npt.NDArray[Any]:
    """Returns an int32 array of numbers, or the array that a scalar is."""
    try:
        found = np.asarray(value)
    except ValueError:  # Rows of different lengths.
        found = np.zeros(1)
    if not found.size and isinstance(value, (list, tuple)):
        found = found.astype(np.int32)
    if found.dtype.kind not in "iu":
        raise InvalidParamsError(
            f"`{name}` must be an array of integers, got {shown(value)}"
        )
    if isinstance(value, np.generic):
        return found
    narrow = found.astype(np.int32)
    if (narrow != found).any():
        raise InvalidParamsError(
            f"`{name}` must be of int32, got {shown(value)}"
        )
    return narrow
