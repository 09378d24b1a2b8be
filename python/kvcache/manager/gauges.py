"""How full the pages are, and what the cache did so far."""

from kvcache.manager.replica import Replica
from kvcache.metrics import KVCacheMetrics


class CacheGauges:
    """What a manager tells about its replica."""

    _replica: Replica
    total_num_pages: int
    """Pages that requests can hold; the null page is none of them."""

    @property
    def num_free_blocks(self) -> int:
        """Pages that no request holds; some of them may be cached."""
        return self._replica.core.num_free

    @property
    def free_blocks_pct(self) -> float:
        """Share of the pages that no request holds, from 0 to 1."""
        return self.num_free_blocks / self.total_num_pages

    @property
    def used_blocks_pct(self) -> float:
        """Share of the pages that some request holds, from 0 to 1."""
        return 1.0 - self.free_blocks_pct

    @property
    def metrics(self) -> KVCacheMetrics:
        """Counts since the start, or since `reset_metrics`."""
        return self._replica.metrics

    def reset_metrics(self) -> None:
        """Sets every count to zero."""
        self._replica.reset_metrics()
