"""What each operation means over quantised pools, in NumPy.

Slow on purpose, as `kvcache.reference` is. A quantised pool `kv_blocks` holds
codes, uint8 whatever their type. Its scales `kv_scales` are float32
`[num_pages + 1, 2, num_layers, slots, heads, groups]`, with as many slots,
heads and groups of a head as have scales of their own. What reads such a pool
does so as if it were `dequantized`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8]
Floats = npt.NDArray[Any]
Indices = npt.NDArray[np.uint32]


def _float8(exponent_bits: int, *, has_infinity: bool) -> Floats:
    """Returns what the 256 codes of an 8-bit float mean, float32."""
    fraction_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    numbers = np.empty(256, np.float32)
    for code in range(256):
        exponent = code >> fraction_bits & 2**exponent_bits - 1
        fraction = code & 2**fraction_bits - 1
        if exponent:
            number = (1 + fraction / 2**fraction_bits) * 2.0 ** (
                exponent - bias
            )
        else:
            number = fraction / 2**fraction_bits * 2.0 ** (1 - bias)
        if has_infinity and exponent == 2**exponent_bits - 1:
            number = np.nan if fraction else np.inf
        elif code & 127 == 127:
            number = np.nan
        numbers[code] = -number if code & 128 else number
    return numbers


CODES: dict[str, Floats] = {
    "float8_e4m3fn": _float8(4, has_infinity=False),
    "float8_e5m2": _float8(5, has_infinity=True),
    "int8": np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32),
}
"""What each code means.

See:
    [FP8 formats](https://arxiv.org/abs/2209.05433), for both floats.
"""

LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0, "int8": 127.0}
"""The largest code; int8 does without -128."""


def quantize(
    numbers: Floats,  # [...]
    scale: Floats,  # [...], float32
    kv_dtype: str,
) -> Codes:
    """Returns the codes nearest to numbers over their scale, ties to even."""
    exact = numbers.astype(np.float32) * (np.float32(1) / scale)
    exact = exact.clip(-LARGEST[kv_dtype], LARGEST[kv_dtype])
    if kv_dtype == "int8":
        return np.asarray(np.rint(exact).astype(np.int8).view(np.uint8))
    halves = CODES[kv_dtype][:128]
    codes = np.flatnonzero(np.isfinite(halves))
    above = np.searchsorted(halves[codes], np.abs(exact))
    below = np.maximum(above - 1, 0)
    size = np.abs(exact).astype(np.float64)
    far, near = halves[above] - size, size - halves[below]
    is_below = (near < far) | ((near == far) & (below % 2 == 0))
    code = np.where(is_below, below, above) + 128 * np.signbit(exact)
    return np.asarray(code, np.uint8)


def scale_of(
    numbers: Floats,  # [..., group_size]
    kv_dtype: str,
) -> npt.NDArray[np.float32]:
    """Returns the scale that makes the largest number the largest code."""
    largest = np.abs(numbers.astype(np.float32)).max(axis=-1)
    scale = largest / np.float32(LARGEST[kv_dtype])
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return np.where(largest == 0, np.float32(1), scale)


def store_quantized(
    kv_blocks: Codes,
    kv_scales: Floats,
    keys: Floats,  # [total_tokens, num_kv_heads, head_dim]
    values: Floats,  # [total_tokens, num_kv_heads, head_dim]
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this call
    lookup_table: Indices,  # [batch_size, num_columns]
    *,
    kv_dtype: str,
    layer: int,
    scales: Floats | None = None,  # [2, heads], of all pages
) -> None:
    """Writes codes of the new tokens and their scales, in place.

    Where no scales are given, each token's groups have their own.
    """
    _store_rows(
        kv_blocks,
        kv_scales,
        np.stack([keys, values], axis=1),
        input_row_offsets,
        cache_lengths,
        lookup_table,
        kv_dtype=kv_dtype,
        layer=layer,
        scales=scales,
    )


def store_latents_quantized(
    kv_blocks: Codes,
    kv_scales: Floats,
    latents: Floats,  # [total_tokens, head_dim]
    input_row_offsets: Indices,  # [batch_size + 1]
    cache_lengths: Indices,  # [batch_size], before this call
    lookup_table: Indices,  # [batch_size, num_columns]
    *,
    kv_dtype: str,
    layer: int,
) -> None:
    """Writes codes of the new tokens and their scales, in place."""
    _store_rows(
        kv_blocks,
        kv_scales,
        latents[:, None, None],
        input_row_offsets,
        cache_lengths,
        lookup_table,
        kv_dtype=kv_dtype,
        layer=layer,
    )


def _store_rows(
    kv_blocks: Codes,
    kv_scales: Floats,
    rows: Floats,  # [total_tokens, kv_dim, num_kv_heads, head_dim]
    input_row_offsets: Indices,
    cache_lengths: Indices,
    lookup_table: Indices,
    *,
    kv_dtype: str,
    layer: int,
    scales: Floats | None = None,
) -> None:
    num_groups = kv_scales.shape[-1]
    for seq, cached in enumerate(cache_lengths.tolist()):
        begin, end = input_row_offsets[seq : seq + 2].tolist()
        for row in range(begin, end):
            column, slot = divmod(cached + row - begin, kv_blocks.shape[3])
            page = lookup_table[seq, column]
            for kv, head in enumerate(rows[row]):
                groups = head.reshape(len(head), num_groups, -1)
                if scales is None:
                    scale = scale_of(groups, kv_dtype)
                    kv_scales[page, kv, layer, slot] = scale
                else:
                    scale = scales[kv, :, None]
                    kv_scales[page, kv, layer, 0] = scale
                codes = quantize(groups, scale[..., None], kv_dtype)
                kv_blocks[page, kv, layer, slot] = codes.reshape(head.shape)


def dequantized(
    kv_blocks: Codes,
    kv_scales: Floats,
    kv_dtype: str,
) -> npt.NDArray[np.float32]:
    """Returns the pool that the codes mean, float32."""
    *pages, slots, num_heads, head_dim = kv_blocks.shape
    num_groups = kv_scales.shape[-1]
    groups = CODES[kv_dtype][kv_blocks].reshape(
        *pages, slots, num_heads, num_groups, head_dim // num_groups
    )
    meant: npt.NDArray[np.float32] = groups * kv_scales[..., None]
    return meant.reshape(kv_blocks.shape)
