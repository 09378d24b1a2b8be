from typing import Any

import pytest

from kvcache import KVCacheParams
from kvcache.compiler import cache, indexer
from kvcache.compiler.parents import PoolParent, parent_of
from kvcache.compiler.runners import Requests, Settings
from kvcache.compiler.runners import Runner as PlainRunner
from kvcache.errors import InvalidParamsError
from managers import make, make_replicas


def test_manager_describes_its_pool() -> None:
    parent = parent_of(make(num_pages=10, page_size=16), group_size=3)
    assert parent == PoolParent(
        page_size=16,
        block_size=16,
        num_pages=22,  # Ten and the null page, for each of two heads.
        head_num=2,
        head_dim=8,
        group_size=3,
    )
    runner = PlainRunner(Settings(8), Requests(2))
    assert cache.Context().create(parent, runner).missing() == []
    ctx = indexer.Context().create(parent, runner)
    assert ctx.max_num_blocks_per_request == 11


def test_each_replica_has_its_own_pages() -> None:
    assert parent_of(make_replicas(replicas=2, num_pages=7)).num_pages == 16


def test_params_describe_a_pool_of_so_many_pages() -> None:
    params = KVCacheParams("bfloat16", 8, 64, page_size=128, n_devices=2)
    parent = parent_of(params, num_pages=9)
    assert (parent.block_size, parent.head_num) == (64, 4)
    assert parent.num_pages == 40
    assert parent_of(params, num_pages=9, block_size=32).block_size == 32


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        (KVCacheParams("bfloat16", 8, 64, page_size=128), {}),
        (KVCacheParams("bfloat16", 8, 64, page_size=128), {"page_size": 64}),
        (
            KVCacheParams("bfloat16", 1, 64, page_size=128, is_mla=True),
            {"num_pages": 3},
        ),
        (object(), {"num_pages": 3, "page_size": 64}),
    ],
)
def test_pool_that_cannot_be_described_is_refused(
    pool: Any, told: dict[str, int]
) -> None:
    with pytest.raises(InvalidParamsError, match="wanted"):
        parent_of(pool, **told)


def test_slots_of_torch_describe_a_pool() -> None:
    pytest.importorskip("torch")
    from kvcache.pools import KVPool

    pool = KVPool(100, 1, 2, 8, "cpu", page_size=16)
    parent = parent_of(pool, page_size=16, block_size=16)
    assert (parent.num_pages, parent.head_num) == (2 * (7 + 1), 2)
    with pytest.raises(InvalidParamsError, match="wanted page_size"):
        parent_of(pool)
    with pytest.raises(InvalidParamsError, match="made with"):
        parent_of(pool, page_size=48)
    narrow = KVPool(100, 1, 2, 8, "cpu", v_head_dim=4, page_size=16)
    with pytest.raises(InvalidParamsError, match="one shape"):
        parent_of(narrow, page_size=16)
