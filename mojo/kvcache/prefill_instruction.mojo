"""Hopper's product of weights in registers and values in shared memory.

See:
    The PTX manual, under `wgmma`.
"""

from std.sys import _RegisterPackType
from std.sys._assembly import inlined_assembly


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
def multiply_add[
    half: DType, n: Int
](
    a: SIMD[DType.uint32, 4],
    values: Int64,
    sums: SIMD[DType.float32, n // 2],
) -> SIMD[DType.float32, n // 2]:
    """Starts to add the product of 64 by 16 weights and 16 by `n` values.

    Parameters:
        half: The type that is multiplied.
        n: The columns.

    Args:
        a: A lane's weights.
        values: The descriptor of the values.
        sums: What the product is added to, a lane's part.

    Returns:
        The sums, as soon as they are waited for.
    """
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
