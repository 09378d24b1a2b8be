"""Pools that fit each other, made in one call."""

import torch

from kvcache.pools.allocator import TokenToKVPoolAllocator
from kvcache.pools.kv_pool import KVPool
from kvcache.pools.req_to_token_pool import ReqToTokenPool


def make_full_attention_net_mem_pool(  # noqa: PLR0917 - the seed's order
    size: int,
    layer_num: int,
    k_head_num: int,
    k_head_dim: int,
    v_head_num: int,
    v_head_dim: int,
    device: str | torch.device = "cuda",
    dtype: torch.dtype = torch.float16,
    page_size: int = 1,
    need_sort: bool = True,
    pin_memory: bool = True,
) -> tuple[KVPool, TokenToKVPoolAllocator]:
    """Makes a `KVPool` and the allocator of its slots.

    Every slot that the allocator hands out is one of the pool's, at any page
    size.

    Args:
        size: Tokens that can be allocated.
        layer_num: Layers.
        k_head_num: Key heads.
        k_head_dim: Elements per key head.
        v_head_num: Value heads.
        v_head_dim: Elements per value head.
        device: Where everything is.
        dtype: The element type of keys and values.
        page_size: Tokens per page; 1 allocates single tokens.
        need_sort: Whether low slots are handed out first.
        pin_memory: Whether buffers in host memory are pinned where that helps.

    Returns:
        The pool and the allocator.

    Raises:
        DeviceNotAvailableError: If torch does not have the device.
        InvalidParamsError: If a size is not positive, or too large for int32
            slots.
    """
    pool = KVPool(
        size,
        layer_num,
        k_head_num,
        k_head_dim,
        device=device,
        dtype=dtype,
        v_head_num=v_head_num,
        v_head_dim=v_head_dim,
        pin_memory=pin_memory,
        page_size=page_size,
    )
    allocator = TokenToKVPoolAllocator(
        size, device=device, page_size=page_size, need_sort=need_sort
    )
    return pool, allocator


def make_req_to_token_pool(
    max_reqs: int, max_context_len: int, device: str | torch.device = "cuda"
) -> ReqToTokenPool:
    """Makes a `ReqToTokenPool`; see there."""
    return ReqToTokenPool(max_reqs, max_context_len, device=device)
