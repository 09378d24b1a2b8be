"""The two matrix products of attention, a block of rows and keys at a time.

What a block adds up is held in registers. Sums are float32.
"""

from std.math import gcd

comptime BLOCK = 4
"""The rows, and the keys or the vectors of a value, of a block."""

comptime LONGEST_UNROLLED = 256
"""The most elements of a key that are multiplied without a loop."""

comptime LOOP_ELEMENTS = 64
"""The elements of a longer key that are multiplied in one turn of the loop."""


def unrolled(dim: Int) -> Int:
    """Returns how many elements of a key are multiplied without a loop.

    Args:
        dim: The elements of the key.

    Returns:
        All of them, or a divisor of them.
    """
    return dim if dim <= LONGEST_UNROLLED else gcd(dim, LOOP_ELEMENTS)


@always_inline
def score_block[
    dtype: DType,
    //,
    *,
    rows: Int,
    keys: Int,
    dim: Int,
    width: Int,
    stride: Int,
    span: Int,
](
    queries: Pointer[Float32, _],
    key: Pointer[Scalar[dtype], _],
    scores: Pointer[mut=True, Float32, _],
):
    """Multiplies a few queries with a few keys.

    Parameters:
        dtype: The element type of the keys.
        rows: How many queries.
        keys: How many keys.
        dim: The elements of a key and of a query.
        width: The elements of a vector; it divides `dim`.
        stride: The elements between two keys.
        span: The elements between two rows of scores.

    Args:
        queries: The first query, `[rows, dim]`.
        key: The first key.
        scores: Receives the products, `[rows, keys]`.
    """
    comptime Vector = SIMD[DType.float32, width]
    var products = Array[Vector, rows * keys](fill=0)
    comptime part = unrolled(dim)
    for start in range(0, dim, part):
        comptime for i in range(0, part, width):
            var query = Array[Vector, rows](fill=0)
            comptime for r in range(rows):
                query[r] = queries.unsafe_load[width=width](r * dim + start + i)
            comptime for k in range(keys):
                var piece = key.unsafe_load[width=width](
                    k * stride + start + i
                ).cast[DType.float32]()
                comptime for r in range(rows):
                    products[r * keys + k] = piece.fma(
                        query[r], products[r * keys + k]
                    )
    comptime for r in range(rows):
        comptime for k in range(keys):
            scores[unsafe_offset=r * span + k] = products[
                r * keys + k
            ].reduce_add()


@always_inline
def add_block[
    dtype: DType,
    //,
    *,
    rows: Int,
    pieces: Int,
    dim: Int,
    width: Int,
    stride: Int,
    span: Int,
](
    weights: Pointer[Float32, _],
    value: Pointer[Scalar[dtype], _],
    sums: Pointer[mut=True, Float32, _],
    begin: Int,
    end: Int,
):
    """Adds a part of a few values to a few rows, times their weights.

    Parameters:
        dtype: The element type of the values.
        rows: How many rows.
        pieces: The vectors of the part.
        dim: The elements between two rows of sums.
        width: The elements of a vector.
        stride: The elements between two values.
        span: The elements between two rows of weights.

    Args:
        weights: The weights of the first row.
        value: The part of the first value.
        sums: What is added to, `[rows, dim]`.
        begin: The first value that counts.
        end: One behind the last value that counts.
    """
    comptime Vector = SIMD[DType.float32, width]
    var added = Array[Vector, rows * pieces](fill=0)
    for key in range(begin, end):
        var piece = Array[Vector, pieces](fill=0)
        comptime for p in range(pieces):
            piece[p] = value.unsafe_load[width=width](
                key * stride + p * width
            ).cast[DType.float32]()
        comptime for r in range(rows):
            var weight = Vector(weights[unsafe_offset=r * span + key])
            comptime for p in range(pieces):
                added[r * pieces + p] = piece[p].fma(
                    weight, added[r * pieces + p]
                )
    comptime for r in range(rows):
        comptime for p in range(pieces):
            var place = r * dim + p * width
            sums.unsafe_store(
                place,
                sums.unsafe_load[width=width](place) + added[r * pieces + p],
            )


@always_inline
def in_blocks[
    work: def[num_rows: Int](Int) capturing[_] -> None
](first: Int, last: Int):
    """Calls `work` on blocks of `BLOCK` rows and on what is left.

    Parameters:
        work: Takes the number of rows and the first of them.

    Args:
        first: The first row.
        last: One behind the last row.
    """
    var row = first
    while row + BLOCK <= last:
        work[BLOCK](row)
        row += BLOCK
    comptime for num_rows in range(1, BLOCK):
        if last - row == num_rows:
            work[num_rows](row)
