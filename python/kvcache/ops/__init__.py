"""Typed wrappers of the custom graph operations.

Shapes and dtypes are checked here, while a graph is built, and not again in
the kernels. A graph finds the kernels through
`custom_extensions=[precompiled_package()]`.
"""

from kvcache.attention_workspace import (
    attention_workspace,
    attention_workspace_type,
)
from kvcache.cache_inputs import CacheInputs
from kvcache.cache_types import PAGE_SIZES, CacheInputTypes
from kvcache.mojo_sources import precompiled_package
from kvcache.ops.attending import attention, attention_max
from kvcache.ops.flows import flow_attention, score_blocks, summarise
from kvcache.ops.pages import copy_pages, rope_shift, transfer_pages
from kvcache.ops.rows import (
    gather,
    gather_latents,
    rope_store,
    store,
    store_latents,
)
from kvcache.ops.sparse import (
    ChosenBlocks,
    choose_blocks,
    sparse_attention,
)

__all__ = [
    "PAGE_SIZES",
    "CacheInputTypes",
    "CacheInputs",
    "ChosenBlocks",
    "attention",
    "attention_max",
    "attention_workspace",
    "attention_workspace_type",
    "choose_blocks",
    "copy_pages",
    "flow_attention",
    "gather",
    "gather_latents",
    "precompiled_package",
    "rope_shift",
    "rope_store",
    "score_blocks",
    "sparse_attention",
    "store",
    "store_latents",
    "summarise",
    "transfer_pages",
]
