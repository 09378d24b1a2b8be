"""Loads every tile of a cache through `create_tma_tile` on a GPU.

Prints a line for each way that tiles were loaded; an element that is not what
`load` reads on the CPU is an error.
"""

from kv_cache.types import KVCacheStaticParams
from layout import TileTensor, row_major
from layout.tma_async import SharedMemBarrier
from max.gpu import barrier, block_idx, thread_idx
from max.gpu.host import DeviceContext
from max.gpu.host.nvidia.tma import TensorMapSwizzle
from std.memory import AddressSpace, stack_allocation
from std.sys import size_of

from kvcache import PagedKVCache, PagedKVCacheCollection
from kvcache.tensors import lengths_tensor, lookup_table_tensor
from kvcache.tma import PageTMATile, span

comptime PARAMS = KVCacheStaticParams(num_heads=2, head_size=64)
comptime ROW = PARAMS.num_heads * PARAMS.head_size
comptime NUM_PAGES = 6
comptime NUM_LAYERS = 2
comptime NUM_SEQS = 2
comptime COLUMNS = 2
comptime THREADS = 128
comptime SHARED_BYTES = 48 << 10
comptime Swizzle = TensorMapSwizzle


@__llvm_arg_metadata(tile, `nvvm.grid_constant`)
def copy_tiles[
    dtype: DType,
    page_size: Int,
    tile_m: Int,
    tile_n: Int,
    swizzle: Swizzle,
    is_k_major: Bool,
](
    tile: PageTMATile[dtype, tile_m, tile_n, swizzle, is_k_major],
    cache: PagedKVCache[dtype, PARAMS, page_size],
    output: Pointer[Scalar[dtype], MutUntrackedOrigin],
):
    """Copies one tile per block: tensor memory in, then its elements out.

    The output is `[NUM_SEQS, COLUMNS * page_size, ROW]`.
    """
    comptime first_align = 1024
    comptime columns = span[dtype, swizzle]()
    var shared = stack_allocation[
        tile_m * tile_n,
        Scalar[dtype],
        address_space=AddressSpace.SHARED,
        alignment=first_align,
    ]()
    var arrived = stack_allocation[
        1, SharedMemBarrier, address_space=AddressSpace.SHARED, alignment=8
    ]()
    var seq = Int(block_idx.z)
    var token = Int(block_idx.x) * tile_m
    var column = Int(block_idx.y) * tile_n
    if thread_idx.x == 0:
        arrived[unsafe_offset=0].init()
        arrived[unsafe_offset=0].expect_bytes(
            Int32(tile_m * tile_n * size_of[dtype]())
        )
        tile.async_copy(
            TileTensor(ptr=shared, layout=row_major[tile_m, tile_n]()),
            arrived[unsafe_offset=0],
            (
                Int(cache.col_idx(UInt32(column // PARAMS.head_size))),
                Int(cache.row_idx(UInt32(seq), UInt32(token))),
            ),
        )
    barrier()
    arrived[unsafe_offset=0].wait()
    for i in range(Int(thread_idx.x), tile_m * tile_n, THREADS):
        var row, col = divmod(i, tile_n)
        var box, inner = divmod(col, columns)
        var byte = (row * columns + inner) * size_of[dtype]()
        # The hardware exchanges 16-byte pieces of each 128-byte line.
        byte ^= ((byte >> 7) % (swizzle.bytes() // 16)) << 4
        var place = box * tile_m * columns + byte // size_of[dtype]()
        output[
            unsafe_offset=(seq * COLUMNS * page_size + token + row) * ROW
            + column
            + col
        ] = shared[unsafe_offset=place]


struct Pool[dtype: DType, page_size: Int]:
    """A pool whose elements all differ in their bits, and two sequences."""

    comptime Collection = PagedKVCacheCollection[
        Self.dtype, PARAMS, Self.page_size
    ]
    comptime size = NUM_PAGES * 2 * NUM_LAYERS * Self.page_size * ROW

    var elements: List[Scalar[Self.dtype]]
    var lengths: List[UInt32]
    var table: List[UInt32]

    def __init__(out self):
        """Numbers the elements."""
        self.elements = [bits_of[Self.dtype](i) for i in range(Self.size)]
        self.lengths = [0, 0]
        self.table = [4, 0, 3, 1]

    @staticmethod
    def collection(
        elements: Pointer[Scalar[Self.dtype], _],
        lengths: Pointer[UInt32, _],
        table: Pointer[UInt32, _],
        num_pages: Int = NUM_PAGES,
    ) -> Self.Collection:
        """Returns a view of these tables and of that copy of the pool."""
        return Self.Collection(
            elements.unsafe_mut_cast[True]().unsafe_origin_cast[
                MutUntrackedOrigin
            ](),
            num_pages=num_pages,
            num_layers=NUM_LAYERS,
            cache_lengths=lengths_tensor(lengths, NUM_SEQS),
            lookup_table=lookup_table_tensor(table, NUM_SEQS, COLUMNS),
            max_seq_length=1,
            max_cache_length=UInt32(COLUMNS * Self.page_size),
        )


def bits_of[dtype: DType](index: Int) -> Scalar[dtype]:
    """Returns an element that differs from its neighbours."""
    comptime if size_of[dtype]() == 4:
        return rebind[Scalar[dtype]](Float32(index))
    comptime if size_of[dtype]() == 2:
        # 257 distinct numbers, whose period no tile's side divides.
        return Scalar[dtype](index % 257)
    return Scalar[dtype](index % 15)


def check[
    dtype: DType,
    page_size: Int,
    tile_m: Int,
    tile_n: Int,
    swizzle: Swizzle,
    is_k_major: Bool,
](ctx: DeviceContext) raises:
    """Loads keys and values of both layers, in every tile there is."""
    comptime size = NUM_SEQS * COLUMNS * page_size * ROW
    comptime Given = Pool[dtype, page_size]
    var pool = Given()
    var elements = ctx.enqueue_create_buffer[dtype](pool.size)
    var lengths = ctx.enqueue_create_buffer[DType.uint32](NUM_SEQS)
    var table = ctx.enqueue_create_buffer[DType.uint32](NUM_SEQS * COLUMNS)
    var output = ctx.enqueue_create_buffer[dtype](size)
    ctx.enqueue_copy(elements, pool.elements.unsafe_ptr())
    ctx.enqueue_copy(lengths, pool.lengths.unsafe_ptr())
    ctx.enqueue_copy(table, pool.table.unsafe_ptr())
    var device = Given.collection(
        elements.unsafe_ptr(), lengths.unsafe_ptr(), table.unsafe_ptr()
    )
    var host = Given.collection(
        pool.elements.unsafe_ptr(),
        pool.lengths.unsafe_ptr(),
        pool.table.unsafe_ptr(),
    )
    comptime kernel = copy_tiles[
        dtype, page_size, tile_m, tile_n, swizzle, is_k_major
    ]
    for layer in range(NUM_LAYERS):
        for is_key in [True, False]:
            var there = device.get_key_cache(layer)
            var here = host.get_key_cache(layer)
            if not is_key:
                there = device.get_value_cache(layer)
                here = host.get_value_cache(layer)
            ctx.enqueue_function[kernel](
                there.create_tma_tile[
                    tile_m, tile_n, swizzle, is_k_major=is_k_major
                ](ctx),
                there,
                output.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
                grid_dim=(
                    COLUMNS * page_size // tile_m,
                    ROW // tile_n,
                    NUM_SEQS,
                ),
                block_dim=THREADS,
            )
            with output.map_to_host() as loaded:
                check_loaded(here, loaded.unsafe_ptr())
    _ = (pool^, elements^, lengths^, table^)


def check_loaded[
    dtype: DType, page_size: Int
](
    cache: PagedKVCache[dtype, PARAMS, page_size],
    loaded: Pointer[Scalar[dtype], _],
) raises:
    """Compares what came out of the tiles with plain loads."""
    for seq in range(NUM_SEQS):
        for token in range(COLUMNS * page_size):
            for column in range(ROW):
                var head, dim = divmod(column, PARAMS.head_size)
                var wanted = cache.load[1](seq, head, token, dim)
                var row = seq * COLUMNS * page_size + token
                var got = loaded[unsafe_offset=row * ROW + column]
                if got.to_bits() != wanted.to_bits():
                    raise Error(
                        t"sequence {seq}, token {token}, head {head}, element"
                        t" {dim}: wanted {wanted}, got {got}"
                    )


def swizzle_of(index: Int) -> Swizzle:
    """Returns the swizzles in order."""
    if index == 0:
        return Swizzle.SWIZZLE_NONE
    if index == 1:
        return Swizzle.SWIZZLE_32B
    return Swizzle.SWIZZLE_64B if index == 2 else Swizzle.SWIZZLE_128B


def check_swizzles[
    dtype: DType, page_size: Int, tile_m: Int
](ctx: DeviceContext) raises:
    """Checks tiles of one head and of all, in each swizzle that allows it."""
    comptime for s in range(4):
        comptime swizzle = swizzle_of(s)
        comptime for heads in range(1, PARAMS.num_heads + 1):
            comptime tile_n = heads * PARAMS.head_size
            comptime bytes = tile_m * tile_n * size_of[dtype]()
            comptime fits = bytes <= SHARED_BYTES - 1024
            comptime if tile_n % span[dtype, swizzle]() == 0 and fits:
                check[dtype, page_size, tile_m, tile_n, swizzle, True](ctx)
                check[dtype, page_size, tile_m, tile_n, swizzle, False](ctx)
                print(dtype, page_size, tile_m, tile_n, swizzle)


def check_refused(ctx: DeviceContext) raises:
    """Checks that a pool whose rows pass 32 signed bits has no tiles."""
    comptime Given = Pool[DType.bfloat16, 256]
    var pool = Given()
    var views = Given.collection(
        pool.elements.unsafe_ptr(),
        pool.lengths.unsafe_ptr(),
        pool.table.unsafe_ptr(),
        num_pages=1 << 22,
    )
    try:
        _ = views.get_key_cache(0).create_tma_tile[
            64, 64, Swizzle.SWIZZLE_128B, is_k_major=True
        ](ctx)
    except e:
        print(e)
        return
    raise Error("wanted an error for 2**32 rows, got a tile")


def main() raises:
    var ctx = DeviceContext()
    comptime for i in range(5):
        comptime page = 16 << i
        check_swizzles[DType.bfloat16, page, page](ctx)
        check_swizzles[DType.float32, page, min(page, 64)](ctx)
    check_swizzles[DType.bfloat16, 128, 8](ctx)
    check_swizzles[DType.bfloat16, 256, 64](ctx)
    check_swizzles[DType.float8_e4m3fn, 64, 64](ctx)
    check_refused(ctx)
