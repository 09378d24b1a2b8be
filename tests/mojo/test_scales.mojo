from kv_cache.types import KVCacheStaticParams
from std.testing import TestSuite, assert_equal, assert_true

from kvcache import PagedKVCacheCollection
from kvcache.scales import Quantization, ScaleLayout
from kvcache.tensors import lengths_tensor, lookup_table_tensor

comptime NUM_PAGES = 4
comptime NUM_LAYERS = 3
comptime PAGE_SIZE = 2
comptime NUM_HEADS = 2
comptime HEAD_DIM = 16
comptime PARAMS = KVCacheStaticParams(num_heads=NUM_HEADS, head_size=HEAD_DIM)
comptime TENSOR = Quantization(Quantization.TENSOR, 0)
comptime HEAD = Quantization(Quantization.HEAD, 0)
comptime TOKEN = Quantization(Quantization.TOKEN, 8)
comptime Layout[quantization: Quantization] = ScaleLayout[
    PAGE_SIZE, NUM_HEADS, HEAD_DIM, quantization
]


struct Cache[quantization: Quantization](Movable):
    """A pool of codes that count from -64, and of scales that count from 0.

    Sequence 0 has pages 2, 0; sequence 1 has pages 1, 2. Page 3 is null.
    """

    comptime Collection = PagedKVCacheCollection[
        DType.int8, PARAMS, PAGE_SIZE, Self.quantization
    ]

    var codes: List[Int8]
    var scales: List[Float32]
    var lengths: List[UInt32]
    var table: List[UInt32]

    def __init__(out self):
        var planes = NUM_PAGES * 2 * NUM_LAYERS
        var size = planes * PAGE_SIZE * NUM_HEADS * HEAD_DIM
        self.codes = [Int8(i % 128 - 64) for i in range(size)]
        size = planes * Layout[Self.quantization].plane_stride
        self.scales = [Float32(i) for i in range(size)]
        self.lengths = [3, 0]
        self.table = [2, 0, 1, 2]

    def collection(mut self) -> Self.Collection:
        """Returns a view; it does not keep the cache alive."""
        return Self.Collection(
            self.codes.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
            num_pages=NUM_PAGES,
            num_layers=NUM_LAYERS,
            cache_lengths=lengths_tensor(self.lengths.unsafe_ptr(), 2),
            lookup_table=lookup_table_tensor(self.table.unsafe_ptr(), 2, 2),
            max_seq_length=1,
            max_cache_length=4,
            kv_scales=self.scales.unsafe_ptr().unsafe_origin_cast[
                MutUntrackedOrigin
            ](),
        )


def scale_by_axes[
    quantization: Quantization
](page: Int, kv: Int, layer: Int, slot: Int, head: Int, dim: Int) -> Int:
    """Returns a scale's place in its pool, axis by axis."""
    comptime is_token = quantization == TOKEN
    comptime slots = PAGE_SIZE if is_token else 1
    comptime heads = 1 if quantization == TENSOR else NUM_HEADS
    comptime groups = 2 if is_token else 1
    var place = (page * 2 + kv) * NUM_LAYERS + layer
    place = place * slots + (slot if slots > 1 else 0)
    place = place * heads + (head if heads > 1 else 0)
    return place * groups + (dim // 8 if groups > 1 else 0)


def test_sizes_by_hand() raises:
    assert_equal(Layout[TENSOR].plane_stride, 1)
    assert_equal(Layout[HEAD].plane_stride, 2)
    assert_equal(Layout[TOKEN].plane_stride, 2 * 2 * 2)
    assert_equal(Layout[HEAD].page_stride(kv_dim=2, num_layers=3), 12)
    assert_equal(Layout[TOKEN].page_stride(kv_dim=1, num_layers=3), 24)
    assert_equal(Layout[TOKEN].plane_offset(kv=1, layer=2, num_layers=3), 5 * 8)
    assert_equal(Layout[TOKEN].offset(page_offset=7, slot=1, head=1, dim=9), 14)


def check_every_scale_is_where_the_axes_say[
    quantization: Quantization
]() raises:
    var cache = Cache[quantization]()
    var pages: List[Int] = [2, 0, 1, 2]
    for layer in range(NUM_LAYERS):
        var keys = cache.collection().get_key_cache(layer)
        var values = cache.collection().get_value_cache(layer)
        for seq in range(2):
            for position in range(4):
                var page = pages[2 * seq + position // PAGE_SIZE]
                for head in range(NUM_HEADS):
                    for dim in range(HEAD_DIM):
                        var place = scale_by_axes[quantization](
                            page, 0, layer, position % PAGE_SIZE, head, dim
                        )
                        var scale = keys.load_scale[1](seq, head, position, dim)
                        assert_equal(scale, Float32(place))
                        place = scale_by_axes[quantization](
                            page, 1, layer, position % PAGE_SIZE, head, dim
                        )
                        scale = values.load_scale[1](seq, head, position, dim)
                        assert_equal(scale, Float32(place))
    _ = cache^


def test_every_scale_is_where_the_axes_say() raises:
    check_every_scale_is_where_the_axes_say[TENSOR]()
    check_every_scale_is_where_the_axes_say[HEAD]()
    check_every_scale_is_where_the_axes_say[TOKEN]()


def test_load_multiplies_codes_with_their_scale() raises:
    var cache = Cache[TOKEN]()
    var values = cache.collection().get_value_cache(1)
    var codes = values.load_quantized[4](0, 1, 3, 8)
    var scale = values.load_scale[1](0, 1, 3, 8)
    var meant = values.load[4, DType.float32](0, 1, 3, 8)
    assert_equal(meant, codes.cast[DType.float32]() * scale)
    assert_true(scale > 1)
    _ = cache^


def test_stored_scale_is_loaded_and_no_other_changes() raises:
    var cache = Cache[TOKEN]()
    var keys = cache.collection().get_key_cache(2)
    var before = cache.scales.copy()
    var pair = SIMD[DType.float32, 2](0.5, 0.25)
    keys.store_scale(1, 1, 0, 0, pair)
    assert_equal(keys.load_scale[2](1, 1, 0, 0), pair)
    var place = scale_by_axes[TOKEN](1, 0, 2, 0, 1, 0)
    before[place], before[place + 1] = 0.5, 0.25
    assert_equal(cache.scales, before)
    _ = cache^


def test_unscaled_cache_loads_what_is_stored() raises:
    comptime Plain = PagedKVCacheCollection[DType.int8, PARAMS, PAGE_SIZE]
    assert_true(not Plain.CacheType.quantization_enabled)
    assert_equal(Plain.CacheType.quantization_granularity, HEAD_DIM)
    assert_equal(Cache[TOKEN].Collection.CacheType.quantization_granularity, 8)


def test_offsets_pass_32_bits() raises:
    comptime Large = ScaleLayout[256, 8, 256, Quantization(3, 8)]
    var stride = Large.page_stride(kv_dim=2, num_layers=80)
    var offset = Large.offset(
        page_offset=1000 * stride, slot=255, head=7, dim=255
    )
    assert_equal(offset, 1000 * 160 * 65536 + 65535)


def main() raises:
    TestSuite.discover_tests[__functions_in_module()]().run()
