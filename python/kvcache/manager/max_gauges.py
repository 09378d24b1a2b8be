"""How full the pages are, and what hit, as MAX's calls tell it."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from kvcache.errors import UnknownReplicaError
from kvcache.manager.max_values import Occupancy

if TYPE_CHECKING:
    from max.nn.kv_cache import KVCacheMetrics

    from kvcache.manager.device import ReplicaPools
    from kvcache.manager.replica import Replica
    from kvcache.spec import KVCacheParams


class MaxGauges(ABC):
    """What a scheduler written for MAX looks at between two steps."""

    params: "KVCacheParams"
    num_layers: int
    max_seq_len: int
    page_size: int

    @abstractmethod
    def _parts(self) -> "list[tuple[Replica, ReplicaPools]]":
        """Returns each replica with its pages on each of its devices."""

    def block_count(self, replica_idx: int = 0) -> Occupancy:
        """Returns how many pages of a replica no request holds."""
        core = self._part(replica_idx)[0].core
        return Occupancy(free=core.num_free, total=core.num_pages)

    def pressure_pct(self, replica_idx: int = 0) -> float:
        """Returns the share of a replica's pages in use, from 0 to 100."""
        return self.block_count(replica_idx).used_pct

    def host_byte_count(self) -> Occupancy:
        """Returns the bytes of the host tier, over all replicas."""
        cores = [replica.core for replica, _ in self._parts()]
        size = self.params.bytes_per_page(self.num_layers)
        total = sum(core.num_host_pages for core in cores) * size
        used = sum(core.num_host_cached for core in cores) * size
        return Occupancy(free=total - used, total=total)

    def disk_byte_count(self) -> Occupancy:
        """Returns the bytes of the disk tier: there is none."""
        return Occupancy(free=0, total=0)

    def get_metrics_aggregated(self) -> "KVCacheMetrics":
        """Returns MAX's metrics: tokens by `alloc`, over all replicas.

        Unlike `metrics` they count generated tokens as well.
        """
        from max.nn.kv_cache import KVCacheMetrics

        served = sum(replica.num_served for replica, _ in self._parts())
        return KVCacheMetrics(
            input_tokens=sum(r.num_computed for r, _ in self._parts()),
            cache_tokens=served,
            device_blocks_served=served // self.page_size,
        )

    def take_metrics_aggregated(self) -> "KVCacheMetrics":
        """Returns MAX's metrics and sets them to zero."""
        metrics = self.get_metrics_aggregated()
        for replica, _ in self._parts():
            replica.num_computed = replica.num_served = 0
        return metrics

    @property
    def chunk_alignment_tokens(self) -> int:
        """0: a chunk may end anywhere."""
        return 0

    @property
    def effective_max_seq_length(self) -> int:
        """Tokens of the longest request that can be served."""
        pages = min(replica.core.num_pages for replica, _ in self._parts())
        return min(self.max_seq_len, pages * self.page_size)

    def _part(self, replica_idx: int) -> "tuple[Replica, ReplicaPools]":
        parts = self._parts()
        if not 0 <= replica_idx < len(parts):
            raise UnknownReplicaError(
                f"wanted a replica from 0 to {len(parts) - 1}, got "
                f"{replica_idx}"
            )
        return parts[replica_idx]
