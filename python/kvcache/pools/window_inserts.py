"""What an insert does with slots of pages that are there already."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvcache.errors import RequestStateError
from kvcache.pools.cached_pages import Path, Slots
from kvcache.pools.prefix_tokens import PrefixTokens
from kvcache.pools.window_marks import WindowMarks
from kvcache.spec import pages_for


@dataclass(frozen=True, slots=True, eq=False)
class WindowInsert:
    """What is to be cached under a sliding window.

    Raises:
        RequestStateError: If a length is negative, or `prev_prefix_len` is not
            of whole pages.
    """

    prefix: PrefixTokens
    slots: Slots
    """The caller's slots, `[num_pages, page_size]`."""
    page_size: int
    prev_prefix_len: int
    """Tokens at the beginning whose slots are the cache's."""
    swa_evicted_seqlen: int
    """Tokens at the beginning whose windows' share the caller has freed."""

    def __post_init__(self) -> None:
        """Verifies the lengths."""
        if self.swa_evicted_seqlen < 0:
            raise RequestStateError(
                f"wanted a swa_evicted_seqlen from 0 on, got "
                f"{self.swa_evicted_seqlen}"
            )
        if self.prev_prefix_len < 0 or self.prev_prefix_len % self.page_size:
            raise RequestStateError(
                f"wanted a prev_prefix_len of whole pages of {self.page_size} "
                f"tokens, got {self.prev_prefix_len}"
            )

    @property
    def num_kept(self) -> int:
        """Pages at the beginning whose slots are the cache's."""
        return self.prev_prefix_len // self.page_size

    @property
    def num_gone(self) -> int:
        """Pages at the beginning that windows cannot read any more."""
        return pages_for(self.swa_evicted_seqlen, self.page_size)

    def foreign(self, own: Slots) -> Slots:
        """Returns the slots that must not be the cache's.

        Args:
            own: The cache's slots of the pages that are there,
                `[num_found, page_size]`.
        """
        is_foreign = np.arange(len(self.slots)) >= self.num_kept
        is_foreign[: len(own)] &= (self.slots[: len(own)] != own).any(axis=1)
        is_foreign[len(own) :] = True
        return self.slots[is_foreign]


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What became of the slots of pages that were there."""

    is_taken: npt.NDArray[np.bool_]
    """Pages that have the caller's slots now, `[num_found]`."""
    slots: Slots
    """Slots that nobody has now, `[num_freed, page_size]`."""


def settle_duplicates(
    asked: WindowInsert,
    path: Path,
    *,
    slots: Slots,
    marks: WindowMarks,
    paths_through: npt.NDArray[np.int32],
) -> Settled:
    """Gives tombstones the caller's slots; the other duplicates are to free.

    A tombstone that is part of a locked path stays one: others read the slots
    that it has.

    Args:
        asked: What is to be cached.
        path: Its pages.
        slots: The slots of each page; those of revived ones are written.
        marks: Which pages are tombstones; revived ones are not any more.
        paths_through: Locked paths that each page is part of.
    """
    pages = path.pages[: path.num_found]
    given = asked.slots[: path.num_found]
    columns = np.arange(path.num_found)
    is_callers = columns >= asked.num_kept
    is_callers &= (given != slots[pages]).any(axis=1)
    is_taken = is_callers & (columns >= asked.num_gone)
    is_taken &= marks.is_tombstone[pages] & (paths_through[pages] == 0)
    replaced = slots[pages[is_taken]]
    slots[pages[is_taken]] = given[is_taken]
    marks.revive(pages[is_taken])
    freed = np.concatenate([given[is_callers & ~is_taken], replaced])
    return Settled(is_taken, freed)
