"""What every prefix cache offers."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from kvcache.pools.radix_key import RadixKey
from kvcache.pools.radix_node import RadixNode
from kvcache.pools.radix_results import EvictResult, InsertResult, MatchResult


class BasePrefixCache(ABC):
    """Keeps the slots of computed prefixes for requests that begin alike.

    Sizes are tokens, but for those of snapshots. A call that raises has
    changed nothing but the order in which cached prefixes go.
    """

    @abstractmethod
    def reset(self) -> None:
        """Forgets everything, locks too; frees nothing."""

    @abstractmethod
    def match_prefix(self, key: RadixKey) -> MatchResult:
        """Returns the longest cached prefix of a key, and marks it used."""

    @abstractmethod
    def insert(
        self, key: RadixKey, value: torch.Tensor | None = None, **kwargs: Any
    ) -> InsertResult:
        """Caches a key with the slots of its tokens."""

    @abstractmethod
    def evict(self, num_tokens: int, swa_num_tokens: int = 0) -> EvictResult:
        """Gives up what was used longest ago, and is not locked."""

    @abstractmethod
    def inc_lock_ref(self, node: RadixNode | None) -> int | None:
        """Keeps a node and what comes before it from being evicted."""

    @abstractmethod
    def dec_lock_ref(self, node: RadixNode | None, **kwargs: Any) -> None:
        """Takes one `inc_lock_ref` of a node back."""

    def evictable_size(self) -> int:
        """Returns the cached tokens that are not locked."""
        return 0

    def swa_evictable_size(self) -> int:
        """Returns tokens with windows' keys and values that may go."""
        return 0

    def protected_size(self) -> int:
        """Returns the cached tokens that are locked."""
        return 0

    def swa_protected_size(self) -> int:
        """Returns tokens with windows' keys and values that are locked."""
        return 0

    def total_size(self) -> int:
        """Returns the cached tokens."""
        return 0
