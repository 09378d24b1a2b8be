"""Brings a tile's queries into shared memory."""

from max.gpu import thread_idx

from .prefill_call import PrefillCall
from .prefill_shape import PrefillShape, place_of
from .prefill_tile import Tile
from .shared_memory import PIECE_BYTES, Shared, copy_piece


def load_queries[
    shape: PrefillShape
](call: PrefillCall[shape], tile: Tile[shape], target: Shared[UInt8]):
    """Starts to load the queries; rows beyond the last are zeros.

    The last `query_loaders` threads call it.

    Beside codes, queries are multiplied as float16 too.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        call: The tensors.
        tile: The rows.
        target: Receives `query_bytes` bytes.
    """
    comptime half = shape.half()
    comptime width = PIECE_BYTES // 2
    comptime pieces = shape.head_dim() // width
    var first = Int(thread_idx.x) - shape.threads() + shape.query_loaders()
    comptime total = shape.rows() * pieces
    for i in range(first, total, shape.query_loaders()):
        var row, piece = divmod(i, pieces)
        var is_row = tile.has(Int32(row))
        var source = call.queries.unsafe_offset(
            tile.element(Int32(row if is_row else 0)) + piece * width
        )
        var place = target.unsafe_offset(
            place_of[shape, shape.rows()](UInt32(row), UInt32(piece))
        )
        comptime if shape.dtype == half:
            copy_piece(source, place, is_read=is_row)
        else:
            var query = SIMD[shape.dtype, width](0)
            if is_row:
                query = source.unsafe_load[width=width, alignment=PIECE_BYTES]()
            place.unsafe_bitcast[Scalar[half]]().unsafe_store[
                alignment=PIECE_BYTES
            ](0, query.cast[half]())
