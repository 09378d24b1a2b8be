"""What prefix caches answer."""

from dataclasses import dataclass

import torch

from kvcache.pools.radix_node import RadixNode


@dataclass(slots=True, eq=False)
class MatchResult:
    """The cached prefix of a key."""

    indices: torch.Tensor
    """Its token slots, int64 `[prefix_len]`."""
    last_node: RadixNode | None = None
    """Where it ends; None from a cache without prefixes."""
    prefix_len: int = 0
    """Its length in tokens."""
    mamba_branching_seqlen: int | None = None
    """Tokens whose keys and values are cached, where they are more than the
    prefix: a snapshot taken there would let the next request reuse them."""


@dataclass(slots=True)
class InsertResult:
    """What was there of a key already."""

    prefix_len: int = 0
    """Tokens that were cached before, with slots of their own."""
    last_node: RadixNode | None = None
    """Where the key's whole pages end."""
    mamba_exist: bool = False
    """Whether there was a snapshot already; the caller keeps its own."""


@dataclass(slots=True)
class EvictResult:
    """What was given up."""

    full_evicted: int = 0
    """Tokens whose slots were freed."""
    swa_evicted: int = 0
    """Tokens whose keys and values of sliding windows were freed."""
    mamba_evicted: int = 0
    """Recurrent snapshots that were freed."""
