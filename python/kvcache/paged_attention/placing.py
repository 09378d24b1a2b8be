"""Where a step's rows go."""

from dataclasses import dataclass

import numpy as np

from kvcache.errors import InvalidParamsError, PageStateError
from kvcache.paged_attention.backend import Indices
from kvcache.paged_attention.checks import integer
from kvcache.paged_attention.metadata import PagedAttentionCacheMetaData
from kvcache.paged_attention.step import (
    PagedAttentionMetadata,
    StepMode,
    integers,
    on_host,
    signed,
)
from kvcache.spec import pages_for

DUMMY_PAGE = 0
"""The page of all that belongs nowhere; nothing is written to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Rows that are written, and where each goes."""

    row: Indices
    """Numbers of the rows, `[num_rows]`."""
    page: Indices
    """The page of each, `[num_rows]`."""
    slot: Indices
    """The slot in it of each, `[num_rows]`."""


def places_of(
    step: PagedAttentionMetadata, metadata: PagedAttentionCacheMetaData
) -> Places:
    """Returns where all rows of a step go, those of the prompt first.

    Args:
        step: The step.
        metadata: The cache's sizes.

    Raises:
        InvalidParamsError: If a position or a table does not fit the cache, or
            two rows go to one slot.
        PageStateError: If there is no such page.
    """
    mode = step.mode
    parts = []
    if mode is not StepMode.DECODE:
        parts.append(prefill_places(step, metadata))
    if mode is not StepMode.PREFILL:
        begin = step.num_prefill_rows
        parts.append(decode_places(step, metadata, begin=begin))
    row, page, slot = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("row", "page", "slot")
    )
    _check_different(page, slot, metadata.page_size)
    return Places(row, page, slot)


def prefill_places(
    step: PagedAttentionMetadata, metadata: PagedAttentionCacheMetaData
) -> Places:
    """Returns where the rows of a prompt go, padding left out.

    Each `page_size` rows go to the next page of `prefill_page_table`.

    Args:
        step: A step with a prompt.
        metadata: The cache's sizes.

    Raises:
        InvalidParamsError: If rows, positions or pages do not fit.
        PageStateError: If there is no such page.
    """
    size, padded = metadata.page_size, step.num_prefill_rows
    if not padded:
        raise InvalidParamsError("`prefill_pos` must be there, it is absent")
    if padded % size:
        raise InvalidParamsError(
            f"`prefill_pos` must have a multiple of {size} rows, the page "
            f"size, got {padded}"
        )
    length = step.length
    positions = on_host(step.prefill_pos)[:length]
    _check_positions(signed("prefill_pos", positions), size)
    table = on_host(step.prefill_page_table)
    wanted = pages_for(length, size)
    if len(table) < wanted:
        raise InvalidParamsError(
            f"`prefill_page_table` must have {wanted} pages for {length} "
            f"tokens, got {len(table)}"
        )
    row = np.arange(length)
    page = signed("prefill_page_table", table[row // size])
    places = _real(row, page, row % size, metadata)
    _check_different(places.page, places.slot, size)
    return places


def decode_places(
    step: PagedAttentionMetadata,
    metadata: PagedAttentionCacheMetaData,
    *,
    begin: int = 0,
) -> Places:
    """Returns where the tokens of a batch go, unused places left out.

    Args:
        step: A step with a batch.
        metadata: The cache's sizes.
        begin: The number of the batch's first row.

    Raises:
        InvalidParamsError: If a position does not fit its row of the table, or
            two tokens go to one slot.
        PageStateError: If there is no such page.
    """
    if not len(step.generate_pos.shape):
        raise InvalidParamsError("`generate_pos` must be there, it is absent")
    size = metadata.page_size
    position = signed("generate_pos", on_host(step.generate_pos))
    table = on_host(step.generate_page_table)
    limit = table.shape[1] * size
    wrong = position[(position < -1) | (position >= limit)]
    if len(wrong):
        raise InvalidParamsError(
            f"`generate_pos` must be from 0 to {limit - 1}, or -1 for a place "
            f"that is not used, got {wrong[0]}"
        )
    active = np.flatnonzero(position >= 0)
    column, slot = np.divmod(position[active], size)
    page = signed("generate_page_table", table[active, column])
    places = _real(begin + active, page, slot, metadata)
    _check_different(places.page, places.slot, size)
    return places


def read_places(
    page_table: object, length: int, metadata: PagedAttentionCacheMetaData
) -> tuple[Indices, Indices]:
    """Returns the page and the slot of each token of a sequence.

    Args:
        page_table: The sequence's pages in order, of any backend.
        length: Tokens of the sequence.
        metadata: The cache's sizes.

    Raises:
        InvalidParamsError: If the table is too short, or no table.
        PageStateError: If there is no such page.
    """
    table = on_host(integers("page_table", page_table))
    wanted = pages_for(integer("length", length), metadata.page_size)
    if table.ndim != 1 or length < 0 or len(table) < wanted:
        raise InvalidParamsError(
            f"`page_table` must have at least {wanted} pages on one axis for "
            f"{length} tokens, got shape {table.shape}"
        )
    token = np.arange(length)
    page = signed("page_table", table[token // metadata.page_size])
    _check_pages(page, metadata)
    return page, token % metadata.page_size


def _real(
    row: Indices,
    page: Indices,
    slot: Indices,
    metadata: PagedAttentionCacheMetaData,
) -> Places:
    """Returns rows without those that go to the dummy page."""
    _check_pages(page, metadata)
    real = page != DUMMY_PAGE
    return Places(row[real], page[real], slot[real])


def _check_pages(page: Indices, metadata: PagedAttentionCacheMetaData) -> None:
    last = metadata.num_pages_per_layer - 1
    wrong = page[(page < 0) | (page > last)]
    if len(wrong):
        raise PageStateError(f"wanted a page from 0 to {last}, got {wrong[0]}")


def _check_positions(positions: Indices, size: int) -> None:
    first = int(positions[0])
    wanted = np.arange(first, first + len(positions))
    if first < 0 or first % size or (positions != wanted).any():
        raise InvalidParamsError(
            f"`prefill_pos` must count up from a multiple of {size}, the page "
            f"size, got {positions[:4].tolist()} and so on"
        )


def _check_different(page: Indices, slot: Indices, size: int) -> None:
    places = np.sort(page * size + slot)
    double = places[1:][places[1:] == places[:-1]]
    if len(double):
        raise InvalidParamsError(
            f"wanted each row in a slot of its own, got two in slot "
            f"{double[0] % size} of page {double[0] // size}"
        )
