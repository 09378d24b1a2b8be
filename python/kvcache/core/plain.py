"""The bookkeeping in plain Python: pools, index and table as one."""

import numpy as np
import numpy.typing as npt

from kvcache.core.books import Books
from kvcache.core.check import check_books
from kvcache.core.commit import commit, drop, forget_page
from kvcache.core.digest import Digest
from kvcache.core.grant import grant, lift
from kvcache.core.look import evicted_at, probe
from kvcache.core.plan import Ask, plan_batch
from kvcache.core.prefix import PrefixIndex
from kvcache.core.retention import Retention, RetentionClock
from kvcache.core.running import PlainRows, StepMemory
from kvcache.core.sequences import Sequences
from kvcache.core.tiers import Tiers
from kvcache.core.values import (
    DEFAULT_PRIORITY,
    Batch,
    Counts,
    Granted,
    Move,
    Probe,
)
from kvcache.errors import RequestStateError
from kvcache.request import TokenIds
from kvcache.spec import pages_for


class PlainCore:
    """A `CacheCore` in Python and NumPy.

    Args:
        num_pages: Pages of the device that can be handed out.
        page_size: Tokens per page.
        num_sequences: Sequences that can be claimed at a time.
        enable_prefix_caching: Whether sequences share pages.
        digest: Finds cached pages; keyed by a random secret unless given.
        num_host_pages: Pages of the host tier; without prefix caching none is
            ever used.
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        num_sequences: int,
        *,
        enable_prefix_caching: bool = False,
        digest: Digest | None = None,
        num_host_pages: int = 0,
    ) -> None:
        """Starts with every page blank and no sequence claimed."""
        index = PrefixIndex(page_size, digest)
        clock = RetentionClock(index.get)
        tiers = Tiers(num_pages, num_host_pages, index, clock)
        self._books = Books(
            page_size,
            enable_prefix_caching,
            index,
            clock,
            tiers,
            Sequences(num_sequences),
        )

    @property
    def page_size(self) -> int:
        """Tokens per page."""
        return self._books.page_size

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether sequences share pages."""
        return self._books.is_caching

    @property
    def num_pages(self) -> int:
        """Pages of the device that can be handed out."""
        return len(self._books.tiers.device)

    @property
    def num_host_pages(self) -> int:
        """Pages of the host tier; their numbers begin at `num_pages`."""
        return len(self._books.tiers.host)

    @property
    def num_free(self) -> int:
        """Pages of the device that no sequence holds, cached ones included."""
        return self._books.tiers.device.num_free

    @property
    def num_cached(self) -> int:
        """Pages of the device that no sequence holds and that are findable."""
        return self._books.tiers.device.num_cached

    @property
    def num_host_cached(self) -> int:
        """Pages of the host tier that are findable."""
        return self._books.tiers.host.num_cached

    @property
    def num_evicted(self) -> int:
        """Prefixes' pages lost to new contents or `evict`, since the start."""
        return self._books.tiers.num_evicted

    @property
    def num_offloaded(self) -> int:
        """Pages that moved from the device to the host, since the start."""
        return self._books.tiers.counts[Move.OFFLOAD]

    @property
    def num_onloaded(self) -> int:
        """Pages that moved from the host to the device, since the start."""
        return self._books.tiers.counts[Move.ONLOAD]

    @property
    def num_copied(self) -> int:
        """Pages that were copied within the device, since the start."""
        return self._books.tiers.counts[Move.COPY]

    def claim(self, namespace: bytes) -> int:
        """Takes a sequence; see `CacheCore.claim`."""
        return self._books.seqs.claim(namespace)

    def release(self, seq: int) -> None:
        """Gives a sequence back; see `CacheCore.release`."""
        self._books.seqs.namespace(seq)
        self._books.tiers.device.release(self._books.row(seq)[::-1])
        self._books.seqs.release(seq)

    def fork(self, seq: int, processed: int) -> int:
        """Takes a sequence that shares pages; see `CacheCore.fork`."""
        seqs, size = self._books.seqs, self._books.page_size
        namespace = seqs.namespace(seq)
        capacity = seqs.num_held(seq) * size
        if not 0 <= processed <= capacity:
            raise RequestStateError(
                f"wanted from 0 to the {capacity} tokens that the pages take, "
                f"got {processed}"
            )
        other = seqs.claim(namespace)
        pages = self._books.row(seq, 0, pages_for(processed, size))
        self._books.tiers.device.retain(pages)
        seqs.table.extend(other, pages)
        seqs.committed[other] = min(seqs.committed[seq], processed // size)
        seqs.retention[other] = seqs.retention[seq]
        return other

    def truncate(self, seq: int, length: int) -> None:
        """Gives pages at the end back; see `CacheCore.truncate`."""
        seqs, size = self._books.seqs, self._books.page_size
        seqs.namespace(seq)
        if length < 0:
            raise RequestStateError(f"wanted at least 0 tokens, got {length}")
        num_pages = pages_for(length, size)
        pages = self._books.row(seq, num_pages)
        self._books.tiers.device.release(pages[::-1])
        seqs.table.truncate(seq, num_pages)
        seqs.committed[seq] = min(seqs.committed[seq], length // size)

    def set_retention(
        self,
        seq: int,
        *,
        priority: int = DEFAULT_PRIORITY,
        expires: float = 0.0,
    ) -> None:
        """Says how long pages are kept; see `CacheCore.set_retention`."""
        self._books.seqs.namespace(seq)
        self._books.seqs.retention[seq] = Retention(priority, expires)
        lift(self._books, seq)

    def tick(self, now: float) -> None:
        """Sets the clock; see `CacheCore.tick`."""
        expired = self._books.clock.advance(now)
        self._books.tiers.relist(expired)

    def adopt(self, batch: Batch, *, max_onload: int | None = None) -> Granted:
        """Retains cached prefixes; see `CacheCore.adopt`."""
        ask = Ask(max_onload=max_onload)
        return grant(self._books, plan_batch(self._books, batch, ask))

    def reserve(
        self,
        batch: Batch,
        *,
        num_steps: int,
        min_partial: int | None = None,
        max_onload: int | None = None,
    ) -> Granted:
        """Takes pages for the next steps; see `CacheCore.reserve`."""
        ask = Ask(num_steps, min_partial, max_onload)
        return grant(self._books, plan_batch(self._books, batch, ask))

    def check_reserve(
        self, batch: Batch, *, num_steps: int, max_onload: int | None = None
    ) -> None:
        """Verifies that `reserve` works; see `CacheCore.check_reserve`."""
        plan_batch(self._books, batch, Ask(num_steps, None, max_onload))

    def pages(self, seq: int) -> npt.NDArray[np.uint32]:
        """Returns a sequence's pages in order, as a read-only view."""
        return self._books.seqs.table.pages(seq)

    def fill(
        self,
        seqs: Counts,
        num_pages: Counts,
        lookup_table: npt.NDArray[np.uint32],
    ) -> None:
        """Writes pages into a lookup table; see `CacheCore.fill`."""
        self._books.seqs.table.fill(seqs, num_pages, lookup_table)

    def commit(self, batch: Batch) -> None:
        """Makes full pages findable; see `CacheCore.commit`."""
        if self._books.is_caching:
            commit(self._books, batch)

    def drop(self, seq: int, column: int) -> None:
        """Makes pages unfindable; see `CacheCore.drop`."""
        drop(self._books, seq, column)

    def forget_page(self, page: int) -> None:
        """Makes a page unfindable; see `CacheCore.forget_page`."""
        forget_page(self._books, page)

    def forget_cached(self) -> None:
        """Makes what no sequence holds unfindable, on device and host."""
        self._books.tiers.forget_cached()

    def evict(self, num_pages: int) -> npt.NDArray[np.uint32]:
        """Gives cached pages up; see `CacheCore.evict`."""
        return np.array(self._books.tiers.evict(num_pages), np.uint32)

    def probe(self, namespace: bytes, tokens: TokenIds) -> Probe:
        """Returns what is cached of a prompt; see `CacheCore.probe`."""
        return probe(self._books, namespace, tokens)

    def evicted_at(
        self, namespace: bytes, tokens: TokenIds
    ) -> npt.NDArray[np.float64]:
        """Returns when pages were evicted; see `CacheCore.evicted_at`."""
        return evicted_at(self._books, namespace, tokens)

    def open_batch(self, memory: StepMemory) -> PlainRows:
        """Returns a batch without rows; see `CacheCore.open_batch`."""
        return PlainRows(self, memory)

    def eviction_order(self) -> list[int]:
        """Returns the device's free pages, first to be handed out first."""
        return self._books.tiers.device.eviction_order()

    def check(self) -> None:
        """Verifies every invariant; see `CacheCore.check`."""
        check_books(self._books)
