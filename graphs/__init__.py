"""Graph builders: one step of work each, and no policy."""

from kvcache.graphs.attention import attention_graph
from kvcache.graphs.attention_max import attention_max_graph
from kvcache.graphs.copy import copy_pages_graph
from kvcache.graphs.gather import gather_graph
from kvcache.graphs.increment import (
    increment_cache_lengths_graph,
    increment_replicas_graph,
)
from kvcache.graphs.latents import (
    gather_latents_graph,
    store_latents_graph,
)
from kvcache.graphs.rope_shift import rope_shift_graph
from kvcache.graphs.rope_store import rope_store_graph
from kvcache.graphs.sparse import (
    choose_blocks_graph,
    sparse_attention_graph,
)
from kvcache.graphs.store import store_graph
from kvcache.graphs.transfer import transfer_pages_graph

__all__ = [
    "attention_graph",
    "attention_max_graph",
    "choose_blocks_graph",
    "copy_pages_graph",
    "gather_graph",
    "gather_latents_graph",
    "increment_cache_lengths_graph",
    "increment_replicas_graph",
    "rope_shift_graph",
    "rope_store_graph",
    "sparse_attention_graph",
    "store_graph",
    "store_latents_graph",
    "transfer_pages_graph",
]
