"""Asks a cache for what is out of range: `out_of_range CASE`.

An assert ends the process, so each case has a process of its own. A case that
nothing stops prints `went on`.
"""

from kv_cache.types import KVCacheStaticParams
from std.sys import argv

from kvcache import PagedKVCache, PagedKVCacheCollection
from kvcache.tensors import lengths_tensor, lookup_table_tensor

comptime PARAMS = KVCacheStaticParams(num_heads=2, head_size=8)
comptime PAGE_SIZE = 16
comptime NUM_PAGES = 3
comptime NUM_LAYERS = 2
comptime NULL = NUM_PAGES - 1
comptime Collection = PagedKVCacheCollection[DType.float32, PARAMS, PAGE_SIZE]
comptime View = Collection.CacheType


def load(keys: View, name: StringSlice) raises -> Bool:
    """Loads; returns whether the case is one of these."""
    # A width of 1 from the middle of a page unless the case says otherwise.
    if name == "load_batch":
        _ = keys.load[1](2, 0, 3, 0)
    elif name == "load_negative_batch":
        _ = keys.load[1](-1, 0, 3, 0)
    elif name == "load_head":
        _ = keys.load[1](0, 2, 3, 0)
    elif name == "load_negative_head":
        _ = keys.load[1](0, -1, 3, 0)
    elif name == "load_token":
        _ = keys.load[1](0, 0, 2 * PAGE_SIZE, 0)
    elif name == "load_negative_token":
        _ = keys.load[1](0, 0, -1, 0)
    elif name == "load_dim":
        _ = keys.load[1](0, 0, 3, 8)
    elif name == "load_negative_dim":
        _ = keys.load[4](0, 0, 3, -4)
    elif name == "load_width":
        _ = keys.load[4](0, 0, 3, 6)
    elif name == "load_null_page":
        _ = keys.load[1](1, 0, PAGE_SIZE, 0)
    elif name == "load_no_page":
        _ = keys.load[1](1, 0, 0, 0)
    else:
        return False
    return True


def store(keys: View, name: StringSlice) raises -> Bool:
    """Stores; returns whether the case is one of these."""
    var four = SIMD[DType.float32, 4](0)
    if name == "store_batch":
        keys.store(2, 0, 3, 0, four)
    elif name == "store_negative_batch":
        keys.store(-1, 0, 3, 0, four)
    elif name == "store_head":
        keys.store(0, 2, 3, 0, four)
    elif name == "store_negative_head":
        keys.store(0, -1, 3, 0, four)
    elif name == "store_token":
        keys.store(0, 0, 2 * PAGE_SIZE, 0, four)
    elif name == "store_negative_token":
        keys.store(0, 0, -1, 0, four)
    elif name == "store_dim":
        keys.store(0, 0, 3, 8, four)
    elif name == "store_negative_dim":
        keys.store(0, 0, 3, -4, four)
    elif name == "store_width":
        keys.store(0, 0, 3, 6, four)
    elif name == "store_null_page":
        keys.store(1, 0, PAGE_SIZE, 0, four)
    elif name == "store_no_page":
        keys.store(1, 0, 0, 0, four)
    else:
        return False
    return True


def point(keys: View, name: StringSlice) raises -> Bool:
    """Asks for pointers and rows; returns whether the case is one of these."""
    if name == "pointer_batch":
        _ = keys.block_paged_ptr[1](2, 0, 0)
    elif name == "pointer_negative_batch":
        _ = keys.block_paged_ptr[1](-1, 0, 0)
    elif name == "pointer_head":
        _ = keys.block_paged_ptr[1](0, 0, 2)
    elif name == "pointer_token":
        _ = keys.block_paged_ptr[8](0, 2 * PAGE_SIZE, 0)
    elif name == "pointer_negative_token":
        _ = keys.block_paged_ptr[1](0, -1, 0)
    elif name == "pointer_dim":
        _ = keys.block_paged_ptr[1](0, 0, 0, 8)
    elif name == "pointer_across_pages":
        _ = keys.block_paged_ptr[8](0, 12, 0)
    elif name == "row_batch":
        _ = keys.row_idx(2, 0)
    elif name == "row_token":
        _ = keys.row_idx(0, 2 * PAGE_SIZE)
    elif name == "row_null_page":
        _ = keys.row_idx(1, PAGE_SIZE)
    elif name == "column_head":
        _ = keys.col_idx(2)
    elif name == "length_batch":
        _ = keys.cache_length(2)
    elif name == "length_negative_batch":
        _ = keys.cache_length(-1)
    else:
        return False
    return True


def cut(collection: Collection, name: StringSlice) raises -> Bool:
    """Asks a collection; returns whether the case is one of these."""
    if name == "key_layer":
        _ = collection.get_key_cache(NUM_LAYERS)
    elif name == "key_negative_layer":
        _ = collection.get_key_cache(-1)
    elif name == "value_layer":
        _ = collection.get_value_cache(NUM_LAYERS)
    elif name == "value_negative_layer":
        _ = collection.get_value_cache(-1)
    elif name == "collection_batch":
        _ = collection.cache_length(2)
    elif name == "collection_negative_batch":
        _ = collection.cache_length(-1)
    else:
        return False
    return True


def row_past_32_bits():
    """Asks for a row of a pool that is not there but in its sizes."""
    comptime Narrow = PagedKVCacheCollection[
        DType.float32, KVCacheStaticParams(num_heads=1, head_size=8), 256
    ]
    var elements = List[Float32](length=1, fill=0)
    var lengths: List[UInt32] = [0]
    var table: List[UInt32] = [1 << 20]
    var collection = Narrow(
        elements.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
        num_pages=(1 << 20) + 2,
        num_layers=8,
        cache_lengths=lengths_tensor(lengths.unsafe_ptr(), 1),
        lookup_table=lookup_table_tensor(table.unsafe_ptr(), 1, 1),
        max_seq_length=1,
        max_cache_length=1,
    )
    _ = collection.get_key_cache(0).row_idx(0, 0)
    _ = (elements^, lengths^, table^)


def main() raises:
    var name = argv()[1]
    var size = NUM_PAGES * 2 * NUM_LAYERS * PAGE_SIZE * 2 * 8
    var elements = List[Float32](length=size, fill=0)
    var lengths: List[UInt32] = [3, 3]
    # The second sequence has no page, and then the null page.
    var table: List[UInt32] = [1, 0, NULL + 5, NULL]
    var collection = Collection(
        elements.unsafe_ptr().unsafe_origin_cast[MutUntrackedOrigin](),
        num_pages=NUM_PAGES,
        num_layers=NUM_LAYERS,
        cache_lengths=lengths_tensor(lengths.unsafe_ptr(), 2),
        lookup_table=lookup_table_tensor(table.unsafe_ptr(), 2, 2),
        max_seq_length=1,
        max_cache_length=4,
    )
    var keys = collection.get_key_cache(1)
    if name == "row_past_32_bits":
        row_past_32_bits()
    elif name == "nothing":
        keys.store(0, 1, 31, 4, keys.load[4](0, 1, 31, 4))
    elif not (
        load(keys, name)
        or store(keys, name)
        or point(keys, name)
        or cut(collection, name)
    ):
        raise Error(t"no such case: {name}")
    _ = (elements^, lengths^, table^)
    print("went on")
