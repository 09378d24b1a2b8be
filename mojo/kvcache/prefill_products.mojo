"""Products of a whole warpgroup on Hopper's tensor cores.

Four warps multiply 64 rows at once. Lane `l` of warp `w` holds, of every eight
columns of a result, the columns `2 * (l % 4)` and the next one of the rows
`16 * w + l / 4` and eight further.

See:
    The PTX manual, under `wgmma`, for descriptors and for how matrices lie.
"""

from max.gpu import thread_idx
from max.gpu.compute.mma import (
    WGMMADescriptor,
    wgmma_async,
    wgmma_commit_group_sync,
    wgmma_fence_aligned,
)
from max.gpu.sync import named_barrier
from std.sys._assembly import inlined_assembly

from .prefill_instruction import multiply_add
from .prefill_shape import WARPGROUP, WARPGROUP_ROWS, PrefillShape
from .shared_memory import Shared

comptime STEP = 16
"""What one product sums over."""


@always_inline
def descriptor[shape: PrefillShape](matrix: Shared[UInt8]) -> Int64:
    """Describes a matrix in shared memory that `place_of` has laid out.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        matrix: Its first row, the number of which is a multiple of eight.

    Returns:
        The descriptor of the matrix's first panel.
    """
    comptime row_bytes = 2 * shape.panel()
    comptime mode = 1 if row_bytes == 128 else 2 if row_bytes == 64 else 3
    comptime apart = shape.keys * row_bytes >> 4
    comptime rest = (mode << 62) | ((8 * row_bytes >> 4) << 32) | (apart << 16)
    return Int64((Int(matrix) & 0x3FFFF) >> 4) | Int64(rest)


@always_inline
def scores_of[
    shape: PrefillShape
](queries: Int64, keys: Int64) -> SIMD[DType.float32, shape.keys // 2]:
    """Starts to multiply a warpgroup's queries with a block of keys.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        queries: The descriptor of the queries, the first of 64 rows.
        keys: The descriptor of the keys.

    Returns:
        A lane's part of 64 rows, a column for each key; `kept` after a wait.
    """
    comptime half = shape.half()
    comptime per_panel = shape.panel() // STEP
    comptime width = shape.keys // 2
    var scores = SIMD[DType.float32, width](0)
    wgmma_fence_aligned()
    comptime for step in range(shape.head_dim() // STEP):
        comptime panel = step // per_panel
        comptime place = step % per_panel * (2 * STEP)
        comptime of_queries = panel * shape.rows() * 2 * shape.panel() + place
        comptime of_keys = panel * shape.keys * 2 * shape.panel() + place
        scores = wgmma_async[
            WARPGROUP_ROWS,
            shape.keys,
            STEP,
            DType.float32,
            SIMDLength(width),
            a_type=half,
            b_type=half,
            scale_d=0 if step == 0 else 1,
        ](
            WGMMADescriptor[half](queries + Int64(of_queries >> 4)),
            WGMMADescriptor[half](keys + Int64(of_keys >> 4)),
            scores,
        )
    wgmma_commit_group_sync()
    return scores


@always_inline
def add_values[
    shape: PrefillShape
](
    mut sums: Array[SIMD[DType.float32, shape.columns() // 2], shape.parts()],
    weights: SIMD[DType.uint32, shape.keys // 4],
    values: Int64,
):
    """Starts to add a block's values, times their weights.

    Parameters:
        shape: What the kernel is compiled for.

    Args:
        sums: What they are added to, a lane's part of 64 rows, by parts;
            `kept` before it and after a wait.
        weights: A lane's part of the weights, in pairs of halves, as
            `scores_of` has them.
        values: The descriptor of the values.
    """
    wgmma_fence_aligned()
    comptime for step in range(shape.keys // STEP):
        comptime for part in range(shape.parts()):
            comptime place = (
                part * shape.keys + step * STEP
            ) * 2 * shape.panel()
            sums[part] = multiply_add[shape.half(), shape.columns()](
                weights.slice[4, offset=4 * step](),
                values + Int64(place >> 4),
                sums[part],
            )
    wgmma_commit_group_sync()


@always_inline
def wait_for_products[pending: Int]():
    """Waits until the warpgroup's products are in their registers.

    Parameters:
        pending: The calls, the latest ones, whose products need not be there.
    """
    comptime wait = String("wgmma.wait_group.sync.aligned ", pending, ";")
    inlined_assembly[wait, NoneType, constraints="~{memory}"]()


@always_inline
def sync_warpgroup():
    """Waits until all four warps of the warpgroup are here."""
    # Barrier 0 is the block's.
    named_barrier[Int32(WARPGROUP)](Int32(1 + Int(thread_idx.x) // WARPGROUP))


@always_inline
def kept[
    width: SIMDLength, //
](numbers: SIMD[DType.float32, width]) -> SIMD[DType.float32, width]:
    """Lets nothing use numbers before what comes before this call.

    Parameters:
        width: How many numbers.

    Args:
        numbers: The numbers, which products have written.

    Returns:
        The same numbers.
    """
    var same = numbers
    comptime for i in range(Int(width)):
        same[i] = inlined_assembly["", Float32, constraints="=f,0"](same[i])
    return same
