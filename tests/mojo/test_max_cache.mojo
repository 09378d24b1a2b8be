"""`MaxKVCache` answers as MAX's trait asks, with what our views say."""

from kv_cache.types import KVCacheStaticParams, KVCacheT, KVCollectionT
from max.gpu.host import DeviceContext
from max.gpu.host.nvidia.tma import TensorMapSwizzle
from std.testing import TestSuite, assert_equal, assert_raises

from kvcache import PagedKVCacheCollection
from kvcache.max_cache import MaxKVCache, MaxKVCollection
from kvcache.tensors import lengths_tensor, lookup_table_tensor

comptime PARAMS = KVCacheStaticParams(num_heads=2, head_size=64)
comptime PAGE_SIZE = 16
comptime NUM_PAGES = 4
comptime PITCH = 2 * 3 * PAGE_SIZE
comptime BEHIND = UInt32((NUM_PAGES - 1) * PITCH + PAGE_SIZE)
comptime Ours = PagedKVCacheCollection[DType.float32, PARAMS, PAGE_SIZE]
comptime Collection = MaxKVCollection[DType.float32, PARAMS, PAGE_SIZE]
comptime Swizzle = TensorMapSwizzle


struct Pool(Movable):
    """Four pages of three layers, the last of them null; two sequences."""

    var elements: List[Float32]
    var lengths: List[UInt32]
    var table: List[UInt32]

    def __init__(out self):
        var size = NUM_PAGES * PITCH * 128
        self.elements = [Float32(i) for i in range(size)]
        self.lengths = [17, 40]
        # Of the first sequence's columns one is used, of the second's three.
        self.table = [2, 3, UInt32.MAX, 1, 0, 2]

    def collection(mut self) -> Ours:
        """Returns a view; it does not keep the pool alive."""
        return Ours(
            self.elements.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
            num_pages=NUM_PAGES,
            num_layers=3,
            cache_lengths=lengths_tensor(self.lengths.unsafe_ptr(), 2),
            lookup_table=lookup_table_tensor(self.table.unsafe_ptr(), 2, 3),
            max_seq_length=5,
            max_cache_length=42,
        )


def check_cache[cache_t: KVCacheT](cache: cache_t, ours: Ours.CacheType) raises:
    """Checks what a kernel sees that knows the trait only."""
    comptime assert cache_t.dtype == DType.float32
    comptime assert cache_t.kv_params == PARAMS
    comptime assert cache_t.page_size_ == PAGE_SIZE
    comptime assert not cache_t.quantization_enabled
    assert_equal(cache_t.max_tile_size(), PAGE_SIZE)
    assert_equal(cache.max_prompt_length(), 5)
    assert_equal(cache.max_context_length(), 42)
    assert_equal(cache.empty_cache(), False)
    assert_equal(Int(cache.blocks_raw_ptr()), Int(ours.blocks.ptr))
    assert_equal(cache.num_kv_rows(), Int(BEHIND))
    for seq in range(2):
        assert_equal(cache.cache_length(seq), ours.cache_length(seq))
        assert_equal(
            cache.cache_lengths_nd().ptr[unsafe_offset=seq],
            UInt32(ours.cache_length(seq)),
        )
    var wanted = ours.load[2](1, 1, 33, 6)
    assert_equal(
        cache.load[2, DType.float64](1, 1, 33, 6), wanted.cast[DType.float64]()
    )
    assert_equal(
        Int(cache.block_paged_ptr[16](1, 32, 1)),
        Int(ours.block_paged_ptr[16](1, 32, 1)),
    )
    assert_equal(cache.row_idx(1, 33), ours.row_idx(1, 33))
    assert_equal(cache.get_tma_row(2 * PAGE_SIZE + 1), Int32(2 * PITCH + 1))


def test_cache_says_what_the_view_says() raises:
    var pool = Pool()
    var ours = pool.collection()
    check_cache(MaxKVCache(ours.get_key_cache(1)), ours.get_key_cache(1))
    _ = pool^


def check_collection[
    collection_t: KVCollectionT
](collection: collection_t, ours: Ours) raises:
    """Checks the collection's trait."""
    comptime assert collection_t.dtype == DType.float32
    comptime assert collection_t.kv_params == PARAMS
    assert_equal(String(collection_t.name_str), "paged")
    assert_equal(collection.cache_length(1), 40)
    for layer in range(3):
        assert_equal(
            Int(collection.get_key_cache(layer).blocks_raw_ptr()),
            Int(ours.get_key_cache(layer).blocks.ptr),
        )
        assert_equal(
            Int(collection.get_value_cache(layer).blocks_raw_ptr()),
            Int(ours.get_value_cache(layer).blocks.ptr),
        )


def test_collection_cuts_out_the_same_views() raises:
    var pool = Pool()
    var ours = pool.collection()
    check_collection(Collection(ours), ours)
    _ = pool^


def test_store_reaches_the_pool() raises:
    var pool = Pool()
    var ours = pool.collection()
    var values = ours.get_value_cache(2)
    MaxKVCache(values).store(1, 1, 33, 6, SIMD[DType.float32, 2](-1, -2))
    assert_equal(values.load[2](1, 1, 33, 6), SIMD[DType.float32, 2](-1, -2))
    _ = pool^


def test_tiles_of_keys_start_at_their_pages() raises:
    var pool = Pool()
    var cache = MaxKVCache(pool.collection().get_key_cache(1))
    var rows = cache.populate[48, 48](1, 0)
    comptime assert rows.num_pages == 3
    assert_equal(rows.rows[0], 1 * PITCH)
    assert_equal(rows.rows[1], 0)
    assert_equal(rows.rows[2], 2 * PITCH)
    var half = cache.populate[8, 8](1, 40)
    comptime assert half.num_pages == 1
    assert_equal(half.rows[0], 2 * PITCH + 8)
    _ = pool^


def test_columns_without_a_page_lie_behind_the_pool() raises:
    var pool = Pool()
    var cache = MaxKVCache(pool.collection().get_key_cache(1))
    # Column 1 is the null page, column 2 no page, column 3 is not there.
    var rows = cache.populate[64, 64](0, 0)
    assert_equal(rows.rows[0], 2 * PITCH)
    for column in range(1, 4):
        assert_equal(rows.rows[column], BEHIND)
    # The last sequence's tile ends behind the table itself.
    var last = cache.populate[64, 64](1, 0)
    assert_equal(last.rows[2], 2 * PITCH)
    assert_equal(last.rows[3], BEHIND)
    _ = pool^


def test_what_hopper_does_not_call_is_refused() raises:
    var pool = Pool()
    var cache = MaxKVCache(pool.collection().get_key_cache(1))
    var ctx = DeviceContext(api="cpu")
    comptime swizzle = Swizzle.SWIZZLE_128B
    with assert_raises(contains="wants an NVIDIA GPU"):
        _ = cache.create_tma_tile[swizzle, BN=16](ctx)
    with assert_raises(contains="create_paged_tma_tile is not there"):
        _ = cache.create_paged_tma_tile[swizzle, BN=16](ctx)
    with assert_raises(contains="create_gather4_tma_tile is not there"):
        _ = cache.create_gather4_tma_tile[tile_width=64](ctx)
    with assert_raises(contains="create_index_scale_tma_tile is not there"):
        _ = cache.create_index_scale_tma_tile[16](ctx)
    with assert_raises(contains="create_rope_tma_tile is not there"):
        _ = cache.create_rope_tma_tile[swizzle, BN=16, BK=64, padded_depth=64](
            ctx
        )
    with assert_raises(contains="create_rope_gather4_tma_tile is not there"):
        _ = cache.create_rope_gather4_tma_tile[tile_width=64, padded_depth=64](
            ctx
        )
    _ = pool^


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
