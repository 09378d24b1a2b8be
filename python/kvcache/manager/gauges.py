"""How full the pages are, and what the cache did so far."""

from kvcache.manager.replicas import Replicas
from kvcache.metrics import KVCacheMetrics


class CacheGauges:
    """What a manager tells about all its replicas together."""

    _replicas: Replicas
    total_num_pages: int
    """Pages that requests can hold; no null page is among them."""

    @property
    def total_num_host_pages(self) -> int:
        """Pages in host memory; none without a host tier."""
        return self._replicas.num_host_pages

    @property
    def num_free_blocks(self) -> int:
        """Pages that no request holds; some of them may be cached."""
        return self._replicas.num_free

    @property
    def num_pinned_blocks(self) -> int:
        """Pages that pins keep, each counted once; they are not free."""
        return self._replicas.num_pinned

    @property
    def free_blocks_pct(self) -> float:
        """Share of the pages that no request holds, from 0 to 1."""
        return self.num_free_blocks / self.total_num_pages

    @property
    def used_blocks_pct(self) -> float:
        """Share of the pages that some request holds, from 0 to 1."""
        return 1.0 - self.free_blocks_pct

    @property
    def host_committed_block_pct(self) -> float:
        """Share of the host's pages that are cached; 0 without a host tier."""
        return self._replicas.num_host_cached / max(
            1, self.total_num_host_pages
        )

    @property
    def metrics(self) -> KVCacheMetrics:
        """Counts since the start, or since `reset_metrics`."""
        return self._replicas.metrics

    def reset_metrics(self) -> None:
        """Sets every count to zero."""
        self._replicas.reset_metrics()
