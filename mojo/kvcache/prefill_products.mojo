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
from std.sys import _RegisterPackType
from std.sys._assembly import inlined_assembly

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
            sums[part] = _multiply_add[shape.half(), shape.columns()](
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


def _places(count: Int, prefix: String) -> String:
    """Writes `count` numbers from 0 on, with commas between them."""
    var text = String()
    for i in range(count):
        text += ("," if i > 0 else "") + prefix + String(i)
    return text


def _instruction[half: DType, n: Int]() -> String:
    comptime kind = "bf16" if half == DType.bfloat16 else "f16"
    comptime first = n // 2
    return String(
        "{ .reg .pred p; setp.eq.b32 p, 1, 1; ",
        "wgmma.mma_async.sync.aligned.m64n",
        n,
        "k16.f32.",
        kind,
        ".",
        kind,
        " {",
        _places(first, "$"),
        "}, {$",
        first,
        ", $",
        first + 1,
        ", $",
        first + 2,
        ", $",
        first + 3,
        "}, $",
        first + 4,
        ", p, 1, 1, 1; }",
    )


@always_inline
def _multiply_add[
    half: DType, n: Int
](
    a: SIMD[DType.uint32, 4],
    values: Int64,
    sums: SIMD[DType.float32, n // 2],
) -> SIMD[DType.float32, n // 2]:
    """Adds the product of 64 by 16 weights and 16 by `n` values."""
    comptime asm = _instruction[half, n]()
    comptime constraints = "=f," * (n // 2) + "r,r,r,r,l," + _places(n // 2, "")
    # fmt: off
    comptime if n == 16:
        var r = inlined_assembly[
            asm,
            _RegisterPackType[
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
            ],
            constraints=constraints,
        ](
            a[0], a[1], a[2], a[3], values,
            sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6],
            sums[7],
        )
        return rebind[type_of(sums)](
            SIMD[DType.float32, 8](
                r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7],
            )
        )
    elif n == 32:
        var r = inlined_assembly[
            asm,
            _RegisterPackType[
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
            ],
            constraints=constraints,
        ](
            a[0], a[1], a[2], a[3], values,
            sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6],
            sums[7], sums[8], sums[9], sums[10], sums[11], sums[12], sums[13],
            sums[14], sums[15],
        )
        return rebind[type_of(sums)](
            SIMD[DType.float32, 16](
                r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9],
                r[10], r[11], r[12], r[13], r[14], r[15],
            )
        )
    elif n == 64:
        var r = inlined_assembly[
            asm,
            _RegisterPackType[
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
            ],
            constraints=constraints,
        ](
            a[0], a[1], a[2], a[3], values,
            sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6],
            sums[7], sums[8], sums[9], sums[10], sums[11], sums[12], sums[13],
            sums[14], sums[15], sums[16], sums[17], sums[18], sums[19],
            sums[20], sums[21], sums[22], sums[23], sums[24], sums[25],
            sums[26], sums[27], sums[28], sums[29], sums[30], sums[31],
        )
        return rebind[type_of(sums)](
            SIMD[DType.float32, 32](
                r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9],
                r[10], r[11], r[12], r[13], r[14], r[15], r[16], r[17], r[18],
                r[19], r[20], r[21], r[22], r[23], r[24], r[25], r[26], r[27],
                r[28], r[29], r[30], r[31],
            )
        )
    elif n == 128:
        var r = inlined_assembly[
            asm,
            _RegisterPackType[
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
                Float32, Float32, Float32, Float32,
            ],
            constraints=constraints,
        ](
            a[0], a[1], a[2], a[3], values,
            sums[0], sums[1], sums[2], sums[3], sums[4], sums[5],
            sums[6], sums[7], sums[8], sums[9], sums[10], sums[11],
            sums[12], sums[13], sums[14], sums[15], sums[16], sums[17],
            sums[18], sums[19], sums[20], sums[21], sums[22], sums[23],
            sums[24], sums[25], sums[26], sums[27], sums[28], sums[29],
            sums[30], sums[31], sums[32], sums[33], sums[34], sums[35],
            sums[36], sums[37], sums[38], sums[39], sums[40], sums[41],
            sums[42], sums[43], sums[44], sums[45], sums[46], sums[47],
            sums[48], sums[49], sums[50], sums[51], sums[52], sums[53],
            sums[54], sums[55], sums[56], sums[57], sums[58], sums[59],
            sums[60], sums[61], sums[62], sums[63],
        )
        return rebind[type_of(sums)](
            SIMD[DType.float32, 64](
                r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9],
                r[10], r[11], r[12], r[13], r[14], r[15], r[16], r[17], r[18], r[19],
                r[20], r[21], r[22], r[23], r[24], r[25], r[26], r[27], r[28], r[29],
                r[30], r[31], r[32], r[33], r[34], r[35], r[36], r[37], r[38], r[39],
                r[40], r[41], r[42], r[43], r[44], r[45], r[46], r[47], r[48], r[49],
                r[50], r[51], r[52], r[53], r[54], r[55], r[56], r[57], r[58], r[59],
                r[60], r[61], r[62], r[63],
            )
        )
    else:
        comptime assert False, "wanted 16, 32, 64 or 128 columns"
    # fmt: on
