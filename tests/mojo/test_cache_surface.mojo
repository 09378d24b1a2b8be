"""Every name of MAX 25.7's `PagedKVCache` and of its collection."""

from kv_cache.types import KVCacheStaticParams
from max.gpu.host import DeviceContext
from max.gpu.host.nvidia.tma import TensorMapSwizzle
from std.builtin.device_passable import DevicePassable
from std.testing import (
    TestSuite,
    assert_equal,
    assert_false,
    assert_raises,
    assert_true,
)

from kvcache import PagedKVCache, PagedKVCacheCollection
from kvcache.tensors import (
    LengthsTensor,
    LookupTable,
    lengths_tensor,
    lookup_table_tensor,
)
from kvcache.tma import check_tma_pool

comptime PARAMS = KVCacheStaticParams(num_heads=2, head_size=64)
comptime View = PagedKVCache[DType.bfloat16, PARAMS, 16]
comptime Collection = PagedKVCacheCollection[DType.bfloat16, PARAMS, 16]
comptime MLA = PagedKVCacheCollection[
    DType.bfloat16,
    KVCacheStaticParams(num_heads=2, head_size=64, is_mla=True),
    16,
]


struct Pool(Movable):
    """Three pages of two layers, and one sequence that has page 1."""

    var elements: List[BFloat16]
    var lengths: List[UInt32]
    var table: List[UInt32]

    def __init__(out self):
        self.elements = List[BFloat16](length=3 * 2 * 2 * 16 * 128, fill=0)
        self.lengths = [5]
        self.table = [1]

    def collection(mut self) -> Collection:
        """Returns a view; it does not keep the pool alive."""
        return Collection(
            self.elements.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
            num_pages=3,
            num_layers=2,
            cache_lengths=lengths_tensor(self.lengths.unsafe_ptr(), 1),
            lookup_table=lookup_table_tensor(self.table.unsafe_ptr(), 1, 1),
            max_seq_length=2,
            max_cache_length=7,
        )


def is_passed_in_registers[T: TrivialRegisterPassable & DevicePassable]():
    """Compiles for a type that moves, copies and goes to a GPU as bits."""
    comptime assert conforms_to(T.device_type, TrivialRegisterPassable)


def test_parameters_are_aliases_too() raises:
    assert_equal(View.dtype, DType.bfloat16)
    assert_true(View.kv_params == PARAMS)
    assert_equal(View.page_size_, 16)
    assert_equal(Collection.dtype, DType.bfloat16)
    assert_true(Collection.kv_params == PARAMS)
    assert_equal(Collection.name_str, "paged")


def test_types_say_what_is_known_when_compiling() raises:
    comptime view = View.blocks_layout
    comptime assert not view.stride_types[0].is_static_value
    comptime assert view.stride_types[1].static_value == 128
    comptime assert view.stride_types[2].static_value == 64
    comptime assert view.stride_types[3].static_value == 1
    comptime assert not View.blocks_shape.element_types[0].is_static_value
    comptime assert View.blocks_shape.element_types[1].static_value == 16
    comptime assert View.blocks_shape.element_types[2].static_value == 2
    comptime assert View.blocks_shape.element_types[3].static_value == 64
    comptime pool = Collection.blocks_layout
    comptime assert Collection.blocks_shape.element_types[1].static_value == 2
    comptime assert MLA.blocks_shape.element_types[1].static_value == 1
    comptime assert not pool.stride_types[0].is_static_value
    comptime assert not pool.stride_types[1].is_static_value
    comptime assert pool.stride_types[2].static_value == 16 * 128


def test_views_are_bits() raises:
    is_passed_in_registers[View]()
    comptime assert conforms_to(Collection, TrivialRegisterPassable)
    assert_equal(View.get_type_name(), "PagedKVCache")
    assert_equal(View.get_device_type_name(), "PagedKVCache")
    assert_equal(View.max_tile_size(), 16)


def test_fields_are_what_was_given() raises:
    var pool = Pool()
    var given = pool.collection()
    var blocks: Collection.blocks_type = given.blocks
    var lengths: LengthsTensor = given.cache_lengths
    var table: LookupTable = given.lookup_table
    var whole = Collection(blocks, lengths, table, 3, 8)
    var made: Collection.CacheType = whole.get_value_cache(1)
    var layer: View.blocks_type = made.blocks
    var view = View(layer, made.cache_lengths, made.lookup_table, 4, 9)
    assert_equal(whole.max_seq_length, 3)
    assert_equal(whole.max_cache_length, 8)
    assert_equal(made.max_seq_length, 3)
    assert_equal(made.max_cache_length, 8)
    assert_equal(view.max_seq_length, 4)
    assert_equal(view.max_cache_length, 9)
    assert_equal(Int(whole.blocks.dim[0]()), 3)
    assert_equal(Int(whole.blocks.dim[2]()), 2)
    assert_equal(Int(layer.dim[0]()), 3)
    assert_equal(Int(layer.layout.stride[0]().value()), 2 * 2 * 16 * 128)
    assert_equal(Int(layer.ptr) - Int(blocks.ptr), 2 * 3 * 16 * 128)
    _ = pool^


def test_methods_answer() raises:
    var pool = Pool()
    var collection = pool.collection()
    assert_equal(collection.cache_length(0), 5)
    var keys = collection.get_key_cache(0)
    assert_equal(Int(keys.cache_lengths_nd().ptr), Int(keys.cache_lengths.ptr))
    assert_equal(Int(keys.cache_lengths_nd().dim[0]()), 1)
    assert_equal(keys.cache_length(0), 5)
    assert_equal(keys.row_idx(0, 3), 4 * 16 + 3)
    assert_equal(keys.col_idx(1), 64)
    keys.store(0, 1, 3, 2, SIMD[DType.bfloat16, 2](7, 8))
    assert_equal(keys.load[2](0, 1, 3, 2), SIMD[DType.bfloat16, 2](7, 8))
    assert_equal(keys.block_paged_ptr[1](0, 3, 1, 2)[unsafe_offset=0], 7)
    assert_false(keys.empty_cache())
    assert_equal(keys.max_prompt_length(), 2)
    assert_equal(keys.max_context_length(), 7)
    _ = pool^


def test_no_tensor_memory_tile_on_the_cpu() raises:
    var pool = Pool()
    var keys = pool.collection().get_key_cache(0)
    with assert_raises(
        contains="create_tma_tile wants an NVIDIA GPU, got a device of cpu"
    ):
        _ = keys.create_tma_tile[
            16, 64, TensorMapSwizzle.SWIZZLE_128B, is_k_major=True
        ](DeviceContext(api="cpu"))
    _ = pool^


def test_tiles_are_refused_where_coordinates_end() raises:
    check_tma_pool(num_rows=1 << 31, row_bytes=16, address=4096)
    with assert_raises(contains="at most 2**31 rows, got 2147483649"):
        check_tma_pool(num_rows=(1 << 31) + 1, row_bytes=16, address=4096)
    with assert_raises(contains="got rows of 24 bytes from address 4096"):
        check_tma_pool(num_rows=1, row_bytes=24, address=4096)
    with assert_raises(contains="got rows of 32 bytes from address 4104"):
        check_tma_pool(num_rows=1, row_bytes=32, address=4104)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
