"""Small managers, and requests that go through them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from max.driver import CPU

from kvcache import KVCacheParams, PagedKVCacheManager, Request

HOST = CPU()

REPLICAS = (3, 2)
"""Replicas, and shards of each, where there are several."""


def make(
    num_pages: int = 10,
    page_size: int = 16,
    *,
    max_batch_size: int = 4,
    max_seq_len: int = 256,
    caching: bool = True,
    host_pages: int = 0,
    kind: Mapping[str, Any] | None = None,
    **changes: Any,
) -> PagedKVCacheManager:
    params = KVCacheParams(
        "float32", 2, 8, enable_prefix_caching=caching, page_size=page_size
    )
    params = replace(params, **(kind or {}))
    params = with_host(params, host_pages, num_layers=3)
    arguments: dict[str, Any] = {
        "num_layers": 3,
        "devices": [HOST],
        "session": None,
        "available_cache_memory": num_pages * params.bytes_per_page(3),
        "page_size": page_size,
        "enable_runtime_checks": True,
        **changes,
    }
    return PagedKVCacheManager(params, max_batch_size, max_seq_len, **arguments)


def make_replicas(
    replicas: int = 2,
    shards: int = 1,
    *,
    num_pages: int = 10,
    page_size: int = 16,
    max_batch_size: int = 12,
    max_seq_len: int = 256,
    caching: bool = True,
    host_pages: int = 0,
    kind: Mapping[str, Any] | None = None,
    **changes: Any,
) -> PagedKVCacheManager:
    """A manager of logical replicas on the CPU, `num_pages` pages each."""
    params = KVCacheParams(
        "float32",
        2,
        8,
        enable_prefix_caching=caching,
        page_size=page_size,
        n_devices=replicas * shards,
        data_parallel_degree=replicas,
    )
    params = replace(params, **(kind or {}))
    params = with_host(params, host_pages, num_layers=3)
    arguments: dict[str, Any] = {
        "num_layers": 3,
        "devices": [HOST] * params.n_devices,
        "session": None,
        "available_cache_memory": replicas
        * num_pages
        * params.bytes_per_page(3),
        "page_size": page_size,
        "enable_runtime_checks": True,
        **changes,
    }
    return PagedKVCacheManager(params, max_batch_size, max_seq_len, **arguments)


def with_host(
    params: KVCacheParams, host_pages: int, *, num_layers: int
) -> KVCacheParams:
    """The same with a host tier of so many pages over all replicas."""
    if not host_pages:
        return params
    size = host_pages * params.bytes_per_page(num_layers) + 0.5
    return replace(
        params,
        enable_kvcache_swapping_to_host=True,
        host_kvcache_swap_space_gb=size / 2**30,
    )


def claimed(
    manager: PagedKVCacheManager,
    tokens: Sequence[int] | int,
    *,
    on: int | None = None,
    **fields: Any,
) -> Request:
    """A request on a replica, which needs no name if there is one only."""
    ids = range(tokens) if isinstance(tokens, int) else tokens
    request = Request(np.array(ids), **fields)
    manager.external_claim(request.request_id, on)
    return request


def pages(manager: PagedKVCacheManager, request: Request) -> list[int]:
    return manager.get_req_blocks(request.request_id)


def compute(manager: PagedKVCacheManager, *batch: Request) -> None:
    """Runs one step of a loop, with a model that says 7."""
    manager.fetch(batch)
    for request in batch:
        request.update(7)
    manager.step(batch)
