"""The bookkeeping in plain Python: pool, index and table as one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kvcache.core.check import check_prefixes, check_references
from kvcache.core.digest import Digest
from kvcache.core.interface import (
    Batch,
    Counts,
    Probe,
    window_after_hit,
)
from kvcache.core.plan import Plan
from kvcache.core.pool import PagePool
from kvcache.core.prefix import Parent, PrefixIndex
from kvcache.core.table import PageTable
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    RequestStateError,
    UnknownRequestError,
)
from kvcache.spec import pages_for


class PlainCore:
    """A `CacheCore` in Python and NumPy.

    Args:
        num_pages: Pages that can be handed out.
        page_size: Tokens per page.
        num_sequences: Sequences that can be claimed at a time.
        enable_prefix_caching: Whether sequences share pages.
        digest: Finds cached pages; keyed by a random secret unless given.
    """

    def __init__(
        self,
        num_pages: int,
        page_size: int,
        num_sequences: int,
        *,
        enable_prefix_caching: bool = False,
        digest: Digest | None = None,
    ) -> None:
        """Starts with every page blank and no sequence claimed."""
        self._page_size = page_size
        self._pool = PagePool(num_pages, self._evict)
        self._table = PageTable(num_sequences)
        self._index = PrefixIndex(page_size, digest)
        self._is_caching = enable_prefix_caching
        self._num_evicted = 0
        self._committed = np.zeros(num_sequences, np.int64)  # in pages
        self._namespaces: list[bytes | None] = [None] * num_sequences
        self._unclaimed = list(range(num_sequences - 1, -1, -1))

    @property
    def page_size(self) -> int:
        """Tokens per page."""
        return self._page_size

    @property
    def enable_prefix_caching(self) -> bool:
        """Whether sequences share pages."""
        return self._is_caching

    @property
    def num_pages(self) -> int:
        """Pages that can be handed out."""
        return len(self._pool)

    @property
    def num_free(self) -> int:
        """Pages that no sequence holds; some of them may be cached."""
        return self._pool.num_free

    @property
    def num_evicted(self) -> int:
        """Cached pages that were handed out again, since the start."""
        return self._num_evicted

    def claim(self, namespace: bytes) -> int:
        """Takes a sequence; see `CacheCore.claim`."""
        if not self._unclaimed:
            raise ClaimError(
                f"wanted a free sequence, all {len(self._table)} are claimed"
            )
        seq = self._unclaimed.pop()
        self._namespaces[seq] = namespace
        return seq

    def release(self, seq: int) -> None:
        """Gives a sequence back; see `CacheCore.release`."""
        self._namespace(seq)
        pages: list[int] = self._table.pages(seq)[::-1].tolist()
        self._pool.release(pages)
        self._table.clear(seq)
        self._committed[seq] = 0
        self._namespaces[seq] = None
        self._unclaimed.append(seq)

    def adopt(self, batch: Batch) -> Counts:
        """Retains cached prefixes; see `CacheCore.adopt`."""
        return self._apply(self._plans(batch))

    def reserve(self, batch: Batch, *, num_steps: int) -> Counts:
        """Takes pages for the next steps; see `CacheCore.reserve`."""
        plans = self._plans(batch, num_steps)
        hits = {page for plan in plans for page in plan.hits}
        free = self._pool.num_free
        free -= sum(self._pool.ref_count(page) == 0 for page in hits)
        free += sum(plan.num_replaced for plan in plans)
        wanted = sum(plan.num_new for plan in plans)
        if wanted > free:
            raise InsufficientPagesError(wanted=wanted, free=free)
        return self._apply(plans)

    def probe(self, namespace: bytes, tokens: npt.NDArray[np.int64]) -> Probe:
        """Returns what is cached; see `CacheCore.probe`."""
        pages = self._index.match(namespace, tokens) if self._is_caching else []
        return Probe(np.array(pages, np.uint32))

    def pages(self, seq: int) -> npt.NDArray[np.uint32]:
        """Returns a sequence's pages in order, as a read-only view."""
        return self._table.pages(seq)

    def fill(
        self,
        seqs: Counts,
        num_pages: Counts,
        lookup_table: npt.NDArray[np.uint32],
    ) -> None:
        """Writes pages into a lookup table; see `CacheCore.fill`."""
        self._table.fill(seqs, num_pages, lookup_table)

    def commit(self, batch: Batch) -> None:
        """Makes full pages findable; see `CacheCore.commit`."""
        if not self._is_caching:
            return
        num_full = batch.processed // self._page_size
        if (num_full > self._table.num_pages(batch.seqs)).any():
            raise RequestStateError(
                "wanted to commit pages that the sequence holds, got more "
                "processed tokens than its pages take"
            )
        due = np.flatnonzero(num_full > self._committed[batch.seqs]).tolist()
        for row in due:
            if batch.processed[row] > len(batch.tokens[row]):
                raise RequestStateError(
                    f"wanted at most {len(batch.tokens[row])} tokens to be "
                    f"processed, got {batch.processed[row]}"
                )
        for row in due:
            self._commit_pages(
                int(batch.seqs[row]), int(num_full[row]), batch.tokens[row]
            )

    def forget_cached(self) -> None:
        """Makes what no sequence holds unfindable."""
        for page in self._pool.forget_cached():
            self._index.remove(page)

    def check(self) -> None:
        """Verifies every invariant; see `CacheCore.check`."""
        self._pool.check()
        self._index.check()
        check_references(self._pool, self._table)
        check_prefixes(self._pool, self._index, self._table, self._committed)
        for seq in self._unclaimed:
            assert self._namespaces[seq] is None, f"sequence {seq} is claimed"
            assert not self._table.pages(seq).size, f"{seq} holds pages"

    def _namespace(self, seq: int) -> bytes:
        in_range = 0 <= seq < len(self._namespaces)
        namespace = self._namespaces[seq] if in_range else None
        if namespace is None:
            raise UnknownRequestError(
                f"wanted a claimed sequence, got {seq}, which is not"
            )
        return namespace

    def _evict(self, page: int) -> None:
        self._num_evicted += 1
        self._index.remove(page)

    def _parent(self, seq: int, column: int) -> Parent:
        """Returns what the page in a column follows."""
        if column == 0:
            return self._namespace(seq)
        return int(self._table.pages(seq)[column - 1])

    def _plans(self, batch: Batch, num_steps: int | None = None) -> list[Plan]:
        """Looks prefixes up and counts pages; changes nothing.

        Without `num_steps` no page is wanted beyond the prefixes.
        """
        plans = []
        for seq, processed, active, tokens in zip(
            batch.seqs.tolist(),
            batch.processed.tolist(),
            batch.active.tolist(),
            batch.tokens,
            strict=True,
        ):
            hits = self._look_up(seq, processed, tokens)
            wanted = 0
            if num_steps is not None:
                _, end = window_after_hit(
                    processed=processed,
                    active=active,
                    length=len(tokens),
                    hit=len(hits) * self._page_size,
                )
                wanted = pages_for(end + num_steps - 1, self._page_size)
            committed, held = int(self._committed[seq]), self._num_held(seq)
            plans.append(Plan(seq, committed, held, hits, wanted))
        return plans

    def _num_held(self, seq: int) -> int:
        return len(self._table.pages(seq))

    def _look_up(
        self, seq: int, processed: int, tokens: npt.NDArray[np.int64]
    ) -> list[int]:
        """Returns the cached pages that follow the committed ones."""
        self._namespace(seq)
        begin = int(self._committed[seq]) * self._page_size
        if processed < begin:
            raise RequestStateError(
                f"wanted at least the {begin} tokens that were committed to be "
                f"processed, got {processed}"
            )
        end = (len(tokens) - 1) // self._page_size * self._page_size
        if not self._is_caching or processed > begin or end <= begin:
            return []
        column = begin // self._page_size
        return self._index.match(self._parent(seq, column), tokens[begin:end])

    def _apply(self, plans: Sequence[Plan]) -> Counts:
        """Carries plans out; nothing in here can fail."""
        for plan in plans:
            self._pool.retain(plan.hits)
        for plan in plans:
            self._take_hits(plan)
        for plan in plans:
            self._table.extend(plan.seq, self._pool.allocate(plan.num_new))
        num_hits = (len(plan.hits) for plan in plans)
        return np.fromiter(num_hits, np.int64, len(plans)) * self._page_size

    def _take_hits(self, plan: Plan) -> None:
        """Puts retained hits into a row, in place of what is there."""
        if not plan.hits:
            return
        begin, end = plan.committed, plan.committed + plan.num_replaced
        replaced = self._table.pages(plan.seq)[begin:end].tolist()
        self._pool.release(replaced[::-1])
        self._table.replace(plan.seq, begin, plan.hits[: len(replaced)])
        self._table.extend(plan.seq, plan.hits[len(replaced) :])
        self._committed[plan.seq] += len(plan.hits)

    def _commit_pages(
        self, seq: int, num_full: int, tokens: npt.NDArray[np.int64]
    ) -> None:
        """Indexes a sequence's pages up to `num_full`."""
        begin = int(self._committed[seq])
        span = slice(begin * self._page_size, num_full * self._page_size)
        own: list[int] = self._table.pages(seq)[begin:num_full].tolist()
        indexed = self._index.commit(
            self._parent(seq, begin), own, tokens[span]
        )
        pairs = list(zip(own, indexed, strict=True))
        self._pool.keep([mine for mine, there in pairs if mine == there])
        self._pool.retain([there for mine, there in pairs if mine != there])
        self._pool.release([mine for mine, there in pairs if mine != there])
        self._table.replace(seq, begin, indexed)
        self._committed[seq] = num_full
