"""A place in a prefix cache, as callers hold it."""

from dataclasses import dataclass, field

import torch

from kvcache.pools.prefix_tokens import NO_TOKENS, PrefixTokens
from kvcache.pools.radix_key import RadixKey


@dataclass(frozen=True, slots=True)
class RadixNode:
    """The page where a prefix ends, and the prefix.

    A handle, not a part of the tree: it keeps nothing cached, and it names its
    page's contents, not the page. Once they are evicted it is stale, whatever
    the page holds later. Handles of one place are equal.
    """

    owner: object = field(repr=False, hash=False)
    """Identifies the cache."""
    id: int
    """Names the contents; 0 for the root, never used twice in a cache."""
    page: int = field(default=-1, compare=False)
    """The core's page; -1 for the root."""
    prefix: PrefixTokens = field(default=NO_TOKENS, compare=False, repr=False)
    """All tokens up to the node's end."""
    mamba_value: torch.Tensor | None = field(default=None, compare=False)
    """The slot of the recurrent snapshot that was there, int64 `[1]`."""
    hashes: list[str] = field(default_factory=list, compare=False, repr=False)
    """Hashes of the prefix' pages, once they were asked for."""

    @property
    def is_root(self) -> bool:
        """Whether the prefix is empty."""
        return self.id == 0

    @property
    def key(self) -> RadixKey:
        """The tokens from the root on, and the namespace."""
        return RadixKey(self.prefix.tokens.tolist(), self.prefix.extra_key)
