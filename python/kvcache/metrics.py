"""What the cache did, in numbers that can be added up."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter


@dataclass(frozen=True, slots=True)
class KVCacheMetrics:
    """Counts since the start, or since the last reset.

    Only prompts count as tokens: each token of a claimed request that was
    there when its first pages were reserved is either computed or a hit, once.
    """

    input_tokens: int = 0
    """Prompt tokens that are computed."""
    cache_tokens: int = 0
    """Prompt tokens that a cached prefix spared."""
    evicted_pages: int = 0
    """Cached pages that were given to another request."""
    copied_pages: int = 0
    """Pages copied from another replica; their tokens are `cache_tokens`."""
    partial_tokens: int = 0
    """Those of `cache_tokens` that the beginning of a copied page spared."""

    h2d_blocks_copied: int = 0
    """Pages that came from the host; their tokens are `cache_tokens`."""
    d2h_blocks_copied: int = 0
    """Pages that went to the host instead of being evicted."""
    failed_loads: int = 0
    """Pages that did not come from the host, and are computed again."""
    failed_offloads: int = 0
    """Pages that did not get to the host, and are lost."""

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens, computed or spared."""
        return self.input_tokens + self.cache_tokens

    @property
    def cache_hit_rate(self) -> float:
        """Share of the prompt tokens that were spared, from 0 to 1."""
        prompt = self.prompt_tokens
        return self.cache_tokens / prompt if prompt else 0.0

    def __add__(self, other: "KVCacheMetrics") -> "KVCacheMetrics":
        """Returns the sums of all counts."""
        if not isinstance(other, KVCacheMetrics):
            return NotImplemented
        pairs = zip(_counts_of(self), _counts_of(other), strict=True)
        return KVCacheMetrics(*[mine + theirs for mine, theirs in pairs])


@dataclass(slots=True)
class PromptCounts:
    """Tokens of prompts that came as arrays, many times a second."""

    num_tokens: int = 0
    """Those of the prompts, computed or spared."""
    num_hits: int = 0
    """Those that a cached prefix spared."""
    num_partial: int = 0
    """Those of them that are in copied pages."""

    def count(
        self, num_tokens: int, hits: Sequence[int], *, page_size: int
    ) -> None:
        """Adds prompts.

        Args:
            num_tokens: Tokens of all of them.
            hits: Tokens of each that are cached.
            page_size: Tokens per page.
        """
        self.num_tokens += num_tokens
        for hit in hits:
            if hit:
                self.num_hits += hit
                self.num_partial += hit % page_size

    @property
    def metrics(self) -> KVCacheMetrics:
        """The same as counts that can be added up with others."""
        return KVCacheMetrics(
            input_tokens=self.num_tokens - self.num_hits,
            cache_tokens=self.num_hits,
            partial_tokens=self.num_partial,
        )


_counts_of = attrgetter(*(field.name for field in fields(KVCacheMetrics)))
