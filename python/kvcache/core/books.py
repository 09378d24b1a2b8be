"""Everything that the plain core keeps, as one value to pass around."""

from dataclasses import dataclass

from kvcache.core.prefix import Parent, PrefixIndex
from kvcache.core.retention import RetentionClock
from kvcache.core.sequences import Sequences
from kvcache.core.tiers import Tiers


@dataclass(frozen=True, slots=True)
class Books:
    """What is known of pages, prefixes and sequences."""

    page_size: int
    """Tokens per page."""
    is_caching: bool
    """Whether sequences share pages."""
    index: PrefixIndex
    clock: RetentionClock
    tiers: Tiers
    seqs: Sequences

    def row(
        self, seq: int, begin: int = 0, end: int | None = None
    ) -> list[int]:
        """Returns a sequence's pages in order, or some columns of them."""
        pages: list[int] = self.seqs.table.pages(seq)[begin:end].tolist()
        return pages

    def page(self, seq: int, column: int) -> int:
        """Returns the page in a column that a sequence holds."""
        return int(self.seqs.table.pages(seq)[column])

    def parent(self, seq: int, column: int) -> Parent:
        """Returns what the page in a column follows."""
        if column == 0:
            return self.seqs.namespace(seq)
        return self.page(seq, column - 1)

    def is_own(self, page: int) -> bool:
        """Returns whether one sequence holds a page, which is not findable."""
        return page not in self.index and self.tiers.device.ref_count(page) == 1
