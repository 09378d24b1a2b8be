"""What keys and values can be kept in, side by side."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvcache.cache_types import (
    DTYPES,
    MAX_HEAD_DIM,
    MAX_LATENT_DIM,
    MIN_HEAD_DIM,
)
from kvcache.quantization import (
    LONGEST_LATENT_GROUP,
    QUANTIZED_DTYPES,
    Granularity,
    Quantization,
    group_sizes,
)
from kvcache.summaries import Summaries

if TYPE_CHECKING:
    from kvcache.planning.shape import ModelShape


@dataclass(frozen=True, slots=True)
class KVFormat:
    """An element type, which elements share a scale, and what is summarised."""

    dtype: str
    """The element type, by name."""
    quantization: Quantization | None = None
    """Which elements share a scale; None where there are no scales."""
    summaries: Summaries | None = None
    """What is kept of each block of keys beside them."""


def formats_for(
    shape: "ModelShape", group_size: int | None = None
) -> list[KVFormat]:
    """Returns every format that the cache of a model can have.

    Args:
        shape: The model; its latents want a scale for each group of a token.
        group_size: Elements that share a scale where tokens have their own;
            by default all of a head, or of a latent the largest group that
            there can be.

    Returns:
        The formats; no quantised one for a latent that cannot be split.
    """
    plain = [KVFormat(dtype.name) for dtype in DTYPES]
    if shape.is_mla:
        group_size = group_size or _longest_group(shape.head_dim)
        if group_size is None:
            return plain
    scaled = [Quantization(group_size=group_size)]
    if not shape.is_mla:
        coarse = (Granularity.HEAD, Granularity.TENSOR)
        scaled += [Quantization(granularity=each) for each in coarse]
    return plain + [
        KVFormat(dtype, quantization)
        for dtype in QUANTIZED_DTYPES
        for quantization in scaled
    ]


def beyond_kernels(shape: "ModelShape") -> str | None:
    """Returns what the kernels want otherwise, None if they take the model.

    A manager allocates pages for heads of any size all the same.

    Args:
        shape: The model.
    """
    longest = MAX_LATENT_DIM if shape.is_mla else MAX_HEAD_DIM
    if shape.head_dim in range(MIN_HEAD_DIM, longest + 1, 8):
        return None
    return (
        f"the kernels want {'latents' if shape.is_mla else 'heads'} of "
        f"{MIN_HEAD_DIM} to {longest} elements, a multiple of 8, got "
        f"{shape.head_dim}"
    )


def _longest_group(latent_dim: int) -> int | None:
    """Returns the most elements of a latent that can share a scale."""
    sizes = group_sizes(latent_dim)
    return max(
        (size for size in sizes if size <= LONGEST_LATENT_GROUP), default=None
    )
