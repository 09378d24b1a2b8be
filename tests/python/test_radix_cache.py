import hashlib

import numpy as np
import pytest

from kvcache.core.making import CORES
from kvcache.errors import (
    ClaimError,
    InsufficientPagesError,
    InvalidParamsError,
    PageStateError,
    RequestStateError,
)

torch = pytest.importorskip("torch")

from kvcache.pools import (  # noqa: E402
    ChunkCache,
    EvictResult,
    InsertResult,
    MambaRadixCache,
    RadixCache,
    RadixKey,
    hash_bytes,
    hash_to_int64,
    hash_token_ids,
)
from kvcache.pools import core_prefix_cache as shared  # noqa: E402
from slot_pools import SlotPool, WindowPool  # noqa: E402


@pytest.fixture(params=CORES)
def _core(request, monkeypatch) -> None:
    monkeypatch.setenv("KVCACHE_CORE", request.param)


def insert(cache, tokens, *, space=None, **options) -> InsertResult:
    """Inserts tokens with slots of the cache's pool, for all of them."""
    value = torch.tensor(cache.pool.alloc(len(tokens)), dtype=torch.int32)
    return cache.insert(RadixKey(tokens, space), value, **options)


def length(cache, tokens, space=None) -> int:
    return cache.match_prefix(RadixKey(tokens, space)).prefix_len


@pytest.mark.usefixtures("_core")
def test_what_was_inserted_is_matched_up_to_where_it_differs() -> None:
    cache = RadixCache(pool=SlotPool(8))
    assert insert(cache, [5, 6, 7]).prefix_len == 0
    result = cache.match_prefix(RadixKey([5, 6, 9]))
    assert result.indices.tolist() == [1, 2]
    assert result.last_node.key.token_ids == [5, 6]
    assert insert(cache, [5, 6, 9]).prefix_len == 2
    cache.pool.take_back([4, 5])  # The duplicates of 5 and 6.
    found = cache.match_prefix(RadixKey([5, 6, 9, 9])).indices.tolist()
    assert found == [1, 2, 6]


@pytest.mark.usefixtures("_core")
def test_keys_count_in_whole_pages_in_match_and_insert() -> None:
    cache = RadixCache(4, capacity=64)
    assert cache.insert(RadixKey(range(6))).prefix_len == 0
    assert cache.total_size() == 4
    again = cache.insert(RadixKey(range(6)))
    assert again.prefix_len == 4  # Not beyond the key, however often.
    assert length(cache, range(4)) == 4
    assert length(cache, range(3)) == 0
    assert cache.insert(RadixKey([1, 2])).last_node == cache.root_node


def test_without_a_pool_the_values_are_the_token_ids_or_anything() -> None:
    cache = RadixCache(2, capacity=64)
    cache.insert(RadixKey([3, 4, 5, 6]))
    found = cache.match_prefix(RadixKey([3, 4, 5, 6])).indices
    assert found.tolist() == [3, 4, 5, 6]
    cache.insert(RadixKey([7, 7]), torch.tensor([3, 4]))
    assert cache.match_prefix(RadixKey([7, 7])).indices.tolist() == [3, 4]


@pytest.mark.usefixtures("_core")
def test_evictable_size_does_not_drift_when_a_leaf_grows() -> None:
    cache = RadixCache(capacity=64)
    for end in range(1, 9):
        cache.insert(RadixKey(range(end)))
        assert (cache.evictable_size(), cache.protected_size()) == (end, 0)
    node = cache.match_prefix(RadixKey([0, 1, 2])).last_node
    cache.inc_lock_ref(node)
    assert (cache.evictable_size(), cache.protected_size()) == (5, 3)
    assert cache.evict(99) == EvictResult(5)
    cache.dec_lock_ref(node)
    assert (cache.evictable_size(), cache.protected_size()) == (3, 0)


@pytest.mark.usefixtures("_core")
def test_a_full_cache_makes_room_unless_all_is_locked() -> None:
    cache = RadixCache(pool=SlotPool(9), capacity=3)
    insert(cache, [1, 2])
    node = insert(cache, [3]).last_node
    insert(cache, [4])  # The tail of what was used longest ago goes.
    assert cache.pool.freed == [2]
    assert length(cache, [1, 2]) == 1
    cache.inc_lock_ref(node)
    with pytest.raises(InsufficientPagesError, match="wanted 3 pages, 2 free"):
        insert(cache, [7, 8, 9])
    assert (cache.total_size(), cache.protected_size()) == (3, 1)


def test_a_stale_handle_is_noticed_though_its_page_is_used_again() -> None:
    cache = RadixCache(pool=SlotPool(2))
    stale = insert(cache, [1, 2]).last_node
    cache.evict(2)
    fresh = insert(cache, [1, 2]).last_node
    assert fresh.page in {0, 1}
    assert fresh != stale
    with pytest.raises(PageStateError, match="was evicted"):
        cache.inc_lock_ref(stale)
    with pytest.raises(PageStateError, match="is not locked"):
        cache.dec_lock_ref(fresh)
    other = RadixCache(pool=SlotPool(2))
    with pytest.raises(PageStateError, match="another's"):
        other.inc_lock_ref(fresh)
    assert cache.inc_lock_ref(None) is None
    assert cache.inc_lock_ref(cache.root_node) is None
    cache.dec_lock_ref(None)
    cache.dec_lock_ref(cache.root_node)
    assert cache.protected_size() == 0


def test_reset_forgets_locks_and_tombstones_and_frees_nothing() -> None:
    cache = RadixCache(1, 2, WindowPool(9))
    node = insert(cache, [1, 2, 3]).last_node
    cache.inc_lock_ref(node)
    cache.evict(0, 1)
    cache.reset()
    assert cache.pool.freed == []
    assert (cache.total_size(), cache.swa_protected_size()) == (0, 0)
    assert length(cache, [1, 2, 3]) == 0
    with pytest.raises(PageStateError, match="was evicted"):
        cache.dec_lock_ref(node)
    cache.pool.take_back([1, 2, 3])
    assert insert(cache, [1, 2, 3]).prefix_len == 0
    assert cache.swa_evictable_size() == 3
    cache.check()


def test_locked_nodes_are_limited_and_the_error_says_so(monkeypatch) -> None:
    monkeypatch.setattr(shared, "MOST_LOCKED", 1)
    cache = RadixCache(capacity=8)
    nodes = [cache.insert(RadixKey([i])).last_node for i in range(3)]
    cache.inc_lock_ref(nodes[0])
    cache.inc_lock_ref(nodes[1])
    with pytest.raises(ClaimError):
        cache.inc_lock_ref(nodes[2])
    assert cache.protected_size() == 2
    cache.dec_lock_ref(nodes[0])
    assert length(cache, [2]) == 1


@pytest.mark.usefixtures("_core")
def test_a_node_stays_locked_until_its_last_unlock() -> None:
    cache = RadixCache(pool=SlotPool(4))
    node = insert(cache, [1, 2]).last_node
    cache.inc_lock_ref(node)
    cache.inc_lock_ref(cache.match_prefix(RadixKey([1, 2])).last_node)
    cache.dec_lock_ref(node)
    assert cache.evict(4) == EvictResult(0)
    cache.dec_lock_ref(node)
    assert cache.evict(4) == EvictResult(2)
    assert cache.pool.freed == [2, 1]


# Sliding windows.


@pytest.mark.usefixtures("_core")
def test_a_match_ends_where_its_window_has_no_tombstones() -> None:
    cache = RadixCache(1, 2, WindowPool(9))
    insert(cache, [1, 2, 3, 4, 5])
    assert cache.evict(0, 3) == EvictResult(0, 3)
    assert cache.pool.without_window == {1, 2, 3}
    assert length(cache, [1, 2, 3, 4, 5]) == 5
    assert length(cache, [1, 2, 3, 4, 9]) == 0  # 3 is a tombstone.
    assert cache.evict(5) == EvictResult(5, 2)
    assert sorted(cache.pool.freed) == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("_core")
def test_a_match_lets_its_windows_go_last() -> None:
    cache = RadixCache(1, 2, WindowPool(9))
    insert(cache, [1, 2])
    insert(cache, [3, 4])
    length(cache, [1, 2])
    cache.evict(0, 2)
    assert cache.pool.without_window == {3, 4}


@pytest.mark.usefixtures("_core")
def test_a_tombstone_takes_new_slots_unless_others_read_its_own() -> None:
    cache = RadixCache(1, 2, WindowPool(20))
    node = insert(cache, [1, 2, 3, 4]).last_node
    cache.evict(0, 2)
    boundary = cache.inc_lock_ref(node)
    assert boundary is not None
    assert insert(cache, [1, 2, 3, 4]).prefix_len == 4
    assert cache.pool.freed == [5, 6, 7, 8]  # Locked: all are duplicates.
    assert cache.match_prefix(RadixKey([1, 2, 3])).prefix_len == 0
    with pytest.raises(PageStateError, match="wanted the boundary"):
        cache.dec_lock_ref(node, boundary + 99)
    cache.dec_lock_ref(node, swa_boundary_id=boundary)
    insert(cache, [1, 2, 3, 4])
    assert cache.pool.freed[4:] == [7, 8, 1, 2]  # New slots for two.
    found = cache.match_prefix(RadixKey([1, 2, 3, 4])).indices.tolist()
    assert found == [5, 6, 3, 4]
    assert cache.swa_evictable_size() == 4


def test_a_locked_window_stays_and_what_is_before_it_may_go() -> None:
    cache = RadixCache(1, 2, WindowPool(9))
    node = insert(cache, [1, 2, 3, 4]).last_node
    cache.inc_lock_ref(node)
    assert cache.evict(9, 9) == EvictResult(0, 2)
    assert cache.pool.without_window == {1, 2}
    assert cache.swa_protected_size() == 2
    assert cache.swa_evictable_size() == 0


def test_a_pool_without_shares_frees_whole_slots_once() -> None:
    cache = RadixCache(1, 2, SlotPool(9))
    insert(cache, [1, 2, 3, 4])
    assert cache.evict(0, 2) == EvictResult(2, 2)
    assert cache.pool.freed == [4, 3]
    assert cache.evict(9, 9) == EvictResult(2, 2)


# What must be refused.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"page_size": 0}, "page_size from 1"),
        ({"sliding_window_size": 0}, "sliding_window_size from 1"),
        ({"capacity": 0}, "at least a page"),
        ({"page_size": 8, "capacity": 7}, "at least a page of 8"),
        ({"page_size": 2, "pool": SlotPool(8, 4)}, "multiple of the pool's 4"),
    ],
)
def test_wrong_sizes_are_refused(options, says) -> None:
    with pytest.raises(InvalidParamsError, match=says):
        RadixCache(**options)


def test_two_pools_are_refused_and_either_name_is_taken() -> None:
    pool = SlotPool(4)
    assert RadixCache(token_to_kv_pool_allocator=pool).pool is pool
    assert RadixCache(1, None, pool, token_to_kv_pool_allocator=pool)
    with pytest.raises(InvalidParamsError, match="wanted one pool"):
        RadixCache(pool=pool, token_to_kv_pool_allocator=SlotPool(4))


WRONG_KEYS = {
    "float": RadixKey([1.5, 2.0]),
    "wide": RadixKey([1, 2**31]),
    "negative": RadixKey([-(2**31) - 1]),
    "pairs": RadixKey([(1, 2), (3, 4)]),
    "ragged": RadixKey([1, (3, 4)]),
    "namespace": RadixKey([1], 7),
}


@pytest.mark.parametrize("name", WRONG_KEYS)
@pytest.mark.parametrize("kind", [RadixCache, MambaRadixCache])
def test_keys_that_the_core_cannot_keep_are_refused(kind, name) -> None:
    cache = kind(capacity=8)
    for call in (cache.match_prefix, cache.insert):
        with pytest.raises(RequestStateError, match="wanted"):
            call(WRONG_KEYS[name])
    assert cache.total_size() == 0


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (None, RequestStateError, "wanted the slots"),
        (torch.tensor([1]), RequestStateError, "a slot for each of 2"),
        (torch.tensor([[1, 2]]), RequestStateError, "a slot for each of 2"),
        (torch.tensor([1.0, 2.0]), RequestStateError, "a slot for each"),
        (torch.tensor([-1, 2]), PageStateError, "slots from 0"),
        (torch.tensor([1, 2**31]), PageStateError, "slots from 0"),
        (torch.tensor([7, 7]), PageStateError, "slot 7 twice"),
        (torch.tensor([6, 1]), PageStateError, "slot 1, which it has"),
    ],
)
def test_values_that_cannot_be_kept_change_nothing(value, error, says) -> None:
    cache = RadixCache(pool=SlotPool(8))
    insert(cache, [9])
    with pytest.raises(error, match=says):
        cache.insert(RadixKey([1, 2]), value)
    assert cache.total_size() == 1
    cache.check()


def test_slots_must_be_whole_pages_of_a_paged_pool() -> None:
    cache = RadixCache(4, None, SlotPool(8, 4))
    for slots in ([5, 6, 7, 8], [4, 5, 7, 6]):
        with pytest.raises(PageStateError, match="whole pages of 4"):
            cache.insert(RadixKey([1] * 4), torch.tensor(slots))
    assert cache.insert(RadixKey([1] * 4), torch.tensor([4, 5, 6, 7]))


@pytest.mark.parametrize("kind", [RadixCache, MambaRadixCache])
def test_negative_counts_are_refused(kind) -> None:
    cache = kind(capacity=8)
    cache.insert(RadixKey([1]))
    for counts in ((-1, 0), (1, -1)):
        with pytest.raises(PageStateError, match="at least 0"):
            cache.evict(*counts)
    assert cache.total_size() == 1


def test_wrong_window_lengths_are_refused() -> None:
    cache = RadixCache(2, 4, WindowPool(8, 2))
    for options in (
        {"prev_prefix_len": 1},
        {"prev_prefix_len": -2},
        {"swa_evicted_seqlen": -1},
    ):
        with pytest.raises(RequestStateError, match="wanted a"):
            cache.insert(RadixKey([1, 2]), torch.tensor([2, 3]), **options)


# What is printed, and hashed.


def test_neither_tokens_nor_namespaces_are_printed() -> None:
    cache = RadixCache(capacity=8)
    key = RadixKey([4242, 4243], "secret")
    shown = repr((key, cache.insert(key), cache.match_prefix(key).last_node))
    assert "424" not in shown
    assert "secret" not in shown


def test_a_key_is_a_row_of_tokens_of_one_namespace() -> None:
    key = RadixKey([1, 2, 3], "a")
    assert (len(key), list(key)) == (3, [1, 2, 3])
    assert (key[1:].token_ids, key[1:].extra_key) == ([2, 3], "a")
    assert (key[2].token_ids, key[2].extra_key) == ([3], "a")
    assert length(RadixCache(capacity=8), np.array([1, 2], np.int32)) == 0


def test_hashes_are_chained_sha256_of_four_bytes_a_token() -> None:
    first = hashlib.sha256(b"\1\0\0\0\2\1\0\0").hexdigest()
    assert hash_token_ids([1, 258]) == hash_token_ids([(1, 258)]) == first
    second = hashlib.sha256(bytes.fromhex(first) + b"\5\0\0\0\6\0\0\0")
    assert hash_token_ids([5, 6], first) == second.hexdigest()
    cache = RadixCache(2, capacity=8)
    node = cache.insert(RadixKey([1, 258, 5, 6, 7])).last_node
    assert cache.compute_node_hash(node) == [first, second.hexdigest()]
    assert cache.compute_node_hash(node) is cache.compute_node_hash(node)
    assert cache.compute_node_hash(cache.root_node) == []
    for wrong in (-1, 2**32):
        with pytest.raises(OverflowError):
            hash_token_ids([wrong])
    assert hash_token_ids([2**32 - 1])


def test_hashes_become_numbers_of_64_bits() -> None:
    assert hash_to_int64("7" + "f" * 15 + "00") == 0x7FFFFFFFFFFFFFFF
    assert hash_to_int64("8" + "0" * 63) == -(2**63)
    assert hash_to_int64("f" * 64) == -1
    wanted = hashlib.sha256(b"x").digest()[:8]
    assert hash_bytes(b"x") == int.from_bytes(wanted, "big")


def test_a_chunk_cache_keeps_nothing() -> None:
    cache = ChunkCache(SlotPool(4, 4), page_size=4)
    assert cache.insert(RadixKey([1]), torch.tensor([1])) == InsertResult()
    result = cache.match_prefix(RadixKey([1]))
    assert (result.indices.tolist(), result.last_node) == ([], None)
    assert cache.evict(5, 5) == EvictResult()
    assert cache.inc_lock_ref(None) is None
    cache.dec_lock_ref(None)
    cache.reset()
    assert cache.total_size() == cache.evictable_size() == 0
    with pytest.raises(InvalidParamsError, match="multiple"):
        ChunkCache(SlotPool(4, 4), page_size=2)
