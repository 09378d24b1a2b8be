"""The memory in which a GPU's attention keeps what blocks tell each other.

Sequences that several blocks share are put together through it, and blocks that
serve prompts draw what comes next from its first word. It is allocated when a
graph is loaded, filled with zeros once, and left as the next call wants it: all
attention of a graph can use the same one.
"""

from max.dtype import DType
from max.graph import BufferType, BufferValue, DeviceRef, ops

from kvcache.cache_inputs import CacheInputs
from kvcache.cache_types import CacheInputTypes

_MOST_BLOCKS = 192
"""More than the multiprocessors of a GPU; a multiple of four."""


def attention_workspace_type(
    cache: CacheInputs | CacheInputTypes, num_q_heads: int
) -> BufferType:
    """Returns the type of the workspace that `kvcache.ops.attention` takes.

    Args:
        cache: The cache, or its types.
        num_q_heads: Query heads on this device.

    Returns:
        uint32 `[words]`: a word for each block, and two parts of up to two
        key-value heads. One word where none is wanted: on the CPU, and for
        latents.
    """
    device: DeviceRef = cache.kv_blocks.device
    if device.is_cpu() or cache.is_mla:
        return BufferType(DType.uint32, [1], device)
    group = -(-num_q_heads // cache.num_kv_heads)
    heads = 2 if cache.num_kv_heads % 2 == 0 else 1
    part = -(-group * (cache.head_dim + 2) // 4) * 4
    words = _MOST_BLOCKS * (1 + 2 * heads * part)
    return BufferType(DType.uint32, [words], device)


def attention_workspace(
    cache: CacheInputs | CacheInputTypes, num_q_heads: int
) -> BufferValue:
    """Adds a workspace to the current graph.

    Args:
        cache: The cache, or its types.
        num_q_heads: Query heads on this device.

    Returns:
        The workspace. It cannot be made in a subgraph: one is passed there.
    """
    kind = attention_workspace_type(cache, num_q_heads)
    return ops.buffer_create(kind, init_value=0)
