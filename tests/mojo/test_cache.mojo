from kv_cache.types import KVCacheStaticParams
from std.ffi import external_call
from std.testing import TestSuite, assert_equal, assert_false, assert_true

from kvcache import PagedKVCacheCollection
from kvcache.tensors import lengths_tensor, lookup_table_tensor

comptime NUM_PAGES = 4
comptime NUM_LAYERS = 3
comptime PAGE_SIZE = 2
comptime NUM_HEADS = 2
comptime HEAD_DIM = 4
comptime PARAMS = KVCacheStaticParams(num_heads=NUM_HEADS, head_size=HEAD_DIM)
comptime Collection = PagedKVCacheCollection[DType.float32, PARAMS, PAGE_SIZE]


struct Cache(Movable):
    """A pool whose elements count from 0, and the tables of two sequences.

    Sequence 0 has pages 2, 0; sequence 1 has pages 1, 2. Page 3 is null.
    """

    var pool: List[Float32]
    var lengths: List[UInt32]
    var table: List[UInt32]

    def __init__(out self, *, kv_dim: Int = 2):
        var size = NUM_PAGES * kv_dim * NUM_LAYERS * PAGE_SIZE * NUM_HEADS
        self.pool = [Float32(i) for i in range(size * HEAD_DIM)]
        self.lengths = [3, 0]
        self.table = [2, 0, 1, 2]

    def collection(
        mut self, max_seq_length: UInt32 = 1, max_cache_length: UInt32 = 4
    ) -> Collection:
        """Returns a view; it does not keep the cache alive."""
        return Collection(
            self.pool.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
            num_pages=NUM_PAGES,
            num_layers=NUM_LAYERS,
            cache_lengths=lengths_tensor(self.lengths.unsafe_ptr(), 2),
            lookup_table=lookup_table_tensor(self.table.unsafe_ptr(), 2, 2),
            max_seq_length=max_seq_length,
            max_cache_length=max_cache_length,
        )


def element(
    page: Int, kv: Int, layer: Int, slot: Int, head: Int, dim: Int
) -> Int:
    """Returns a place in the pool, axis by axis."""
    var plane = (page * 2 + kv) * NUM_LAYERS + layer
    return ((plane * PAGE_SIZE + slot) * NUM_HEADS + head) * HEAD_DIM + dim


def page_of(seq: Int, position: Int) -> Int:
    """Returns the page that the table of `Cache` says."""
    var pages: List[Int] = [2, 0, 1, 2]
    return pages[2 * seq + position // PAGE_SIZE]


def test_load_by_hand() raises:
    var cache = Cache()
    var keys = cache.collection().get_key_cache(1)
    # Sequence 1 starts in page 1. A page has 2 * 3 * 2 * 2 * 4 = 96 elements,
    # a layer 16, a token 8, a head 4: 96 + 16 + 4 + 2.
    assert_equal(keys.load[1](1, 1, 0, 2), 118)
    # Its second token is in slot 1, its third in page 2.
    assert_equal(keys.load[1](1, 1, 1, 2), 126)
    assert_equal(keys.load[1](1, 1, 2, 2), 118 + 96)
    # Values come behind the keys of all three layers.
    var values = cache.collection().get_value_cache(1)
    assert_equal(values.load[1](1, 1, 0, 2), 118 + 48)
    var four = SIMD[DType.float32, 4](116, 117, 118, 119)
    assert_equal(keys.load[4](1, 1, 0, 0), four)
    _ = cache^


def test_every_element_is_where_the_pool_s_axes_say() raises:
    var cache = Cache()
    for layer in range(NUM_LAYERS):
        var keys = cache.collection().get_key_cache(layer)
        var values = cache.collection().get_value_cache(layer)
        for seq in range(2):
            for position in range(2 * PAGE_SIZE):
                var page = page_of(seq, position)
                var slot = position % PAGE_SIZE
                for head in range(NUM_HEADS):
                    for dim in range(HEAD_DIM):
                        var key = element(page, 0, layer, slot, head, dim)
                        var value = element(page, 1, layer, slot, head, dim)
                        assert_equal(
                            keys.load[1](seq, head, position, dim), Float32(key)
                        )
                        assert_equal(
                            values.load[1](seq, head, position, dim),
                            Float32(value),
                        )
    _ = cache^


def check_untouched(cache: Cache, written: List[Int]) raises:
    """Checks that all elements but a few still count from 0."""
    for i in range(len(cache.pool)):
        if i not in written:
            assert_equal(cache.pool[i], Float32(i))


def test_store_writes_its_elements_and_no_others() raises:
    for seq in range(2):
        for position in range(2 * PAGE_SIZE):
            var cache = Cache()
            var values = cache.collection().get_value_cache(2)
            values.store(seq, 1, position, 2, SIMD[DType.float32, 2](-1, -2))
            var page = page_of(seq, position)
            var place = element(page, 1, 2, position % PAGE_SIZE, 1, 2)
            assert_equal(cache.pool[place], -1)
            assert_equal(cache.pool[place + 1], -2)
            check_untouched(cache, [place, place + 1])


def test_store_by_hand() raises:
    var cache = Cache()
    cache.collection().get_key_cache(1).store(1, 1, 0, 2, Float32(-7))
    assert_equal(cache.pool[118], -7)
    check_untouched(cache, [118])


def test_pointers_reach_what_load_reads() raises:
    var cache = Cache()
    var keys = cache.collection().get_key_cache(0)
    for seq in range(2):
        for position in range(2 * PAGE_SIZE):
            for head in range(NUM_HEADS):
                assert_equal(
                    keys.block_paged_ptr[1](seq, position, head, 3)[
                        unsafe_offset=0
                    ],
                    keys.load[1](seq, head, position, 3),
                )
        var tile = keys.block_paged_ptr[PAGE_SIZE](seq, PAGE_SIZE, 1)
        for slot in range(PAGE_SIZE):
            assert_equal(
                tile[unsafe_offset=slot * NUM_HEADS * HEAD_DIM],
                keys.load[1](seq, 1, PAGE_SIZE + slot, 0),
            )
    _ = cache^


def test_rows_and_columns_find_the_same_elements() raises:
    var cache = Cache()
    var values = cache.collection().get_value_cache(1)
    # The view starts at values of layer 1: element 4 * 16. A row has 8.
    var start = 64
    assert_equal(values.row_idx(0, 0), UInt32(2 * 96 // 8))
    assert_equal(values.row_idx(0, 3), 1)
    assert_equal(values.col_idx(0), 0)
    assert_equal(values.col_idx(1), 4)
    for seq in range(2):
        for position in range(2 * PAGE_SIZE):
            for head in range(NUM_HEADS):
                var row = values.row_idx(UInt32(seq), UInt32(position))
                var column = values.col_idx(UInt32(head))
                assert_equal(
                    cache.pool[start + Int(row) * 8 + Int(column)],
                    values.load[1](seq, head, position, 0),
                )
    _ = cache^


def test_lengths_are_those_of_the_step() raises:
    var cache = Cache()
    var collection = cache.collection(max_seq_length=5, max_cache_length=8)
    assert_equal(collection.cache_length(0), 3)
    assert_equal(collection.cache_length(1), 0)
    var keys = collection.get_key_cache(0)
    assert_equal(keys.cache_length(0), 3)
    assert_equal(keys.cache_length(1), 0)
    assert_equal(keys.max_prompt_length(), 5)
    assert_equal(keys.max_context_length(), 8)
    assert_equal(keys.max_tile_size(), PAGE_SIZE)
    _ = cache^


def test_cache_is_empty_without_any_token() raises:
    var cache = Cache()
    assert_false(cache.collection(1, 4).get_key_cache(0).empty_cache())
    assert_false(cache.collection(2, 2).get_key_cache(0).empty_cache())
    assert_true(cache.collection(0, 0).get_key_cache(0).empty_cache())
    _ = cache^


def test_mla_pool_has_keys_only() raises:
    comptime MLA = KVCacheStaticParams(
        num_heads=NUM_HEADS, head_size=HEAD_DIM, is_mla=True
    )
    var cache = Cache(kv_dim=1)
    var collection = PagedKVCacheCollection[DType.float32, MLA, PAGE_SIZE](
        cache.pool.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
        num_pages=NUM_PAGES,
        num_layers=NUM_LAYERS,
        cache_lengths=lengths_tensor(cache.lengths.unsafe_ptr(), 2),
        lookup_table=lookup_table_tensor(cache.table.unsafe_ptr(), 2, 2),
        max_seq_length=1,
        max_cache_length=4,
    )
    # A page has 3 * 2 * 2 * 4 = 48 elements: 48 + 16 + 4 + 2.
    assert_equal(collection.get_key_cache(1).load[1](1, 1, 0, 2), 70)
    _ = cache^


def test_offsets_pass_32_bits() raises:
    # No memory is behind this pool; only where it would be is asked for.
    comptime Wide = PagedKVCacheCollection[
        DType.bfloat16, KVCacheStaticParams(num_heads=8, head_size=256), 256
    ]
    var lengths: List[UInt32] = [0]
    var table: List[UInt32] = [99]
    var base = List[BFloat16](length=1, fill=0)
    var pool = base.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin]()
    var collection = Wide(
        pool,
        num_pages=101,
        num_layers=80,
        cache_lengths=lengths_tensor(lengths.unsafe_ptr(), 1),
        lookup_table=lookup_table_tensor(table.unsafe_ptr(), 1, 1),
        max_seq_length=1,
        max_cache_length=1,
    )
    var values = collection.get_value_cache(79)
    var last = values.block_paged_ptr[1](0, 255, 7, 255)
    # The last element of page 99: 100 * 83,886,080 - 1.
    assert_equal((Int(last) - Int(pool)) // 2, 8_388_607_999)
    assert_equal(values.row_idx(0, 255), UInt32(99 * 40960 + 255))
    _ = (lengths^, table^, base^)


def test_elements_past_32_bits_are_loaded_and_stored() raises:
    # Of 17 GB that are asked for, only the pages that are touched are there.
    comptime Wide = PagedKVCacheCollection[
        DType.float32, KVCacheStaticParams(num_heads=8, head_size=256), 256
    ]
    comptime page_elements = 2 * 256 * 8 * 256
    comptime far = (1 << 32) // page_elements
    comptime bytes = (far + 2) * page_elements * 4
    comptime read_and_write = Int32(3)
    comptime private_anonymous_unreserved = Int32(0x4022)
    var memory = external_call["mmap", Pointer[Float32, MutUntrackedOrigin]](
        Int(0),
        bytes,
        read_and_write,
        private_anonymous_unreserved,
        Int32(-1),
        Int(0),
    )
    assert_true(Int(memory) != -1)
    var lengths: List[UInt32] = [0]
    # 32-bit offsets take the second column's page for the first's.
    var table: List[UInt32] = [0, UInt32(far)]
    var collection = Wide(
        memory,
        num_pages=far + 2,
        num_layers=1,
        cache_lengths=lengths_tensor(lengths.unsafe_ptr(), 1),
        lookup_table=lookup_table_tensor(table.unsafe_ptr(), 1, 2),
        max_seq_length=1,
        max_cache_length=512,
    )
    var values = collection.get_value_cache(0)
    values.store(0, 7, 256, 252, SIMD[DType.float32, 4](1, 2, 3, 4))
    assert_equal(
        values.load[4](0, 7, 256, 252), SIMD[DType.float32, 4](1, 2, 3, 4)
    )
    assert_equal(values.block_paged_ptr[1](0, 256, 7, 255)[unsafe_offset=0], 4)
    var row = Int(values.row_idx(0, 256)) * 8 * 256
    assert_equal(values.blocks.ptr[unsafe_offset=row + 8 * 256 - 1], 4)
    assert_equal(values.load[4](0, 7, 0, 252), SIMD[DType.float32, 4](0))
    _ = external_call["munmap", Int32](memory, bytes)
    _ = (lengths^, table^)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
