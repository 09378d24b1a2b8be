"""The arrays of a layer that is made."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from kvcache.errors import InvalidParamsError
from kvcache.paged_attention.backend import Backend
from kvcache.paged_attention.checks import instance, shown
from kvcache.paged_attention.metadata import PagedAttentionCacheMetaData
from kvcache.paged_attention.quantizer import PageQuantizer
from kvcache.paged_attention.sharded import ShardedPages, Shards, zeros
from kvcache.paged_attention.sharding import NamedSharding

Scales: TypeAlias = npt.NDArray[np.float32]


def chosen_quantizer(
    metadata: PagedAttentionCacheMetaData, quantizer: object
) -> PageQuantizer | None:
    """Returns the quantizer of a cache.

    Args:
        metadata: The cache's sizes, and the quantizer they were made for.
        quantizer: Another one, or None.

    Raises:
        InvalidParamsError: If it is no quantizer, or the sizes were made for
            a different one.
    """
    planned = metadata.quantizer
    if quantizer is None:
        return planned
    found = instance("quantizer", quantizer, PageQuantizer)
    if planned not in {None, found}:
        raise InvalidParamsError(
            f"`quantizer` must be the one of `metadata`, {planned}, got {found}"
        )
    found.num_groups(metadata.kv_head_dim_size)
    return found


def check_split(
    metadata: PagedAttentionCacheMetaData, sharding: NamedSharding
) -> None:
    """Verifies that pages split into equal parts, and heads stay whole.

    Args:
        metadata: The cache's sizes.
        sharding: Which part goes where.

    Raises:
        InvalidParamsError: If they do not.
    """
    names = ("num_kv_heads", "num_pages_per_layer", "page_size")
    for dimension, name in enumerate(names):
        sharding.check_even(name, getattr(metadata, name), dimension)
    if any(axis for axis in sharding.spec[3:]):
        raise InvalidParamsError(
            f"`kv_pages_sharding` must leave head_dim whole, got "
            f"{tuple(sharding.spec)}"
        )


def made_arrays(
    backend: Backend,
    metadata: PagedAttentionCacheMetaData,
    sharding: NamedSharding,
    quantizer: PageQuantizer | None,
) -> dict[str, Shards]:
    """Returns a layer's pages and scales, all zeros, by the fields' names.

    Args:
        backend: Whose arrays they are to be.
        metadata: The cache's sizes.
        sharding: Which part goes where.
        quantizer: How pages are quantised, if they are.

    Raises:
        InvalidParamsError: If a device is not there.
    """
    shape = metadata.pages_shape
    dtype = metadata.dtype if quantizer is None else quantizer.dtype
    made = {
        name: zeros(backend, sharding, dtype, shape)
        for name in ("key_pages", "value_pages")
    }
    if quantizer is not None:
        wanted = quantizer.scales_shape(shape)
        for name in ("key_scales", "value_scales"):
            made[name] = zeros(backend, sharding, "float32", wanted)
    return made


def given_scales(
    scales: object,
    metadata: PagedAttentionCacheMetaData,
    quantizer: PageQuantizer | None,
) -> Scales | None:
    """Returns the scales of a layer's keys and values, if they are given.

    Args:
        scales: `[2, num_kv_heads]` or `[2, 1]`, or None.
        metadata: The cache's sizes.
        quantizer: How pages are quantised, if they are.

    Returns:
        float32 `[2, num_kv_heads]`.

    Raises:
        InvalidParamsError: If the quantizer wants scales and there are none,
            or the other way round, or one is not a positive number.
    """
    is_wanted = quantizer is not None and not quantizer.has_token_scales
    if scales is None and not is_wanted:
        return None
    if scales is None or not is_wanted or quantizer is None:
        raise InvalidParamsError(
            f"`scales` must be given with a quantizer of granularity tensor or "
            f"head, and with no other, got {shown(scales)}"
        )
    kind = quantizer.quantization.granularity
    heads = 1 if kind.value == "tensor" else metadata.num_kv_heads
    try:
        found = np.asarray(scales, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidParamsError(
            f"`scales` must be numbers, got {shown(scales)}"
        ) from error
    if found.shape != (2, heads):
        raise InvalidParamsError(
            f"`scales` must have shape {(2, heads)} for granularity "
            f"{kind.value}, got {found.shape}"
        )
    if not (np.isfinite(found) & (found > 0)).all():
        raise InvalidParamsError(
            f"`scales` must be positive, got {found.tolist()}"
        )
    return np.repeat(found, metadata.num_kv_heads // heads, axis=1)


def write_scales(pages: ShardedPages, scales: Any) -> None:
    """Writes scales that all tokens share.

    Args:
        pages: Where they go, `[num_kv_heads, 1, 1, 1]`.
        scales: float32 `[num_kv_heads]`.
    """
    origin = np.zeros(1, np.int64)
    rows = pages.backend.rows(scales.reshape(-1, 1, 1), pages.home)
    pages.store(origin, origin, rows)
